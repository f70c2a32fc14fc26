"""ORC, for Hive, Spark and Trino."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.durable.files import DurableFile
from tidemill.encoders.part import FileWriter, Recutter, check_options, repeated_names, write_batches, write_whole
from tidemill.ports.encoder import Encoder, PartWriter, Unwritable, Written

_TABLE_ROWS = 65_536
_STEP_ROWS = 8_192
_TABLE_BYTES = 64 << 20
_HELD = (
    pa.types.is_boolean,
    pa.types.is_signed_integer,
    pa.types.is_float32,
    pa.types.is_float64,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_decimal128,
    pa.types.is_date32,
    pa.types.is_timestamp,
)
_WIDENED = {
    pa.null(): pa.string(),
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
}
_NESTED = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_struct,
    pa.types.is_map,
)


class OrcEncoder(Encoder):
    """Options: `compression` (zstd, snappy, zlib, lz4 or none).

    Moments are written as instants in UTC or without a zone, and must be such that nanoseconds can count them; a
    dictionary column is written as its values, one without values as text. Unsigned numbers become the next wider
    signed ones, those of 64 bits decimals. The library has no place for metadata.
    """

    name: ClassVar[str] = "orc"
    suffix: ClassVar[str] = ".orc"

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        check_options(self.name, self.options, {"compression": ("zstd", "snappy", "zlib", "lz4", "none", None)})

    def unwritable(self, schema: pa.Schema) -> Sequence[Unwritable]:
        twice = repeated_names(schema)
        return [
            Unwritable(
                column=field.name,
                type=str(field.type),
                remedy="Give each column a name of its own."
                if field.name in twice
                else "Choose Parquet or Arrow as output, or --keep without it.",
            )
            for field in schema
            if field.name in twice or not _can_hold(_plain(field).type)
        ]

    def open(self, path: Path, schema: pa.Schema, metadata: Mapping[str, str]) -> PartWriter:
        compression = self.options.get("compression", "zstd")
        return _OrcWriter(path, schema, "uncompressed" if compression in (None, "none") else compression).begin()

    def assemble(self, parts: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> Written:
        from pyarrow import orc

        schema = orc.ORCFile(parts[0]).schema
        return write_whole(target, lambda path: write_batches(self.open(path, schema, metadata), _batches(parts)))


class _OrcWriter(FileWriter):
    def __init__(self, path: Path, schema: pa.Schema, compression: str) -> None:
        super().__init__(path, schema)
        self._plain = pa.schema([_plain(field) for field in schema])
        self._cutter = Recutter(self._plain, rows=_TABLE_ROWS, step_rows=_STEP_ROWS, max_bytes=_TABLE_BYTES)
        self._compression = compression
        self._writer: Any = None

    def _begin(self) -> None:
        from pyarrow import orc

        self._writer = orc.ORCWriter(_Unfailing(self._file), compression=self._compression, batch_size=_STEP_ROWS)
        # Without a row the writer would not learn of the columns.
        self._call(self._plain.empty_table())

    def _append(self, batch: pa.RecordBatch) -> None:
        for column in batch.columns:
            if pa.types.is_timestamp(column.type):
                # Where nanoseconds cannot count it, Arrow could not read it back.
                pc.cast(column, pa.timestamp("ns", column.type.tz))
        for table in self._cutter.add(batch.cast(self._plain) if self._plain != self.schema else batch):
            self._call(table)

    def _end(self) -> None:
        for table in self._cutter.rest():
            self._call(table)
        self._call(None)

    def _call(self, table: pa.Table | None) -> None:
        """Write a table, or the end. Raises what went wrong with the file."""
        if table is None:
            self._writer.close()
        else:
            self._writer.write(table)
        self._file.write(b"")


class _Unfailing(io.RawIOBase):
    """A file for the library, which ends the process if a write fails while it closes. The DurableFile remembers
    the failure, and everything after it raises it."""

    def __init__(self, file: DurableFile) -> None:
        self._file, self._position = file, 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        with suppress(OSError):
            self._file.write(data)
        self._position += size
        return size

    def tell(self) -> int:
        return self._position

    def writable(self) -> bool:
        return True


def _plain(field: pa.Field) -> pa.Field:
    """The column as ORC has it: the narrowest type there that holds every value."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return field.with_type(_WIDENED.get(kind, kind))


def _can_hold(kind: pa.DataType) -> bool:
    if any(is_kind(kind) for is_kind in _HELD):
        return True
    if not any(is_kind(kind) for is_kind in _NESTED):
        return False
    children = [kind.key_type, kind.item_type] if pa.types.is_map(kind) else []
    return all(map(_can_hold, children or [kind.field(number).type for number in range(kind.num_fields)]))


def _batches(parts: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    from pyarrow import orc

    for part in parts:
        file = orc.ORCFile(part)
        for number in range(file.nstripes):
            yield file.read_stripe(number)
