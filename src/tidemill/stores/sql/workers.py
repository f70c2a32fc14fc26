"""Workers of this machine: each keeps a file locked while it lives."""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from pathlib import Path

from tidemill.domain.errors import Refused, StoreUnusable
from tidemill.durable.locks import FileLock, is_locked
from tidemill.ports.store import WorkerStore

_WORKER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class LockedWorkers(WorkerStore):
    """One lock file per worker in `folder`. The kernel frees a dead process's lock within milliseconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._locks: dict[str, FileLock] = {}
        self._guard = threading.Lock()

    def register(self, worker_id: str) -> str:
        """Also removes the files of dead workers. Raises Refused if another process is that worker."""
        if not _WORKER_ID.fullmatch(worker_id):
            raise ValueError(f"{worker_id!r} cannot name a worker's lock file")
        path = self._path(worker_id)
        try:
            with self._guard:
                if worker_id not in self._locks:
                    self._locks[worker_id] = _locked(path)
            self._sweep()
        except OSError as exc:
            raise _unusable(path, exc) from exc
        return str(path)

    def is_alive(self, worker_id: str) -> bool:
        if not _WORKER_ID.fullmatch(worker_id):
            return False
        path = self._path(worker_id)
        try:
            return is_locked(path)
        except OSError as exc:
            raise _unusable(path, exc) from exc

    def release(self) -> None:
        """Free the locks that this object holds, and remove their files."""
        with self._guard:
            while self._locks:
                self._locks.popitem()[1].unlock(unlink=True)

    def _path(self, worker_id: str) -> Path:
        return self._folder / f"{worker_id}.lock"

    def _sweep(self) -> None:
        for path in self._folder.glob("*.lock"):
            lock = FileLock(path)
            # Another user's file may not be ours to touch.
            with suppress(PermissionError):
                if lock.try_lock():
                    lock.unlock(unlink=True)


def _locked(path: Path) -> FileLock:
    """Whoever tests a lock holds it for an instant: one refusal proves nothing."""
    lock = FileLock(path)
    for _ in range(100):
        if lock.try_lock():
            return lock
        time.sleep(0.01)
    raise Refused(f"Another process is the worker that locks {path}.", remedy="Give this worker a name of its own.")


def _unusable(path: Path, error: OSError) -> StoreUnusable:
    return StoreUnusable(
        f"The lock file {path} cannot be used: {error.strerror or error}.",
        remedy="Make its folder writable for you, or set TIDEMILL_HOME to another folder.",
    )
