"""What is left to score of an input that grows.

The record of a series is in the store, which only the worker reads; the input is listed by a child. Between them
goes a file: the worker writes what was scored into it, and the child looks up each file that it finds. It is a small
database, so that neither of them holds a million paths in memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.domain.errors import AlreadyScored, NothingNew
from tidemill.domain.plan import Increment, InputFile

if TYPE_CHECKING:
    from tidemill.wire.spec import JobSpec

FILES_PER_MESSAGE = 1000
SKIPPED_AT_MOST = 1000
"""So many files of a record are passed over one by one before the place is looked up."""


_Row = tuple[str, int, int]


def write_record(path: Path, files: Iterable[InputFile]) -> None:
    """Write files, in the order of their paths, to be looked up by `Unscored` or `Same`. What was there is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    # It is made anew after a crash, so nothing of it needs to be safe.
    with closing(sqlite3.connect(path, isolation_level=None)) as record:
        record.execute("PRAGMA journal_mode = OFF")
        record.execute("PRAGMA synchronous = OFF")
        record.execute("BEGIN")
        record.execute(
            "CREATE TABLE scored (path TEXT, size_bytes INTEGER, mtime_ns INTEGER,"
            " PRIMARY KEY (path, size_bytes, mtime_ns)) WITHOUT ROWID"
        )
        rows = ((file.path, file.size_bytes, file.mtime_ns) for file in files)
        record.executemany("INSERT OR IGNORE INTO scored VALUES (?, ?, ?)", rows)
        record.execute("COMMIT")


def unscored(spec: JobSpec, record: Path, number: int) -> dict[str, Any]:
    """What `Unscored` wants to know, of a spec that names a series."""
    series = spec.input.series
    assert series is not None, "only a job of a series scores what is new"
    changed: str = series.changed
    if changed == "auto":
        changed = "refuse" if spec.output is not None and spec.output.mode == "append" else "score"
    return {
        "record": str(record),
        "series": series.name,
        "number": number,
        "settle_seconds": series.settle_seconds(),
        "changed": changed,
    }


class Record:
    """What `write_record` wrote. Files are mostly asked for in the order of their paths, and then read one after the
    other; any other order is only slower."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        self._rows: Iterator[_Row] = iter(())
        self._row: _Row | None = None
        self._asked = ""
        self._seek("")

    def contents(self, path: str) -> set[tuple[int, int]]:
        """Every (size, modification time) with which the file at this path was scored."""
        if path <= self._asked:
            self._seek(path)
        self._asked, skipped = path, 0
        while self._row is not None and self._row[0] < path:
            skipped += 1
            if skipped > SKIPPED_AT_MOST:
                self._seek(path)
            else:
                self._row = next(self._rows, None)
        found = set()
        while self._row is not None and self._row[0] == path:
            found.add((self._row[1], self._row[2]))
            self._row = next(self._rows, None)
        return found

    def _seek(self, path: str) -> None:
        from_there = "SELECT path, size_bytes, mtime_ns FROM scored WHERE path >= ? ORDER BY path"
        self._rows = self._connection.execute(from_there, (path,))
        self._row = next(self._rows, None)


class Unscored:
    """Chooses among the files of an input those that a job of a series scores, and counts the others."""

    def __init__(self, request: Mapping[str, Any], *, now_ns: int) -> None:
        """`request` is {"record", "series", "number", "settle_seconds", "changed"}; "changed" as in the spec, but
        "refuse" in the place of "auto" where a changed file would have its rows in the output twice."""
        self._record = Record(request["record"])
        self._series, self._number = str(request["series"]), int(request["number"])
        self._settle_ns = round(request["settle_seconds"] * 1e9)
        self._changed_is: str = request["changed"]
        self._now_ns = now_ns
        self._known = self._changed = self._unsettled = 0

    def takes(self, file: InputFile) -> bool:
        """Whether to score it. Raises AlreadyScored."""
        contents = self._record.contents(file.path)
        if (file.size_bytes, file.mtime_ns) in contents:
            self._known += 1
            return False
        # One from the future is no younger than any: clocks of machines differ, and it must not wait for ever.
        if abs(self._now_ns - file.mtime_ns) < self._settle_ns:
            self._unsettled += 1
            return False
        if contents:
            return self._takes_changed(file)
        return True

    def _takes_changed(self, file: InputFile) -> bool:
        match self._changed_is:
            case "skip":
                self._known += 1
                return False
            case "refuse":
                raise AlreadyScored(
                    f"{file.path} changed after a job of the series {self._series!r} scored it, and the output is"
                    " appended to: the rows of its old content would stay beside the new ones.",
                    remedy="Say --changed score to have both, --changed skip to leave changed files out, or give each"
                    " job an output of its own.",
                )
        self._changed += 1
        return True

    @property
    def increment(self) -> Increment:
        """What became of the files so far."""
        return Increment(
            series=self._series,
            number=self._number,
            known=self._known,
            changed=self._changed,
            unsettled=self._unsettled,
        )


class Same:
    """Chooses the files that another job of the series scored, to score rows of them again."""

    def __init__(self, record: str) -> None:
        self._record = Record(record)

    def takes(self, file: InputFile) -> bool:
        """Whether it is one of those, changed or not."""
        return bool(self._record.contents(file.path))


def nothing_new(found: Increment) -> NothingNew:
    """The error for an input without a file to score."""
    unsettled = f", written to just now: {found.unsettled:,}" if found.unsettled else ""
    return NothingNew(
        f"There is nothing new for the series {found.series!r} (files scored before: {found.known:,}{unsettled}).",
        remedy="Come back when there are new files; to score some again, say `tidemill series forget`.",
    )
