"""Bringing a database to the schema that this version knows."""

from __future__ import annotations

from importlib import import_module

from sqlalchemy import Connection, func, insert, inspect, select

from tidemill.domain.errors import StoreUnusable
from tidemill.stores.sql import migrations
from tidemill.stores.sql.database import Database
from tidemill.stores.sql.tables import schema_version


def upgrade(database: Database) -> None:
    """Apply the steps that are missing, each in a transaction of its own; several processes may do it at once.

    Raises StoreUnusable for a newer schema and for a database of somebody else.
    """
    with database.read() as connection:
        found = _version(database, connection)
    if found > len(migrations.VERSIONS):
        raise StoreUnusable(
            f"The store {database.dialect.url} has schema {found}; this Tidemill knows schemas up to "
            f"{len(migrations.VERSIONS)}.",
            remedy="Upgrade Tidemill to the version that wrote it, or set TIDEMILL_HOME to another folder.",
        )
    for version in range(found + 1, len(migrations.VERSIONS) + 1):
        _apply(database, version)


def _version(database: Database, connection: Connection) -> int:
    tables = inspect(connection).get_table_names()
    if schema_version.name in tables:
        return int(connection.execute(select(func.coalesce(func.max(schema_version.c.version), 0))).scalar_one())
    if tables:
        raise StoreUnusable(
            f"{database.dialect.url} is a database, but not one of Tidemill: it has the table {tables[0]!r}.",
            remedy="Move it away, or set TIDEMILL_HOME to another folder.",
        )
    return 0


def _apply(database: Database, version: int) -> None:
    step = import_module(f"{migrations.__name__}.{migrations.VERSIONS[version - 1]}")
    with database.write() as connection:
        if _version(database, connection) >= version:
            return
        for statement in step.STATEMENTS[database.dialect.name]:
            connection.exec_driver_sql(statement)
        connection.execute(insert(schema_version).values(version=version, applied_at_ms=database.now_ms))
