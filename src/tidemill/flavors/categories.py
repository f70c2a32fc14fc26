"""Values to the codes of categories, as pandas assigns them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.domain.errors import ModelUnusable, SchemaMismatch
from tidemill.flavors.matrix import Array, plain, strings, to_arrow, values


class Categories:
    """The categories of one column, in the order of their codes."""

    def __init__(self, name: str, categories: Sequence[Any]) -> None:
        self.name = name
        kinds = {type(each) for each in categories}
        self.text = kinds == {str}
        self._numbers = bool(kinds) and kinds <= {int, float}
        self._flags = kinds == {bool}
        if self.text:
            self._lookup = strings(list(categories))
        elif self._flags:
            self._lookup = to_arrow(np.array(categories, np.int64))
        elif self._numbers:
            self._lookup = to_arrow(np.array(categories, np.int64 if kinds == {int} else np.float64))
        else:
            self._lookup = to_arrow(np.empty(0, np.int64))
        if kinds and not (self.text or self._numbers or self._flags):
            raise ModelUnusable(
                f"The categories of column {name!r} are of mixed types: {list(categories)[:10]!r}.",
                remedy="Train the model with categories of one type.",
            )

    def codes(self, column: pa.Array) -> Array:
        """The code of each row as float64, NaN where it is null or no known category.

        Raises SchemaMismatch if the column's type can hold none of the categories.
        """
        column = plain(column)
        if pa.types.is_null(column.type) or not len(self._lookup):
            return np.full(len(column), np.nan)
        comparable, lookup = self._comparable(column)
        found = pc.index_in(comparable, value_set=lookup, skip_nulls=True)
        codes = values(found).astype(np.float64)
        if found.null_count:
            codes[values(pc.cast(found.is_null(), pa.int8())).astype(bool)] = np.nan
        return codes

    def _comparable(self, column: pa.Array) -> tuple[pa.Array, pa.Array]:
        """The column and the categories, both of a type in which they can be compared."""
        kind = column.type
        if self.text and _is_text(kind):
            return column.cast(pa.string()), self._lookup
        if self._flags and pa.types.is_boolean(kind):
            return column.cast(pa.int64()), self._lookup
        if self._numbers and pa.types.is_signed_integer(kind) and self._lookup.type == pa.int64():
            return column.cast(pa.int64()), self._lookup
        if self._numbers and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            return pc.cast(column, pa.float64(), safe=False), pc.cast(self._lookup, pa.float64(), safe=False)
        wanted = "text" if self.text else "booleans" if self._flags else "numbers"
        raise SchemaMismatch(
            f"Column {self.name!r} holds {kind} but its categories in the model are {wanted}.",
            remedy="Give the column the type that it had in training.",
        )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
