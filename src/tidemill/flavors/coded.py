"""Columns of categories as codes of the values that a model knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.flavors.matrix import Array, strings, to_arrow, validity, values
from tidemill.kernels.library import NotCompilable
from tidemill.kernels.linear import Codes

Kind = Literal["text", "number", "flag"]
_EXACT = 2**53
"""Whole numbers below are the same in float64."""


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """The values of a column that a model knows: value k has code k; then come unknown ones, and missing ones."""

    kind: Kind
    values: pa.Array
    unknown: pa.Array | None
    """One value that is not known, if the type has one."""

    @property
    def missing(self) -> pa.Array:
        """One row without a value."""
        return pa.nulls(1, self.values.type)

    def shown(self, start: int, rows: int) -> pa.Array:
        """So many rows with the values from `start` on, and with the first one after the last."""
        places = np.arange(start, start + rows)
        return self.values.take(to_arrow(np.where(places < len(self.values), places, 0)))

    def codes(self, column: pa.Array) -> Codes | None:
        """The codes of a column, encoded with a dictionary or not; None if its type is not that of the values."""
        if not self._fits(column.type.value_type if pa.types.is_dictionary(column.type) else column.type):
            return None
        if not pa.types.is_dictionary(column.type):
            return Codes(places=self._coded(column), codes=np.arange(len(self.values) + 2))
        places = column.indices
        codes = np.append(self._coded(column.dictionary), len(self.values) + 1)
        return Codes(places=values(places), codes=codes, valid=validity(places))

    def _coded(self, found: pa.Array) -> Array:
        """The code of each value, int32."""
        comparable, lookup = self._comparable(found)
        places = pc.index_in(comparable, value_set=lookup, skip_nulls=True)
        codes = values(places)
        missing = _missing(comparable)
        if places.null_count or missing.any():
            codes = np.where(_missing(places), len(self.values), codes)
            codes[missing] = len(self.values) + 1
        return codes

    def _fits(self, kind: pa.DataType) -> bool:
        types = pa.types
        if self.kind == "text":
            return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
        if self.kind == "flag":
            return bool(types.is_boolean(kind))
        return bool(types.is_integer(kind) or types.is_float32(kind) or types.is_float64(kind))

    def _comparable(self, found: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Values of a column and those of the model, in one type; negative zero is zero."""
        if self.kind == "text":
            return found.cast(pa.string()), self.values
        if self.kind == "flag":
            return found, self.values
        floats = pc.add(pc.cast(found, pa.float64(), safe=False), 0.0)
        return floats, pc.add(pc.cast(self.values, pa.float64(), safe=False), 0.0)


def _missing(column: pa.Array) -> Array:
    """Which values are null or NaN."""
    there = validity(column)
    nulls = np.zeros(len(column), bool) if there is None else there.missing(0, len(column))
    return nulls | np.isnan(values(column)) if pa.types.is_float64(column.type) else nulls


def lookup_of(name: str, met: Sequence[Any]) -> Lookup:
    """The lookup of values that were met in transformers, some perhaps twice or missing.

    Raises NotCompilable for values that are not all of one kind.
    """
    plain = (each.item() if isinstance(each, np.generic) else each for each in met)
    found = list(dict.fromkeys(each for each in plain if each is not None and each == each))
    kinds = {type(each) for each in found}
    if kinds == {str}:
        unknown = "?"
        while unknown in found:
            unknown += "?"
        return Lookup(kind="text", values=strings(found), unknown=strings([unknown]))
    if kinds == {bool}:
        return Lookup(kind="flag", values=to_arrow(np.array(found)), unknown=None)
    if kinds and kinds <= {int, float}:
        if max(map(abs, found)) >= _EXACT:
            raise NotCompilable(f"categories of column {name!r} are too large")
        kind = np.int64 if kinds == {int} else np.float64
        return Lookup(
            kind="number",
            values=to_arrow(np.array(found, kind)),
            unknown=to_arrow(np.array([np.floor(max(found)) + 1], kind)),
        )
    raise NotCompilable(f"categories of column {name!r} are of no type, or of several")
