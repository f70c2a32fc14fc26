"""Sums of what the columns of a row add, each column on its own: a linear model without its matrix.

A column of numbers adds `weight * steps(number)`, with the arithmetic that the library does with that column. A column
of categories adds what a table says of its code, however many columns of zeros and ones the library would make of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
TILE_ROWS = 8_192
"""Rows that are summed at a time: vectors of them stay in the caches."""

Step = Callable[[Array], Array]
"""Arithmetic on each number of a float64 vector, which it may overwrite."""


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
class Numbers:
    """A column of numbers, float64, and which of them are missing (bool), if any: what stands there means nothing."""

    values: Array
    missing: Array | None = None

    def into(self, out: Array, rows: slice) -> Array:
        """Copy some rows, NaN for what is missing."""
        out[:] = self.values[rows]
        if self.missing is not None:
            np.copyto(out, np.nan, where=self.missing[rows])
        return out


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A column of codes: of each row a place, (rows,), of each place a code, (places,)."""

    places: Array
    codes: Array


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Sums of each row, (sums, rows), and a bound of the sizes of all that was added to any one of them."""

    sums: Array
    size: float

    @property
    def known(self) -> bool:
        """Whether each sum is a number: not if a row had a value for which a table has none, or an infinite one."""
        return bool(np.isfinite(self.sums).all())


class LinearKernel:
    """Terms and tables. `scores` may be called from several threads at once."""

    def __init__(self, start: Array, terms: Sequence[Term], tables: Sequence[Table]) -> None:
        """`start` is what each sum begins with, (sums,)."""
        self._start, self._terms, self._tables = start, tuple(terms), tuple(tables)
        self._size = _largest(start) + sum(_largest(table.added) for table in tables)

    def scores(self, rows: int, numbers: Mapping[int, Numbers], coded: Mapping[int, Codes]) -> Scores:
        """Sums of so many rows: `numbers` are the columns of terms, `coded` those of tables."""
        sums = np.empty((len(self._start), rows))
        sums[:] = self._start[:, None]
        of_places = [(coded[table.column].places, table.added[:, coded[table.column].codes]) for table in self._tables]
        sizes, scratch = [0.0] * len(self._terms), np.empty((2, TILE_ROWS))
        for begin in range(0, rows, TILE_ROWS):
            tile = slice(begin, begin + TILE_ROWS)
            totals = sums[:, tile]
            value, added = scratch[:, : totals.shape[1]]
            for position, term in enumerate(self._terms):
                found = numbers[term.column].into(value, tile)
                if np.isinf(found).any():
                    # Steps may hide it, but no library takes it.
                    totals[:] = np.nan
                for step in term.steps:
                    found = step(found)
                sizes[position] = max(sizes[position], _largest(found))
                for total, weight in zip(totals, term.weights.tolist(), strict=True):
                    total += np.multiply(found, weight, out=added)
            for places, of_place in of_places:
                here = places[tile]
                for total, row in zip(totals, of_place, strict=True):
                    # Places are within bounds: any mode but "raise" spares a copy.
                    total += np.take(row, here, out=added, mode="clip")
        largest = sum(size * _largest(term.weights) for size, term in zip(sizes, self._terms, strict=True))
        return Scores(sums=sums, size=self._size + largest)


def _largest(values: Array) -> float:
    """The largest absolute value, of those that are numbers."""
    return float(max(np.fmax.reduce(values, axis=None, initial=0.0), -np.fmin.reduce(values, axis=None, initial=0.0)))
