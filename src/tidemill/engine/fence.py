"""Work on files that all holders of a job share: one process at a time, and none whose epoch is over.

A worker that is frozen loses its job, but not its children: a planner of its may still be at work, or
start to, while its successor's plans the same job in the same folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidemill.domain.errors import LeaseLost, OutputBusy
from tidemill.durable.files import translated
from tidemill.durable.locks import FileLock

PATIENCE_SECONDS = 600.0
PAUSE_SECONDS = 0.05
_LOCK = "epoch.lock"
_EPOCH = "epoch"


@contextmanager
def fenced(staging: Path, epoch: int, *, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold a job's staging folder for this epoch. Raises LeaseLost if a later one was here before,
    OutputBusy if another process does not end."""
    lock = FileLock(staging / _LOCK)
    stop = time.monotonic() + patience_seconds
    with translated(staging):
        while not lock.try_lock():
            if time.monotonic() > stop:
                raise OutputBusy(
                    f"A process of a worker that lost this job still works in {staging}.",
                    remedy=f"End it (`fuser {staging / _LOCK}` names it), then resume the job.",
                )
            time.sleep(PAUSE_SECONDS)
    with lock:
        with translated(staging):
            if _epoch_of(staging) > epoch:
                raise LeaseLost("A later holder of this job was here already.")
            _note(staging, epoch)
        yield


def _note(staging: Path, epoch: int) -> None:
    """Not durable: a power cut ends every process that this could keep out."""
    scratch = staging / f".{_EPOCH}"
    scratch.write_text(str(epoch))
    os.replace(scratch, staging / _EPOCH)


def _epoch_of(staging: Path) -> int:
    try:
        return int((staging / _EPOCH).read_text())
    except (FileNotFoundError, ValueError):
        return 0
