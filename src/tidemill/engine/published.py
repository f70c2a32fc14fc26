"""Published files read back, of any output format, a few rows at a time. Runs in children.

Text holds no types: they are given by name, and what has none stays text.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from tidemill import registry
from tidemill.domain.errors import Damaged, NotFound
from tidemill.domain.plan import InputFile, Segment
from tidemill.engine.casting import can_parse, type_of
from tidemill.ports.source import FileFacts, Source

BATCH_ROWS = 32_768
KEY_COLUMNS = ("_file", "_row")
KEY_TYPES = {"_row": "int64"}
"""Types of the rejected output's own columns, where text has to be parsed."""
_READ_BACK: Mapping[str, Mapping[str, Any]] = {"csv": {"null_values": [""]}, "jsonl": {"null_values": []}}
"""What stands for a missing value in the text that our encoders write."""

Batches = Iterator[pa.RecordBatch]


@dataclass(frozen=True, kw_only=True)
class PublishedFiles:
    """Files of one kind of one output, in order. `types` are those of text columns, by Arrow name."""

    paths: Sequence[str]
    format: str
    types: Mapping[str, str]

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> PublishedFiles:
        return PublishedFiles(paths=data["paths"], format=data["format"], types=data.get("types", {}))

    def schema(self) -> pa.Schema:
        """The columns of the first file, without its metadata. Raises NotFound, Damaged."""
        with self._opened(self.paths[0], None) as (schema, _):
            return schema.remove_metadata()

    def batches(self, columns: Sequence[str] | None = None) -> Batches:
        """All rows, in order; of all columns, or of these in this order."""
        for path in self.paths:
            with self._opened(path, columns) as (_, batches):
                yield from batches

    @contextmanager
    def _opened(self, path: str, columns: Sequence[str] | None) -> Iterator[tuple[pa.Schema, Batches]]:
        try:
            if self.format == "parquet":
                with pq.ParquetFile(path) as file:
                    yield file.schema_arrow, _parquet_batches(file, columns)
            elif self.format == "arrow":
                with pa.memory_map(path) as mapped:
                    reader = pa.ipc.open_file(mapped)
                    yield reader.schema, _arrow_batches(reader, columns)
            elif registry.sources.get(self.format).typed:
                yield self._typed(path, columns)
            else:
                with tempfile.TemporaryDirectory(prefix="tidemill-") as spool:
                    yield self._text(path, columns, Path(spool))
        except FileNotFoundError as exc:
            raise NotFound(f"{path} is gone.", remedy="The result was removed or replaced.") from exc
        except (pa.ArrowException, OSError) as exc:
            raise Damaged(f"{path} cannot be read: {exc}.", remedy="See `tidemill verify`.") from exc

    def _typed(self, path: str, columns: Sequence[str] | None) -> tuple[pa.Schema, Batches]:
        stat = os.stat(path)
        file = InputFile(path=path, size_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)
        source = registry.sources.get(self.format)()
        facts = source.examine(file)
        schema = pa.schema([_known_type(field, self.types.get(field.name)) for field in facts.schema])
        if not facts.blocks:
            return schema, iter(())
        names = schema.names if columns is None else list(columns)
        return schema, _retyped(_source_batches(source, _whole(file, facts), names, {}), schema)

    def _text(self, path: str, columns: Sequence[str] | None, spool: Path) -> tuple[pa.Schema, Batches]:
        stat = os.stat(path)
        file = InputFile(path=path, size_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)
        source = registry.sources.get(self.format)(_READ_BACK[self.format], spool)
        facts = source.examine(file)
        # Without a row, JSON Lines do not even name their columns.
        there = facts.schema.names or list(self.types)
        types = {name: self.types[name] for name in there if _is_parsed(self.types.get(name))}
        schema = pa.schema([(name, type_of(types.get(name, "string"))) for name in there])
        if not facts.blocks:
            return schema, iter(())
        names = schema.names if columns is None else list(columns)
        return schema, _source_batches(source, _whole(file, facts), names, types)


def _whole(file: InputFile, facts: FileFacts) -> Segment:
    """All rows of a file that has some."""
    return Segment(
        file_number=0,
        file=file,
        row_start=0,
        row_stop=facts.rows,
        block_row=0,
        start=facts.blocks[0].start,
        stop=facts.blocks[-1].stop,
    )


def _retyped(batches: Batches, schema: pa.Schema) -> Batches:
    """Of a format with fewer types than Arrow, what was written: seconds came back as nanoseconds."""
    for batch in batches:
        columns = [batch[name].cast(schema.field(name).type) for name in batch.schema.names]
        yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _known_type(field: pa.Field, name: str | None) -> pa.Field:
    try:
        return field.with_type(type_of(name)) if name else field
    except ValueError:
        return field


def _is_parsed(name: str | None) -> bool:
    """Whether text columns of that type are parsed back. An empty text is not a missing one, so text stays."""
    if name is None:
        return False
    try:
        kind = type_of(name)
    except ValueError:
        return False
    return not (pa.types.is_string(kind) or pa.types.is_large_string(kind)) and can_parse(kind)


def _parquet_batches(file: pq.ParquetFile, columns: Sequence[str] | None) -> Batches:
    for batch in file.iter_batches(BATCH_ROWS, columns=None if columns is None else list(columns), use_threads=False):
        yield batch if columns is None else batch.select(list(columns))


def _arrow_batches(reader: pa.ipc.RecordBatchFileReader, columns: Sequence[str] | None) -> Batches:
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        yield batch if columns is None else batch.select(list(columns))


def _source_batches(source: Source, segment: Segment, columns: Sequence[str], types: Mapping[str, str]) -> Batches:
    for rows in source.read(segment, columns, types, BATCH_ROWS):
        if rows.unread:
            row = rows.unread[0]
            raise Damaged(
                f"Row {row.row} of {segment.file.path} is not what was written: {row.message}",
                remedy="See `tidemill verify`.",
            )
        yield rows.batch


def row_keys(files: PublishedFiles) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The row keys of rejected rows: (input file, row numbers in it, ascending), file by file in input order."""
    runs = _runs(files)
    for path, group in itertools.groupby(runs, key=lambda run: run[0]):
        yield path, np.concatenate([rows for _, rows in group])


def _runs(files: PublishedFiles) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for batch in files.batches(KEY_COLUMNS):
        if not batch.num_rows:
            continue
        encoded = batch.column("_file").dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        rows = batch.column("_row").to_numpy(zero_copy_only=False)
        borders = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
        for start, stop in itertools.pairwise(borders):
            yield encoded.dictionary[int(codes[start])].as_py(), rows[start:stop]
