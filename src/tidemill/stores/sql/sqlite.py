"""What is special about SQLite: one file on a local disk, shared by the processes of one machine."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
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
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.sql.dml import Insert

from tidemill.domain.errors import Refused, StoreUnavailable, StoreUnusable
from tidemill.durable.files import fsync_file, fsync_folder, remove_file, scratch_name
from tidemill.stores.sql.database import WRITES, Database, Dialect, Fate
from tidemill.stores.sql.watching import Ears

BUSY_SECONDS = 30.0
"""How long a transaction waits for another process that writes."""

NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "smbnetfs", "ncpfs", "9p", "afs", "coda", "ceph"),
        *("ceph-fuse", "lustre", "glusterfs", "gpfs", "beegfs", "orangefs", "davfs", "davfs2", "vboxsf", "prl_fs"),
        *("sshfs", "rclone", "s3fs", "mount-s3", "mountpoint-s3", "gcsfuse", "goofys", "juicefs", "curlftpfs"),
        *("blobfuse", "blobfuse2"),
    }
)
"""File system types, also behind `fuse.`, whose locks or shared memory SQLite cannot rely on."""

POLL_SECONDS = 0.25
"""How often a watch looks whether another process wrote."""

_NOW_MS: ColumnElement[int] = literal_column("CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)", BigInteger)

_OTHER_HOME = "or set TIDEMILL_HOME to another folder"
_REMEDIES = {
    sqlite3.SQLITE_FULL: "Free some space on its disk, then run the same command again: what was committed is kept.",
    sqlite3.SQLITE_IOERR: f"Check its disk (`dmesg`, free space, quota), {_OTHER_HOME}.",
    sqlite3.SQLITE_READONLY: f"Make the file and its folder writable for you, {_OTHER_HOME}.",
    sqlite3.SQLITE_PERM: f"Make the file and its folder writable for you, {_OTHER_HOME}.",
    sqlite3.SQLITE_CANTOPEN: f"Make the file and its folder writable for you, {_OTHER_HOME}.",
    sqlite3.SQLITE_CORRUPT: f"Restore it from a backup, move it away to start with an empty one, {_OTHER_HOME}.",
    sqlite3.SQLITE_NOTADB: f"Restore it from a backup, move it away to start with an empty one, {_OTHER_HOME}.",
    sqlite3.SQLITE_BUSY: "Another process has kept it locked: end that one (`fuser` on the file names it), then retry.",
}
_CHECK = "Try again; if it stays so, run `PRAGMA integrity_check` on the file and report what it says."


_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class SqliteDialect(Dialect):
    """A COMMIT is a call into a library of this process: its answer cannot get lost."""

    name: ClassVar[str] = "sqlite"
    lease_seconds: ClassVar[float] = 30.0
    heartbeat_seconds: ClassVar[float] = 5.0
    now_ms: ClassVar[ColumnElement[int]] = _NOW_MS
    sees_deaths: ClassVar[bool] = True

    def __init__(self, path: Path) -> None:
        super().__init__(f"sqlite:///{path}", (sqlite3.Error,))
        self._path = path

    def insert_new(self, table: Table, values: dict[str, Any]) -> Insert:
        return insert(table).values(values).on_conflict_do_nothing()

    def labels_of(self, labels: ColumnElement[Any]) -> FromClause:
        return func.json_each(labels).table_valued("key", "value")

    def explain(self, error: Exception) -> StoreUnusable:
        return explain(self._path, error)

    def listen(self, engine: Engine) -> Ears:
        return _DataVersion(engine, self)

    def take_turn(self, connection: Connection) -> None:
        """Nothing: there is one writer at a time anyway."""

    def take_time(self, connection: Connection) -> None:
        """Nothing: no statement is hurried."""

    def mark(self, connection: Connection) -> None:
        return None

    def fate(self, connection: Connection, mark: str) -> Fate:
        return Fate.UNKNOWN

    def examine(self, engine: Engine) -> None:
        """Reads the whole file."""
        with engine.connect() as connection:
            found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA quick_check(3)")]
        if found != ["ok"]:
            raise StoreUnusable(
                f"The store {self._path} is damaged: {'; '.join(found)}.",
                remedy=_REMEDIES[sqlite3.SQLITE_CORRUPT],
            )

    def back_up(self, engine: Engine, target: str) -> None:
        place = Path(os.path.abspath(target))
        scratch = scratch_name(place)
        try:
            if os.path.lexists(place):
                raise FileExistsError
            remove_file(scratch)
            self._copy(engine, scratch)
            fsync_file(scratch)
            os.link(scratch, place)
            remove_file(scratch)
            fsync_folder(place.parent)
        except FileExistsError:
            remove_file(scratch)
            raise Refused(f"{place} is there already.", remedy="Give the backup another name.") from None
        except OSError as exc:
            raise Refused(
                f"The backup {place} cannot be written: {exc.strerror or exc}.",
                remedy="Check its folder: is it there, writable, with space left?",
            ) from exc

    def _copy(self, engine: Engine, target: Path) -> None:
        with closing(engine.raw_connection()) as pooled:
            driver = pooled.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            try:
                driver.execute("VACUUM INTO ?", (os.fspath(target),))
            except sqlite3.Error as exc:
                remove_file(target)
                raise Refused(
                    f"The backup of {self._path} could not be written: {exc}.",
                    remedy=f"Check the folder {target.parent}: is it there, writable, with space left?",
                ) from exc


class _DataVersion(Ears):
    """SQLite's own count of commits by others, polled over a connection that never writes."""

    def __init__(self, engine: Engine, dialect: SqliteDialect) -> None:
        self._dialect = dialect
        self._interrupted = threading.Event()
        pooled = engine.raw_connection()
        driver = pooled.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        pooled.detach()
        self._connection = driver
        self._version = self._read()

    def wait(self) -> bool:
        while not self._interrupted.wait(POLL_SECONDS):
            version = self._read()
            if version != self._version:
                self._version = version
                return True
        return False

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        self._connection.close()

    def _read(self) -> int:
        try:
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error as exc:
            raise self._dialect.explain(exc) from exc


def open_database(path: Path) -> Database:
    """The database in this file, made if it is missing. Its folder must be there, on a local disk."""
    # Never open() this file for any other purpose: closing it would drop SQLite's own locks of the whole process.
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        max_overflow=64,
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return Database(engine, SqliteDialect(path))


def explain(path: Path, error: Exception) -> StoreUnusable:
    """The error for people: the file, the reason, what to do."""
    if isinstance(error, PoolTimeout):
        return StoreUnavailable(f"The store {path} is busy: {error}.", remedy="Try again.")
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    code = getattr(cause, "sqlite_errorcode", None)
    remedy = _REMEDIES.get(code & 0xFF) if isinstance(code, int) else None
    kind = StoreUnavailable if isinstance(code, int) and code & 0xFF in _BUSY else StoreUnusable
    return kind(f"The store {path} cannot be used: {cause}.", remedy=remedy or _CHECK)


def refuse_network(folder: Path, mountinfo: str | None = None) -> None:
    """Raise StoreUnusable if a folder, there or not yet, is on a network file system.

    `mountinfo` is the text of /proc/self/mountinfo; systems without that file are not checked.
    """
    if mountinfo is None:
        if not sys.platform.startswith("linux"):
            return
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        except OSError:
            return
    kind = _file_system(os.path.realpath(folder), mountinfo)
    if kind is not None and kind.removeprefix("fuse.") in NETWORK_FILE_SYSTEMS:
        raise StoreUnusable(
            f"{folder} is on a network file system ({kind}), where SQLite can lose what it stored.",
            remedy="Set TIDEMILL_HOME to a folder on a local disk.",
        )


def _file_system(path: str, mountinfo: str) -> str | None:
    """The type of the file system that holds `path`; of mounts on one point the last is on top."""
    best, kind = "", None
    for line in mountinfo.splitlines():
        mount, _, rest = line.partition(" - ")
        fields = mount.split(" ")
        if len(fields) < 5 or not rest:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        if len(point) >= len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
            best, kind = point, rest.split(" ")[0]
    return kind


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    # The driver begins nothing by itself: `_begin` says how.
    connection.isolation_level = None
    for pragma in ("foreign_keys = ON", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")
    if not _journal_is_wal(connection, "PRAGMA journal_mode"):
        _switch_to_wal(connection)


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Of several processes that open a new file at once SQLite makes some fail without waiting."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            if _journal_is_wal(connection, "PRAGMA journal_mode = WAL"):
                return
            raise sqlite3.OperationalError("its file system has no shared memory, which the write-ahead log needs")
        except sqlite3.OperationalError as exc:
            code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
            if code != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _journal_is_wal(connection: sqlite3.Connection, pragma: str) -> bool:
    return bool(connection.execute(pragma).fetchone()[0] == "wal")


def _begin(connection: Connection) -> None:
    # A deferred transaction that starts to write may fail at once if another wrote meanwhile.
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN DEFERRED")
