"""The end of an ORC file: where its stripes are and what they hold, and an end for a file of one stripe.

It is a Protocol Buffers message (orc_proto.proto); only what is needed here is read, by the numbers of its fields.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

MAGIC = b"ORC"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TAIL_POSTSCRIPT, _TAIL_FOOTER = 1, 2
_FOOTER_LENGTH, _COMPRESSION, _BLOCK_SIZE, _METADATA_LENGTH, _STRIPE_STATISTICS = 1, 2, 3, 5, 7
_STRIPES, _USER_METADATA, _ROWS, _STATISTICS, _ENCRYPTION = 3, 5, 6, 7, 10
_COUNT, _TEXT, _BINARY = 1, 4, 8


class NotOrc(Exception):
    """The end of the file is no message."""


@dataclass(frozen=True, kw_only=True)
class Stripe:
    """Rows at [start, stop) of the file."""

    start: int
    stop: int
    rows: int
    message: bytes


@dataclass(frozen=True, kw_only=True)
class ColumnFacts:
    """Of one column of the type tree over the whole file: how many values, and their bytes if they are text."""

    values: int = 0
    text_bytes: int = 0


class Tail:
    """What the file says of itself, from `serialized` as pyarrow hands it out. Raises NotOrc."""

    def __init__(self, serialized: bytes) -> None:
        parts = dict(_fields(serialized))
        self._postscript, footer = (_bytes(parts.get(number)) for number in (_TAIL_POSTSCRIPT, _TAIL_FOOTER))
        self._footer = list(_fields(footer))
        self.stripes = tuple(_stripe(_bytes(value)) for number, value in self._footer if number == _STRIPES)
        self.columns = tuple(_facts(_bytes(value)) for number, value in self._footer if number == _STATISTICS)
        self.is_encrypted = any(number == _ENCRYPTION for number, _ in self._footer)

    def of_one_stripe(self, stripe: Stripe) -> bytes:
        """The end of a file that has this stripe alone, at its place: goes right behind it."""
        left_out = (_STRIPES, _USER_METADATA, _ROWS, _STATISTICS)
        footer = b"".join(_field(number, value) for number, value in self._footer if number not in left_out)
        footer = self._chunked(footer + _field(_STRIPES, stripe.message) + _field(_ROWS, stripe.rows))
        changed = {_FOOTER_LENGTH: len(footer), _METADATA_LENGTH: 0, _STRIPE_STATISTICS: 0}
        postscript = b"".join(_field(number, changed.get(number, value)) for number, value in _fields(self._postscript))
        return footer + postscript + bytes([len(postscript)])

    def _chunked(self, footer: bytes) -> bytes:
        """In the chunks of a compressed file, each marked as not compressed."""
        postscript = dict(_fields(self._postscript))
        if not postscript.get(_COMPRESSION):
            return footer
        size = min(int(postscript.get(_BLOCK_SIZE) or 1 << 16), (1 << 23) - 1)
        pieces = [footer[start : start + size] for start in range(0, len(footer), size)]
        return b"".join((len(piece) << 1 | 1).to_bytes(3, "little") + piece for piece in pieces)


def decoded_bytes(facts: Sequence[ColumnFacts], schema: pa.Schema, rows: int, total_rows: int) -> dict[str, int]:
    """An estimate for each column of what so many of the file's rows take in memory."""
    # The type with number 0 is the row itself.
    known = itertools.chain(facts[1:], itertools.repeat(ColumnFacts()))
    sizes = {}
    for field in schema:
        whole = sum(_size(kind, next(known), total_rows) for kind in _tree(field.type))
        sizes[field.name] = whole * rows // max(total_rows, 1)
    return sizes


def _tree(kind: pa.DataType) -> Iterator[pa.DataType]:
    """The column's own types in the order in which ORC numbers them."""
    yield kind
    children = [kind.key_type, kind.item_type] if pa.types.is_map(kind) else []
    children = children or [kind.field(number).type for number in range(kind.num_fields)]
    for child in children:
        yield from _tree(child)


def _size(kind: pa.DataType, facts: ColumnFacts, rows: int) -> int:
    values = max(rows, facts.values)
    try:
        return int(values * max(kind.bit_width, 8) // 8)
    except ValueError:
        return 4 * values + max(facts.text_bytes, 0)


def _stripe(message: bytes) -> Stripe:
    start, index, data, footer, rows = (_number(dict(_fields(message)).get(number)) for number in range(1, 6))
    return Stripe(start=start, stop=start + index + data + footer, rows=rows, message=message)


def _facts(message: bytes) -> ColumnFacts:
    found = dict(_fields(message))
    text = [dict(_fields(_bytes(found[kind]))) for kind in (_TEXT, _BINARY) if kind in found]
    # The sum is the third field of text, the first of binary; both as zigzag.
    sums = [_number(facts.get(3, facts.get(1) if _TEXT not in found else 0)) for facts in text]
    return ColumnFacts(values=_number(found.get(_COUNT)), text_bytes=sum((total >> 1) ^ -(total & 1) for total in sums))


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, form = key >> 3, key & 7
        value: int | bytes
        if form == _VARINT:
            value, position = _varint(message, position)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(form)
            if form == _BYTES:
                size, position = _varint(message, position)
            if size is None or position + size > len(message):
                raise NotOrc(f"byte {position} of its end makes no sense")
            value, position = message[position : position + size], position + size
        yield number, value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        value, position, shift = value | (byte & 0x7F) << shift, position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise NotOrc("its end stops short")


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _encoded(number << 3 | _VARINT) + _encoded(value)
    return _encoded(number << 3 | _BYTES) + _encoded(len(value)) + value


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(value: int | bytes | None) -> int:
    return value if isinstance(value, int) else 0


def _bytes(value: int | bytes | None) -> bytes:
    return value if isinstance(value, bytes) else b""
