"""What is special about SQLite: one file on a local disk, shared by the processes of one machine."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, BigInteger, Connection, Executable, Table, create_engine, event, literal_column
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError

from tidemill.domain.errors import StoreUnusable
from tidemill.stores.sql.database import WRITES, Database, Dialect

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

_NOW_MS = literal_column("CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)", BigInteger)

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
    dialect = Dialect(
        name="sqlite",
        url=f"sqlite:///{path}",
        now_ms=_NOW_MS,
        insert_new=_insert_new,
        driver_errors=(sqlite3.Error,),
        explain=lambda exc: explain(path, exc),
    )
    return Database(engine, dialect)


def explain(path: Path, error: Exception) -> StoreUnusable:
    """The error for people: the file, the reason, what to do."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    code = getattr(cause, "sqlite_errorcode", None)
    remedy = _REMEDIES.get(code & 0xFF) if isinstance(code, int) else None
    return StoreUnusable(f"The store {path} cannot be used: {cause}.", remedy=remedy or _CHECK)


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


def _insert_new(table: Table, values: dict[str, Any]) -> Executable:
    return insert(table).values(values).on_conflict_do_nothing()


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
