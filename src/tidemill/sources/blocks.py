"""What formats with types share: files of blocks, any run of which can be read without those before it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tidemill.domain.errors import InputUnreadable
from tidemill.domain.plan import Block, InputFile, Segment
from tidemill.ports.source import ENCODED, FileFacts, Rows, Source, UnreadRow
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
        """The same, with these columns of text encoded. Only asked of formats that encode."""
        raise NotImplementedError(f"{self.name} files are not read as dictionaries")

    def _read(self, segment: Segment, names: list[str], batch_rows: int, encoded: Sequence[str]) -> Iterator[Rows]:
        with self._open_encoded(segment.file, encoded) if encoded else self._open(segment.file) as opened:
            _require(segment.file, opened.schema, names)
            row = segment.block_row
            for span in opened.spans(segment.start, segment.stop):
                first, row = row, row + span.rows
                wanted = _Wanted(
                    file=segment.file,
                    span=span,
                    first=first,
                    start=max(first, segment.row_start),
                    stop=min(row, segment.row_stop),
                )
                if wanted.start < wanted.stop:
                    yield from _read_span(wanted, opened.schema, names, batch_rows)
                if row >= segment.row_stop:
                    break
        if row < segment.row_stop:
            check_pinned(segment.file)
            raise InputUnreadable(
                f"{segment.file.path} has rows up to {row}, but row {segment.row_stop - 1} was planned.",
                remedy="Plan the job again.",
            )


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """A span that begins with row `first` of the file, and the rows wanted of it."""

    file: InputFile
    span: Span
    first: int
    start: int
    stop: int


def _read_span(wanted: _Wanted, schema: pa.Schema, names: list[str], batch_rows: int) -> Iterator[Rows]:
    next_row, first = wanted.start, wanted.first
    try:
        for batch in wanted.span.batches(names, batch_rows):
            low, high = max(first, next_row), min(first + batch.num_rows, wanted.stop)
            if low < high:
                yield Rows(batch=batch.select(names).slice(low - first, high - low), row_start=low, planned=high - low)
                next_row = high
            if next_row >= wanted.stop:
                return
            first += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError, Undecodable) as exc:
        # What another program wrote over is not a row that was always bad.
        check_pinned(wanted.file)
        reason = f"{wanted.span.what} cannot be decoded: {exc}"
    else:
        reason = f"{wanted.span.what} holds fewer rows than its file says."
    empty = pa.RecordBatch.from_pylist([], schema=pa.schema([schema.field(name) for name in names]))
    yield from _unread(next_row, wanted.stop, reason[:MAX_REASON_CHARS], empty, batch_rows)


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
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise InputUnreadable(
            f"{file.path} has no column {missing[0]!r}.", remedy="All input files must have the planned columns."
        )


def bounded_rows(batch_rows: int, row_bytes: int, max_bytes: int) -> int:
    """How many rows of that width one batch may have."""
    return max(1, min(batch_rows, max_bytes // max(row_bytes, 1)))
