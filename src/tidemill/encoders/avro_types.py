"""Arrow's types as Avro's, and the values that fastavro writes for them: numbers as they are stored."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.domain.errors import OutputUnwritable

Values = Callable[[pa.Array], list[Any]]
"""An array as Python's values, None for nulls."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN: Mapping[pa.DataType, tuple[str, pa.DataType]] = {
    pa.bool_(): ("boolean", pa.bool_()),
    **dict.fromkeys((pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16()), ("int", pa.int32())),
    **dict.fromkeys((pa.uint32(), pa.int64()), ("long", pa.int64())),
    **dict.fromkeys((pa.float16(), pa.float32()), ("float", pa.float32())),
    pa.float64(): ("double", pa.float64()),
    **dict.fromkeys((pa.string(), pa.large_string(), pa.string_view()), ("string", pa.large_string())),
    **dict.fromkeys((pa.binary(), pa.large_binary()), ("bytes", pa.large_binary())),
}
_LOGICAL: Mapping[pa.DataType, tuple[str, str, pa.DataType, pa.DataType]] = {
    pa.date32(): ("int", "date", pa.date32(), pa.int32()),
    pa.time32("s"): ("int", "time-millis", pa.time32("ms"), pa.int32()),
    pa.time32("ms"): ("int", "time-millis", pa.time32("ms"), pa.int32()),
    pa.time64("us"): ("long", "time-micros", pa.time64("us"), pa.int64()),
}
"""Kept as: type and logical type in Avro; the same in Arrow, and the numbers that it is stored as."""
_UNITS = {"s": ("ms", "millis"), "ms": ("ms", "millis"), "us": ("us", "micros"), "ns": ("ns", "nanos")}


class NoAvroType(Exception):
    """A type that Avro has no place for."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A type in Avro, which may be null, and how values are handed over."""

    schema: Any
    values: Values


class Translator:
    """Goes through the columns of one file: records and fixed types get names that no other has."""

    def __init__(self) -> None:
        self._named = 0

    def column(self, kind: pa.DataType) -> Column:
        """Raises NoAvroType."""
        if pa.types.is_null(kind):
            return Column(schema="null", values=lambda array: [None] * len(array))
        found = self._present(kind)
        return Column(schema=["null", found.schema], values=found.values)

    def record(self, fields: Sequence[pa.Field]) -> tuple[dict[str, Any], list[Values]]:
        """A record of these fields, and how to hand over each. Raises NoAvroType."""
        names = [field.name for field in fields]
        if not names or len(set(names)) < len(names) or not all(map(is_name, names)):
            raise NoAvroType
        columns = [self.column(field.type) for field in fields]
        pairs = zip(names, columns, strict=True)
        made = [{"name": name, "type": column.schema} for name, column in pairs]
        return {"type": "record", "name": self._name("record"), "fields": made}, [each.values for each in columns]

    def _name(self, kind: str) -> str:
        self._named += 1
        return f"{kind}_{self._named}"

    def _present(self, kind: pa.DataType) -> Column:
        types = pa.types
        if kind in _PLAIN:
            name, stored = _PLAIN[kind]
            return Column(schema=name, values=lambda array: array.cast(stored).to_pylist())
        if types.is_timestamp(kind):
            return _moment(kind)
        if kind in _LOGICAL:
            name, logical, same, numbers = _LOGICAL[kind]
            return Column(
                schema={"type": name, "logicalType": logical},
                values=lambda array: array.cast(same).cast(numbers).to_pylist(),
            )
        if types.is_dictionary(kind):
            inner = self._present(kind.value_type)
            return Column(schema=inner.schema, values=lambda array: inner.values(array.cast(kind.value_type)))
        if types.is_fixed_size_binary(kind):
            fixed = {"type": "fixed", "name": self._name("fixed"), "size": kind.byte_width}
            return Column(schema=fixed, values=lambda array: array.to_pylist())
        if kind == pa.uint64():
            kind = pa.decimal128(20, 0)
        if types.is_decimal(kind):
            return _decimal(kind)
        return self._nested(kind)

    def _nested(self, kind: pa.DataType) -> Column:
        types = pa.types
        if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            return self._list(kind)
        if types.is_struct(kind):
            record, values = self.record([kind.field(number) for number in range(kind.num_fields)])
            return Column(schema=record, values=lambda array: _structs(array, record, values))
        if types.is_map(kind) and kind.key_type in (pa.string(), pa.large_string()):
            items = self.column(kind.item_type)
            schema = {"type": "map", "values": items.schema}
            return Column(schema=schema, values=lambda array: _maps(array, items.values))
        raise NoAvroType

    def _list(self, kind: pa.DataType) -> Column:
        if pa.types.is_null(kind.value_type):
            raise NoAvroType
        items = self.column(kind.value_type)
        return Column(schema={"type": "array", "items": items.schema}, values=lambda array: _lists(array, items.values))


def is_name(name: str) -> bool:
    """Whether Avro lets a field be called so."""
    return _NAME.fullmatch(name) is not None


def _moment(kind: pa.DataType) -> Column:
    unit, word = _UNITS[kind.unit]
    stored = pa.timestamp(unit, kind.tz)
    logical = f"timestamp-{word}" if kind.tz else f"local-timestamp-{word}"
    return Column(
        schema={"type": "long", "logicalType": logical},
        values=lambda array: array.cast(stored).cast(pa.int64()).to_pylist(),
    )


def _decimal(kind: pa.DataType) -> Column:
    if not 0 <= kind.scale <= kind.precision:
        raise NoAvroType
    schema = {"type": "bytes", "logicalType": "decimal", "precision": kind.precision, "scale": kind.scale}
    return Column(schema=schema, values=lambda array: array.cast(kind).to_pylist())


def _lists(array: pa.Array, values: Values) -> list[Any]:
    """One list for each row."""
    present = array.is_valid().to_pylist()
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_pylist()
    # `flatten` leaves out what lies behind nulls.
    flat = iter(values(array.flatten()))
    return [
        [next(flat) for _ in range(length)] if there else None for there, length in zip(present, lengths, strict=True)
    ]


def _structs(array: pa.Array, schema: Mapping[str, Any], values: Sequence[Values]) -> list[Any]:
    names = [field["name"] for field in schema["fields"]]
    columns = [read(child) for read, child in zip(values, array.flatten(), strict=True)]
    return [
        dict(zip(names, row, strict=True)) if there else None
        for there, *row in zip(array.is_valid().to_pylist(), *columns, strict=True)
    ]


def _maps(array: pa.Array, values: Values) -> list[Any]:
    """One dict for each row. Raises OutputUnwritable for a key that is there twice, which Avro's maps cannot hold."""
    plain = array.cast(pa.list_(pa.struct([("key", array.type.key_type), ("value", array.type.item_type)])))
    flat = plain.flatten()
    keys, items = flat.field(0).to_pylist(), values(flat.field(1))
    made, start = [], 0
    lengths = pc.fill_null(pc.list_value_length(plain), 0).to_pylist()
    for there, length in zip(array.is_valid().to_pylist(), lengths, strict=True):
        stop = start + length
        found = dict(zip(keys[start:stop], items[start:stop], strict=True))
        if len(found) < length:
            raise OutputUnwritable(
                "A map has one key more than once, which Avro cannot hold.",
                remedy="Choose Parquet or Arrow as output, or --keep without that column.",
            )
        made.append(found if there else None)
        start = stop
    return made
