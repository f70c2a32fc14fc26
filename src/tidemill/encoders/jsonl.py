"""JSON Lines: one object per line, in UTF-8, every column in every row.

What JSON has no word for is written so that it reads back equal and is never taken for a null: NaN and
infinities as the texts "NaN", "Infinity" and "-Infinity" (as Protocol Buffers do; Python's `float` and
casts of DuckDB and Polars read them), decimals as text with all digits, times in ISO 8601 as text, maps
as lists of {"key", "value"}. Whole numbers have all their digits, also beyond 2**53.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.encoders.part import repeated_names, write_whole
from tidemill.encoders.text import (
    REMEDY,
    TEXT,
    TextEncoder,
    TextWriter,
    decoded,
    is_scalar,
    is_text,
    is_time,
    plain_type,
    scalar_text,
    write_text,
)
from tidemill.ports.encoder import PartWriter, Unwritable, Written

_SPECIAL = r'["\\\x00-\x1f]'
_NOT_FINITE = {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}


class JsonLinesEncoder(TextEncoder):
    """Option `nan`: "text" (as above) or "null". Refuses bytes, durations and columns of one name."""

    name: ClassVar[str] = "jsonl"
    suffix: ClassVar[str] = ".jsonl"
    known_options: ClassVar[Mapping[str, tuple[Any, ...]]] = {"nan": ("text", "null")}

    def unwritable(self, schema: pa.Schema) -> Sequence[Unwritable]:
        twice = repeated_names(schema)
        return [
            Unwritable(
                column=field.name,
                type=str(field.type),
                remedy="Give each column a name of its own." if field.name in twice else REMEDY,
            )
            for field in schema
            if field.name in twice or not _can_hold(field.type)
        ]

    def open(self, path: Path, schema: pa.Schema, metadata: Mapping[str, str]) -> PartWriter:
        return _JsonLinesWriter(path, schema, self.compression, self.options.get("nan", "text") == "null").begin()

    def assemble(self, parts: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> Written:
        def texts() -> Iterator[tuple[bytes, int]]:
            for part in parts:
                for block in self.read(part):
                    yield block, block.count(b"\n")

        def fill(path: Path) -> Written:
            return write_text(_JsonLinesWriter(path, pa.schema([]), self.compression, False).begin(), texts())

        return write_whole(target, fill)


class _JsonLinesWriter(TextWriter):
    def __init__(self, path: Path, schema: pa.Schema, compression: str | None, nan_is_null: bool) -> None:
        super().__init__(path, schema, compression)
        self._not_finite = dict.fromkeys(_NOT_FINITE, "null") if nan_is_null else _NOT_FINITE
        self._keys = [
            pa.scalar(("{" if number == 0 else ",") + _quoted(name) + ":", TEXT)
            for number, name in enumerate(schema.names)
        ]

    def _lines(self, batch: pa.RecordBatch) -> pa.LargeStringArray:
        pieces: list[Any] = []
        for key, name, column in zip(self._keys, self.schema.names, batch.columns, strict=True):
            pieces += [key, pc.fill_null(self._values(name, decoded(column)), "null")]
        return pc.binary_join_element_wise(*pieces, pa.scalar("}\n", TEXT), pa.scalar("", TEXT))

    def _values(self, name: str, array: pa.Array) -> pa.LargeStringArray:
        kind = array.type
        if is_text(kind):
            return _text_values(array.cast(TEXT))
        if is_time(kind) or pa.types.is_decimal(kind):
            return _in_quotes(scalar_text(name, array))
        if pa.types.is_floating(kind):
            return self._float_values(name, array)
        if is_scalar(kind):
            return scalar_text(name, array)
        values = self._nested(name, array)
        return pa.array([None if value is None else _dump(value) for value in values], TEXT)

    def _float_values(self, name: str, array: pa.Array) -> pa.LargeStringArray:
        text = scalar_text(name, array)
        if pc.all(pc.is_finite(array.cast(pa.float64()))).as_py() in (True, None):
            return text
        for found, written in self._not_finite.items():
            text = pc.if_else(pc.equal(text, found), pa.scalar(written, TEXT), text)
        return text

    def _nested(self, name: str, array: pa.Array) -> list[Any]:
        """Values as what `json` writes; scalars inside have the same text as outside."""
        array = decoded(array)
        kind = array.type
        if pa.types.is_struct(kind):
            fields = [kind.field(number) for number in range(kind.num_fields)]
            children = [self._nested(name, child) for child in array.flatten()]
            rows = zip(*children, strict=True) if children else iter([()] * len(array))
            names = [field.name for field in fields]
            return [
                dict(zip(names, row, strict=True)) if valid else None
                for row, valid in zip(rows, array.is_valid().to_pylist(), strict=True)
            ]
        if pa.types.is_map(kind):
            return self._entries(name, array)
        if not is_scalar(kind):
            values = iter(self._nested(name, array.flatten()))
            lengths = pc.list_value_length(array).to_pylist()
            return [None if length is None else [next(values) for _ in range(length)] for length in lengths]
        if is_time(kind) or pa.types.is_decimal(kind):
            return list(scalar_text(name, array).to_pylist())
        if pa.types.is_floating(kind):
            return [json.loads(each) if each else None for each in self._float_values(name, array).to_pylist()]
        return list(array.to_pylist())

    def _entries(self, name: str, array: pa.MapArray) -> list[list[dict[str, Any]] | None]:
        if not len(array):
            return []
        offsets = array.offsets.to_pylist()
        spans = [each.slice(offsets[0], offsets[-1] - offsets[0]) for each in (array.keys, array.items)]
        keys, items = (self._nested(name, span) for span in spans)
        pairs = [{"key": key, "value": item} for key, item in zip(keys, items, strict=True)]
        ranges = zip(offsets, offsets[1:], array.is_valid().to_pylist(), strict=False)
        return [pairs[start - offsets[0] : stop - offsets[0]] if valid else None for start, stop, valid in ranges]


def _can_hold(kind: pa.DataType) -> bool:
    kind = plain_type(kind)
    if pa.types.is_struct(kind):
        names = [kind.field(number).name for number in range(kind.num_fields)]
        held = all(_can_hold(kind.field(number).type) for number in range(kind.num_fields))
        return held and len(set(names)) == len(names)
    if pa.types.is_map(kind):
        return _can_hold(kind.key_type) and _can_hold(kind.item_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _can_hold(kind.value_type)
    return is_scalar(kind)


def _text_values(text: pa.LargeStringArray) -> pa.LargeStringArray:
    if pc.any(pc.match_substring_regex(text, _SPECIAL)).as_py():
        return pa.array([None if each is None else _quoted(each) for each in text.to_pylist()], TEXT)
    return _in_quotes(text)


def _in_quotes(text: pa.LargeStringArray) -> pa.LargeStringArray:
    quote = pa.scalar('"', TEXT)
    return pc.binary_join_element_wise(quote, text, quote, pa.scalar("", TEXT))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
