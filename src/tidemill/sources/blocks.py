"""What formats with types share: files of blocks, any run of which can be read without those before it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.domain.errors import InputUnreadable
from tidemill.domain.plan import Block, InputFile, Segment
from tidemill.ports.source import ENCODED, FileFacts, Rows, Source, UnreadRow, part_of
from tidemill.sources.pinned import check_pinned, pinned

MAX_BATCH_BYTES = 64 << 20
MAX_REASON_CHARS = 1000
COPY_AGAIN = "Copy or write the file again, or take it out of the input."
_NO_ROWS = np.empty(0, np.int64)


class Undecodable(Exception):
    """Bytes of one span are no rows; what follows may be."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Rows that lie together in a file. `what` names them for people: "Row group 3".

    `batches` (columns, rows per batch) gives them all, in order, in batches with at least those columns.
    It raises Undecodable, OSError or an error of Arrow where the bytes are bad.
    """

    what: str
    rows: int
    batches: Callable[[list[str], int], Iterator[pa.RecordBatch]]


class OpenFile(ABC):
    """A file of blocks, open for reading."""

    schema: pa.Schema

    @abstractmethod
    def blocks(self) -> Iterable[Block]:
        """All blocks, as `FileFacts` wants them."""

    @abstractmethod
    def spans(self, start: int, stop: int) -> Iterator[Span]:
        """The spans of the blocks that reach from `start` to `stop`, in order."""


class BlockSource(Source):
    """A format with types. Members say how a file is opened."""

    typed = True

    def __init__(self, options: Mapping[str, Any] | None = None, spool: Path | None = None) -> None:
        super().__init__(options, spool)
        self._left: _Reading | None = None

    @abstractmethod
    def _open(self, file: InputFile) -> AbstractContextManager[OpenFile]:
        """Open the file and read what it says of itself. Raises InputUnreadable."""

    def examine(self, file: InputFile, *, infer: bool = False) -> FileFacts:
        check_pinned(file)
        with self._open(file) as opened:
            _refuse_duplicates(file, opened.schema)
            facts = FileFacts(schema=opened.schema, blocks=tuple(opened.blocks()))
        check_pinned(file)
        return facts

    def read(
        self, segment: Segment, columns: Sequence[str], types: Mapping[str, str], batch_rows: int
    ) -> Iterator[Rows]:
        encoded = [name for name in columns if types.get(name) == ENCODED] if self.encodes else []
        return pinned(segment.file, self._read(segment, list(columns), batch_rows, encoded))

    def _open_encoded(self, file: InputFile, names: Sequence[str]) -> AbstractContextManager[OpenFile]:
        """The same, with these columns of text encoded, if the format does that."""
        return self._open(file)

    def _read(self, segment: Segment, names: list[str], batch_rows: int, encoded: Sequence[str]) -> Iterator[Rows]:
        reading = self._reading_of(segment.file, names, batch_rows, encoded)
        try:
            yield from reading.rows(segment)
        except BaseException:
            reading.close()
            raise
        self._left = reading

    def _reading_of(self, file: InputFile, names: list[str], batch_rows: int, encoded: Sequence[str]) -> _Reading:
        """The file as the segment before left it, if that was read alike; else opened now."""
        left, self._left = self._left, None
        if left is not None:
            if (left.file, left.names, left.batch_rows, left.encoded) == (file, names, batch_rows, encoded):
                return left
            left.close()
        with ExitStack() as stack:
            opened = stack.enter_context(self._open_encoded(file, encoded))
            _require(file, opened.schema, names)
            return _Reading(
                file=file, names=names, batch_rows=batch_rows, encoded=encoded, opened=opened, stack=stack.pop_all()
            )


@dataclass(kw_only=True)
class _Place:
    """Where reading a span stopped: with row `row` of the file, the first of `batch` or of what comes after it."""

    first: int
    """The span's first row."""
    batches: Iterator[pa.RecordBatch]
    row: int
    batch: pa.RecordBatch | None = None


@dataclass(kw_only=True)
class _Reading:
    """A file that stays open between segments: a span that several chunks share is decoded once, where one
    scorer reads them one after the other."""

    file: InputFile
    names: list[str]
    batch_rows: int
    encoded: Sequence[str]
    opened: OpenFile
    stack: ExitStack
    _place: _Place | None = None

    def close(self) -> None:
        self.stack.close()

    def rows(self, segment: Segment) -> Iterator[Rows]:
        """The segment's rows. Raises InputUnreadable, InputChanged."""
        row = segment.block_row
        for span in self.opened.spans(segment.start, segment.stop):
            first, row = row, row + span.rows
            start, stop = max(first, segment.row_start), min(row, segment.row_stop)
            if start < stop:
                yield from self._of_span(span, first, start, stop)
            if row >= segment.row_stop:
                break
        if row < segment.row_stop:
            check_pinned(segment.file)
            raise InputUnreadable(
                f"{segment.file.path} has rows up to {row}, but row {segment.row_stop - 1} was planned.",
                remedy="Plan the job again.",
            )

    def _of_span(self, span: Span, first: int, start: int, stop: int) -> Iterator[Rows]:
        """Rows [start, stop) of the file, all of a span that begins with row `first` of it."""
        place, self._place = self._place, None
        try:
            if place is None or place.first != first or place.row > start:
                place = _Place(first=first, batches=span.batches(self.names, self.batch_rows), row=first)
            while place.row < stop:
                batch = place.batch or next(place.batches, None)
                if batch is None:
                    break
                low, high = max(place.row, start), min(place.row + batch.num_rows, stop)
                if low < high:
                    rows = part_of(_of_columns(batch, self.names), low - place.row, high - place.row)
                    yield Rows(batch=rows, row_start=low, planned=high - low)
                    start = high
                taken = min(max(stop - place.row, 0), batch.num_rows)
                place.batch = batch.slice(taken) if taken < batch.num_rows else None
                place.row += taken
        except (pa.ArrowException, OSError, UnicodeDecodeError, Undecodable) as exc:
            # What another program wrote over is not a row that was always bad.
            check_pinned(self.file)
            reason = f"{span.what} cannot be decoded: {exc}"
        else:
            if start >= stop:
                self._place = place
                return
            reason = f"{span.what} holds fewer rows than its file says."
        fields = [self.opened.schema.field(name) for name in self.names]
        empty = pa.RecordBatch.from_pylist([], schema=pa.schema(fields))
        yield from _unread(start, stop, reason[:MAX_REASON_CHARS], empty, self.batch_rows)


def _of_columns(batch: pa.RecordBatch, names: list[str]) -> pa.RecordBatch:
    return batch if batch.schema.names == names else batch.select(names)


def _unread(start: int, end: int, reason: str, empty: pa.RecordBatch, batch_rows: int) -> Iterator[Rows]:
    for first in range(start, end, batch_rows):
        stop = min(first + batch_rows, end)
        yield Rows(
            batch=empty,
            row_start=first,
            planned=stop - first,
            row_numbers=_NO_ROWS,
            unread=tuple(UnreadRow(row=row, error="ReadError", message=reason) for row in range(first, stop)),
        )


def _refuse_duplicates(file: InputFile, schema: pa.Schema) -> None:
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise InputUnreadable(
            f"{file.path} has more than one column called {', '.join(map(repr, twice))}.",
            remedy="Write the file again with different column names.",
        )


def _require(file: InputFile, schema: pa.Schema, columns: Sequence[str]) -> None:
    there = set(schema.names)
    missing = [name for name in columns if name not in there]
    if missing:
        raise InputUnreadable(
            f"{file.path} has no column {missing[0]!r}.", remedy="All input files must have the planned columns."
        )


def bounded_rows(batch_rows: int, row_bytes: int, max_bytes: int) -> int:
    """How many rows of that width one batch may have."""
    return max(1, min(batch_rows, max_bytes // max(row_bytes, 1)))
