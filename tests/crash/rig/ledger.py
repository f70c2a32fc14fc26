"""A look into the store from outside: plain sqlite3, read-only."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

LIVE = ("planning", "running", "committing")
FINISHED = ("succeeded", "succeeded_with_rejections")
PHASES = ("absent", "queued", *LIVE, "ended")


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the store says of the newest job."""

    state: str = "absent"
    """A job state, or "absent" while there is no job."""
    job_id: str = ""
    epoch: int = 0
    chunks_total: int = 0
    chunks_done: int = 0
    committed: frozenset[int] = frozenset()

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def phase(self) -> int:
        return PHASES.index(self.state) if self.state in PHASES else len(PHASES) - 1


class Window:
    """An open, read-only view of a database that may not exist yet."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self._db: sqlite3.Connection | None = None

    def look(self, *, chunks: bool = False) -> Look:
        try:
            return self._look(chunks)
        except sqlite3.Error:
            self.close()
            return Look()

    def _look(self, chunks: bool) -> Look:
        if self._db is None:
            if not self.database.exists():
                return Look()
            self._db = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, isolation_level=None, timeout=5)
        row = self._db.execute(
            "SELECT state, id, epoch, chunks_total, chunks_done FROM jobs ORDER BY number DESC LIMIT 1"
        ).fetchone()
        if row is None:
            return Look()
        committed: frozenset[int] = frozenset()
        if chunks:
            found = self._db.execute("SELECT chunk FROM chunks WHERE job_id = ?", (row[1],)).fetchall()
            committed = frozenset(number for (number,) in found)
        return Look(
            state=row[0],
            job_id=row[1],
            epoch=row[2],
            chunks_total=row[3] or 0,
            chunks_done=row[4] or 0,
            committed=committed,
        )

    def wait(self, phase: str, *, running: Callable[[], bool], chunks_done: int = 0, seconds: float = 60) -> Look:
        """Wait until the job has come to that phase, or further, or its process ended."""
        goal, stop = PHASES.index(phase), time.monotonic() + seconds
        while True:
            seen = self.look()
            if seen.phase > goal or (seen.phase == goal and seen.chunks_done >= chunks_done):
                return seen
            if not running() or time.monotonic() > stop:
                return seen
            time.sleep(0.001)

    def close(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def look(database: Path) -> Look:
    """One look, with the committed chunks."""
    with Window(database) as window:
        return window.look(chunks=True)


def receipts(database: Path, job_id: str) -> dict[int, str]:
    """The receipts of committed chunks, as stored."""
    return dict(_rows(database, "SELECT chunk, receipt FROM chunks WHERE job_id = ?", job_id))


def chunk_rows(database: Path, job_id: str) -> dict[int, int]:
    """Committed chunks and how many rows each has."""
    return dict(_rows(database, "SELECT chunk, rows FROM chunks WHERE job_id = ?", job_id))


def staging(database: Path, job_id: str) -> Path:
    """A job's staging folder."""
    ((path,),) = _rows(database, "SELECT staging FROM jobs WHERE id = ?", job_id)
    return Path(path)


def _rows(database: Path, query: str, job_id: str) -> list[tuple[Any, ...]]:
    # Closed at once: while anybody has the database open, whoever else closes it does not copy the log.
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        return db.execute(query, (job_id,)).fetchall()
