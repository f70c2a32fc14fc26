"""Workers: each keeps a file of its machine locked while it lives, and announces itself in the database."""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import RowMapping, delete, select, update

from tidemill.domain.admission import Needs
from tidemill.domain.errors import Refused, StoreUnusable
from tidemill.durable.locks import FileLock, is_locked
from tidemill.ports.store import LiveWorker, WorkerFacts, WorkerStore
from tidemill.stores.sql.database import Database
from tidemill.stores.sql.rows import moment
from tidemill.stores.sql.tables import workers

_WORKER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


_FORGOTTEN_AFTER_LEASES = 100
"""A worker that was not seen for so long is removed when another one announces itself."""


class SqlWorkers(WorkerStore):
    """Announcements in the database, lock files in a folder of this machine.

    Where the workers of other machines use the same database, locks say nothing: all are taken to be alive.
    """

    def __init__(self, database: Database, locks: LockFiles, *, lease_seconds: float) -> None:
        self._database = database
        self._locks = locks
        self._lease_ms = round(lease_seconds * 1000)

    def register(self, worker_id: str) -> str:
        """Also removes the files of dead workers. Raises Refused if another process is that worker."""
        return self._locks.register(worker_id)

    def is_alive(self, worker_id: str) -> bool:
        return not self._database.dialect.sees_deaths or self._locks.is_alive(worker_id)

    def announce(self, facts: WorkerFacts) -> None:
        now = self._database.now_ms
        said = _columns_of(facts)
        again = update(workers).where(workers.c.id == facts.id).values(**said, seen_at_ms=now).returning(workers.c.id)
        long_dead = workers.c.seen_at_ms < now - _FORGOTTEN_AFTER_LEASES * self._lease_ms
        with self._database.write(settle=False) as connection:
            if connection.execute(again).first() is None:
                first = {"id": facts.id, **said, "started_at_ms": now, "seen_at_ms": now}
                connection.execute(self._database.dialect.insert_new(workers, first))
                connection.execute(delete(workers).where(long_dead))

    def withdraw(self, worker_id: str) -> None:
        with self._database.write() as connection:
            connection.execute(delete(workers).where(workers.c.id == worker_id))

    def list_live(self) -> list[LiveWorker]:
        recent = workers.c.seen_at_ms >= self._database.now_ms - self._lease_ms
        with self._database.read() as connection:
            rows = connection.execute(select(workers).where(recent).order_by(workers.c.id)).mappings().all()
        return [_live_worker(row) for row in rows if self.is_alive(row["id"])]

    def release(self) -> None:
        """Free the locks of workers that were registered here."""
        self._locks.release()


class LockFiles:
    """One lock file per worker in `folder`. The kernel frees a dead process's lock within milliseconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._locks: dict[str, FileLock] = {}
        self._guard = threading.Lock()

    def register(self, worker_id: str) -> str:
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


def _columns_of(facts: WorkerFacts) -> dict[str, Any]:
    return {
        "host": facts.host,
        "pid": facts.pid,
        "version": facts.version,
        "cpus": facts.capacity.cpus,
        "memory_bytes": facts.capacity.memory_bytes,
        "gpus": facts.capacity.gpus,
        "free_cpus": facts.free.cpus,
        "free_memory_bytes": facts.free.memory_bytes,
        "free_gpus": facts.free.gpus,
        "draining": facts.draining,
    }


def _live_worker(row: RowMapping) -> LiveWorker:
    facts = WorkerFacts(
        id=row["id"],
        host=row["host"],
        pid=row["pid"],
        version=row["version"],
        capacity=Needs(cpus=row["cpus"], memory_bytes=row["memory_bytes"], gpus=row["gpus"]),
        free=Needs(cpus=row["free_cpus"], memory_bytes=row["free_memory_bytes"], gpus=row["free_gpus"]),
        draining=row["draining"],
    )
    return LiveWorker(facts=facts, started_at=moment(row["started_at_ms"]), seen_at=moment(row["seen_at_ms"]))


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
