"""Avro files: a span is what lies between two sync marks, columns are the fields of the record."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from tidemill.domain.errors import InputUnreadable
from tidemill.domain.plan import Block, InputFile
from tidemill.registry import missing_extra
from tidemill.sources.avro_codecs import CODECS, TooLong, unpacked
from tidemill.sources.avro_types import NoArrowType, Translator, without_logical_types
from tidemill.sources.blocks import (
    COPY_AGAIN,
    MAX_BATCH_BYTES,
    BlockSource,
    OpenFile,
    Span,
    Undecodable,
    bounded_rows,
)
from tidemill.sources.compression import compression_of
from tidemill.sources.mapped import mapped
from tidemill.sources.pinned import check_pinned
from tidemill.sources.text import option, refuse_unknown

MAGIC = b"Obj\x01"
SYNC_BYTES = 16
BLOCK_BYTES = 4 << 20
MAX_SPAN_BYTES = 64 << 20
MOST_RECORDS_PER_BYTE = 4096
"""No compression makes records of at least a byte smaller than that."""

_HEAD = {
    "type": "record",
    "name": "org.apache.avro.file.Header",
    "fields": [
        {"name": "magic", "type": {"type": "fixed", "name": "magic", "size": len(MAGIC)}},
        {"name": "meta", "type": {"type": "map", "values": "bytes"}},
        {"name": "sync", "type": {"type": "fixed", "name": "sync", "size": SYNC_BYTES}},
    ],
}


class AvroSource(BlockSource):
    """Options: max_batch_bytes, the bound of one batch; max_span_bytes, that of what lies between two sync marks
    when decompressed; block_bytes."""

    name: ClassVar[str] = "avro"
    suffixes: ClassVar[tuple[str, ...]] = (".avro",)

    def __init__(self, options: Mapping[str, Any] | None = None, spool: Path | None = None) -> None:
        super().__init__(options, spool)
        refuse_unknown(self.options, ("max_batch_bytes", "max_span_bytes", "block_bytes"))
        self.max_batch_bytes = option(self.options, "max_batch_bytes", int, MAX_BATCH_BYTES)
        self.max_span_bytes = option(self.options, "max_span_bytes", int, MAX_SPAN_BYTES)
        self.block_bytes = option(self.options, "block_bytes", int, BLOCK_BYTES)

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        return head.startswith(MAGIC) or (not head and path.lower().endswith(cls.suffixes))

    @contextmanager
    def _open(self, file: InputFile) -> Iterator[OpenFile]:
        try:
            import fastavro  # noqa: F401 (all below needs it)
        except ModuleNotFoundError as exc:
            raise missing_extra(self.name, exc) from exc
        with mapped(file) as data:
            _refuse_other(file, bytes(data[: len(MAGIC)]))
            try:
                yield _OpenAvro(self, file, data)
            except _NotAvro as exc:
                check_pinned(file)
                raise InputUnreadable(f"{file.path} is not a whole Avro file: {exc}.", remedy=COPY_AGAIN) from exc


class _NotAvro(Exception):
    """The file breaks off or makes no sense somewhere."""


def _refuse_other(file: InputFile, head: bytes) -> None:
    if compression_of(head) is not None:
        raise InputUnreadable(f"{file.path} is a compressed file, not Avro.", remedy="Decompress it first.")
    if head != MAGIC:
        what = "is not an Avro file" if head else "is empty, so it is not an Avro file"
        raise InputUnreadable(f"{file.path} {what}.", remedy="Name its format, or take it out of the input.")


@dataclass(frozen=True, kw_only=True)
class _Sync:
    """Records between two sync marks: [start, stop) of the file, their bytes at [body, body + size)."""

    start: int
    body: int
    size: int
    stop: int
    records: int


class _OpenAvro(OpenFile):
    def __init__(self, source: AvroSource, file: InputFile, data: memoryview) -> None:
        self.source, self.file, self.data = source, file, data
        head, self.first = _head(data)
        self.sync = head["sync"]
        self.codec = head["meta"].get("avro.codec", b"null").decode("utf-8", "replace")
        if self.codec not in CODECS:
            raise InputUnreadable(
                f"{file.path} is compressed by {self.codec!r}, which cannot be read.",
                remedy=f"Write it again with one of: {', '.join(CODECS)}.",
            )
        written, named = _parsed(head["meta"].get("avro.schema", b""))
        if not isinstance(written, dict) or written.get("type") != "record" or not written["fields"]:
            raise InputUnreadable(
                f"{file.path} holds values that are no records with fields.", remedy="Write records, one for each row."
            )
        translator = Translator(named)
        self.columns = {}
        for field in written["fields"]:
            try:
                self.columns[field["name"]] = translator.column(field["type"])
            except NoArrowType as exc:
                raise InputUnreadable(
                    f"{file.path}: column {field['name']!r} cannot be read: {exc}.",
                    remedy="Write the file again without that column, or with another type for it.",
                ) from exc
        self.schema = pa.schema([(name, column.type) for name, column in self.columns.items()])
        self.stored, _ = _parsed(json.dumps(without_logical_types(json.loads(head["meta"]["avro.schema"]))).encode())

    def blocks(self) -> Iterator[Block]:
        width, swell = _fixed_width(self.schema), 0.0
        start, stop, rows, size = -1, 0, 0, 0
        for sync in self._syncs(self.first):
            if not sync.records:
                continue
            swell = swell or self._swell(sync)
            start = sync.start if start < 0 else start
            stop, rows, size = sync.stop, rows + sync.records, size + sync.size
            if size >= self.source.block_bytes:
                yield Block(rows=rows, decoded_bytes=rows * width + int(size * swell) + 1, start=start, stop=stop)
                start, rows, size = -1, 0, 0
        if rows:
            yield Block(rows=rows, decoded_bytes=rows * width + int(size * swell) + 1, start=start, stop=stop)

    def _swell(self, sync: _Sync) -> float:
        """How many bytes one byte of the file stands for, by a look at the first that there are."""
        try:
            return len(self._body(sync)) / max(sync.size, 1)
        except Undecodable:
            return 1.0

    def spans(self, start: int, stop: int) -> Iterator[Span]:
        if start >= stop:
            return
        for sync in self._syncs(start):
            if sync.start >= stop:
                return
            what = f"The block at byte {sync.start}"
            yield Span(what=what, rows=sync.records, batches=partial(self._batches, sync))

    def _batches(self, sync: _Sync, names: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        from fastavro import schemaless_reader

        body = self._body(sync)
        rows = bounded_rows(batch_rows, len(body) // max(sync.records, 1), self.source.max_batch_bytes)
        stream, failure = io.BytesIO(body), None
        for first in range(0, sync.records, rows):
            records = []
            try:
                for _ in range(min(rows, sync.records - first)):
                    records.append(schemaless_reader(stream, self.stored, None))
            except Exception as exc:  # The decoder raises whatever bad bytes lead it to.
                failure = exc
            yield self._batch(records, names)
            if failure is not None:
                raise Undecodable(f"a record in it is damaged ({type(failure).__name__}: {failure})") from failure

    def _batch(self, records: list[Any], names: list[str]) -> pa.RecordBatch:
        # No column still has rows: the first one tells how many.
        arrays = []
        for name in (names := names or list(self.columns)[:1]):
            column, values = self.columns[name], (record[name] for record in records)
            arrays.append(pa.array(map(column.convert, values) if column.convert else values, column.type))
        return pa.RecordBatch.from_arrays(arrays, names=names)

    def _body(self, sync: _Sync) -> bytes:
        try:
            return unpacked(self.codec, bytes(self.data[sync.body : sync.body + sync.size]), self.source.max_span_bytes)
        except TooLong:
            raise InputUnreadable(
                f"{self.file.path} has a block, at byte {sync.start}, of more than {self.source.max_span_bytes:,} bytes"
                " when decompressed.",
                remedy="Write it with a smaller sync interval, or raise the input option max_span_bytes.",
            ) from None

    def _syncs(self, start: int) -> Iterator[_Sync]:
        data = self.data
        while start < len(data):
            records, size_at = _long(data, start)
            size, body = _long(data, size_at)
            stop = body + size + SYNC_BYTES
            if records < 0 or size < 0 or stop > len(data):
                raise _NotAvro(f"the block at byte {start} goes on behind the end of the file")
            if data[stop - SYNC_BYTES : stop] != self.sync:
                raise _NotAvro(f"the block at byte {start} does not end where it says")
            if records > MOST_RECORDS_PER_BYTE * (size + 1):
                raise _NotAvro(f"the block at byte {start} says it holds {records:,} records in {size:,} bytes")
            yield _Sync(start=start, body=body, size=size, stop=stop, records=records)
            start = stop


def _head(data: memoryview) -> tuple[dict[str, Any], int]:
    """What the file begins with, and where its first block does."""
    from fastavro import schemaless_reader

    stream = io.BytesIO(data)
    try:
        head = schemaless_reader(stream, _HEAD, None)
    except Exception as exc:  # The decoder raises whatever bad bytes lead it to.
        raise _NotAvro(f"its head is damaged ({type(exc).__name__}: {exc})") from exc
    assert isinstance(head, dict)
    return head, stream.tell()


def _parsed(schema: bytes) -> tuple[Any, dict[str, Any]]:
    """The schema and its definitions by name."""
    from fastavro import parse_schema

    named: dict[str, Any] = {}
    try:
        return parse_schema(json.loads(schema), named), named
    except Exception as exc:  # Schemas can be wrong in as many ways as there are.
        raise _NotAvro(f"its schema is damaged ({type(exc).__name__}: {exc})") from exc


def _fixed_width(schema: pa.Schema) -> int:
    width = 0
    for field in schema:
        try:
            width += max(field.type.bit_width // 8, 1)
        except ValueError:
            width += 4
    return width


def _long(data: memoryview, position: int) -> tuple[int, int]:
    """A number as Avro writes it, and the place behind it."""
    value = shift = 0
    while position < len(data) and shift < 70:
        byte = data[position]
        value, position, shift = value | (byte & 0x7F) << shift, position + 1, shift + 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), position
    raise _NotAvro("it breaks off")
