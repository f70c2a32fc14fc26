"""XGBoost models on the shipped suite, with what its extra brings."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xgboost

from tidemill.flavors.xgboost import XGBoostFlavor
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
def booster() -> xgboost.Booster:
    target = np.digitize(np.nan_to_num(data()) @ [1.0, -0.5, 0.2], [-0.5, 0.5])
    settings = {"objective": "multi:softprob", "num_class": 3, "max_depth": 4, "nthread": 1}
    return xgboost.train(settings, xgboost.DMatrix(data(), target, feature_names=NAMES), 6)


class TestXGBoost(FileFlavorContract):
    flavor_class = XGBoostFlavor
    framework = ("xgboost", "sklearn", "pandas", "scipy")

    @pytest.fixture(autouse=True)
    def _made(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        path = tmp_path_factory.getbasetemp() / "numbers.ubj"
        self._path = str(path)
        if not path.exists():
            booster().save_model(path)

    def case(self) -> Case:
        p = booster().predict(xgboost.DMatrix(data(), feature_names=NAMES))
        expected = {"prediction": pa.array(p.argmax(axis=1))} | {
            f"probability_{n}": pa.array(p[:, n]) for n in range(3)
        }
        rows = pa.RecordBatch.from_arrays([pa.array(data()[:, n]) for n in range(3)], names=NAMES)
        return Case(path=self._path, rows=rows, expected=expected, options={"probabilities": True})
