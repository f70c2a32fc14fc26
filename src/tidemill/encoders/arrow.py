"""Arrow IPC files: no conversion at all, to be mapped into memory by the reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from tidemill.encoders.part import FileWriter, Recutter, check_options, named_metadata, write_batches, write_whole
from tidemill.ports.encoder import Encoder, PartWriter, Unwritable, Written

_BATCH_ROWS = 65_536
_STEP_ROWS = 8_192
_BATCH_BYTES = 256 << 20


class ArrowEncoder(Encoder):
    """Options: `compression` (none, lz4 or zstd).

    A dictionary column is written as its values: the file format has one dictionary per column, which
    is not known before the last row.
    """

    name: ClassVar[str] = "arrow"
    suffix: ClassVar[str] = ".arrow"

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        check_options(self.name, self.options, {"compression": (None, "none", "lz4", "zstd")})

    def unwritable(self, schema: pa.Schema) -> Sequence[Unwritable]:
        held = {kind: _can_hold(pa.field("column", kind)) for kind in set(schema.types)}
        return [
            Unwritable(column=field.name, type=str(field.type), remedy="Use --keep without it.")
            for field in schema
            if not held[field.type]
        ]

    def open(self, path: Path, schema: pa.Schema, metadata: Mapping[str, str]) -> PartWriter:
        compression = self.options.get("compression")
        known = schema.with_metadata(named_metadata(metadata))
        return _ArrowWriter(path, known, None if compression == "none" else compression).begin()

    def assemble(self, parts: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> Written:
        with pa.OSFile(str(parts[0])) as file:
            schema = pa.ipc.open_file(file).schema
        return write_whole(target, lambda path: write_batches(self.open(path, schema, metadata), _batches(parts)))


class _ArrowWriter(FileWriter):
    def __init__(self, path: Path, schema: pa.Schema, compression: str | None) -> None:
        super().__init__(path, schema)
        self._plain = pa.schema([_without_dictionary(field) for field in schema], metadata=schema.metadata)
        self._cutter = Recutter(self._plain, rows=_BATCH_ROWS, step_rows=_STEP_ROWS, max_bytes=_BATCH_BYTES)
        self._options = pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)

    def _begin(self) -> None:
        self._writer = pa.ipc.new_file(self._file, self._plain, options=self._options)

    def _append(self, batch: pa.RecordBatch) -> None:
        self._write(self._cutter.add(batch.cast(self._plain) if self._plain != self.schema else batch))

    def _end(self) -> None:
        self._write(self._cutter.rest())
        self._writer.close()

    def _write(self, tables: Iterator[pa.Table]) -> None:
        for table in tables:
            for batch in table.to_batches():
                self._writer.write_batch(batch)


def _without_dictionary(field: pa.Field) -> pa.Field:
    return field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field


def _can_hold(field: pa.Field) -> bool:
    if "dictionary" in str(field.type) and not pa.types.is_dictionary(field.type):
        return False
    try:
        with pa.ipc.new_file(pa.BufferOutputStream(), pa.schema([_without_dictionary(field)])) as writer:
            writer.write_table(pa.schema([_without_dictionary(field)]).empty_table())
    except (pa.ArrowException, NotImplementedError):
        return False
    return True


def _batches(parts: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        with pa.OSFile(str(part)) as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)
