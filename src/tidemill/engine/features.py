"""The model's columns of a batch, with the types that the model wants. Runs in children."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.engine.batching import BadRow
from tidemill.engine.casting import TextCast, cast_rows, is_exact, type_of

MAX_VALUE_CHARS = 100


@dataclass(frozen=True, kw_only=True)
class _Cast:
    """A column that does not go to the model as it is: its place among the model's inputs."""

    place: int
    name: str
    kind: str
    type: pa.DataType


class Features:
    """Takes the model's columns out of batches of one schema. Which of them must be cast, and to what, is found once:
    most columns of a wide table need nothing. `of` may be called from several threads at once."""

    def __init__(
        self,
        schema: pa.Schema,
        inputs: Sequence[tuple[str, str]],
        cast_text: TextCast | None = None,
        *,
        encoded: Collection[str] = (),
        widens: bool = False,
    ) -> None:
        """`inputs` are names and types. Columns that the model would rather have as they are (`Model.encoded`,
        `Model.widens`) are left so."""
        self._cast_text = cast_text
        places = {name: place for place, name in enumerate(schema.names)}
        self._places = [places[name] for name, _ in inputs]
        self._casts = []
        for place, (name, kind) in enumerate(inputs):
            if kind == "any":
                continue
            found, wanted = schema.field(self._places[place]).type, type_of(kind)
            as_it_is = (name in encoded and _encodes(found, wanted)) or (widens and is_exact(found, wanted))
            if found != wanted and not as_it_is:
                self._casts.append(_Cast(place=place, name=name, kind=kind, type=wanted))

    def of(
        self, data: pa.RecordBatch, numbers: np.ndarray[Any, Any]
    ) -> tuple[pa.RecordBatch, np.ndarray[Any, Any] | None, list[BadRow]]:
        """The model's columns of a batch whose rows have these numbers (int64); which rows fit (mask, None = all), and
        those that do not."""
        # What a file says of its columns beside their types is not for the model.
        features = data.select(self._places).replace_schema_metadata(None)
        if not self._casts:
            return features, None, []
        columns, bad = features.columns, list[BadRow]()
        bad_mask: np.ndarray[Any, Any] | None = None
        for cast in self._casts:
            column = columns[cast.place]
            columns[cast.place], mask = cast_rows(column, cast.type, self._cast_text)
            if mask is not None:
                fresh = mask if bad_mask is None else mask & ~bad_mask
                bad += [_unfit(int(numbers[row]), cast, column[row].as_py()) for row in np.flatnonzero(fresh).tolist()]
                bad_mask = mask if bad_mask is None else bad_mask | mask
        features = pa.RecordBatch.from_arrays(columns, names=features.schema.names)
        return features, None if bad_mask is None else ~bad_mask, bad


def _encodes(found: pa.DataType, wanted: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(found) and found.value_type == wanted)


def _unfit(number: int, cast: _Cast, value: object) -> BadRow:
    message = f"column {cast.name!r}: {str(value)[:MAX_VALUE_CHARS]!r} is not {cast.kind}"
    return BadRow(row=number, stage="convert", error="ConversionError", message=message)
