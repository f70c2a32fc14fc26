"""Parquet: a block is a row group, columns come with the types that the file has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.domain.errors import InputUnreadable
from tidemill.domain.plan import Block, InputFile, Segment
from tidemill.ports.source import FileFacts, Rows, Source, UnreadRow
from tidemill.sources.compression import compression_of
from tidemill.sources.pinned import check_pinned, pinned, readable
from tidemill.sources.text import option, refuse_unknown

MAGIC = b"PAR1"
ENCRYPTED_MAGIC = b"PARE"
MAX_BATCH_BYTES = 64 << 20
SAMPLE_ROWS = 16
BUFFER_BYTES = 1 << 20
_GUESSED_BYTES = 16
_NO_ROWS = np.empty(0, np.int64)


class ParquetSource(Source):
    """Options: max_batch_bytes, the bound of one decoded batch."""

    name: ClassVar[str] = "parquet"
    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".pq")
    typed: ClassVar[bool] = True

    def __init__(self, options: Mapping[str, Any] | None = None, spool: Path | None = None) -> None:
        super().__init__(options, spool)
        refuse_unknown(self.options, ("max_batch_bytes",))
        self.max_batch_bytes = option(self.options, "max_batch_bytes", int, MAX_BATCH_BYTES)

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        return head.startswith((MAGIC, ENCRYPTED_MAGIC)) or (not head and path.lower().endswith(cls.suffixes))

    def examine(self, file: InputFile, *, infer: bool = False) -> FileFacts:
        check_pinned(file)
        with _open(file) as parquet:
            schema = parquet.schema_arrow
            _refuse_duplicates(file, schema)
            blocks = tuple(
                Block(
                    rows=parquet.metadata.row_group(number).num_rows,
                    decoded_bytes=_decoded_bytes(parquet, number, schema.names),
                    start=number,
                    stop=number + 1,
                )
                for number in range(parquet.num_row_groups)
            )
        check_pinned(file)
        return FileFacts(schema=schema, blocks=blocks)

    def read(
        self, segment: Segment, columns: Sequence[str], types: Mapping[str, str], batch_rows: int
    ) -> Iterator[Rows]:
        return pinned(segment.file, self._read(segment, columns, batch_rows))

    def _read(self, segment: Segment, columns: Sequence[str], batch_rows: int) -> Iterator[Rows]:
        with _open(segment.file) as parquet:
            _require(segment.file, parquet.schema_arrow, columns)
            row = segment.block_row
            for number in range(segment.start, min(segment.stop, parquet.num_row_groups)):
                first, row = row, row + parquet.metadata.row_group(number).num_rows
                group = _Group(
                    number=number, first=first, start=max(first, segment.row_start), stop=min(row, segment.row_stop)
                )
                if group.start < group.stop:
                    yield from self._read_group(parquet, segment.file, group, columns, batch_rows)
        if row < segment.row_stop:
            check_pinned(segment.file)
            raise InputUnreadable(
                f"{segment.file.path} has rows up to {row}, but row {segment.row_stop - 1} was planned.",
                remedy="Plan the job again.",
            )

    def _read_group(
        self, parquet: pq.ParquetFile, file: InputFile, group: _Group, columns: Sequence[str], batch_rows: int
    ) -> Iterator[Rows]:
        names = list(columns)
        next_row = group.start
        try:
            for batch, first in self._batches(parquet, group, names, batch_rows):
                low, high = max(first, next_row), min(first + batch.num_rows, group.stop)
                if low < high:
                    yield Rows(batch=batch.slice(low - first, high - low), row_start=low, planned=high - low)
                    next_row = high
                if next_row >= group.stop:
                    return
        except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
            # What another program wrote over is not a row that was always bad.
            check_pinned(file)
            reason = f"Row group {group.number} cannot be decoded: {exc}"
        else:
            reason = f"Row group {group.number} holds fewer rows than its file says."
        empty = pa.RecordBatch.from_pylist([], schema=pa.schema([parquet.schema_arrow.field(name) for name in names]))
        yield from _unread(group, next_row, reason[:1000], empty, batch_rows)

    def _batches(
        self, parquet: pq.ParquetFile, group: _Group, names: list[str], batch_rows: int
    ) -> Iterator[tuple[pa.RecordBatch, int]]:
        """The row group's batches, each with the number of its first row."""
        rows = parquet.metadata.row_group(group.number).num_rows
        width = max(1, _decoded_bytes(parquet, group.number, names) // max(rows, 1))
        hiding = _columns_that_hide_width(parquet, group.number, names)
        if rows > SAMPLE_ROWS and hiding:
            sample = next(_iterate(parquet, group.number, hiding, SAMPLE_ROWS), None)
            if sample is not None and sample.num_rows:
                width = max(width, sample.nbytes // sample.num_rows)
        size = max(1, min(batch_rows, self.max_batch_bytes // width))
        first = group.first
        for batch in _iterate(parquet, group.number, names, size):
            yield batch.select(names), first
            first += batch.num_rows


@dataclass(frozen=True, kw_only=True)
class _Group:
    """A row group that begins with row `first` of the file, and the rows wanted of it."""

    number: int
    first: int
    start: int
    stop: int


def _iterate(parquet: pq.ParquetFile, number: int, names: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    return parquet.iter_batches(batch_size=rows, row_groups=[number], columns=names, use_threads=False)  # type: ignore[no-any-return]


def _open(file: InputFile) -> pq.ParquetFile:
    with readable(file):
        with open(file.path, "rb") as raw:
            head = raw.read(4)
        remedy = "Copy or write the file again, or take it out of the input."
        if head == ENCRYPTED_MAGIC:
            raise InputUnreadable(
                f"{file.path} is encrypted Parquet.", remedy="Decrypt it first; there is no key for it here."
            )
        if compression_of(head) is not None:
            raise InputUnreadable(f"{file.path} is a compressed file, not Parquet.", remedy="Decompress it first.")
        if head != MAGIC:
            raise InputUnreadable(
                f"{file.path} is not a Parquet file.", remedy="Name its format, or take it out of the input."
            )
        try:
            return pq.ParquetFile(file.path, buffer_size=BUFFER_BYTES, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as exc:
            if isinstance(exc, OSError) and exc.errno is not None:
                raise
            check_pinned(file)
            if "ncrypt" in str(exc):
                remedy = "Decrypt it first; there is no key for it here."
            raise InputUnreadable(f"{file.path} is not a whole Parquet file: {exc}", remedy=remedy) from exc


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


def _unread(group: _Group, start: int, reason: str, empty: pa.RecordBatch, batch_rows: int) -> Iterator[Rows]:
    for first in range(start, group.stop, batch_rows):
        stop = min(first + batch_rows, group.stop)
        yield Rows(
            batch=empty,
            row_start=first,
            planned=stop - first,
            row_numbers=_NO_ROWS,
            unread=tuple(UnreadRow(row=row, error="ReadError", message=reason) for row in range(first, stop)),
        )


def _decoded_bytes(parquet: pq.ParquetFile, number: int, names: Sequence[str]) -> int:
    """An estimate of these columns of a row group in memory: what the file says they hold before
    compression, but not less than rows times width, since encodings shrink a constant to nothing."""
    group = parquet.metadata.row_group(number)
    wanted = set(names)
    total = 0
    for column in _columns(group):
        if column.path_in_schema.split(".", 1)[0] in wanted or column.path_in_schema in wanted:
            total += max(column.total_uncompressed_size, column.num_values * _value_bytes(column))
    return total


def _columns(group: Any) -> Iterator[Any]:
    return (group.column(number) for number in range(group.num_columns))


_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 8, "FIXED_LEN_BYTE_ARRAY": 16}


def _value_bytes(column: Any) -> int:
    width = _WIDTHS.get(column.physical_type)
    if width is not None:
        return width
    statistics = column.statistics
    if statistics is None or not statistics.has_min_max:
        return _GUESSED_BYTES
    return 4 + max(len(statistics.min_raw), len(statistics.max_raw))


def _columns_that_hide_width(parquet: pq.ParquetFile, number: int, names: Sequence[str]) -> list[str]:
    """Columns whose values could be far longer than what the file tells of them: a look at some tells."""
    hiding = {
        column.path_in_schema
        for column in _columns(parquet.metadata.row_group(number))
        if column.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY") or "." in column.path_in_schema
    }
    tops = hiding | {path.split(".", 1)[0] for path in hiding}
    return [name for name in names if name in tops]
