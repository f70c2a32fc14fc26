"""Rows that a model cannot take, known before it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from tidemill.domain.signature import Field
from tidemill.flavors.matrix import Array, to_arrow, values
from tidemill.flavors.types import type_of
from tidemill.ports.flavor import Predicted


def is_null(column: pa.Array) -> Array:
    """Which rows of a column are null, as booleans."""
    return values(column.is_null().cast(pa.int8())).astype(bool)


_FLOATS = ("float", "double")


def missing(fields: Sequence[Field], batch: pa.RecordBatch) -> dict[int, str]:
    """Rows that lack a value where a tensor has no way to say so: floats have NaN, others nothing."""
    errors: dict[int, str] = {}
    for field, column in zip(fields, batch.columns, strict=True):
        if field.type in _FLOATS or not column.null_count:
            continue
        message = f"column {field.name!r} is missing, and for {field.type} the model knows no missing value"
        for row in np.flatnonzero(is_null(column)).tolist():
            errors.setdefault(row, message)
    return errors


class Outputs(Protocol):
    """A rule: it knows the columns that are written."""

    @property
    def outputs(self) -> tuple[Field, ...]: ...


def no_rows(rule: Outputs) -> pa.RecordBatch:
    """The columns that a rule writes, without rows."""
    schema = pa.schema([pa.field(each.name, type_of(each.type)) for each in rule.outputs])
    return pa.RecordBatch.from_arrays([pa.nulls(0, kind) for kind in schema.types], schema=schema)


def predicted_without(
    batch: pa.RecordBatch, bad: Mapping[int, str], rule: Outputs, predict: Callable[[pa.RecordBatch], pa.RecordBatch]
) -> Predicted:
    """Predict the good rows together, as if the bad ones (position -> message) had never been in the batch."""
    rows = batch.num_rows
    if not bad:
        return Predicted(columns=predict(batch) if rows else no_rows(rule))
    good = np.setdiff1d(np.arange(rows), np.fromiter(bad, np.int64), assume_unique=True)
    if not len(good):
        schema = no_rows(rule).schema
        return Predicted(
            columns=pa.RecordBatch.from_arrays([pa.nulls(rows, kind) for kind in schema.types], schema=schema),
            row_errors=bad,
        )
    source = np.zeros(rows, np.int64)
    source[good] = np.arange(len(good))
    return Predicted(columns=predict(batch.take(to_arrow(good))).take(to_arrow(source)), row_errors=bad)
