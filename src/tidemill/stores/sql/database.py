"""Transactions on one database, and the border where the driver's errors end."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any, ClassVar

from sqlalchemy import ColumnElement, Connection, Engine, FromClause, Table, insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.sql.dml import Insert

from tidemill.domain.errors import InvalidSpec, StoreUnavailable, TidemillError
from tidemill.stores.sql.watching import Changes, Ears

WRITES = "tidemill_writes"
"""Execution option of connections whose transactions write; a dialect may begin those differently."""

SETTLE_SECONDS = 12.0
"""How long a transaction whose COMMIT was not answered is asked after."""

_PAUSE_SECONDS = 0.1


def insert_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that have the same columns, many in one statement.

    RETURNING makes SQLAlchemy do so. Without it the Postgres driver pipelines one statement for each row, and
    after a pipeline the server does not watch over the time that a transaction is idle: locks of a frozen process
    would stay.
    """
    if rows:
        connection.execute(insert(table).returning(*table.primary_key.columns), rows).all()


class Fate(Enum):
    """What became of a transaction whose COMMIT was sent and not answered."""

    COMMITTED = auto()
    ABORTED = auto()
    OPEN = auto()
    """Its server process has not ended it yet."""
    UNKNOWN = auto()


class Dialect(ABC):
    """All in which one kind of database differs from another."""

    name: ClassVar[str]
    lease_seconds: ClassVar[float]
    heartbeat_seconds: ClassVar[float]
    now_ms: ClassVar[ColumnElement[int]]
    """The database's own clock: milliseconds since 1970, UTC; one value in a whole statement."""
    sees_deaths: ClassVar[bool]
    """Whether all workers are on this machine, so that a dead one's lock file is seen to be free."""

    def __init__(self, url: str, driver_errors: tuple[type[Exception], ...]) -> None:
        self.url = url
        """Names the database for people; holds no password."""
        self.driver_errors = driver_errors
        """What the driver raises where SQLAlchemy does not wrap it: in connection hooks."""

    @abstractmethod
    def insert_new(self, table: Table, values: dict[str, Any]) -> Insert:
        """An INSERT of one row that does nothing if its key is there."""

    @abstractmethod
    def labels_of(self, labels: ColumnElement[Any]) -> FromClause:
        """The columns `key` and `value` of a JSON object of strings."""

    @abstractmethod
    def explain(self, error: Exception) -> TidemillError:
        """The error for people: which store, the reason, what to do."""

    @abstractmethod
    def listen(self, engine: Engine) -> Ears:
        """A connection that notices what other processes write."""

    @abstractmethod
    def take_turn(self, connection: Connection) -> None:
        """Wait until no other transaction that took its turn is open; until this one's end, others wait."""

    @abstractmethod
    def take_time(self, connection: Connection) -> None:
        """Let statements of this transaction run as long as they need."""

    @abstractmethod
    def mark(self, connection: Connection) -> str | None:
        """Name this transaction, so that `fate` can be asked for; None where a COMMIT's answer cannot get lost."""

    @abstractmethod
    def fate(self, connection: Connection, mark: str) -> Fate:
        """What became of the transaction of that name."""

    @abstractmethod
    def examine(self, engine: Engine) -> None:
        """Raise what is wrong with the database, if anything is."""

    @abstractmethod
    def back_up(self, engine: Engine, target: str) -> None:
        """As `ports.store.Store.back_up`."""


class Database:
    """One engine. `read` and `write` give one transaction each; nothing of the driver is raised out of them.

    Inside `transaction` those of the same thread join it, a `write` as a savepoint: if it raises, only its own
    part is undone.
    """

    def __init__(self, engine: Engine, dialect: Dialect) -> None:
        self.engine = engine
        self.dialect = dialect
        self.now_ms = dialect.now_ms
        self.changes = Changes(self._listen)
        self._errors: tuple[type[Exception], ...] = (DBAPIError, PoolTimeout, *dialect.driver_errors)
        self._writer = engine.execution_options(**{WRITES: True})
        self._open = threading.local()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that changes nothing. Each statement sees what was committed before it."""
        joined = self._joined
        with self._translated():
            if joined is not None:
                yield joined
            else:
                with self.engine.connect() as connection:
                    yield connection

    @contextmanager
    def write(self, *, settle: bool = True) -> Iterator[Connection]:
        """A transaction that is durable when the block ends.

        When the connection breaks and COMMIT is not answered, the database is asked what became of it, over a new
        connection: the block ends well if it was committed. Raises StoreUnavailable if it was not, or if nobody
        can tell within `SETTLE_SECONDS`; without `settle` that is not even tried.
        """
        joined = self._joined
        with self._translated():
            if joined is not None:
                with joined.begin_nested():
                    yield joined
                return
            mark, done = None, False
            try:
                with self._writer.begin() as connection:
                    mark = self.dialect.mark(connection)
                    yield connection
                    done = True
            except self._errors as exc:
                if not done or mark is None:
                    raise
                self._settle(mark, exc, SETTLE_SECONDS if settle else 0)
        self.changes.tell()

    @contextmanager
    def take_turn(self) -> Iterator[Connection]:
        """A `write` that is alone: no other one of this kind is open at the same time, in any process."""
        with self.write() as connection:
            self.dialect.take_turn(connection)
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One `write` around all that this thread reads and writes in the block."""
        with self.write() as connection:
            outer, self._open.connection = self._joined, connection
            try:
                yield
            finally:
                self._open.connection = outer

    def now(self, connection: Connection) -> int:
        """Milliseconds by the database's clock."""
        return int(connection.execute(select(self.now_ms)).scalar_one())

    def check(self) -> None:
        """Raise StoreUnusable if the database is not sound."""
        with self._translated():
            self.dialect.examine(self.engine)

    def back_up(self, target: str) -> None:
        """As `ports.store.Store.back_up`."""
        with self._translated():
            self.dialect.back_up(self.engine, target)

    def close(self) -> None:
        """Give connections back."""
        self.changes.close()
        self.engine.dispose()

    @property
    def _joined(self) -> Connection | None:
        connection: Connection | None = getattr(self._open, "connection", None)
        return connection

    def _listen(self) -> Ears:
        with self._translated():
            return self.dialect.listen(self.engine)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._errors as exc:
            raise self.dialect.explain(exc) from exc
        except (UnicodeEncodeError, OverflowError) as exc:
            raise InvalidSpec(
                f"The store cannot keep this value: {exc}.",
                remedy="Use text that is valid Unicode and smaller numbers.",
            ) from exc

    def _settle(self, mark: str, error: Exception, seconds: float) -> None:
        """Return if that transaction was committed; else raise StoreUnavailable."""
        fate, deadline = Fate.OPEN, time.monotonic() + seconds
        while fate is Fate.OPEN and time.monotonic() < deadline:
            try:
                with self.engine.connect() as connection:
                    fate = self.dialect.fate(connection, mark)
            except self._errors as exc:
                error = exc
            if fate is Fate.OPEN:
                time.sleep(_PAUSE_SECONDS)
        if fate is Fate.COMMITTED:
            return
        message = self.dialect.explain(error).message
        if fate is Fate.ABORTED:
            raise StoreUnavailable(f"{message} Nothing was changed.", remedy="Try again.") from error
        raise StoreUnavailable(
            f"{message} It is not known whether the last change was made.",
            remedy="Look at it again when the database answers.",
        ) from error
