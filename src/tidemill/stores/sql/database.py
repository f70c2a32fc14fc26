"""Transactions on one database, and the border where the driver's errors end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Executable, Table, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tidemill.domain.errors import StoreUnusable

WRITES = "tidemill_writes"
"""Execution option of connections whose transactions write; a dialect may begin those differently."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """All in which one kind of database differs from another."""

    name: str
    url: str
    """Names the database for people; holds no password."""
    now_ms: ColumnElement[int]
    """The database's own clock: milliseconds since 1970, UTC."""
    insert_new: Callable[[Table, dict[str, Any]], Executable]
    """An INSERT of one row that does nothing if its key is there."""
    driver_errors: tuple[type[Exception], ...]
    """What the driver raises where SQLAlchemy does not wrap it: in connection hooks."""
    explain: Callable[[Exception], StoreUnusable]


class Database:
    """One engine. `read` and `write` give one transaction each; nothing of the driver is raised out of them."""

    def __init__(self, engine: Engine, dialect: Dialect) -> None:
        self.engine = engine
        self.dialect = dialect
        self.now_ms = dialect.now_ms
        self._errors: tuple[type[Exception], ...] = (DBAPIError, PoolTimeout, *dialect.driver_errors)
        self._writer = engine.execution_options(**{WRITES: True})

    def read(self) -> AbstractContextManager[Connection]:
        """A transaction that sees one state of the database and changes nothing."""
        return self._transaction(self.engine)

    def write(self) -> AbstractContextManager[Connection]:
        """A transaction that is serialised with other writers and durable when the block ends."""
        return self._transaction(self._writer)

    def now(self, connection: Connection) -> int:
        """Milliseconds by the database's clock."""
        return int(connection.execute(select(self.now_ms)).scalar_one())

    def close(self) -> None:
        """Give connections back."""
        self.engine.dispose()

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        try:
            with engine.begin() as connection:
                yield connection
        except self._errors as exc:
            raise self.dialect.explain(exc) from exc
