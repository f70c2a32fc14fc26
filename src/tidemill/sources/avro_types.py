"""Avro's types as Arrow's, and its values as those that Arrow takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from typing import Any

import pyarrow as pa

Convert = Callable[[Any], Any]

_PLAIN: Mapping[str, pa.DataType] = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "string": pa.string(),
}
_LOGICAL: Mapping[tuple[str, str], pa.DataType] = {
    ("int", "date"): pa.date32(),
    ("int", "time-millis"): pa.time32("ms"),
    ("long", "time-micros"): pa.time64("us"),
    **{
        ("long", f"{prefix}timestamp-{name}"): pa.timestamp(unit, zone)
        for prefix, zone in (("", "UTC"), ("local-", None))
        for name, unit in (("millis", "ms"), ("micros", "us"), ("nanos", "ns"))
    },
}
_LEAST_BYTES: Mapping[str, int] = {"null": 0, "float": 4, "double": 8}
_KINDS: Mapping[str, type] = {
    "boolean": bool,
    "int": int,
    "long": int,
    "float": float,
    "double": float,
    "bytes": bytes,
    "fixed": bytes,
    "string": str,
    "enum": str,
    "array": list,
    "map": dict,
    "record": dict,
}
"""The Python class that fastavro gives for each kind of type."""
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)


class NoArrowType(Exception):
    """A type that Arrow cannot hold, or whose values could be without end."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A type in Avro: what it is in Arrow, how its values become such, and the fewest bytes that one takes."""

    type: pa.DataType
    convert: Convert | None = None
    least_bytes: int = 1


def without_logical_types(schema: Any) -> Any:
    """The schema by which values are read as they are stored: moments as numbers, decimals as bytes."""
    if isinstance(schema, list):
        return [without_logical_types(branch) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    nested = ("type", "items", "values")
    plain = {
        key: without_logical_types(value) if key in nested else value
        for key, value in schema.items()
        if key not in ("logicalType", "precision", "scale")
    }
    if isinstance(plain.get("fields"), list):
        plain["fields"] = [without_logical_types(field) for field in plain["fields"]]
    return plain


class Translator:
    """Goes through a schema that fastavro has parsed; `named` are its definitions by full name."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._inside: list[str] = []

    def column(self, schema: Any) -> Column:
        """Raises NoArrowType."""
        if isinstance(schema, list):
            return self._union(schema)
        if isinstance(schema, str):
            return self._plain(schema) if schema in _PLAIN else self.column(self._definition(schema))
        kind = schema["type"]
        if not isinstance(kind, str):
            return self.column(kind)
        logical = schema.get("logicalType")
        if logical == "decimal" and kind in ("bytes", "fixed"):
            return _decimal(schema)
        if (kind, logical) in _LOGICAL:
            return Column(type=_LOGICAL[kind, logical])
        make = {"array": self._array, "map": self._map, "record": self._record, "fixed": _fixed, "enum": _enum}.get(
            kind
        )
        return make(schema) if make else self.column(kind)

    def _definition(self, name: str) -> Any:
        if name in self._inside:
            raise NoArrowType(f"{name} holds itself")
        if name not in self._named:
            raise NoArrowType(f"there is no type {name}")
        return self._named[name]

    @staticmethod
    def _plain(kind: str) -> Column:
        return Column(type=_PLAIN[kind], least_bytes=_LEAST_BYTES.get(kind, 1))

    def _array(self, schema: Mapping[str, Any]) -> Column:
        items = self.column(schema["items"])
        if not items.least_bytes:
            raise NoArrowType("it is an array of nothing")
        convert = items.convert
        return Column(type=pa.list_(items.type), convert=convert and _optional(lambda value: [*map(convert, value)]))

    def _map(self, schema: Mapping[str, Any]) -> Column:
        values = self.column(schema["values"])
        convert = values.convert or _same
        return Column(
            type=pa.map_(pa.string(), values.type),
            convert=_optional(lambda value: [(key, convert(item)) for key, item in value.items()]),
        )

    def _record(self, schema: Mapping[str, Any]) -> Column:
        self._inside.append(schema["name"])
        fields = {field["name"]: self.column(field["type"]) for field in schema["fields"]}
        self._inside.pop()
        changed = {name: field.convert for name, field in fields.items() if field.convert is not None}
        return Column(
            type=pa.struct([pa.field(name, field.type) for name, field in fields.items()]),
            convert=_optional(
                lambda value: {**value, **{name: convert(value[name]) for name, convert in changed.items()}}
            )
            if changed
            else None,
            least_bytes=sum(field.least_bytes for field in fields.values()),
        )

    def _union(self, branches: Sequence[Any]) -> Column:
        kinds = [(branch, self._kind(branch)) for branch in branches]
        wanted = [branch for branch, kind in kinds if kind != "null"]
        if len(wanted) < 2:
            column = self.column(wanted[0] if wanted else "null")
            return Column(type=column.type, convert=column.convert)
        for wide, narrow in (("long", "int"), ("double", "float")):
            if set(wanted) == {wide, narrow} if all(isinstance(each, str) for each in wanted) else False:
                return Column(type=_PLAIN[wide])
        return self._members(wanted)

    def _members(self, branches: Sequence[Any]) -> Column:
        """A union of several types, as Spark reads it: a struct of which one member is there."""
        classes = [_KINDS[self._kind(branch)] for branch in branches]
        if len(set(classes)) < len(classes):
            raise NoArrowType("its values are of several types that cannot be told apart once they are read")
        columns = [self.column(branch) for branch in branches]
        member = {kind: (f"member{number}", columns[number].convert or _same) for number, kind in enumerate(classes)}

        def convert(value: Any) -> Any:
            name, inner = member[type(value)]
            return {name: inner(value)}

        fields = [pa.field(f"member{number}", column.type) for number, column in enumerate(columns)]
        return Column(type=pa.struct(fields), convert=_optional(convert))

    def _kind(self, schema: Any) -> str:
        if isinstance(schema, dict):
            return self._kind(schema["type"])
        if isinstance(schema, list):
            raise NoArrowType("it is a union within a union")
        return str(schema) if schema in _PLAIN or schema in _KINDS else self._kind(self._definition(schema))


def _fixed(schema: Mapping[str, Any]) -> Column:
    return Column(type=pa.binary(schema["size"]), least_bytes=schema["size"])


def _enum(schema: Mapping[str, Any]) -> Column:
    return Column(type=pa.string())


def _decimal(schema: Mapping[str, Any]) -> Column:
    precision, scale = schema["precision"], schema.get("scale", 0)
    if not 0 < precision <= 76:
        raise NoArrowType(f"it is a decimal of {precision} digits")

    def convert(value: bytes) -> Decimal:
        return Decimal(int.from_bytes(value, "big", signed=True)).scaleb(-scale, _EXACT)

    make = pa.decimal128 if precision <= 38 else pa.decimal256
    return Column(type=make(precision, scale), convert=_optional(convert), least_bytes=schema.get("size", 1))


def _optional(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


def _same(value: Any) -> Any:
    return value
