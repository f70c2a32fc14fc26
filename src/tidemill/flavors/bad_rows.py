"""Rows that a model cannot take, known before it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from tidemill.flavors.decision import AnyRule, no_rows
from tidemill.flavors.matrix import Array, to_arrow, values
from tidemill.ports.flavor import Predicted


def is_null(column: pa.Array) -> Array:
    """Which rows of a column are null, as booleans."""
    return values(column.is_null().cast(pa.int8())).astype(bool)


def predicted_without(
    batch: pa.RecordBatch, bad: Mapping[int, str], rule: AnyRule, predict: Callable[[pa.RecordBatch], pa.RecordBatch]
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
