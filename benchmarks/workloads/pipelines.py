"""W2: a scikit-learn pipeline over columns of words and numbers; a linear model or histogram boosting ends it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.workloads.line_ups import MAIN
from benchmarks.workloads.workload import Prepared, Workload, made

WORDS = {"c0": 3, "c1": 5, "c2": 12, "c3": 30, "c4": 50}
"""Columns of words, and how many different ones each has."""

NUMBERS = tuple(f"n{i}" for i in range(10))
ROWS_PER_FILE = 250_000
TRAINING_ROWS = 50_000


def table(seed: int, rows: int) -> pa.Table:
    """`id`, 5 columns of words, 10 of numbers, and 9 that nobody asks for. Ids go on from seed to seed."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"id": np.arange(seed * ROWS_PER_FILE, seed * ROWS_PER_FILE + rows)}
    for name, count in WORDS.items():
        words = pa.array([f"{name}-{n:02}" for n in range(count)])
        columns[name] = words.take(pa.array(rng.integers(0, count, rows)))
    for i, name in enumerate(NUMBERS):
        columns[name] = rng.normal(10.0 * i, 1 + i, rows).round(3)
    for i in range(9):
        columns[f"x{i}"] = rng.normal(size=rows).round(3)
    return pa.table(columns)


def input_folder(rows: int) -> Path:
    """A folder of Parquet files; from 8 files on they repeat by hard links."""

    def make(folder: Path) -> None:
        for number, start in enumerate(range(0, rows, ROWS_PER_FILE)):
            path, wanted = folder / f"{number:05}.parquet", min(ROWS_PER_FILE, rows - start)
            twin = folder / f"{number % 8:05}.parquet"
            if number >= 8 and wanted == ROWS_PER_FILE:
                os.link(twin, path)
            else:
                pq.write_table(table(number, wanted), path, row_group_size=125_000)

    return made(f"words-and-numbers-{rows}", make)


def model_file(last: str) -> Path:
    """The pipeline as joblib; `last` is `linear` or `boosting`."""

    def make(folder: Path) -> None:
        import joblib
        from sklearn.compose import ColumnTransformer
        from sklearn.ensemble import HistGradientBoostingRegressor
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        frame = table(1_000_000, TRAINING_ROWS).to_pandas()
        target = sum(np.sin(frame[name] / (1 + i)) for i, name in enumerate(NUMBERS))
        target = target + sum(frame[name].str[-2:].astype(float) % 7 for name in WORDS)
        encode = ColumnTransformer(
            [
                ("words", OneHotEncoder(handle_unknown="ignore", sparse_output=False), list(WORDS)),
                ("numbers", StandardScaler(), list(NUMBERS)),
            ]
        )
        model = Ridge() if last == "linear" else HistGradientBoostingRegressor(max_iter=200, random_state=1)
        joblib.dump(make_pipeline(encode, model).fit(frame[[*WORDS, *NUMBERS]], target), folder / "model.joblib")

    return made(f"pipeline-{last}", make) / "model.joblib"


def _prepared(last: str, rows: int) -> Prepared:
    return Prepared(model=model_file(last), source=input_folder(rows), small=input_folder(1_000), trust=True)


WORKLOADS = (
    Workload(
        name="W2-linear",
        title="scikit-learn: one-hot and scaler, then a ridge regression",
        rows=4_000_000,
        quick_rows=100_000,
        make=lambda rows: _prepared("linear", rows),
        tolerance=1e-9,
        contestants=MAIN,
        family="linear",
        kernel_target=8,
    ),
    Workload(
        name="W2-boosting",
        title="scikit-learn: one-hot and scaler, then histogram boosting of 200 trees",
        rows=500_000,
        quick_rows=50_000,
        make=lambda rows: _prepared("boosting", rows),
        tolerance=1e-9,
        contestants=MAIN,
        family="boosting",
    ),
)
