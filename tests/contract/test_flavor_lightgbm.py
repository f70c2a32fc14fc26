"""LightGBM text models on the shipped suite, with what its extra brings."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pytest

from tidemill.flavors.lightgbm import MANY_COLUMNS, LightGBMFlavor
from tidemill.testing.flavor import Case, FileFlavorContract

NAMES = ["a", "b", "c"]


@cache
def data() -> np.ndarray[Any, Any]:
    """Numbers with gaps."""
    random = np.random.default_rng(7)
    values = random.normal(size=(300, 3))
    values[random.random((300, 3)) < 0.1] = np.nan
    return values


@cache
def booster() -> lightgbm.Booster:
    target = (np.nan_to_num(data()) @ [1.0, -0.5, 0.2] > 0).astype(int)
    settings = {"objective": "binary", "num_leaves": 15, "verbose": -1, "seed": 3, "num_threads": 1}
    return lightgbm.train(settings, lightgbm.Dataset(data(), target, feature_name=NAMES), 20)


def test_a_table_of_many_columns_gives_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    values = random.normal(size=(500, MANY_COLUMNS + 9))
    values[random.random(values.shape) < 0.1] = np.nan
    target = np.nan_to_num(values) @ np.arange(MANY_COLUMNS + 9)
    names = [f"f{number}" for number in range(MANY_COLUMNS + 9)]
    settings = {"objective": "regression", "num_leaves": 15, "verbose": -1, "seed": 3, "num_threads": 1}
    wide = lightgbm.train(settings, lightgbm.Dataset(values, target, feature_name=names), 20)
    wide.save_model(tmp_path / "wide.txt")
    rows = pa.RecordBatch.from_arrays([pa.array(column) for column in values.T], names=names)
    found = LightGBMFlavor().load(str(tmp_path / "wide.txt"), {}).predict(rows)
    assert found.columns["prediction"].to_pylist() == wide.predict(values, num_threads=1).tolist()


class TestLightGBM(FileFlavorContract):
    flavor_class = LightGBMFlavor
    framework = ("lightgbm", "sklearn", "pandas", "scipy")

    @pytest.fixture(autouse=True)
    def _made(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        path = tmp_path_factory.getbasetemp() / "numbers.txt"
        self._path = str(path)
        if not path.exists():
            booster().save_model(path)

    def case(self) -> Case:
        p = booster().predict(data(), num_threads=1)
        rows = pa.RecordBatch.from_arrays([pa.array(data()[:, n]) for n in range(3)], names=NAMES)
        expected = {"prediction": pa.array((p > 0.5).astype(int)), "probability": pa.array(p)}
        return Case(path=self._path, rows=rows, expected=expected)
