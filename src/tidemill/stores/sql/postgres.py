"""What is special about Postgres: a server that several machines share, reached over a network that can break."""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import Any, ClassVar

from sqlalchemy import (
    URL,
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    Table,
    create_engine,
    event,
    func,
    literal_column,
    make_url,
    text,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.sql.dml import Insert

from tidemill.domain.errors import (
    InvalidSpec,
    MissingExtra,
    Refused,
    StoreUnavailable,
    StoreUnusable,
    TidemillError,
)
from tidemill.stores.sql.database import Database, Dialect, Fate
from tidemill.stores.sql.watching import Ears

SESSION = {
    # A process that is frozen inside a transaction loses it, before those who wait for its locks give up,
    "idle_in_transaction_session_timeout": "4000",
    "lock_timeout": "8000",
    # and no statement may outlast a lease by far.
    "statement_timeout": "30000",
    # The server's figures lag behind a queue that grows by thousands in a minute. With those of a small table it
    # would gather and sort the whole line for each page; going along an index is never worse here.
    "enable_bitmapscan": "off",
}
"""Settings of every session; times are in milliseconds."""

NETWORK = {
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 4_000,
    "application_name": "tidemill",
}
"""Parameters of libpq, unless the URL says otherwise: a dead connection is noticed well within a lease."""

POOL_SECONDS = 5.0
"""How long a thread waits for a free connection."""

CHANNEL = "tidemill"
"""Notified inside transactions by triggers."""

# Any constant will do, as long as every version uses the same.
_TURN = 7_241_350_718_240_413

_SECRETS = frozenset({"password", "sslpassword"})

_UNAVAILABLE_CLASSES = frozenset({"08", "40", "53", "57"})
"""Of SQLSTATE: connection broken, rolled back by the server, no resources, ended by an operator."""
_UNAVAILABLE = frozenset(
    {
        "25006",  # read_only_sql_transaction: a standby
        "25P03",  # idle_in_transaction_session_timeout
        "25P04",  # transaction_timeout
        "55P03",  # lock_not_available
    }
)
_DATA = "22"
_FATES = {"committed": Fate.COMMITTED, "aborted": Fate.ABORTED, "in progress": Fate.OPEN}


class PostgresDialect(Dialect):
    """Of `now_ms`: `clock_timestamp` would differ from row to row and keep conditions from using an index;
    the start of the transaction would be old after waiting for a lock. The start of the statement is neither."""

    name: ClassVar[str] = "postgresql"
    lease_seconds: ClassVar[float] = 10.0
    heartbeat_seconds: ClassVar[float] = 2.0
    now_ms: ClassVar[ColumnElement[int]] = literal_column(
        "CAST(floor(extract(epoch FROM statement_timestamp()) * 1000) AS BIGINT)", BigInteger
    )
    sees_deaths: ClassVar[bool] = False

    def insert_new(self, table: Table, values: dict[str, Any]) -> Insert:
        return insert(table).values(values).on_conflict_do_nothing()

    def labels_of(self, labels: ColumnElement[Any]) -> FromClause:
        return func.json_each_text(labels).table_valued("key", "value")

    def explain(self, error: Exception) -> TidemillError:
        if isinstance(error, PoolTimeout):
            return StoreUnavailable(f"The store {self.url} is busy: {error}.", remedy="Try again.")
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        state = getattr(cause, "sqlstate", None)
        reason = " ".join(str(cause).split()) or type(cause).__name__
        if _is_data_error(cause, state):
            return InvalidSpec(
                f"The store cannot keep this value: {reason}.",
                remedy="Use text without the character NUL and numbers below 2^63.",
            )
        if _is_unavailable(cause, state):
            return StoreUnavailable(
                f"The store {self.url} does not answer: {reason}.",
                remedy=f"Check that the server runs and lets you in: psql {self.url}",
            )
        return StoreUnusable(
            f"The store {self.url} cannot be used: {reason}.",
            remedy="Check that its user may create and change tables there, then try again.",
        )

    def listen(self, engine: Engine) -> Ears:
        return _Notifications(engine, self)

    def take_turn(self, connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": _TURN})

    def take_time(self, connection: Connection) -> None:
        connection.execute(text("SET LOCAL statement_timeout = 0"))

    def mark(self, connection: Connection) -> str:
        return str(connection.execute(text("SELECT CAST(pg_current_xact_id() AS TEXT)")).scalar_one())

    def fate(self, connection: Connection, mark: str) -> Fate:
        asked = text("SELECT pg_xact_status(CAST(CAST(:mark AS TEXT) AS xid8))")
        return _FATES.get(str(connection.execute(asked, {"mark": mark}).scalar_one()), Fate.UNKNOWN)

    def examine(self, engine: Engine) -> None:
        """Whether it answers and can be written: the server itself checks what it reads."""
        with engine.connect() as connection:
            standby = connection.execute(text("SELECT pg_is_in_recovery()")).scalar_one()
        if standby:
            raise StoreUnavailable(
                f"The store {self.url} is a standby, which cannot be written.",
                remedy="Name the primary server in its URL.",
            )

    def back_up(self, engine: Engine, target: str) -> None:
        raise Refused(
            f"{self.url} is a Postgres database, which has tools of its own for backups.",
            remedy=f"Run: pg_dump --format=custom --file={target} {self.url}",
        )


class _Notifications(Ears):
    """LISTEN on a connection that belongs to no pool."""

    def __init__(self, engine: Engine, dialect: PostgresDialect) -> None:
        self._dialect = dialect
        self._error: type[Exception] = engine.dialect.loaded_dbapi.Error
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            pooled = engine.raw_connection()
            connection: Any = pooled.driver_connection
            pooled.detach()
            connection.autocommit = True
            connection.execute(f"LISTEN {CHANNEL}")
            self._connection = connection
        except BaseException:
            self._close_pipe()
            raise

    def wait(self) -> bool:
        backend = self._connection.pgconn
        try:
            while True:
                if self._drain(backend):
                    return True
                ready, _, _ = select.select([backend.socket, self._woken], [], [])
                if self._woken in ready:
                    return False
                backend.consume_input()
        except self._error as exc:
            raise self._dialect.explain(exc) from exc

    def interrupt(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._wake, b"x")

    def close(self) -> None:
        self._connection.close()
        self._close_pipe()

    def _drain(self, backend: Any) -> bool:
        heard = False
        while backend.notifies() is not None:
            heard = True
        return heard

    def _close_pipe(self) -> None:
        os.close(self._woken)
        os.close(self._wake)


def open_database(url: str) -> Database:
    """The database at this URL; nothing is connected yet. Raises StoreUnusable, MissingExtra."""
    try:
        given = make_url(url)
    except (ArgumentError, ValueError):
        # Its text may hold a password, and so may the reason.
        raise StoreUnusable(
            "The URL of the store cannot be read.", remedy="It looks like postgresql://user@host:5432/database."
        ) from None
    target = given.set(drivername="postgresql+psycopg")
    arguments = {name: value for name, value in NETWORK.items() if name not in given.query}
    try:
        engine = create_engine(
            target,
            connect_args=arguments,
            pool_pre_ping=True,
            pool_size=5,
            max_overflow=25,
            pool_timeout=POOL_SECONDS,
        )
    except ImportError as exc:
        raise MissingExtra(
            f"A store on Postgres needs the package 'psycopg': {exc}.",
            remedy="Run: pip install 'tidemill[postgres]'",
        ) from exc
    event.listen(engine, "connect", _prepare)
    return Database(engine, PostgresDialect(public_url(url), (engine.dialect.loaded_dbapi.Error,)))


def public_url(given: str) -> str:
    """The URL for people: it opens the same database, but holds no secret."""
    url = make_url(given)
    shown = url.set(drivername="postgresql", query={k: v for k, v in url.query.items() if k not in _SECRETS})
    if url.password is not None:
        shown = URL.create(
            shown.drivername, username=url.username, host=url.host, port=url.port, database=url.database,
            query=shown.query,
        )  # fmt: skip
    return shown.render_as_string(hide_password=False)


def _prepare(connection: Any, _record: object) -> None:
    """Not by `options` of libpq: the URL may have some, and poolers in between refuse them."""
    cursor = connection.cursor()
    settings = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in SESSION.items())
    cursor.execute(f"SELECT {settings}")
    cursor.close()
    connection.commit()


def _is_data_error(cause: BaseException, state: str | None) -> bool:
    if state is not None:
        return state.startswith(_DATA)
    return type(cause).__name__ == "DataError"


def _is_unavailable(cause: BaseException, state: str | None) -> bool:
    if state is not None:
        return state in _UNAVAILABLE or state[:2] in _UNAVAILABLE_CLASSES
    return type(cause).__name__ in ("OperationalError", "ConnectionTimeout", "InterfaceError")
