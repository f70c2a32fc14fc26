"""The metadata store: one SQL database and, beside it, a lock file per worker of this machine."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from tidemill.domain.errors import StoreUnusable
from tidemill.durable.files import make_folder
from tidemill.ports.store import Store, Watch
from tidemill.stores.sql import schema, sqlite
from tidemill.stores.sql.database import Database
from tidemill.stores.sql.history import SqlHistory
from tidemill.stores.sql.ledger import SqlLedger
from tidemill.stores.sql.queue import SqlQueue
from tidemill.stores.sql.series import SqlSeries
from tidemill.stores.sql.trust import SqlTrust
from tidemill.stores.sql.workers import LockFiles, SqlWorkers

DATABASE_NAME = "tidemill.db"
POSTGRES_SCHEMES = frozenset({"postgresql", "postgres", "postgresql+psycopg"})

_LATER = {
    "models": "tidemill.stores.sql.models:SqlModels",
    "keys": "tidemill.stores.sql.keys:SqlKeys",
    "sessions": "tidemill.stores.sql.sessions:SqlSessions",
    "audit": "tidemill.stores.sql.audit:SqlAudit",
    "webhooks": "tidemill.stores.sql.webhooks:SqlWebhooks",
    "outbox": "tidemill.stores.sql.outbox:SqlOutbox",
    "schedules": "tidemill.stores.sql.schedules:SqlSchedules",
    "firings": "tidemill.stores.sql.schedules:SqlFirings",
}
"""Parts of a store by name, and where they are: a job that runs here does not wait for their import."""


class SqlStore(Store):
    """A store on one database. Not to be used after a fork: the child must open its own.

    Without times those of the database's kind hold: where a dead worker's lock is seen, leases may be long.
    """

    def __init__(
        self,
        database: Database,
        locks: LockFiles,
        *,
        lease_seconds: float | None = None,
        heartbeat_seconds: float | None = None,
    ) -> None:
        dialect = database.dialect
        self.lease_seconds = dialect.lease_seconds if lease_seconds is None else lease_seconds
        self.heartbeat_seconds = dialect.heartbeat_seconds if heartbeat_seconds is None else heartbeat_seconds
        if not 0 < self.heartbeat_seconds < self.lease_seconds:
            raise ValueError(f"a heartbeat of {self.heartbeat_seconds} s cannot keep a lease of {self.lease_seconds} s")
        self.url = dialect.url
        self.database = database
        self.workers = self._workers = SqlWorkers(database, locks, lease_seconds=self.lease_seconds)
        self.jobs = SqlQueue(database, self._workers, lease_seconds=self.lease_seconds)
        self.history = SqlHistory(database, self._workers)
        self.ledger = SqlLedger(database)
        self.series = SqlSeries(database)
        self.trust = SqlTrust(database)

    def __getattr__(self, name: str) -> Any:
        """A part that jobs need nothing of, made when it is asked for."""
        if name not in _LATER:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        module, _, kind = _LATER[name].partition(":")
        part = getattr(import_module(module), kind)(self.database)
        setattr(self, name, part)
        return part

    def transaction(self) -> AbstractContextManager[None]:
        return self.database.transaction()

    def watch(self) -> Watch:
        return self.database.changes.watch()

    def check(self) -> dict[str, Any]:
        """On SQLite this reads the whole file."""
        found = schema.version(self.database)
        schema.refuse_newer(self.database, found)
        self.database.check()
        return {"url": self.url, "schema": found, "newest_schema": schema.NEWEST}

    def back_up(self, target: str) -> None:
        self.database.back_up(target)

    def close(self) -> None:
        """Also frees the locks of workers that were registered here: a closed store can commit nothing."""
        self._workers.release()
        self.database.close()


def open_store(
    place: str | os.PathLike[str],
    *,
    home: str | os.PathLike[str] | None = None,
    lease_seconds: float | None = None,
    heartbeat_seconds: float | None = None,
    upgrade: bool = True,
) -> SqlStore:
    """The store in a home folder, or the one at a URL: a `Store.url`, postgresql://user@host/database.

    Its schema is made or upgraded; without `upgrade` an older one is refused. `home` is where this machine's
    workers of a store on a server keep their lock files. Raises StoreUnusable, MissingExtra.
    """
    text = os.fspath(place)
    scheme, separator, rest = text.partition("://")
    folder: Path | None
    if separator and scheme in POSTGRES_SCHEMES:
        # Only for whom it is asked: SQLAlchemy's part for this dialect is a tenth of a command's start.
        database = import_module("tidemill.stores.sql.postgres").open_database(text)
        folder = None if home is None else Path(os.path.abspath(home))
    else:
        folder = _folder_of(text, scheme, separator, rest)
        sqlite.refuse_network(folder)
        _make_locks(folder)
        database = sqlite.open_database(folder / DATABASE_NAME)
    try:
        _bring_to_schema(database, upgrade=upgrade)
        locks = LockFiles(_make_locks(folder or _make_temporary_home(database.dialect.url)))
        return SqlStore(database, locks, lease_seconds=lease_seconds, heartbeat_seconds=heartbeat_seconds)
    except BaseException:
        database.close()
        raise


def temporary_home(url: str) -> Path:
    """Where the lock files of a store on a server lie if nobody says: one folder for all processes of this user."""
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"tidemill-{os.getuid()}-{digest}"


def _bring_to_schema(database: Database, *, upgrade: bool) -> None:
    if upgrade:
        schema.upgrade(database)
    else:
        found = schema.version(database)
        schema.refuse_newer(database, found)
        schema.refuse_older(database, found)


def _folder_of(text: str, scheme: str, separator: str, rest: str) -> Path:
    if separator and (scheme != "sqlite" or os.path.basename(rest) != DATABASE_NAME):
        raise StoreUnusable(
            f"No kind of store is named by {scheme}://.",
            remedy=f"Give a home folder, sqlite:///FOLDER/{DATABASE_NAME} or postgresql://USER@HOST/DATABASE.",
        )
    return Path(os.path.abspath(os.path.dirname(rest[1:]) if separator else text))


def _make_temporary_home(url: str) -> Path:
    folder = temporary_home(url)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.lstat().st_uid != os.getuid():
        raise StoreUnusable(f"The folder {folder} belongs to somebody else.", remedy="Set TIDEMILL_HOME to a folder.")
    return folder


def _make_locks(folder: Path) -> Path:
    locks = folder / "workers"
    try:
        make_folder(locks)
    except OSError as exc:
        raise StoreUnusable(
            f"The folder {folder} cannot be used: {exc.strerror or exc}.",
            remedy="Make it writable for you, or set TIDEMILL_HOME to another folder.",
        ) from exc
    return locks
