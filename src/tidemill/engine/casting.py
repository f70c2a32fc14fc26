"""Columns to the types that a model wants, row by row where they do not fit. Runs in children."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TextCast = Callable[[pa.Array, pa.DataType], tuple[pa.Array, Sequence[int]]]
"""Casts text as its source does: the column, null where a value does not fit, and those positions."""


_LIST = re.compile(r"(fixed_size_)?list<(?:item|element): (.+)>(?(1)\[(\d+)\])")


def type_of(name: str) -> pa.DataType:
    """The Arrow type with this name, as `str(type)` gives it. Raises ValueError for an unknown one."""
    try:
        return pa.type_for_alias(name)
    except ValueError:
        return _parse(name)


def _parse(name: str) -> pa.DataType:
    kind, _, rest = name.partition("[")
    unit, _, zone = rest.rstrip("]").partition(", tz=")
    if kind == "timestamp" and unit in ("s", "ms", "us", "ns"):
        return pa.timestamp(unit, zone or None)
    kind, _, rest = name.partition("(")
    if kind in ("decimal", "decimal128", "decimal256") and rest.endswith(")"):
        precision, _, scale = rest[:-1].partition(",")
        make = pa.decimal256 if kind == "decimal256" else pa.decimal128
        return make(int(precision), int(scale or 0))
    if found := _LIST.fullmatch(name):
        return pa.list_(type_of(found[2]), int(found[3] or -1))
    raise ValueError(f"{name!r} is not the name of an Arrow type")


def can_cast(found: pa.DataType, wanted: pa.DataType, *, text: bool) -> bool:
    """Whether a column may feed an input of that type. Text formats are parsed; in typed formats a
    string is not a number."""
    if pa.types.is_dictionary(found):
        found = found.value_type
    if found == wanted or pa.types.is_null(found):
        return True
    if is_text(wanted):
        return is_text(found) or text or not pa.types.is_nested(found)
    if is_text(found):
        return text and can_parse(wanted)
    numeric = _is_number(found) or pa.types.is_boolean(found)
    if _is_number(wanted):
        return numeric
    if pa.types.is_boolean(wanted):
        return bool(pa.types.is_boolean(found) or pa.types.is_integer(found))
    if pa.types.is_temporal(wanted):
        return bool(pa.types.is_temporal(found))
    return False


def can_parse(wanted: pa.DataType) -> bool:
    """Whether text can become this type."""
    try:
        pc.cast(pa.array([], pa.string()), wanted)
    except pa.ArrowNotImplementedError:
        return False
    return True


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text, perhaps encoded with a dictionary."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


_EXACT = {
    pa.float32(): frozenset({pa.bool_(), pa.int8(), pa.int16(), pa.uint8(), pa.uint16(), pa.float16()}),
    pa.float64(): frozenset({
        *(pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32()),
        *(pa.float16(), pa.float32()),
    }),
}  # fmt: skip


def is_exact(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether `wanted` is a type of float that holds every number, or truth value, of another type as it is."""
    return found in _EXACT.get(wanted, ())


def cast_rows(
    column: pa.Array, wanted: pa.DataType, cast_text: TextCast | None = None
) -> tuple[pa.Array, np.ndarray[Any, Any] | None]:
    """The column as `wanted`, and a mask of the rows (bool, True = bad) that do not fit, or None.

    Bad rows are null in the result. Numbers go to floating point as the nearest value; floating point
    goes to integers only without a fraction, NaN as null. Text goes through `cast_text`, if given.
    """
    if column.type == wanted:
        return column, None
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if cast_text is not None and is_text(column.type) and not is_text(wanted):
        cast, positions = cast_text(column, wanted)
        if not len(positions):
            return cast, None
        bad = np.zeros(len(column), dtype=bool)
        bad[positions] = True
        return cast, bad
    if pa.types.is_floating(column.type) and pa.types.is_integer(wanted):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    loose = pa.types.is_floating(wanted) and not is_text(column.type)
    try:
        return pc.cast(column, wanted, safe=not loose), None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return _cast_each(column, wanted, loose)


def _cast_each(column: pa.Array, wanted: pa.DataType, loose: bool) -> tuple[pa.Array, np.ndarray[Any, Any]]:
    bad = np.zeros(len(column), dtype=bool)
    pieces = list(_cast_halves(column, wanted, loose, bad, 0))
    return pa.concat_arrays(pieces) if pieces else pa.nulls(0, wanted), bad


def _cast_halves(
    column: pa.Array, wanted: pa.DataType, loose: bool, bad: np.ndarray[Any, Any], offset: int
) -> list[pa.Array]:
    try:
        return [pc.cast(column, wanted, safe=not loose)]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if len(column) == 1:
            bad[offset] = True
            return [pa.nulls(1, wanted)]
    half = len(column) // 2
    return [
        *_cast_halves(column[:half], wanted, loose, bad, offset),
        *_cast_halves(column[half:], wanted, loose, bad, offset + half),
    ]
