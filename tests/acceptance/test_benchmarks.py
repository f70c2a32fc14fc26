"""The scripts that are compared with Tidemill give what it gives, by the harness that measures them."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from benchmarks.harness import contest, contestants
from benchmarks.workloads.rows import FEATURES, table
from benchmarks.workloads.workload import Prepared, Workload

ROWS = 500


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_floor_scripts_and_tidemill_agree(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table(1, ROWS)
    source = tmp_path / "rows"
    source.mkdir()
    if format == "csv":
        csv.write_csv(rows, source / "00000.csv")
    else:
        pq.write_table(rows, source / "00000.parquet")
    matrix = np.column_stack([rows[name].to_numpy().astype(float) for name in FEATURES])
    data = lgb.Dataset(matrix, np.nan_to_num(matrix[:, 0]), feature_name=list(FEATURES))
    settings = {"objective": "regression", "num_leaves": 7, "verbose": -1, "num_threads": 1}
    lgb.train(settings, data, num_boost_round=3).save_model(tmp_path / "model.txt")
    numbers = itertools.count()
    # The environment of the tests has all that those of pandas and pyarrow would have.
    monkeypatch.setattr(contestants, "python_of", lambda engine, make=True: Path(sys.executable))
    monkeypatch.setattr(contest, "empty_output", lambda: tmp_path / f"scores-{next(numbers)}")
    monkeypatch.setitem(contestants.ENVIRONMENT, "TIDEMILL_HOME", str(tmp_path / "home"))
    prepared = Prepared(model=tmp_path / "model.txt", source=source, small=source)
    work = Workload(
        name="W0", title="", rows=ROWS, quick_rows=ROWS, make=lambda rows: prepared, tolerance=1e-12,
        contestants=(), family="lightgbm",
    )  # fmt: skip
    names = ["floor", "tidemill", "pandas", "pyarrow"] if format == "parquet" else ["floor", "pandas", "pyarrow"]
    found = contest.hold(work, names, rows=ROWS, rounds=1, quick=False, make=False)
    assert found.failed == {}
    assert {name: runs[0]["rows"] for name, runs in found.runs.items()} == dict.fromkeys(names, ROWS)
    assert found.runs["floor"][0]["stages"]["predict"] > 0
    if format == "parquet":
        assert found.runs["tidemill"][0]["chunks"] == 1
