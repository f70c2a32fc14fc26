"""What CSV and JSON Lines share: a scan that notes record borders, and text that becomes typed columns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa

from tidemill.domain.errors import InputUnreadable, InvalidSpec
from tidemill.domain.plan import Block, InputFile, Segment
from tidemill.ports.source import FileFacts, Rows, Source, UnreadRow
from tidemill.sources.cast import Caster, NullValues, cast_feature
from tidemill.sources.compression import DEFAULT_MAX_SPOOL_BYTES, plain_text
from tidemill.sources.pinned import check_pinned, pinned
from tidemill.sources.records import CHUNK_BYTES, MAX_RECORD_BYTES, RAW_BYTES, Grammar, Piece, pieces

BLOCK_BYTES = 16 << 20
"""A chunk begins at a block, or reads what lies before it in its block: blocks are not larger than small chunks are."""
BOM = b"\xef\xbb\xbf"

T = TypeVar("T")


def option(options: Mapping[str, Any], name: str, kind: type[T], default: T) -> T:
    """The option's value; one text will do for a list. Raises InvalidSpec if it is of another type."""
    value = options.get(name, default)
    if kind is list and isinstance(value, str):
        value = [value]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InvalidSpec(f"The input option {name} is {value!r}.", remedy=f"Give a value like {default!r}.")
    return value


def refuse_unknown(options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise InvalidSpec for a misspelt option."""
    for name in options:
        if name not in known:
            raise InvalidSpec(f"There is no input option {name!r}.", remedy=f"Known: {', '.join(known)}.")


def cut_raw(raw: bytes) -> bytes:
    """What is kept of a row that cannot be read."""
    return raw[:RAW_BYTES]


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Consecutive records after parsing: `batch` has those that could be read, their columns mostly as string.

    `bad` are the others by their number within them, ascending.
    """

    batch: pa.RecordBatch
    records: int
    bad: tuple[UnreadRow, ...] = ()


class TextSource(Source):
    """A format whose files are records ended by line ends."""

    typed = False
    casts_text = True
    known_options: tuple[str, ...] = ("block_bytes", "max_record_bytes", "max_spool_bytes", "null_values")
    encoding = "utf-8"

    def __init__(self, options: Mapping[str, Any] | None = None, spool: Path | None = None) -> None:
        super().__init__(options, spool)
        refuse_unknown(self.options, self.known_options)
        self.block_bytes = option(self.options, "block_bytes", int, BLOCK_BYTES)
        self.max_record_bytes = option(self.options, "max_record_bytes", int, MAX_RECORD_BYTES)
        self.max_spool_bytes = option(self.options, "max_spool_bytes", int, DEFAULT_MAX_SPOOL_BYTES)
        self.nulls = NullValues(option(self.options, "null_values", list, list(self.default_null_values())))
        if self.block_bytes < 1 or self.max_record_bytes < 1:
            raise InvalidSpec("block_bytes and max_record_bytes must be positive.")

    @classmethod
    @abstractmethod
    def default_null_values(cls) -> tuple[str, ...]:
        """Texts that are missing values in columns with a type."""

    @abstractmethod
    def _layout(self, file: InputFile, text: IO[bytes]) -> Layout:
        """Where the records begin, what ends them, and the columns if the file's head names them."""

    @abstractmethod
    def _decode(self, piece: Piece, layout: Layout, columns: Sequence[str]) -> Decoded:
        """Parse a piece's records: the named columns as text."""

    @abstractmethod
    def _survey(self, layout: Layout, infer: bool) -> Survey:
        """What is to be learned of the columns while the file is scanned."""

    def examine(self, file: InputFile, *, infer: bool = False) -> FileFacts:
        check_pinned(file)
        with self._plain_text(file) as text:
            layout = self._layout(file, text)
            survey = self._survey(layout, infer)
            blocks = self._blocks(self._pieces(text, layout, layout.start, layout.stop), survey)
            facts = FileFacts(blocks=tuple(blocks), schema=survey.schema(file))
        check_pinned(file)
        return facts

    def read(
        self, segment: Segment, columns: Sequence[str], types: Mapping[str, str], batch_rows: int
    ) -> Iterator[Rows]:
        caster = Caster(columns, types, self.nulls)
        return pinned(segment.file, self._read(segment, columns, caster, batch_rows))

    def cast_text(self, column: pa.Array, wanted: pa.DataType) -> tuple[pa.Array, Sequence[int]]:
        return cast_feature(column, wanted, self.nulls)

    def _read(self, segment: Segment, columns: Sequence[str], caster: Caster, batch_rows: int) -> Iterator[Rows]:
        with self._plain_text(segment.file) as text:
            layout = self._layout(segment.file, text)
            self._require(segment.file, layout, columns)
            row = segment.block_row
            for piece in self._pieces(text, layout, segment.start, segment.stop):
                first, row = row, row + piece.records
                if row <= segment.row_start or not piece.records:
                    continue
                for decoded in self._parts(piece, layout, columns, caster):
                    yield from _windows(decoded, first, segment, caster, batch_rows)
                    first += decoded.records
                if row >= segment.row_stop:
                    break
        if row < segment.row_stop:
            check_pinned(segment.file)
            raise InputUnreadable(
                f"{segment.file.path} ends at row {row}, but row {segment.row_stop - 1} was planned.",
                remedy="Plan the job again.",
            )

    def _parts(self, piece: Piece, layout: Layout, columns: Sequence[str], caster: Caster) -> Iterator[Decoded]:
        """The rows of a piece, in order. Columns may have the caster's types already."""
        yield self._unread(piece, columns) if piece.broken else self._decode(piece, layout, columns)

    def _plain_text(self, file: InputFile) -> AbstractContextManager[IO[bytes]]:
        return plain_text(file, self.spool, self.encoding, self.max_spool_bytes)

    def _pieces(self, text: IO[bytes], layout: Layout, start: int, stop: int) -> Iterator[Piece]:
        chunk_bytes = min(CHUNK_BYTES, self.block_bytes)
        return pieces(text, start, stop, layout.grammar, chunk_bytes, self.max_record_bytes)

    def _blocks(self, found: Iterator[Piece], survey: Survey) -> Iterator[Block]:
        start, stop, rows = -1, 0, 0
        for piece in found:
            survey.learn(piece)
            if start < 0:
                start = piece.offset
            stop, rows = piece.offset + piece.length, rows + piece.records
            if stop - start >= self.block_bytes and rows:
                yield _block(start, stop, rows, survey)
                start, rows = -1, 0
        if rows:
            yield _block(start, stop, rows, survey)

    def _require(self, file: InputFile, layout: Layout, columns: Sequence[str]) -> None:
        missing = [name for name in columns if layout.columns is not None and name not in layout.columns]
        if missing:
            raise InputUnreadable(
                f"{file.path} has no column {missing[0]!r}.", remedy="All input files must have the planned columns."
            )

    @staticmethod
    def _unread(piece: Piece, columns: Sequence[str]) -> Decoded:
        bad = UnreadRow(row=0, error="ParseError", message=piece.broken or "", raw=cut_raw(piece.data))
        return Decoded(batch=empty_batch(columns), records=1, bad=(bad,))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one text is read: records lie at [start, stop) of it."""

    grammar: Grammar
    start: int
    stop: int
    columns: tuple[str, ...] | None
    """None if columns are known only after a scan."""


class Survey:
    """Learns of the columns while a file is scanned. This one knows them all beforehand."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = list(columns)

    def learn(self, piece: Piece) -> None:
        """Look at one more piece, in file order."""

    def schema(self, file: InputFile) -> pa.Schema:
        """The file's columns. Raises InputUnreadable."""
        return pa.schema([(name, pa.string()) for name in self.columns])


def _block(start: int, stop: int, rows: int, survey: Survey) -> Block:
    offsets = 4 * rows * len(survey.columns)
    return Block(rows=rows, decoded_bytes=stop - start + offsets, start=start, stop=stop)


def empty_batch(columns: Sequence[str]) -> pa.RecordBatch:
    """No rows of string columns."""
    return pa.RecordBatch.from_arrays([pa.array([], pa.string()) for _ in columns], names=list(columns))


def _windows(decoded: Decoded, first: int, segment: Segment, caster: Caster, batch_rows: int) -> Iterator[Rows]:
    """The piece's rows that the segment has, typed, at most `batch_rows` at a time."""
    stop = min(first + decoded.records, segment.row_stop)
    good = np.arange(first, first + decoded.records, dtype=np.int64)
    if decoded.bad:
        good = np.delete(good, [row.row for row in decoded.bad])
    for start in range(max(first, segment.row_start), stop, batch_rows):
        end = min(start + batch_rows, stop)
        low, high = np.searchsorted(good, (start, end)).tolist()
        numbers = good[low:high]
        batch, numbers, failed = caster.cast(decoded.batch.slice(low, high - low), numbers)
        unread = [
            UnreadRow(row=first + row.row, error=row.error, message=row.message, raw=row.raw)
            for row in decoded.bad
            if start <= first + row.row < end
        ]
        unread = sorted([*unread, *failed], key=lambda row: row.row)
        yield Rows(
            batch=batch,
            row_start=start,
            planned=end - start,
            row_numbers=numbers if unread else None,
            unread=tuple(unread),
        )
