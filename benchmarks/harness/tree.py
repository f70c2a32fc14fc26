"""All processes of one run, also those whose parents are gone: what they are, and the CPU that they have taken.

Where a control group (version 2) can be made, the kernel keeps the list and the account, whatever processes do.
Elsewhere this process makes itself the reaper of orphans and counts what it reaped and what lives; a descendant that
nobody reaped (SIGCHLD ignored) is counted by its last sample.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

PR_SET_CHILD_SUBREAPER = 36
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
LEAVE_SECONDS = 30.0
_NUMBERS = itertools.count()


class Tree(Protocol):
    """The processes of one command."""

    def entered_by(self, command: Sequence[str]) -> list[str]:
        """A command whose process belongs to the tree before it becomes the given one."""

    def pids(self) -> list[int]:
        """Those that live."""

    def cpu_seconds(self) -> float:
        """User and system time so far, of those that ended too."""

    def leave(self) -> None:
        """Wait until all have ended; those that are left after `LEAVE_SECONDS` are killed."""

    def kill(self) -> None:
        """End all at once."""

    def close(self) -> None:
        """Remove what counts them."""


def new_tree() -> Tree:
    """By a control group if one can be made, else by descent."""
    parent = _control_groups()
    if parent is not None:
        with suppress(OSError):
            return ControlGroup(parent)
    return Descendants()


class ControlGroup:
    """A group of version 2: nobody leaves it by forking, and `cpu.stat` is there without any controller."""

    def __init__(self, parent: Path) -> None:
        self._folder = parent / f"bench-{os.getpid()}-{next(_NUMBERS)}"
        self._folder.mkdir()

    def entered_by(self, command: Sequence[str]) -> list[str]:
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self._folder / "cgroup.procs"), *command]

    def pids(self) -> list[int]:
        return [int(line) for line in (self._folder / "cgroup.procs").read_text().split()]

    def cpu_seconds(self) -> float:
        for line in (self._folder / "cpu.stat").read_text().splitlines():
            if line.startswith("usage_usec "):
                return int(line.split()[1]) / 1e6
        raise OSError(f"{self._folder}/cpu.stat has no usage_usec.")

    def leave(self) -> None:
        _end(self._populated, self.kill)

    def kill(self) -> None:
        (self._folder / "cgroup.kill").write_text("1")

    def _populated(self) -> bool:
        """Whether any process or thread is left: those that are dying are listed no more, but keep the group."""
        return "populated 1" in (self._folder / "cgroup.events").read_text()

    def close(self) -> None:
        self._folder.rmdir()


class Descendants:
    """Descendants of this process that come after this; it measures one command at a time."""

    def __init__(self) -> None:
        _become_subreaper()
        self._others = frozenset(_descendants())
        self._before = _reaped_cpu()
        self._last_seen: dict[tuple[int, str], float] = {}

    def entered_by(self, command: Sequence[str]) -> list[str]:
        return [*command]

    def pids(self) -> list[int]:
        return [pid for pid in _descendants() if pid not in self._others]

    def cpu_seconds(self) -> float:
        living = 0.0
        for pid in self.pids():
            with suppress(OSError):
                stat = stat_of(pid)
                seconds = cpu_of(stat)
                self._last_seen[pid, stat[21]] = seconds
                # What it reaped of its own children has not come to us yet.
                living += seconds + (int(stat[15]) + int(stat[16])) / TICKS_PER_SECOND
        return max(_reaped_cpu() - self._before + living, sum(self._last_seen.values()))

    def leave(self) -> None:
        _end(lambda: bool(self._living()), self.kill)

    def kill(self) -> None:
        for pid in self._living():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _living(self) -> list[int]:
        """Those that live. The dead that came to this process are reaped, which counts them."""
        living = []
        for pid in self.pids():
            with suppress(OSError):
                parent, state = int(stat_of(pid)[3]), stat_of(pid)[2]
                if state == "Z" and parent == os.getpid():
                    os.waitpid(pid, os.WNOHANG)
                else:
                    living.append(pid)
        return living

    def close(self) -> None:
        pass


def _end(any_left: Callable[[], bool], kill: Callable[[], None]) -> None:
    deadline = time.monotonic() + LEAVE_SECONDS
    while any_left():
        if time.monotonic() > deadline:
            kill()
        time.sleep(0.02)


def stat_of(pid: int) -> list[str]:
    """Fields of /proc/PID/stat, numbered from 0; the command's name may hold spaces and is left as one."""
    head, _, tail = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    return [*head.split(" (", 1), *tail.split()]


def cpu_of(stat: list[str]) -> float:
    """User and system seconds of the process itself."""
    return (int(stat[13]) + int(stat[14])) / TICKS_PER_SECOND


def pss_bytes(pid: int) -> int:
    """Memory of one process; pages shared by n processes count 1/n."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _control_groups() -> Path | None:
    """The folder of this process's own group of version 2, if it has one."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    root = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    return root / own[0].lstrip("/") if root is not None and own else None


def _become_subreaper() -> None:
    """Orphaned descendants become children of this process."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _descendants() -> list[int]:
    """All of this process, the dead that nobody reaped included."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                parents[int(name)] = int(stat_of(int(name))[3])
    found: list[int] = []
    frontier = {os.getpid()}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier}
        found.extend(frontier)
    return found


def _reaped_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
