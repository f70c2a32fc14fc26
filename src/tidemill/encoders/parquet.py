"""Parquet: small and quick to write, read back equal by pyarrow, pandas, Polars and DuckDB."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.encoders.part import (
    FileWriter,
    Recutter,
    check_options,
    named_metadata,
    repeated_names,
    write_batches,
    write_whole,
)
from tidemill.ports.encoder import Encoder, PartWriter, Unwritable, Written

ROW_GROUP_ROWS = 131_072
_STEP_ROWS = 8_192
_ROW_GROUP_BYTES = 256 << 20
_READ_ROWS = 32_768
_ENCODINGS = {
    "INT32": "DELTA_BINARY_PACKED",
    "INT64": "DELTA_BINARY_PACKED",
    "FLOAT": "BYTE_STREAM_SPLIT",
    "DOUBLE": "BYTE_STREAM_SPLIT",
}


class ParquetEncoder(Encoder):
    """Options: `compression` (zstd, snappy, gzip, lz4 or none), `encoding`.

    `encoding` "compact" is delta for whole numbers, split bytes for floats and a dictionary for text:
    several times cheaper and smaller than the defaults, but older readers know none of it (Spark's
    vectorized one, for one). "plain" is what every reader knows.
    """

    name: ClassVar[str] = "parquet"
    suffix: ClassVar[str] = ".parquet"

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        known = {"compression": ("zstd", "snappy", "gzip", "lz4", "none", None), "encoding": ("compact", "plain")}
        check_options(self.name, self.options, known)

    def unwritable(self, schema: pa.Schema) -> Sequence[Unwritable]:
        twice = repeated_names(schema)
        held = {kind: _can_hold(kind) for kind in set(schema.types)}
        return [
            Unwritable(
                column=field.name,
                type=str(field.type),
                remedy="Give each column a name of its own." if field.name in twice else "Use --keep without it.",
            )
            for field in schema
            if field.name in twice or not held[field.type]
        ]

    def open(self, path: Path, schema: pa.Schema, metadata: Mapping[str, str]) -> PartWriter:
        compression = self.options.get("compression", "zstd")
        return _ParquetWriter(
            path,
            schema.with_metadata(named_metadata(metadata)),
            compression="none" if compression is None else compression,
            compact=self.options.get("encoding", "compact") == "compact",
        ).begin()

    def assemble(self, parts: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> Written:
        with pq.ParquetFile(parts[0]) as first:
            schema = first.schema_arrow
        return write_whole(target, lambda path: write_batches(self.open(path, schema, metadata), _batches(parts)))


class _ParquetWriter(FileWriter):
    def __init__(self, path: Path, schema: pa.Schema, *, compression: str, compact: bool) -> None:
        super().__init__(path, schema)
        self._cutter = Recutter(schema, rows=ROW_GROUP_ROWS, step_rows=_STEP_ROWS, max_bytes=_ROW_GROUP_BYTES)
        self._compression = compression
        self._encodings = _encodings(schema) if compact else {}
        self._writer: Any = None

    def _begin(self) -> None:
        self._writer = pq.ParquetWriter(
            self._file,
            self.schema,
            compression=self._compression,
            store_schema=True,
            write_page_checksum=True,
            **self._encodings,
        )

    def _append(self, batch: pa.RecordBatch) -> None:
        for table in self._cutter.add(batch):
            self._writer.write_table(table, row_group_size=table.num_rows)

    def _drop(self) -> None:
        if self._writer is not None:
            # Else its destructor writes a footer.
            self._writer.is_open = False

    def _end(self) -> None:
        for table in self._cutter.rest():
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._writer.close()


def _encodings(schema: pa.Schema) -> dict[str, Any]:
    """Which leaf column gets which encoding. Parquet names leaves by their path and physical type."""
    empty = io.BytesIO()
    pq.write_table(schema.empty_table(), empty)
    with pq.ParquetFile(empty) as file:
        leaves = [file.schema.column(number) for number in range(len(file.schema))]
    texts = [leaf.path for leaf in leaves if leaf.logical_type.type in ("STRING", "JSON")]
    chosen = {leaf.path: _ENCODINGS[leaf.physical_type] for leaf in leaves if leaf.physical_type in _ENCODINGS}
    return {"use_dictionary": texts, "column_encoding": chosen}


def _can_hold(kind: pa.DataType) -> bool:
    try:
        pq.write_table(pa.schema([("column", kind)]).empty_table(), io.BytesIO())
    except (pa.ArrowException, NotImplementedError):
        return False
    return True


def _batches(parts: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        with pq.ParquetFile(part) as file:
            yield from file.iter_batches(_READ_ROWS)
