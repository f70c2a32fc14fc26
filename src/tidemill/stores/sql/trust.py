"""Digests of models that a person allowed to run code."""

from __future__ import annotations

from sqlalchemy import select

from tidemill.ports.store import TrustStore
from tidemill.stores.sql.database import Database
from tidemill.stores.sql.tables import trusted


class SqlTrust(TrustStore):
    """The first to trust a digest is remembered; repeating it changes nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def trust(self, digest: str, name: str, by: str) -> None:
        values = {"digest": digest, "name": name, "trusted_by": by, "trusted_at_ms": self._database.now_ms}
        with self._database.write() as connection:
            connection.execute(self._database.dialect.insert_new(trusted, values))

    def is_trusted(self, digest: str) -> bool:
        with self._database.read() as connection:
            return connection.execute(select(trusted.c.digest).where(trusted.c.digest == digest)).first() is not None
