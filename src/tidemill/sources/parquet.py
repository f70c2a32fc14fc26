"""Parquet: a block is a row group, columns come with the types that the file has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.domain.errors import InputUnreadable
from tidemill.domain.plan import Block, InputFile
from tidemill.ports.source import part_of
from tidemill.sources.blocks import COPY_AGAIN, MAX_BATCH_BYTES, BlockSource, OpenFile, Span, bounded_rows
from tidemill.sources.compression import compression_of
from tidemill.sources.pinned import check_pinned, opened, path_of
from tidemill.sources.text import option, refuse_unknown

MAGIC = b"PAR1"
ENCRYPTED_MAGIC = b"PARE"
SAMPLE_ROWS = 16
BUFFER_BYTES = 1 << 14
"""Of each column's stream. A page goes by it, so that no column is held compressed but for the page that it is at."""
LEAST_ROWS = 4_096
"""That are decoded at a time: for fewer, to begin with a column costs more than its values do."""
_GUESSED_BYTES = 16


class ParquetSource(BlockSource):
    """Options: max_batch_bytes, the bound of one decoded batch."""

    name: ClassVar[str] = "parquet"
    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".pq")
    encodes: ClassVar[bool] = True

    def __init__(self, options: Mapping[str, Any] | None = None, spool: Path | None = None) -> None:
        super().__init__(options, spool)
        refuse_unknown(self.options, ("max_batch_bytes",))
        self.max_batch_bytes = option(self.options, "max_batch_bytes", int, MAX_BATCH_BYTES)

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        return head.startswith((MAGIC, ENCRYPTED_MAGIC)) or (not head and path.lower().endswith(cls.suffixes))

    @contextmanager
    def _open(self, file: InputFile) -> Iterator[OpenFile]:
        with _parquet_file(file) as parquet:
            yield _OpenParquet(parquet, self.max_batch_bytes)

    @contextmanager
    def _open_encoded(self, file: InputFile, names: Sequence[str]) -> Iterator[OpenFile]:
        with _parquet_file(file, names) as parquet:
            yield _OpenParquet(parquet, self.max_batch_bytes)


class _OpenParquet(OpenFile):
    def __init__(self, parquet: pq.ParquetFile, max_batch_bytes: int) -> None:
        self.parquet, self.max_batch_bytes = parquet, max_batch_bytes
        self.schema = parquet.schema_arrow

    def blocks(self) -> Iterator[Block]:
        for number in range(self.parquet.num_row_groups):
            yield Block(
                rows=self._rows(number),
                decoded_bytes=_decoded_bytes(self.parquet, number, self.schema.names),
                start=number,
                stop=number + 1,
            )

    def spans(self, start: int, stop: int) -> Iterator[Span]:
        for number in range(start, min(stop, self.parquet.num_row_groups)):
            yield Span(what=f"Row group {number}", rows=self._rows(number), batches=partial(self._batches, number))

    def _rows(self, number: int) -> int:
        return int(self.parquet.metadata.row_group(number).num_rows)

    def _batches(self, number: int, names: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        rows = self._rows(number)
        width = _decoded_bytes(self.parquet, number, names) // max(rows, 1)
        hiding = _columns_that_hide_width(self.parquet, number, names)
        if rows > SAMPLE_ROWS and hiding:
            sample = next(_iterate(self.parquet, number, hiding, SAMPLE_ROWS), None)
            if sample is not None and sample.num_rows:
                width = max(width, sample.nbytes // sample.num_rows)
        rows_at_once = bounded_rows(batch_rows, width, self.max_batch_bytes)
        decoded = bounded_rows(LEAST_ROWS, width, self.max_batch_bytes)
        return _in_blocks(self.parquet, number, names, rows_at_once, max(decoded // rows_at_once, 1))


def _in_blocks(
    parquet: pq.ParquetFile, number: int, names: list[str], rows: int, batches: int
) -> Iterator[pa.RecordBatch]:
    """Batches of so many rows, several decoded at a time. Where those cannot be, one by one: what lies before bad bytes
    is read."""
    given = 0
    if batches > 1:
        try:
            for block in _iterate(parquet, number, names, rows * batches):
                for start in range(0, block.num_rows, rows):
                    batch = part_of(block, start, min(start + rows, block.num_rows))
                    given += batch.num_rows
                    yield batch
            return
        except (pa.ArrowException, OSError, UnicodeDecodeError):
            pass
    for batch in _iterate(parquet, number, names, rows):
        if given < batch.num_rows:
            yield part_of(batch, given, batch.num_rows)
        given = max(given - batch.num_rows, 0)


def _iterate(parquet: pq.ParquetFile, number: int, names: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    return parquet.iter_batches(batch_size=rows, row_groups=[number], columns=names, use_threads=False)  # type: ignore[no-any-return]


def _parquet_file(file: InputFile, encoded: Sequence[str] = ()) -> pq.ParquetFile:
    with opened(file) as raw:
        head = raw.read(4)
        remedy = COPY_AGAIN
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
            return pq.ParquetFile(
                path_of(raw),
                buffer_size=BUFFER_BYTES,
                pre_buffer=False,
                page_checksum_verification=True,
                read_dictionary=list(encoded) or None,
            )
        except (pa.ArrowException, OSError) as exc:
            if isinstance(exc, OSError) and exc.errno is not None:
                raise
            check_pinned(file)
            if "ncrypt" in str(exc):
                remedy = "Decrypt it first; there is no key for it here."
            raise InputUnreadable(f"{file.path} is not a whole Parquet file: {exc}", remedy=remedy) from exc


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
