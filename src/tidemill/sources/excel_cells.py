"""Cells to typed columns, as pandas would type them, but with missing values beside whole numbers and truth values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

import pyarrow as pa

LARGEST_WHOLE = 2**53
"""Up to here a double holds every whole number."""

_TYPES: dict[frozenset[type], pa.DataType] = {
    frozenset(): pa.null(),
    frozenset({bool}): pa.bool_(),
    frozenset({int}): pa.int64(),
    frozenset({float}): pa.float64(),
    frozenset({int, float}): pa.float64(),
    frozenset({date}): pa.date32(),
    frozenset({datetime}): pa.timestamp("us"),
    frozenset({date, datetime}): pa.timestamp("us"),
    frozenset({time}): pa.time64("us"),
    frozenset({timedelta}): pa.duration("us"),
}


class ColumnSurvey:
    """Learns piece by piece what kinds of values a column has; any other mixture is text."""

    def __init__(self, nulls: Collection[str]) -> None:
        self._nulls = nulls
        self._kinds: set[type] = set()
        self._seen = False

    def learn(self, cells: Sequence[Any]) -> None:
        kinds = set(map(type, cells))
        self._seen = self._seen or any(cell != "" for cell in cells)
        if float in kinds or int in kinds:
            numbers = [cell for cell in cells if type(cell) in (float, int)]
            self._kinds.add(int if all(map(_is_whole, numbers)) else float)
        if str in kinds and not all(cell in self._nulls for cell in cells if type(cell) is str):
            self._kinds.add(str)
        self._kinds.update(kind for kind in kinds if kind not in (float, int, str))

    @property
    def is_empty(self) -> bool:
        """Whether no cell had a value."""
        return not self._seen

    @property
    def type(self) -> pa.DataType:
        return _TYPES.get(frozenset(self._kinds), pa.string())


def _is_whole(number: float) -> bool:
    return float(number).is_integer() and abs(number) <= LARGEST_WHOLE


def column_of(cells: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The column of that type; empty cells, and text that stands for a missing value beside others, are null."""
    if pa.types.is_string(kind):
        return pa.array([None if cell == "" else _text(cell) for cell in cells], kind)
    convert = _CONVERTS.get(kind, _same)
    return pa.array([None if type(cell) is str else convert(cell) for cell in cells], kind)


def _moment(value: date) -> datetime:
    return value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)


def _text(value: Any) -> str:
    """As Arrow would write a value of such a column."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | int):
        return str(int(value) if _is_whole(value) else value)
    if isinstance(value, datetime):
        return value.isoformat(" ", "microseconds")
    return value.isoformat("microseconds") if isinstance(value, time) else str(value)


def _same(value: Any) -> Any:
    return value


_CONVERTS: dict[pa.DataType, Callable[[Any], Any]] = {
    pa.int64(): int,
    pa.float64(): float,
    pa.timestamp("us"): _moment,
}


def names_of(header: Sequence[Any], width: int) -> list[str]:
    """Names for all columns; one without gets the name that pandas gives it."""
    cells = [*header, *[""] * (width - len(header))]
    return [_text(cell) if cell != "" else f"Unnamed: {number}" for number, cell in enumerate(cells)]
