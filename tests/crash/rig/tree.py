"""Processes of a job, as /proc tells them."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

ZYGOTE = "tidemill.executors.zygote"


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def children(pid: int) -> list[int]:
    """Direct children, of every thread."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += [int(word) for word in (task / "children").read_text().split()]
    return found


def descendants(pid: int) -> list[int]:
    """All below a process, parents first."""
    found: list[int] = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def find(worker: int, role: str) -> int | None:
    """A live process of that role; planner and scorers are children of a zygote.

    "scorer" takes the last forked child, "planner" any: which one it is follows from the job's state.
    """
    if role in ("worker", "group"):
        return worker
    zygotes = [pid for pid in descendants(worker) if ZYGOTE in words(pid) and ZYGOTE not in words(_parent(pid))]
    if role == "zygote":
        return next(iter(zygotes), None)
    forked = [child for zygote in zygotes for child in children(zygote) if alive(child)]
    return forked[-1] if forked else None


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except (OSError, IndexError):
        return 0


def kill(worker: int, role: str) -> int | None:
    """SIGKILL one role, or with "group" every process of the tree; the pid that was hit."""
    pid = find(worker, role)
    if pid is None or not alive(pid):
        return None
    everyone = [worker, *descendants(worker)] if role == "group" else [pid]
    for one in everyone:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    return pid


def marked(mark: str) -> list[int]:
    """Every live process on this machine that carries the mark in its environment."""
    wanted = f"CRASH_MARK={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and alive(int(entry.name)):
            with suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def end_all(mark: str) -> None:
    """Kill everything that carries the mark and wait until it is gone."""
    while pids := marked(mark):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
