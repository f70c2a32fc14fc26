"""The command line as a user has it: a process, a folder to work in, a home of its own.

Commands that are only run to their end are forked from a process that has imported them (`tests/warm.py`). Those that
a test follows, or that find their libraries elsewhere, start from nothing.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests import warm

ROOT = Path(__file__).resolve().parents[2]
MODELS = Path(__file__).resolve().parent / "models"
SCREEN = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True, kw_only=True)
class Said:
    """One finished command. `peak_kb` is the largest sum of resident memory of its processes that was seen,
    `own_peak_kb` that of the command's own process; both 0 unless it was watched."""

    code: int
    out: str
    err: str
    peak_kb: int = 0
    own_peak_kb: int = 0

    def refused(self, *words: str) -> None:
        """It ended with 2 and said all these words in one paragraph."""
        self.stopped(2, *words)

    def stopped(self, code: int, *words: str) -> None:
        """It ended so, with one error in a paragraph: no traceback, a remedy, all these words."""
        assert self.code == code, f"exit {self.code}, not {code}\n{self.out}\n{self.err}"
        assert "Traceback" not in self.err and "Traceback" not in self.out, self.err
        errors = [line for line in self.err.splitlines() if line.startswith("error ")]
        assert len(errors) == 1, f"{len(errors)} errors\n{self.err}"
        assert len(errors[0]) < 1500, f"an error of {len(errors[0])} characters: {errors[0][:400]}"
        assert re.search(r"^  → \S", self.err, re.MULTILINE), f"no remedy\n{self.err}"
        for word in words:
            assert word.lower() in self.err.lower(), f"{word!r} is not in\n{self.err}"

    def done(self, code: int = 0) -> Said:
        """It ended so; returns itself."""
        assert self.code == code, f"exit {self.code}, not {code}\n{self.out}\n{self.err}"
        assert "Traceback" not in self.err, self.err
        return self


@dataclass(kw_only=True)
class Sitting:
    """A person in front of a command that runs on a terminal."""

    process: subprocess.Popen[bytes]
    terminal: int
    seen: str = ""

    def read_until(self, words: str, seconds: float = 150) -> None:
        """Look until the words were there on the screen."""
        end = time.monotonic() + seconds
        while words not in self.seen:
            assert time.monotonic() < end and self._look(), f"{words!r} never came\n{self.seen}"

    def type(self, line: str) -> None:
        os.write(self.terminal, f"{line}\n".encode())

    def leave(self, seconds: float = 150) -> int:
        """Look to the end; the exit code."""
        end = time.monotonic() + seconds
        while self._look():
            assert time.monotonic() < end, self.seen
        os.close(self.terminal)
        return self.process.wait(seconds)

    def _look(self) -> bool:
        """Take what came in a second; False when the terminal was closed at the other side."""
        if not select.select([self.terminal], [], [], 1.0)[0]:
            return True
        try:
            came = os.read(self.terminal, 65_536)
        except OSError:
            return False
        self.seen += SCREEN.sub("", came.decode("utf-8", "replace"))
        return bool(came)


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """Where commands run."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def work(self) -> Path:
        """The current folder of every command; outputs that tests name lie in it."""
        return self.folder / "work"

    def environ(self, more: Mapping[str, str]) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": f"{os.environ.get('TIDEMILL_CRASH_SRC', ROOT / 'src')}:{MODELS}",
            "TIDEMILL_HOME": str(self.home),
            "COLUMNS": "200",
            **self.environment,
            **more,
        }

    def start(self, *words: object, **environment: str) -> subprocess.Popen[str]:
        """Start `tidemill WORDS`; its standard error is a pipe."""
        return subprocess.Popen(
            [sys.executable, "-m", "tidemill", *map(str, words)],
            cwd=self.work,
            env=self.environ(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def sit_down(self, *words: object, **environment: str) -> Sitting:
        """Start `tidemill WORDS` with a terminal of its own for all that it reads and writes."""
        ours, its = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "tidemill", *map(str, words)],
            cwd=self.work,
            env=self.environ({"TERM": "xterm", **environment}),
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        os.close(its)
        return Sitting(process=process, terminal=ours)

    def say(self, *words: object, seconds: float = 150, watch: bool = False, **environment: str) -> Said:
        """Run `tidemill WORDS` to its end; with `watch`, look at its memory all the while."""
        if not watch and "PYTHONPATH" not in environment:
            return self._say_warm(*words, seconds=seconds, **environment)
        process = self.start(*words, **environment)
        watcher = _Watcher(process.pid) if watch else None
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        peaks = watcher.end() if watcher else (0, 0)
        plain = [SCREEN.sub("", text) for text in (out, err)]
        return Said(code=process.returncode, out=plain[0], err=plain[1], peak_kb=peaks[0], own_peak_kb=peaks[1])

    def _say_warm(self, *words: object, seconds: float, **environment: str) -> Said:
        done = warm.tidemill(list(map(str, words)), cwd=self.work, environ=self.environ(environment), seconds=seconds)
        out, err = (SCREEN.sub("", text) for text in (done.stdout, done.stderr))
        return Said(code=done.returncode, out=out, err=err)

    def run(self, *words: object, seconds: float = 150, watch: bool = False, **environment: str) -> Said:
        """`tidemill run WORDS`."""
        return self.say("run", *words, seconds=seconds, watch=watch, **environment)

    def nothing_left(self, *allowed: str) -> None:
        """In the current folder lies nothing but what is allowed: no output, no staging, no claim."""
        found = {path.name for path in self.work.iterdir()} - set(allowed)
        assert not found, f"left behind: {sorted(found)}"


def wait_until(seen: object, seconds: float = 60) -> None:
    """Wait until calling `seen` gives something true."""
    end = time.monotonic() + seconds
    while not seen():  # type: ignore[operator]
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def tree_of(pid: int) -> list[int]:
    """A process and all its descendants that live."""
    pids, found = [pid], []
    while pids:
        pid = pids.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                pids += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def status_kb(pid: int, name: str) -> int:
    """A number of kB from /proc/PID/status, 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else 0


class _Watcher:
    """Samples the memory of a process tree in a thread. Shared pages of forks count once: anonymous
    memory is summed over all, file pages are left out."""

    def __init__(self, pid: int) -> None:
        self.pid, self.peak, self.own, self._over = pid, 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._over.wait(0.05):
            self.peak = max(self.peak, sum(status_kb(pid, "RssAnon") for pid in tree_of(self.pid)))
            self.own = max(self.own, status_kb(self.pid, "VmHWM"))

    def end(self) -> tuple[int, int]:
        self._over.set()
        self._thread.join()
        return self.peak, self.own


def names(paths: Sequence[Path]) -> list[str]:
    """The names of files, sorted."""
    return sorted(path.name for path in paths)
