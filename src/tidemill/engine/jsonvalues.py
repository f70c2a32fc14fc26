"""Arrow values as JSON can hold them without loss. Runs in children."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

EXACT = 2**53
"""Beyond this, readers of JSON that know only doubles would change a whole number."""


def json_rows(batch: pa.RecordBatch) -> Iterator[list[Any]]:
    """Rows as lists of JSON values.

    Numbers, truth, text and null stay what they are; whole numbers beyond 2**53, decimals and times (ISO
    8601) are text, bytes are text in base64, NaN and infinities the texts "NaN", "Infinity", "-Infinity".
    """
    columns = [json_values(column) for column in batch.columns]
    return (list(row) for row in zip(*columns, strict=True)) if columns else iter([[]] * batch.num_rows)


def json_values(array: pa.Array) -> list[Any]:
    """A column's values."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return json_values(array.storage)
    if pa.types.is_dictionary(kind):
        return json_values(array.cast(kind.value_type))
    if pa.types.is_struct(kind):
        children = [json_values(child) for child in array.flatten()]
        names = [kind.field(number).name for number in range(kind.num_fields)]
        rows = zip(*children, strict=True) if children else iter([()] * len(array))
        valid = array.is_valid().to_pylist()
        return [dict(zip(names, row, strict=True)) if there else None for row, there in zip(rows, valid, strict=True)]
    if pa.types.is_map(kind):
        entries = array.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
        return json_values(entries)
    if pa.types.is_nested(kind):
        values = iter(json_values(array.flatten()))
        lengths = pc.list_value_length(array).to_pylist()
        return [None if length is None else [next(values) for _ in range(length)] for length in lengths]
    return _scalars(array)


def _scalars(array: pa.Array) -> list[Any]:
    kind = array.type
    if pa.types.is_timestamp(kind):
        # A zone is shown as UTC: the instant is exact and no database of zones is needed.
        known = array.cast(pa.timestamp(kind.unit, "UTC")) if kind.tz else array
        return list(pc.replace_substring(known.cast(pa.string()), " ", "T", max_replacements=1).to_pylist())
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind) and not pa.types.is_interval(kind):
        return list(array.cast(pa.string()).to_pylist())
    if pa.types.is_duration(kind):
        return [None if value is None else f"{value}{kind.unit}" for value in array.cast(pa.int64()).to_pylist()]
    if pa.types.is_float16(kind):
        array = array.cast(pa.float32())
    return [_scalar(value) for value in array.to_pylist()]


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= EXACT else str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)
