"""The metadata store: one SQL database and, beside it, a lock file per worker."""

from __future__ import annotations

import os
from pathlib import Path

from tidemill.domain.errors import StoreUnusable
from tidemill.durable.files import make_folder
from tidemill.ports.store import Store
from tidemill.stores.sql import schema, sqlite
from tidemill.stores.sql.database import Database
from tidemill.stores.sql.ledger import SqlLedger
from tidemill.stores.sql.queue import SqlQueue
from tidemill.stores.sql.trust import SqlTrust
from tidemill.stores.sql.workers import LockedWorkers

DATABASE_NAME = "tidemill.db"
LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 5.0


class SqlStore(Store):
    """A store on one database. Not to be used after a fork: the child must open its own."""

    def __init__(
        self, database: Database, workers: LockedWorkers, *, lease_seconds: float, heartbeat_seconds: float
    ) -> None:
        if not 0 < heartbeat_seconds < lease_seconds:
            raise ValueError(f"a heartbeat of {heartbeat_seconds} s cannot keep a lease of {lease_seconds} s")
        self.url = database.dialect.url
        self.lease_seconds = lease_seconds
        self.heartbeat_seconds = heartbeat_seconds
        self.database = database
        self.jobs = SqlQueue(database, workers, lease_seconds=lease_seconds)
        self.ledger = SqlLedger(database)
        self.trust = SqlTrust(database)
        self.workers = self._locks = workers

    @classmethod
    def open(
        cls,
        home: str | os.PathLike[str],
        *,
        lease_seconds: float = LEASE_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> SqlStore:
        """The store in a home folder, made or upgraded if need be. Raises StoreUnusable."""
        folder = Path(os.path.abspath(home))
        sqlite.refuse_network(folder)
        locks = folder / "workers"
        try:
            make_folder(locks)
        except OSError as exc:
            raise StoreUnusable(
                f"The folder {folder} cannot be used: {exc.strerror or exc}.",
                remedy="Make it writable for you, or set TIDEMILL_HOME to another folder.",
            ) from exc
        database = sqlite.open_database(folder / DATABASE_NAME)
        try:
            schema.upgrade(database)
            return cls(database, LockedWorkers(locks), lease_seconds=lease_seconds, heartbeat_seconds=heartbeat_seconds)
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Also frees the locks of workers that were registered here: a closed store can commit nothing."""
        self._locks.release()
        self.database.close()


def open_store(
    place: str | os.PathLike[str],
    *,
    lease_seconds: float = LEASE_SECONDS,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
) -> Store:
    """The store in a home folder, or the one that a `Store.url` names. Raises StoreUnusable."""
    text = os.fspath(place)
    scheme, separator, rest = text.partition("://")
    if separator and (scheme != "sqlite" or os.path.basename(rest) != DATABASE_NAME):
        raise StoreUnusable(
            f"No kind of store is named by {scheme}://.",
            remedy=f"Give a home folder, or sqlite:///FOLDER/{DATABASE_NAME}.",
        )
    home = os.path.dirname(rest[1:]) if separator else text
    return SqlStore.open(home, lease_seconds=lease_seconds, heartbeat_seconds=heartbeat_seconds)
