"""The table of most workloads: random, the same everywhere, made once.

36 columns: `id`, 20 features (doubles, floats, integers, some with nulls) and 15 that nobody asks for
(numbers and strings). Written as pyarrow writes by default: snappy, dictionaries where they pay.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from benchmarks.harness.places import FOLDER
from benchmarks.workloads.workload import made

FEATURES = tuple(f"f{i:02}" for i in range(20))
ROWS_PER_FILE = 500_000
ROWS_PER_GROUP = 125_000
TRAINING_ROWS = 100_000


def table(seed: int, rows: int) -> pa.Table:
    """`rows` rows that depend on the seed alone; ids go on from seed to seed."""
    rng = np.random.default_rng(seed)
    columns: dict[str, pa.Array] = {"id": pa.array(np.arange(seed * ROWS_PER_FILE, seed * ROWS_PER_FILE + rows))}
    for i, name in enumerate(FEATURES):
        columns[name] = _feature(rng, i, rows)
    for i in range(8):
        columns[f"x{i:02}"] = pa.array(rng.normal(size=rows).round(4))
    for i in range(8, 12):
        columns[f"x{i:02}"] = pa.array(rng.integers(0, 1 << 20, rows))
    for i in range(12, 15):
        words = pa.array([f"word-{n:05}" for n in range(10 ** (i - 10))])
        columns[f"x{i:02}"] = words.take(pa.array(rng.integers(0, len(words), rows)))
    return pa.table(columns)


def _feature(rng: np.random.Generator, number: int, rows: int) -> pa.Array:
    missing = rng.random(rows) < 0.03 if number % 4 == 0 else None
    values: np.ndarray[Any, Any]
    if number < 10:
        values = rng.normal(size=rows)
    elif number < 14:
        values = rng.exponential(100, rows).round(2)
    elif number < 17:
        values = rng.random(rows, dtype=np.float32)
    else:
        values = rng.integers(0, 10 ** (number - 15), rows)
    return pa.array(values, mask=missing)


def input_folder(rows: int) -> Path:
    """A folder of Parquet files with so many rows. From 10 files on, files repeat by hard links."""

    def make(folder: Path) -> None:
        for number, start in enumerate(range(0, rows, ROWS_PER_FILE)):
            wanted = min(ROWS_PER_FILE, rows - start)
            os.link(_file(number % 10, wanted), folder / f"{number:05}.parquet")

    return made(f"rows-{rows}", make)


def csv_folder(rows: int) -> Path:
    """The same rows as CSV."""

    def make(folder: Path) -> None:
        for path in sorted(input_folder(rows).iterdir()):
            csv.write_csv(pq.read_table(path), folder / f"{path.stem}.csv")

    return made(f"rows-{rows}-csv", make)


def _file(seed: int, rows: int) -> Path:
    path = FOLDER / "files" / f"{seed:02}-{rows}-{ROWS_PER_GROUP}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".making")
        pq.write_table(table(seed, rows), scratch, row_group_size=ROWS_PER_GROUP)
        scratch.rename(path)
    return path


def training() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A matrix of the features and something to learn from them."""
    rows = table(1_000_000, TRAINING_ROWS)
    matrix = np.column_stack([rows[name].to_numpy().astype(np.float64) for name in FEATURES])
    known = np.nan_to_num(matrix)
    scale = known.std(axis=0)
    return matrix, (np.sin(known / scale) * np.arange(1, 21)).sum(axis=1) + known[:, 0] * known[:, 5]
