"""MLflow folders of every framework, scored by MLflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.contract import mlflow_models as models
from tidemill.domain.errors import InvalidSpec
from tidemill.flavors.mlflow import MlflowFlavor
from tidemill.ports.flavor import Model

Make = Callable[[], str]


def load(path: str, **options: Any) -> Model:
    return MlflowFlavor().load(path, options)


@pytest.mark.parametrize(
    "make",
    [
        models.sklearn,
        models.forest,
        lambda: models.sklearn("cloudpickle"),
        lambda: models.sklearn("proba"),
        models.lightgbm,
        lambda: models.lightgbm("classifier"),
        models.xgboost,
        lambda: models.xgboost("classifier"),
        models.catboost,
    ],
    ids=["skops", "forest", "cloudpickle", "proba", "booster", "lgbm", "xgb booster", "xgb", "catboost"],
)
def test_every_framework_predicts_what_mlflow_does(make: Make) -> None:
    model = load(make())
    assert [field.name for field in model.info.inputs] == list(models.NAMES)
    said = np.asarray(models.says(make(), models.frame()))
    said = said.reshape(len(said), -1)
    found = model.predict(models.batch()).columns
    assert found.num_columns == said.shape[1]
    assert [column.to_pylist() for column in found.columns] == said.T.tolist()
    assert [field.type for field in model.info.outputs] == [str(kind) for kind in found.schema.types]


@pytest.mark.parametrize("kind", ["pickle", "pt2"])
def test_pytorch_takes_tensors(kind: str) -> None:
    assert load(models.pytorch(kind)).info.positional == 3
    model = load(models.pytorch(kind), features=models.NAMES)
    assert [(field.name, field.type) for field in model.info.inputs] == [(name, "float") for name in models.NAMES]
    data = models.frame().to_numpy(np.float32)
    rows = pa.RecordBatch.from_arrays([pa.array(data[:, n]) for n in range(3)], names=list(models.NAMES))
    found = model.predict(rows).columns
    assert found.schema == pa.schema([("prediction_0", pa.float32()), ("prediction_1", pa.float32())])
    said = models.says(models.pytorch(kind), data)
    assert [column.to_pylist() for column in found.columns] == said.T.tolist()


def test_onnx_by_mlflow_gives_what_it_calls_its_output() -> None:
    data = models.frame().astype(np.float32)
    found = load(models.onnx()).predict(pa.RecordBatch.from_pandas(data)).columns
    assert found.to_pydict() == {"variable": models.says(models.onnx(), data)["variable"].tolist()}


@pytest.mark.parametrize("rows", [0, 1])
def test_tensors_of_few_rows(rows: int) -> None:
    model = load(models.pytorch("pickle"), features=models.NAMES)
    batch = pa.RecordBatch.from_arrays([pa.array([0.5] * rows, pa.float32())] * 3, names=list(models.NAMES))
    assert model.predict(batch).columns.num_rows == rows


def test_options_of_classifiers_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="decides itself"):
        load(models.sklearn(), probabilities=True)
