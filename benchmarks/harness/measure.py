"""What a command costs with all of its processes: wall, CPU, peak memory; and what else the machine did meanwhile."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.harness.tree import TICKS_PER_SECOND, Tree, cpu_of, new_tree, pss_bytes, stat_of

SAMPLE_SECONDS = 0.1
MAX_SAMPLING_SHARE = 0.03
CORES = len(os.sched_getaffinity(0))
LIMIT_SECONDS = 1_800.0
READY, DONE = "ready", "done"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run of a command. Seconds and bytes.

    `root_cpu_seconds` is the first process alone, `peak_pss_bytes` the summed proportional set sizes of all,
    `others_share` the part of the machine's cores that others used. Of a command that was warm when its clock
    started, wall and CPU are from then on.
    """

    exit_code: int
    wall_seconds: float
    cpu_seconds: float
    root_cpu_seconds: float
    peak_pss_bytes: int
    peak_processes: int
    others_share: float
    stdout: str
    stderr: str


def measure(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    terminal: bool = False,
    warm: bool = False,
    limit_seconds: float = LIMIT_SECONDS,
) -> Measured:
    """Run a command to its end and that of all its processes, which are killed when the limit has passed.

    With `terminal` it writes to one, and `stdout` is all that was written there. With `warm` it says `ready` on
    a line of stdout when its session stands, is sent a line, and says `done` at the end: the clock runs in between.
    """
    tree = new_tree()
    limit = threading.Timer(limit_seconds, tree.kill)
    limit.daemon = True
    limit.start()
    try:
        return _measure(tree, command, {**os.environ, **(env or {})}, cwd, terminal, warm)
    finally:
        limit.cancel()
        tree.leave()
        tree.close()


def _measure(
    tree: Tree, command: Sequence[str], env: Mapping[str, str], cwd: Path | None, terminal: bool, warm: bool
) -> Measured:
    screen = _Screen() if terminal else None
    outlets = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} if screen is None else screen.outlets
    clock = _Clock(tree)
    with subprocess.Popen(
        tree.entered_by(command),
        text=True,
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE if warm else subprocess.DEVNULL,
        **outlets,
    ) as process:
        sampler = _Sampler(tree)
        sampler.start()
        errors = _Drain(process.stderr)
        try:
            if warm:
                clock = _between_marks(process, tree, clock)
            stdout = screen.read() if screen else process.stdout.read() if process.stdout else ""
            # WNOWAIT leaves a zombie behind, whose times can still be read apart from its children's.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        except BaseException:
            # Whoever interrupts the benchmark wants none of it to go on; the first may not have entered the tree yet.
            sampler.stop()
            process.kill()
            tree.kill()
            raise
        clock.stop()
        root_cpu_seconds = cpu_of(stat_of(process.pid))
        exit_code = process.wait()
    tree.leave()
    sampler.stop()
    return Measured(
        exit_code=exit_code,
        wall_seconds=clock.wall_seconds,
        # What processes do after the first has ended the command costs, too; but not what a session takes to close.
        cpu_seconds=clock.cpu_seconds if warm else clock.cpu_until_now(),
        root_cpu_seconds=root_cpu_seconds,
        peak_pss_bytes=sampler.peak_pss_bytes,
        peak_processes=sampler.peak_processes,
        others_share=clock.others_share,
        stdout=stdout,
        stderr=errors.text(),
    )


class _Clock:
    """Readings at the start and at the end."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._cpu_before, self._machine_before, self._started = tree.cpu_seconds(), machine_busy(), time.monotonic()
        self._stopped = False
        self.wall_seconds = self.cpu_seconds = self.others_share = 0.0

    def stop(self) -> None:
        """The first time counts."""
        if self._stopped:
            return
        self._stopped = True
        self.wall_seconds = time.monotonic() - self._started
        self.cpu_seconds = self.cpu_until_now()
        others = machine_busy() - self._machine_before - self.cpu_seconds
        self.others_share = min(1.0, max(0.0, others / (self.wall_seconds * CORES)))

    def cpu_until_now(self) -> float:
        return self._tree.cpu_seconds() - self._cpu_before


def _between_marks(process: subprocess.Popen[str], tree: Tree, clock: _Clock) -> _Clock:
    """A clock of the time between the two marks; the one given if the command ends before the first."""
    assert process.stdin is not None and process.stdout is not None
    if not _said(process.stdout, READY):
        return clock
    clock = _Clock(tree)
    process.stdin.write("go\n")
    process.stdin.flush()
    if _said(process.stdout, DONE):
        clock.stop()
    return clock


def _said(stdout: IO[str], mark: str) -> bool:
    """Whether the line came before the end of the output."""
    return any(line.strip() == mark for line in iter(stdout.readline, ""))


def machine_busy() -> float:
    """CPU seconds that all cores of the machine have been busy, for whomever."""
    fields = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND


class _Screen:
    """A terminal of 120 columns."""

    def __init__(self) -> None:
        self._here, self._there = pty.openpty()
        # struct winsize of ioctl_tty(2): rows, columns, and two that nobody uses.
        fcntl.ioctl(self._there, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))

    @property
    def outlets(self) -> dict[str, int]:
        return {"stdout": self._there, "stderr": self._there}

    def read(self) -> str:
        """All that is written until the last process has closed it."""
        os.close(self._there)
        pieces = []
        # Linux ends a terminal that nobody holds any more with EIO.
        with suppress(OSError):
            while piece := os.read(self._here, 1 << 16):
                pieces.append(piece)
        os.close(self._here)
        return b"".join(pieces).decode(errors="replace")


class _Drain(threading.Thread):
    """Keeps a pipe from filling up."""

    def __init__(self, pipe: IO[str] | None) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe or ()
        self._lines: list[str] = []
        self.start()

    def run(self) -> None:
        self._lines.extend(self._pipe)

    def text(self) -> str:
        self.join()
        return "".join(self._lines)


class _Sampler(threading.Thread):
    """Looks at all processes again and again; seldom enough to cost little."""

    def __init__(self, tree: Tree) -> None:
        super().__init__(daemon=True)
        self._tree = tree
        self.peak_pss_bytes = 0
        self.peak_processes = 0
        self._stopping = threading.Event()

    def run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            started = time.thread_time()
            self._sample()
            pause = max(SAMPLE_SECONDS, (time.thread_time() - started) / MAX_SAMPLING_SHARE)

    def _sample(self) -> None:
        pids = self._tree.pids()
        # By descent, what a process took is known only as long as it lives.
        self._tree.cpu_seconds()
        pss = 0
        for pid in pids:
            with suppress(OSError):
                pss += pss_bytes(pid)
        self.peak_pss_bytes = max(self.peak_pss_bytes, pss)
        self.peak_processes = max(self.peak_processes, len(pids))

    def stop(self) -> None:
        self._stopping.set()
        self.join()
