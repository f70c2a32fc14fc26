"""Classes of one's own that return what pandas or Polars hold."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tidemill.flavors.python import PythonFlavor
from tidemill.flavors.python_result import columns_of
from tidemill.ports.flavor import Model

ROWS = pa.RecordBatch.from_pydict({"x": [1.0, 2.5, -3.0]})


def returning(folder: Path, expression: str) -> Model:
    path = folder / "model.py"
    path.write_text(
        "import numpy as np, pandas as pd, polars as pl\n"
        f"class M:\n    def predict(self, batch):\n        x = np.asarray(batch['x'])\n        return {expression}\n"
    )
    return PythonFlavor().load(f"{path}:M", {})


@pytest.mark.parametrize(
    "expression",
    [
        "pd.Series(x * 2, index=[5, 6, 7])",
        "pd.DataFrame({'prediction': x * 2}, index=[5, 6, 7])",
        "pl.Series(x * 2)",
        "pl.DataFrame({'prediction': x * 2})",
    ],
)
def test_anything_that_is_a_column(tmp_path: Path, expression: str) -> None:
    found = returning(tmp_path, expression).predict(ROWS).columns
    assert found.to_pydict() == {"prediction": [2.0, 5.0, -6.0]}
    assert found.schema.field(0).type == pa.float64()


def test_other_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="columns score; expected prediction"):
        returning(tmp_path, "pd.DataFrame({'score': x})").predict(ROWS)


def test_frames_with_numbers_for_names() -> None:
    assert list(columns_of(pd.DataFrame([[1, 2]]), ("p",))) == ["0", "1"]
    assert columns_of(pl.DataFrame({"p": [True]}), ("p",))["p"].to_pylist() == [True]
