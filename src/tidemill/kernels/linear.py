"""Sums of what the columns of a row add, each column on its own: a linear model without its matrix.

A column of numbers adds `weight * steps(number)`, with the arithmetic that the library does with that column. A column
of categories adds what a table says of its code, however many columns of zeros and ones the library would make of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
TILE_ROWS = 8_192
"""Rows that are summed at a time: vectors of them stay in the caches."""

Operation = Literal["subtract", "add", "multiply", "divide", "at_least", "at_most", "fill", "is_missing"]
_HIDING: frozenset[Operation] = frozenset({"at_least", "at_most", "fill", "is_missing"})


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """A step: one operation with one operand, a finite number, on each number of a float64 vector, which it overwrites.

    `at_least` and `at_most` leave NaN as it is, `fill` puts the operand there, `is_missing` makes 1 of it and 0 of
    other numbers.
    """

    operation: Operation
    operand: float = 0.0

    @property
    def hides_infinity(self) -> bool:
        """Whether an infinite number may come out finite."""
        return self.operation in _HIDING

    def __call__(self, x: Array) -> Array:
        return _ARITHMETIC[self.operation](x, self.operand)


@dataclass(frozen=True, kw_only=True)
class Function:
    """A step: a function of numpy's, of one number, on each number of a float64 vector, which it overwrites."""

    ufunc: np.ufunc

    hides_infinity = True

    def __call__(self, x: Array) -> Array:
        result: Array = self.ufunc(x, out=x)
        return result


Step = Arithmetic | Function


@dataclass(frozen=True, kw_only=True)
class Term:
    """A number of a row, after some steps, times a weight for each sum (float64)."""

    column: int
    steps: tuple[Step, ...]
    weights: Array


@dataclass(frozen=True, kw_only=True)
class Table:
    """What each code of a column adds to each sum: (sums, codes), float64, NaN where that cannot be told."""

    column: int
    added: Array


@dataclass(frozen=True, kw_only=True)
class Validity:
    """Which rows have a value: a bit of each, the lowest of a byte (uint8) first, from bit number `first` on."""

    bits: Array
    first: int

    def missing(self, start: int, stop: int) -> Array:
        """Of these rows those without a value, bool."""
        low, high = self.first + start, self.first + stop
        bits = np.unpackbits(self.bits[low // 8 : (high + 7) // 8], bitorder="little")
        found: Array = bits[low % 8 : low % 8 + high - low] == 0
        return found


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A column of numbers, float64 or whole ones of 32 or 64 bits: what stands where there is none means nothing."""

    values: Array
    valid: Validity | None = None

    def into(self, out: Array, start: int) -> Array:
        """Copy as many rows as `out` has, NaN for what is missing."""
        stop = start + len(out)
        out[:] = self.values[start:stop]
        if self.valid is not None:
            np.copyto(out, np.nan, where=self.valid.missing(start, stop))
        return out


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A column of codes: of each row a place, (rows,); of each place a code, and last that of rows without a value,
    (places + 1,)."""

    places: Array
    codes: Array
    valid: Validity | None = None


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Sums of each row, (sums, rows), and a bound of the sizes of all that was added to any one of them."""

    sums: Array
    size: float
    known: bool
    """Whether each sum is a number: not if a row had a value for which a table has none, or an infinite one."""


class LinearKernel:
    """Terms and tables. `scores` may be called from several threads at once."""

    def __init__(self, start: Array, terms: Sequence[Term], tables: Sequence[Table]) -> None:
        """`start` is what each sum begins with, (sums,)."""
        self._start, self._terms, self._tables = start, tuple(terms), tuple(tables)
        self._size = _largest(start) + sum(_largest(table.added) for table in tables)
        self._largest_weights = np.array([_largest(term.weights) for term in terms])

    def scores(self, rows: int, numbers: Mapping[int, Numbers], coded: Mapping[int, Codes]) -> Scores:
        """Sums of so many rows: `numbers` are the columns of terms, `coded` those of tables. Raises ValueError for
        columns of other lengths."""
        for column in numbers.values():
            _require(rows, column.values, column.valid)
        for places in coded.values():
            _require(rows, places.places, places.valid)
        sums = np.empty((len(self._start), rows))
        with np.errstate(all="ignore"):
            largest, sound = self._sum(sums, numbers, coded)
            size = self._size + float(largest @ self._largest_weights)
        return Scores(sums=sums, size=size, known=sound and bool(np.isfinite(sums).all()))

    def _sum(self, sums: Array, numbers: Mapping[int, Numbers], coded: Mapping[int, Codes]) -> tuple[Array, bool]:
        """Fill the sums, (sums, rows). The largest value of each term, (terms,), and whether all values were such as
        columns may have: no infinite number, no place that has no code."""
        sums[:] = self._start[:, None]
        rows, sound = sums.shape[1], True
        largest, scratch = np.zeros(len(self._terms)), np.empty((2, TILE_ROWS))
        of_places = []
        for table in self._tables:
            codes = coded[table.column]
            places = codes.places
            if codes.valid is not None:
                places = np.where(codes.valid.missing(0, rows), len(codes.codes) - 1, places)
            sound &= not rows or (places.min() >= 0 and places.max() < len(codes.codes))
            of_places.append((places, np.take(table.added, codes.codes, axis=1)))
        for begin in range(0, rows, TILE_ROWS):
            totals = sums[:, begin : begin + TILE_ROWS]
            value, added = scratch[:, : totals.shape[1]]
            for position, term in enumerate(self._terms):
                found = numbers[term.column].into(value, begin)
                # No library takes it from a transformer, nor in the beginning.
                sound &= is_sound(found)
                for step in term.steps:
                    sound &= not step.hides_infinity or is_sound(found)
                    found = step(found)
                    sound &= not isinstance(step, Function) or is_sound(found)
                largest[position] = max(largest[position], _largest(found))
                for total, weight in zip(totals, term.weights.tolist(), strict=True):
                    total += np.multiply(found, weight, out=added)
            for places, of_place in of_places:
                here = places[begin : begin + TILE_ROWS]
                for total, row in zip(totals, of_place, strict=True):
                    # Places are within bounds, or the sums mean nothing: any mode but "raise" spares a copy.
                    total += np.take(row, here, out=added, mode="clip")
        return largest, bool(sound)


def is_sound(values: Array) -> bool:
    """Whether no number is infinite."""
    return not np.isinf(values).any()


def _require(rows: int, values: Array, valid: Validity | None) -> None:
    if values.shape != (rows,) or (valid is not None and 8 * len(valid.bits) < valid.first + rows):
        raise ValueError(f"a column of {rows} rows was expected")


def _largest(values: Array) -> float:
    """The largest absolute value, of those that are numbers."""
    return float(max(np.fmax.reduce(values, axis=None, initial=0.0), -np.fmin.reduce(values, axis=None, initial=0.0)))


def _with(ufunc: np.ufunc, x: Array, operand: float) -> Array:
    result: Array = ufunc(x, operand, out=x)
    return result


def _filled(x: Array, value: float) -> Array:
    np.copyto(x, value, where=np.isnan(x))
    return x


def _is_missing(x: Array, _: float) -> Array:
    np.copyto(x, np.isnan(x))
    return x


_ARITHMETIC: dict[Operation, Callable[[Array, float], Array]] = {
    "subtract": partial(_with, np.subtract),
    "add": partial(_with, np.add),
    "multiply": partial(_with, np.multiply),
    "divide": partial(_with, np.divide),
    "at_least": partial(_with, np.maximum),
    "at_most": partial(_with, np.minimum),
    "fill": _filled,
    "is_missing": _is_missing,
}
