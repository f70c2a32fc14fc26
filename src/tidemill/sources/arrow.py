"""Arrow IPC, as a file (also called Feather) or a stream: a span is a record batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.ipc

from tidemill.domain.errors import InputUnreadable
from tidemill.domain.plan import Block, InputFile
from tidemill.sources.arrow_messages import (
    FILE_MAGIC,
    Message,
    NotArrow,
    decoded_bytes,
    record_batches,
    records_at,
    starts_stream,
    stream,
)
from tidemill.sources.blocks import COPY_AGAIN, MAX_BATCH_BYTES, BlockSource, OpenFile, Span, bounded_rows
from tidemill.sources.compression import compression_of
from tidemill.sources.mapped import Feed, mapped
from tidemill.sources.pinned import check_pinned
from tidemill.sources.text import option, refuse_unknown

FEATHER_1_MAGIC = b"FEA1"
BLOCK_BYTES = 16 << 20
MAX_SPAN_BYTES = 1 << 30


class ArrowSource(BlockSource):
    """Options: max_batch_bytes, the bound of one batch that is handed on; max_span_bytes, the bound of the
    needed columns of one compressed record batch, which can only be decoded whole; block_bytes."""

    name: ClassVar[str] = "arrow"
    suffixes: ClassVar[tuple[str, ...]] = (".arrow", ".feather", ".arrows", ".ipc")

    def __init__(self, options: Mapping[str, Any] | None = None, spool: Path | None = None) -> None:
        super().__init__(options, spool)
        refuse_unknown(self.options, ("max_batch_bytes", "max_span_bytes", "block_bytes"))
        self.max_batch_bytes = option(self.options, "max_batch_bytes", int, MAX_BATCH_BYTES)
        self.max_span_bytes = option(self.options, "max_span_bytes", int, MAX_SPAN_BYTES)
        self.block_bytes = option(self.options, "block_bytes", int, BLOCK_BYTES)

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        if not head:
            return path.lower().endswith(cls.suffixes)
        return head.startswith((FILE_MAGIC, FEATHER_1_MAGIC)) or starts_stream(head)

    @contextmanager
    def _open(self, file: InputFile) -> Iterator[OpenFile]:
        with mapped(file) as data:
            _refuse_other(file, bytes(data[: 1 << 16]))
            try:
                yield (_OpenFile if data[: len(FILE_MAGIC)] == FILE_MAGIC else _OpenStream)(self, file, data)
            except (NotArrow, pa.ArrowException, UnicodeDecodeError) as exc:
                check_pinned(file)
                raise InputUnreadable(f"{file.path} is not a whole Arrow file: {exc}.", remedy=COPY_AGAIN) from exc


def _refuse_other(file: InputFile, head: bytes) -> None:
    """Raises InputUnreadable for what does not begin like Arrow."""
    if head.startswith(FEATHER_1_MAGIC):
        raise InputUnreadable(
            f"{file.path} is Feather of version 1.",
            remedy="Write it again as version 2, with pandas.read_feather and to_feather.",
        )
    if compression_of(head) is not None:
        raise InputUnreadable(f"{file.path} is a compressed file, not Arrow.", remedy="Decompress it first.")
    if not head.startswith(FILE_MAGIC) and not starts_stream(head):
        what = "is not an Arrow file" if head else "is empty, so it is not an Arrow file"
        raise InputUnreadable(f"{file.path} {what}.", remedy="Name its format, or take it out of the input.")


class _OpenArrow(OpenFile):
    def __init__(self, source: ArrowSource, file: InputFile, data: memoryview) -> None:
        self.source, self.file, self.data = source, file, data
        try:
            self.schema = self._read_schema()
        except OSError as exc:
            raise NotArrow(str(exc)) from exc

    @abstractmethod
    def _read_schema(self) -> pa.Schema:
        """The schema that the file begins or ends with."""

    def blocks(self) -> Iterator[Block]:
        start, stop, rows, decoded = -1, 0, 0, 0
        for place, message in self._records():
            if not message.rows:
                continue
            start = place if start < 0 else start
            stop, rows = place + 1, rows + message.rows
            decoded += max(decoded_bytes(message, self.schema), 1)
            if decoded >= self.source.block_bytes:
                yield Block(rows=rows, decoded_bytes=decoded, start=start, stop=stop)
                start, rows, decoded = -1, 0, 0
        if rows:
            yield Block(rows=rows, decoded_bytes=decoded, start=start, stop=stop)

    @abstractmethod
    def _records(self) -> Iterator[tuple[int, Message]]:
        """Every record batch with its place: what blocks name it by."""

    def _span(self, message: Message, decode: Callable[[Message, list[str]], pa.RecordBatch]) -> Span:
        what = f"The record batch at byte {message.start}"
        return Span(what=what, rows=message.rows, batches=partial(self._batches, message, decode))

    def _batches(
        self,
        message: Message,
        decode: Callable[[Message, list[str]], pa.RecordBatch],
        names: list[str],
        batch_rows: int,
    ) -> Iterator[pa.RecordBatch]:
        size = decoded_bytes(message, self.schema, names)
        if message.compressed and size > self.source.max_span_bytes:
            raise InputUnreadable(
                f"{self.file.path} has a compressed record batch of {message.rows:,} rows whose columns here take"
                f" {size:,} bytes, above the bound of {self.source.max_span_bytes:,}.",
                remedy="Write it with smaller record batches, or raise the input option max_span_bytes.",
            )
        rows = bounded_rows(batch_rows, size // max(message.rows, 1), self.source.max_batch_bytes)
        batch = decode(message, names)
        # Offsets that point anywhere would be followed.
        batch.validate(full=True)
        for first in range(0, batch.num_rows, rows):
            yield _copied(batch.slice(first, rows))

    def options(self, names: list[str]) -> pa.ipc.IpcReadOptions:
        """To decode these columns only; of none of them the first one, which tells how many rows there are."""
        wanted = [self.schema.get_field_index(name) for name in names] or [0][: len(self.schema)]
        return pa.ipc.IpcReadOptions(included_fields=wanted, use_threads=False)


class _OpenFile(_OpenArrow):
    """A file with an index: blocks name record batches by their number."""

    def _read_schema(self) -> pa.Schema:
        self._starts = record_batches(self.data)
        return pa.ipc.open_file(pa.py_buffer(self.data)).schema

    def _records(self) -> Iterator[tuple[int, Message]]:
        return ((number, records_at(self.data, start)) for number, start in enumerate(self._starts))

    def spans(self, start: int, stop: int) -> Iterator[Span]:
        for number in range(start, min(stop, len(self._starts))):
            yield self._span(records_at(self.data, self._starts[number]), partial(self._decode, number))

    def _decode(self, number: int, message: Message, names: list[str]) -> pa.RecordBatch:
        return pa.ipc.open_file(pa.py_buffer(self.data), options=self.options(names)).get_batch(number)


class _OpenStream(_OpenArrow):
    """A stream: blocks name record batches by the byte at which they begin."""

    def _read_schema(self) -> pa.Schema:
        head = next(stream(self.data), None)
        if head is None or not head.is_schema:
            raise NotArrow("it does not begin with a schema")
        self.head = head
        return pa.ipc.read_schema(pa.py_buffer(self.data[: head.stop]))

    def _records(self) -> Iterator[tuple[int, Message]]:
        return ((message.start, message) for message in stream(self.data, self.head.stop) if message.is_records)

    def spans(self, start: int, stop: int) -> Iterator[Span]:
        if start >= stop:
            return
        decoder = _StreamDecoder(self, start)
        for message in stream(self.data, start):
            if message.start >= stop:
                return
            if message.is_records:
                yield self._span(message, decoder.decode)


class _StreamDecoder:
    """Record batches decoded one after the other, each after the dictionaries that it refers to."""

    def __init__(self, opened: _OpenStream, start: int) -> None:
        self._opened = opened
        following = next(stream(opened.data, opened.head.stop), None)
        # Every dictionary that a stream has is there before its first record batch; later ones replace or add.
        self._first = opened.head.stop if following is not None and following.is_dictionary else start
        self._reader: pa.ipc.RecordBatchStreamReader | None = None

    def decode(self, message: Message, names: list[str]) -> pa.RecordBatch:
        """These columns of a record batch. Messages come in order, with the same columns."""
        reader = self._reader or self._begin(names)
        for earlier in self._ahead:
            if earlier.start >= message.start:
                break
            if earlier.is_dictionary:
                self._add(earlier)
        self._add(message)
        self._reader = None  # After an error it may be anywhere in the stream.
        batch = reader.read_next_batch()
        self._reader = reader
        return batch

    def _begin(self, names: list[str]) -> pa.ipc.RecordBatchStreamReader:
        self._feed = Feed()
        self._ahead = stream(self._opened.data, self._first)
        self._add(self._opened.head)
        return pa.ipc.open_stream(self._feed.open(), options=self._opened.options(names))

    def _add(self, message: Message) -> None:
        self._feed.add(self._opened.data[message.start : message.stop])


def _copied(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows in memory of their own: the file may change or vanish once it was checked."""
    half = batch.num_rows // 2
    columns = [pa.concat_arrays([column.slice(0, half), column.slice(half)]) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema) if columns else batch
