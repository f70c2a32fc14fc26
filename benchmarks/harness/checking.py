"""Whoever is fast must also be right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

Array = np.ndarray


def predictions(folder: Path) -> tuple[Array, Array]:
    """Ids (int64, ascending) and predictions (float64) in all Parquet files below a folder. Nulls are NaN."""
    files = sorted(str(path) for path in folder.rglob("*.parquet"))
    table = ds.dataset(files, format="parquet").to_table(columns=["id", "prediction"]) if files else None
    if table is None:
        return np.empty(0, np.int64), np.empty(0)
    # Kept columns of CSV stay the text that they were.
    ids = table["id"].cast(pa.int64()).to_numpy()
    values = table["prediction"].cast(pa.float64()).to_numpy()
    if np.all(ids[1:] >= ids[:-1]):
        return ids, values
    order = np.argsort(ids, kind="stable")
    return ids[order], values[order]


def difference(found: tuple[Array, Array], expected: tuple[Array, Array]) -> float:
    """The largest difference of two predictions for the same id, as a share of the spread of all.

    Infinite where one of the two is NaN. Raises ValueError if the ids differ.
    """
    (found_ids, found_values), (ids, values) = found, expected
    if len(found_ids) != len(ids):
        raise ValueError(f"gave {len(found_ids):,} rows of {len(ids):,}")
    if not np.array_equal(found_ids, ids):
        raise ValueError("gave predictions for other ids")
    if not len(ids):
        return 0.0
    if not np.array_equal(np.isnan(found_values), np.isnan(values)):
        return float("inf")
    spread = float(np.nanstd(values)) or 1.0
    return float(np.nanmax(np.abs(found_values - values), initial=0.0)) / spread
