"""Bringing a database to the schema that this version knows."""

from __future__ import annotations

from importlib import import_module

from sqlalchemy import Connection, func, insert, inspect, select

from tidemill.domain.errors import StoreUnusable
from tidemill.stores.sql import migrations
from tidemill.stores.sql.database import Database
from tidemill.stores.sql.tables import schema_version

NEWEST = len(migrations.VERSIONS)


def upgrade(database: Database) -> None:
    """Apply the steps that are missing, each in a transaction of its own; several processes may do it at once.

    Raises StoreUnusable for a newer schema and for a database of somebody else.
    """
    found = version(database)
    refuse_newer(database, found)
    for step in range(found + 1, NEWEST + 1):
        _apply(database, step)


def version(database: Database) -> int:
    """The number of the last step that was applied; 0 for an empty database. Raises StoreUnusable."""
    with database.read() as connection:
        return _version(database, connection)


def refuse_newer(database: Database, found: int) -> None:
    """Raise StoreUnusable if a later version of Tidemill wrote this schema."""
    if found > NEWEST:
        raise StoreUnusable(
            f"The store {database.dialect.url} has schema {found}; this Tidemill knows schemas up to {NEWEST}.",
            remedy="Upgrade Tidemill to the version that wrote it, or set TIDEMILL_HOME to another folder.",
        )


def refuse_older(database: Database, found: int) -> None:
    """Raise StoreUnusable if steps are missing."""
    if found < NEWEST:
        raise StoreUnusable(
            f"The store {database.dialect.url} has schema {found}; this Tidemill needs schema {NEWEST}.",
            remedy="Run: tidemill db upgrade",
        )


def _version(database: Database, connection: Connection) -> int:
    inspector = inspect(connection)
    if inspector.has_table(schema_version.name):
        return int(connection.execute(select(func.coalesce(func.max(schema_version.c.version), 0))).scalar_one())
    tables = inspector.get_table_names()
    if tables:
        raise StoreUnusable(
            f"{database.dialect.url} is a database, but not one of Tidemill: it has the table {tables[0]!r}.",
            remedy="Move it away, or set TIDEMILL_HOME to another folder.",
        )
    return 0


def _apply(database: Database, number: int) -> None:
    step = import_module(f"{migrations.__name__}.{migrations.VERSIONS[number - 1]}")
    with database.take_turn() as connection:
        if _version(database, connection) >= number:
            return
        database.dialect.take_time(connection)
        for statement in step.STATEMENTS[database.dialect.name]:
            connection.exec_driver_sql(statement)
        connection.execute(insert(schema_version).values(version=number, applied_at_ms=database.now_ms))
