"""The messages of an Arrow stream, found by their heads alone: where each lies and what it would take to decode.

A stream is a schema, dictionaries and record batches; a file has the same between two magic words and an index.
The heads are flatbuffers (Arrow's Message.fbs and Schema.fbs); only the few numbers needed here are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

FILE_MAGIC = b"ARROW1"
FILE_START = 8
CONTINUATION = b"\xff\xff\xff\xff"
MAX_HEAD_BYTES = 1 << 28

_SCHEMA, _DICTIONARY, _RECORDS = 1, 2, 3


class NotArrow(Exception):
    """The bytes at some place are no message."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message at [start, stop) of the file."""

    start: int
    stop: int
    kind: int
    rows: int = 0
    buffers: tuple[int, ...] = ()
    """Decoded size in bytes of each buffer of a record batch, in order."""
    views: tuple[int, ...] = ()
    """How many further buffers each column of views has, in order."""
    compressed: bool = False

    @property
    def is_schema(self) -> bool:
        return self.kind == _SCHEMA

    @property
    def is_dictionary(self) -> bool:
        return self.kind == _DICTIONARY

    @property
    def is_records(self) -> bool:
        return self.kind == _RECORDS


def starts_stream(head: bytes) -> bool:
    """Whether bytes begin with the schema of a stream."""
    if not head.startswith(CONTINUATION) or len(head) < 8:
        return False
    (length,) = struct.unpack_from("<i", head, 4)
    try:
        return 0 < length <= MAX_HEAD_BYTES and _Table.root(memoryview(head)[8 : 8 + length]).number(1, "B") == _SCHEMA
    except NotArrow:
        return False


def stream(data: memoryview, start: int = 0) -> Iterator[Message]:
    """The messages of a stream from `start` to its end. Raises NotArrow where there is none."""
    while start < len(data):
        message = _at(data, start)
        if message is None:
            return
        yield message
        start = message.stop


def record_batches(data: memoryview) -> list[int]:
    """Where the record batches of a whole file begin, as its index says. Raises NotArrow."""
    end = len(data) - len(FILE_MAGIC) - 4
    if end < FILE_START or data[end + 4 :] != FILE_MAGIC:
        raise NotArrow("its end is missing")
    (length,) = _unpack("<i", data, end)
    if not 0 < length <= end - FILE_START:
        raise NotArrow("its index is missing")
    return [offset for offset, *_ in _Table.root(data[end - length : end]).structs(3, "qiiq")]


def records_at(data: memoryview, start: int) -> Message:
    """The record batch that begins there. Raises NotArrow."""
    message = _at(data, start)
    if message is None or not message.is_records:
        raise NotArrow(f"at byte {start} no record batch begins")
    return message


def _at(data: memoryview, start: int) -> Message | None:
    """The message that begins there; None for the mark of a stream's end."""
    head_start = start + 8 if data[start : start + 4] == CONTINUATION else start + 4
    (length,) = _unpack("<i", data, head_start - 4)
    if length == 0:
        return None
    body = head_start + length
    if not 0 < length <= MAX_HEAD_BYTES or body > len(data):
        raise NotArrow(f"at byte {start} no message begins")
    head = _Table.root(data[head_start:body])
    stop = body + head.number(3, "q")
    if not body <= stop <= len(data):
        raise NotArrow(f"the message at byte {start} goes on behind the end of the file")
    kind = head.number(1, "B")
    records = head.table(2) if kind == _RECORDS else None
    if records is None:
        return Message(start=start, stop=stop, kind=kind)
    return _records(start, stop, records, data[body:stop])


def _records(start: int, stop: int, records: _Table, body: memoryview) -> Message:
    compressed = records.table(3) is not None
    buffers = [_decoded(body, offset, size, compressed) for offset, size in records.structs(2, "qq")]
    rows = records.number(0, "q")
    if rows < 0:
        raise NotArrow(f"the record batch at byte {start} says it has {rows} rows")
    return Message(
        start=start,
        stop=stop,
        kind=_RECORDS,
        rows=rows,
        buffers=tuple(buffers),
        views=tuple(count for (count,) in records.structs(4, "q")),
        compressed=compressed,
    )


def _decoded(body: memoryview, offset: int, size: int, compressed: bool) -> int:
    """A compressed buffer begins with its length when decoded, or -1 if it was not worth it."""
    if not 0 <= offset <= offset + size <= len(body):
        raise NotArrow("a buffer lies outside its message")
    if not compressed or size < 8:
        return size
    (length,) = _unpack("<q", body, offset)
    return size - 8 if length == -1 else max(int(length), 0)


def decoded_bytes(message: Message, schema: pa.Schema, names: Sequence[str] | None = None) -> int:
    """What these columns of a record batch take when decoded; all of them if they cannot be told apart."""
    if names is None:
        return sum(message.buffers)
    buffers, views, total = iter(message.buffers), iter(message.views), 0
    try:
        for field in schema:
            size = sum(next(buffers) for _ in range(_buffers(field.type, views)))
            total += size if field.name in names else 0
    except (StopIteration, RuntimeError):
        return sum(message.buffers)
    return total


def _buffers(kind: pa.DataType, views: Iterator[int]) -> int:
    """How many buffers a column of that type has in a message."""
    if isinstance(kind, pa.BaseExtensionType):
        return _buffers(kind.storage_type, views)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return 2 + next(views)
    return _own_buffers(kind) + sum(
        _buffers(kind.field(number).type, views)
        for number in range(kind.num_fields)
        if not pa.types.is_dictionary(kind)
    )


def _own_buffers(kind: pa.DataType) -> int:
    if pa.types.is_null(kind) or pa.types.is_run_end_encoded(kind):
        return 0
    if pa.types.is_struct(kind) or pa.types.is_fixed_size_list(kind):
        return 1
    if pa.types.is_union(kind):
        return 2 if kind.mode == "dense" else 1
    three = (
        pa.types.is_string,
        pa.types.is_binary,
        pa.types.is_large_string,
        pa.types.is_large_binary,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return 3 if any(is_kind(kind) for is_kind in three) else 2


class _Table:
    """A table of a flatbuffer: fields by their number, each with a default of zero."""

    def __init__(self, data: memoryview, position: int) -> None:
        self._data, self._position = data, position
        (back,) = _unpack("<i", data, position)
        self._fields = position - back
        (self._size,) = _unpack("<H", data, self._fields)

    @staticmethod
    def root(data: memoryview) -> _Table:
        return _Table(data, *_unpack("<I", data, 0))

    def number(self, field: int, form: str) -> int:
        place = self._place(field)
        return 0 if place is None else int(_unpack(f"<{form}", self._data, place)[0])

    def table(self, field: int) -> _Table | None:
        place = self._place(field)
        return None if place is None else _Table(self._data, place + _unpack("<I", self._data, place)[0])

    def structs(self, field: int, form: str) -> Iterator[tuple[int, ...]]:
        place = self._place(field)
        if place is None:
            return
        start = place + _unpack("<I", self._data, place)[0]
        (count,) = _unpack("<I", self._data, start)
        size = struct.calcsize(f"<{form}")
        if count * size > len(self._data):
            raise NotArrow("a list is longer than its message")
        for number in range(count):
            yield _unpack(f"<{form}", self._data, start + 4 + number * size)

    def _place(self, field: int) -> int | None:
        at = 4 + 2 * field
        if at + 2 > self._size:
            return None
        (offset,) = _unpack("<H", self._data, self._fields + at)
        return self._position + offset if offset else None


def _unpack(form: str, data: memoryview, offset: int) -> tuple[int, ...]:
    if not 0 <= offset <= len(data) - struct.calcsize(form):
        raise NotArrow(f"byte {offset} is outside of what there is")
    return struct.unpack_from(form, data, offset)
