"""W7: very wide and very narrow."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.workloads.line_ups import CLUSTERS, MAIN, OWN, SCRIPTS
from benchmarks.workloads.workload import Prepared, Workload, made

WIDTH = 2_000
WIDE_ROWS_PER_FILE = 10_000
NARROW_ROWS_PER_FILE = 2_500_000


def wide_table(seed: int, rows: int) -> pa.Table:
    """`id` and 2,000 columns of 32-bit floats."""
    values = np.random.default_rng(seed).normal(size=(WIDTH, rows)).astype(np.float32)
    ids = np.arange(seed * WIDE_ROWS_PER_FILE, seed * WIDE_ROWS_PER_FILE + rows)
    return pa.table({"id": ids, **{f"f{n:04}": values[n] for n in range(WIDTH)}})


def narrow_table(seed: int, rows: int) -> pa.Table:
    """`id` and one column."""
    ids = np.arange(seed * NARROW_ROWS_PER_FILE, seed * NARROW_ROWS_PER_FILE + rows)
    return pa.table({"id": ids, "x": np.random.default_rng(seed).normal(size=rows).round(5)})


def wide_folder(rows: int) -> Path:
    def make(folder: Path) -> None:
        for number, start in enumerate(range(0, rows, WIDE_ROWS_PER_FILE)):
            table = wide_table(number, min(WIDE_ROWS_PER_FILE, rows - start))
            pq.write_table(table, folder / f"{number:05}.parquet", use_dictionary=False)

    return made(f"wide-{rows}", make)


def narrow_folder(rows: int) -> Path:
    """From 4 files on they repeat by hard links."""

    def make(folder: Path) -> None:
        for number, start in enumerate(range(0, rows, NARROW_ROWS_PER_FILE)):
            path, wanted = folder / f"{number:05}.parquet", min(NARROW_ROWS_PER_FILE, rows - start)
            if number >= 4 and wanted == NARROW_ROWS_PER_FILE:
                os.link(folder / f"{number % 4:05}.parquet", path)
            else:
                pq.write_table(narrow_table(number, wanted), path, row_group_size=500_000)

    return made(f"narrow-{rows}", make)


def model_file(table: pa.Table, *, trees: int, leaves: int) -> Path:
    """LightGBM on all columns of a table but `id`."""
    names = table.schema.names[1:]

    def make(folder: Path) -> None:
        import lightgbm as lgb

        matrix = np.column_stack([table[name].to_numpy() for name in names]).astype(np.float64)
        target = np.sin(matrix[:, : min(50, len(names))] * 3).sum(axis=1)
        settings = {"objective": "regression", "num_leaves": leaves, "verbose": -1, "seed": 1, "num_threads": 1}
        booster = lgb.train(settings, lgb.Dataset(matrix, target, feature_name=names), num_boost_round=trees)
        booster.save_model(folder / "model.txt")

    return made(f"lightgbm-{len(names)}-columns-{trees}x{leaves}", make) / "model.txt"


def _wide(rows: int) -> Prepared:
    model = model_file(wide_table(1_000, 4_000), trees=100, leaves=31)
    return Prepared(model=model, source=wide_folder(rows), small=wide_folder(1_000))


def _narrow(rows: int) -> Prepared:
    model = model_file(narrow_table(1_000, 100_000), trees=10, leaves=15)
    return Prepared(model=model, source=narrow_folder(rows), small=narrow_folder(1_000))


WORKLOADS = (
    Workload(
        name="W7-wide",
        title="2,000 columns of Parquet, LightGBM with 100 trees",
        rows=40_000,
        quick_rows=5_000,
        make=_wide,
        tolerance=1e-12,
        contestants=MAIN,
        family="lightgbm",
    ),
    Workload(
        name="W7-narrow",
        title="2 columns of Parquet, LightGBM with 10 trees of 15 leaves",
        rows=50_000_000,
        quick_rows=500_000,
        make=_narrow,
        tolerance=1e-12,
        contestants=("floor", *OWN, *SCRIPTS, *CLUSTERS),
        family="lightgbm",
    ),
)
