"""strace as an instrument: what a process calls, and a signal that reaches it at one of its calls.

A call at which SIGKILL comes does not happen any more; one at which SIGSTOP comes still does.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash.rig import tree

_CALL = re.compile(r"(?:(\d+) +)?(\w+)\(")


@dataclass(frozen=True, kw_only=True)
class Made:
    """A call that a log tells of."""

    call: str
    n: int
    """Which one of its thread's calls of that name."""
    text: str


def prefix(log: Path, calls: Sequence[str], *inject: str) -> list[str]:
    """The words before a command. Only its first thread, the worker's own, is watched and hit."""
    return ["strace", "-qq", "-o", str(log), "-e", f"trace={','.join(calls)}", *_injected(inject)]


def attached(pid: int, log: Path, paths: Sequence[Path], calls: Sequence[str], *inject: str) -> subprocess.Popen[bytes]:
    """Watch every thread of a process that runs already: its calls that have to do with the paths."""
    words = ["strace", "-f", "-qq", "-o", str(log), "-p", str(pid), "-e", f"trace={','.join(calls)}"]
    tracer = subprocess.Popen([*words, *_injected(inject), *(f"-P{path}" for path in paths)])
    while not _is_watched(pid):
        assert tracer.poll() is None, f"strace cannot watch {pid}: {tree.words(pid)}"
        time.sleep(0.005)
    return tracer


def _injected(inject: Sequence[str]) -> list[str]:
    return [f"-einject={each}" for each in inject]


def _is_watched(pid: int) -> bool:
    """Whether all threads of a process have a tracer."""
    texts = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return all("TracerPid:\t0\n" not in text for text in texts)


def read(log: Path) -> Iterator[Made]:
    """The calls of a log, in order of their beginning."""
    counts: Counter[tuple[str, str]] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        if found := _CALL.match(line):
            counts[found[1], found[2]] += 1
            yield Made(call=found[2], n=counts[found[1], found[2]], text=line)


def killed(log: Path) -> bool:
    """Whether the signal reached it."""
    return "killed by SIGKILL" in log.read_text(errors="replace")


@dataclass
class Stops:
    """A command under strace that stops its worker at certain calls, and goes on when it is told to."""

    tracer: subprocess.Popen[str]
    log: Path
    seen: int = 0

    @property
    def worker(self) -> int:
        return tree.children(self.tracer.pid)[0]

    def wait(self) -> bool:
        """Wait for the next stop; False if the command ended instead."""
        while self._count() <= self.seen:
            if self.tracer.poll() is not None:
                return False
            time.sleep(0.01)
        self.seen += 1
        return True

    def wait_for(self, call: re.Pattern[str]) -> bool:
        """Go on until it is stopped after such a call; False if the command ended instead."""
        while self.wait():
            made = [line for line in self.log.read_text(errors="replace").splitlines() if not line.startswith("---")]
            if call.search(made[-1]):
                return True
            self.go_on()
        return False

    def go_on_to_the_end(self) -> None:
        """From now on no stop lasts."""
        self.go_on()
        while self.wait():
            self.go_on()

    def _count(self) -> int:
        return self.log.read_text(errors="replace").count("stopped by SIGSTOP") if self.log.exists() else 0

    def go_on(self) -> None:
        os.kill(self.worker, signal.SIGCONT)
