"""Avro, for Kafka, Hive and Spark: one record a row, in blocks between sync marks."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, cast

import pyarrow as pa

from tidemill.domain.errors import Damaged
from tidemill.durable.files import DurableFile
from tidemill.encoders.avro_types import NoAvroType, Translator, is_name
from tidemill.encoders.part import FileWriter, Recutter, check_options, named_metadata, repeated_names, write_whole
from tidemill.ports.encoder import Encoder, PartWriter, Unwritable, Written
from tidemill.registry import missing_extra

_BLOCK_ROWS = 16_384
_STEP_ROWS = 256
_BLOCK_BYTES = 4 << 20
"""A reader holds a block as a whole."""
_SYNC_BYTES = 16
_NEVER = 1 << 62


class AvroEncoder(Encoder):
    """Options: `compression` (deflate or none).

    Each column may be null. Moments are instants in UTC, or without a zone, in the units that Avro has: milliseconds,
    microseconds, nanoseconds. A dictionary column is written as its values. Unsigned numbers become the next wider
    signed ones, those of 64 bits decimals.
    """

    name: ClassVar[str] = "avro"
    suffix: ClassVar[str] = ".avro"

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        check_options(self.name, self.options, {"compression": ("deflate", "none", None)})
        try:
            import fastavro  # noqa: F401 (said before the first row)
        except ModuleNotFoundError as exc:
            raise missing_extra(self.name, exc) from exc

    def unwritable(self, schema: pa.Schema) -> Sequence[Unwritable]:
        twice = repeated_names(schema)
        return [
            Unwritable(column=field.name, type=str(field.type), remedy=remedy)
            for field in schema
            if (remedy := _remedy(field, twice))
        ]

    def open(self, path: Path, schema: pa.Schema, metadata: Mapping[str, str]) -> PartWriter:
        record, values = Translator().record(list(schema))
        return _AvroWriter(path, schema, record, values, self._header(record, metadata)).begin()

    def assemble(self, parts: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> Written:
        """The blocks of the parts, one after the other."""
        return write_whole(target, lambda path: self._joined(parts, path, metadata))

    def _joined(self, parts: Sequence[Path], path: Path, metadata: Mapping[str, str]) -> Written:
        import fastavro

        with parts[0].open("rb") as file:
            record = json.loads(fastavro.block_reader(file).metadata["avro.schema"])
        writer = _AvroWriter(path, None, record, (), self._header(record, metadata)).begin()
        try:
            for part in parts:
                with part.open("rb") as file:
                    reader = fastavro.block_reader(file)
                    if json.loads(reader.metadata["avro.schema"]) != record:
                        raise Damaged(f"{part} has other columns than {parts[0]}.")
                    for block in reader:
                        writer.copy(block)
            return writer.close()
        except BaseException:
            writer.abort()
            raise

    def _header(self, record: Mapping[str, Any], metadata: Mapping[str, str]) -> dict[str, Any]:
        """What fastavro's writer is made with. The sync mark is not drawn at random: equal rows give equal bytes."""
        known = named_metadata(metadata)
        mark = hashlib.sha256(json.dumps([record, known], sort_keys=True).encode()).digest()[:_SYNC_BYTES]
        codec = "null" if self.options.get("compression", "deflate") in (None, "none") else "deflate"
        return {"codec": codec, "metadata": known, "sync_marker": mark, "sync_interval": _NEVER}


class _AvroWriter(FileWriter):
    def __init__(
        self,
        path: Path,
        schema: pa.Schema | None,
        record: Mapping[str, Any],
        values: Sequence[Any],
        header: Mapping[str, Any],
    ) -> None:
        """Without a schema blocks are only copied."""
        super().__init__(path, schema or pa.schema([]))
        self._record, self._values, self._header = record, values, header
        self._cutter = Recutter(self.schema, rows=_BLOCK_ROWS, step_rows=_STEP_ROWS, max_bytes=_BLOCK_BYTES)
        self._writer: Any = None

    def _begin(self) -> None:
        from fastavro.write import Writer

        self._writer = Writer(cast("IO[bytes]", _File(self._file)), dict(self._record), **self._header)

    def _append(self, batch: pa.RecordBatch) -> None:
        self._write(self._cutter.add(batch))

    def _end(self) -> None:
        self._write(self._cutter.rest())

    def copy(self, block: Any) -> None:
        """Append a block of another file."""
        with self._poisoning():
            self._writer.write_block(block)
            self._rows += block.num_records

    def _write(self, tables: Iterator[pa.Table]) -> None:
        names = self.schema.names
        for table in tables:
            for batch in table.to_batches():
                columns = [read(column) for read, column in zip(self._values, batch.columns, strict=True)]
                for row in zip(*columns, strict=True):
                    self._writer.write(dict(zip(names, row, strict=True)))
            self._writer.dump()


class _File(io.RawIOBase):
    """A durable file as the library wants it: it asks whether it could read what is there, to append."""

    def __init__(self, file: DurableFile) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        self._file.write(data)
        return memoryview(data).nbytes

    def writable(self) -> bool:
        return True


def _remedy(field: pa.Field, twice: Collection[str]) -> str:
    """What to do about a column that Avro cannot hold; empty if it can."""
    if field.name in twice:
        return "Give each column a name of its own."
    if not is_name(field.name):
        return "Avro's names have letters, digits and _ only: rename the column, or --keep without it."
    try:
        Translator().column(field.type)
    except NoAvroType:
        return "Choose Parquet or Arrow as output, or --keep without it."
    return ""
