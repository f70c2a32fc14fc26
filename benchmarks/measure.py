"""What a command costs with all of its descendants: wall, CPU and peak memory.

CPU is what the kernel accounts to reaped children. This process makes itself the reaper of orphans, so a
descendant whose parent died first is counted too. Descendants that were reaped by nobody (SIGCHLD ignored)
would be missed; so the sampled times of all processes are summed up beside it and the larger sum counts.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pty
import resource
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

PR_SET_CHILD_SUBREAPER = 36
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.05
MAX_SAMPLING_SHARE = 0.03


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run of a command. Seconds and bytes; `root_cpu_seconds` is the first process alone."""

    exit_code: int
    wall_seconds: float
    cpu_seconds: float
    root_cpu_seconds: float
    peak_pss_bytes: int
    peak_processes: int
    stdout: str


def measure(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None, terminal: bool = False
) -> Measured:
    """Run a command to its end and that of all its descendants. Its stderr goes to ours if it fails.

    With `terminal` it writes to one, and `stdout` is all that was written there.
    """
    _become_subreaper()
    before = _reaped_cpu()
    started = time.monotonic()
    screen = _Screen() if terminal else None
    outlets = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} if screen is None else screen.outlets
    with subprocess.Popen(command, text=True, cwd=cwd, env={**os.environ, **(env or {})}, **outlets) as process:
        sampler = _Sampler()
        sampler.start()
        errors = _Drain(process.stderr)
        stdout = screen.read() if screen else process.stdout.read() if process.stdout else ""
        # WNOWAIT leaves a zombie behind, whose times can still be read apart from its children's.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        wall_seconds = time.monotonic() - started
        root_cpu_seconds = _cpu_of(process.pid)
        exit_code = process.wait()
    _reap_orphans()
    sampler.stop()
    if exit_code != 0 and screen is None:
        print(errors.text())
    return Measured(
        exit_code=exit_code,
        wall_seconds=wall_seconds,
        cpu_seconds=max(_reaped_cpu() - before, sampler.cpu_seconds()),
        root_cpu_seconds=root_cpu_seconds,
        peak_pss_bytes=sampler.peak_pss_bytes,
        peak_processes=sampler.peak_processes,
        stdout=stdout,
    )


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
    """Looks at all descendants of this process: memory as a sum of proportional set sizes (shared pages once)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_pss_bytes = 0
        self.peak_processes = 0
        self._cpu_by_process: dict[tuple[int, int], float] = {}
        self._stopping = threading.Event()

    def run(self) -> None:
        pause = SAMPLE_SECONDS
        while not self._stopping.wait(pause):
            started = time.thread_time()
            self._sample()
            pause = max(SAMPLE_SECONDS, (time.thread_time() - started) / MAX_SAMPLING_SHARE)

    def _sample(self) -> None:
        pids = _descendants()
        pss = 0
        for pid in pids:
            with suppress(OSError):
                pss += _pss_bytes(pid)
                stat = _stat(pid)
                self._cpu_by_process[pid, int(stat[21])] = (int(stat[13]) + int(stat[14])) / TICKS_PER_SECOND
        self.peak_pss_bytes = max(self.peak_pss_bytes, pss)
        self.peak_processes = max(self.peak_processes, len(pids))

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def cpu_seconds(self) -> float:
        return sum(self._cpu_by_process.values())


def _descendants() -> list[int]:
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                parents[int(name)] = int(_stat(int(name))[3])
    found: list[int] = []
    frontier = {os.getpid()}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier}
        found.extend(frontier)
    return found


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat, numbered from 0; the command's name may hold spaces and is left as one."""
    head, _, tail = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    return [*head.split(" (", 1), *tail.split()]


def _cpu_of(pid: int) -> float:
    stat = _stat(pid)
    return (int(stat[13]) + int(stat[14])) / TICKS_PER_SECOND


def _pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _become_subreaper() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _reap_orphans() -> None:
    with suppress(ChildProcessError):
        while True:
            os.wait()


def _reaped_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
