"""Folders that MLflow wrote, one of each kind that is claimed, for the suites of its flavors."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tidemill.flavors import mlflow_library  # noqa: F401 (its settings come before MLflow)

# isort: split
import mlflow
import mlflow.pyfunc
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

ROWS = 100
NAMES = ("a", "b", "c")

_HOME = TemporaryDirectory(prefix="tidemill-mlflow-")
_REQUIREMENTS: dict[str, Any] = {"pip_requirements": ["mlflow-skinny"]}
"""Said, so that MLflow does not load the model once more to find out."""


@cache
def frame() -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(5).normal(size=(ROWS, 3)), columns=list(NAMES))


def batch() -> pa.RecordBatch:
    """The frame as the engine hands it over."""
    return pa.RecordBatch.from_arrays([pa.array(frame()[name].tolist()) for name in NAMES], names=list(NAMES))


@cache
def words() -> np.ndarray[Any, Any]:
    return np.where(frame()["a"] > 0, "yes", "no")


def numbers() -> np.ndarray[Any, Any]:
    return np.asarray(frame()["a"] > 0, np.int64)


class Sums(mlflow.pyfunc.PythonModel):  # type: ignore[misc,unused-ignore]
    """An author's own model: a number and a word for each row."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        total = model_input["a"] * (params or {}).get("factor", 1.0) + model_input["b"]
        return pd.DataFrame({"sum": total, "sign": np.where(total > 0, "+", "-")})


@cache
def sklearn(kind: str = "skops") -> str:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(frame(), words())
    if kind == "proba":
        signature = infer_signature(frame(), model.predict_proba(frame()))
        return _saved("sklearn-proba", mlflow.sklearn.save_model, model, "predict_proba", signature)
    signature = infer_signature(frame(), model.predict(frame()))
    if kind == "cloudpickle":
        return _saved("sklearn-pickle", mlflow.sklearn.save_model, model, None, signature, "cloudpickle")
    return _saved("sklearn", mlflow.sklearn.save_model, model, None, signature)


@cache
def forest() -> str:
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(3, random_state=0).fit(frame(), words())
    path = _path("forest")
    trusted = ["sklearn.tree._tree.Tree"]
    mlflow.sklearn.save_model(model, path, skops_trusted_types=trusted, **_REQUIREMENTS)
    return path


@cache
def lightgbm(kind: str = "booster") -> str:
    import lightgbm as library

    if kind == "classifier":
        model = library.LGBMClassifier(n_estimators=3, num_leaves=4, verbose=-1, n_jobs=1).fit(frame(), words())
        signature = infer_signature(frame(), model.predict(frame()))
    else:
        settings = {"objective": "binary", "verbose": -1, "num_leaves": 4, "num_threads": 1}
        model = library.train(settings, library.Dataset(frame(), numbers()), 3)
        signature = infer_signature(frame(), model.predict(frame()))
    path = _path(f"lightgbm-{kind}")
    mlflow.lightgbm.save_model(model, path, signature=signature, **_REQUIREMENTS)
    return path


@cache
def xgboost(kind: str = "booster") -> str:
    import xgboost as library

    if kind == "classifier":
        model = library.XGBClassifier(n_estimators=3, max_depth=2, n_jobs=1).fit(frame(), numbers())
    else:
        settings = {"objective": "binary:logistic", "max_depth": 2, "nthread": 1}
        model = library.train(settings, library.DMatrix(frame(), numbers()), 3)
    path = _path(f"xgboost-{kind}")
    mlflow.xgboost.save_model(model, path, **_REQUIREMENTS)
    return path


@cache
def catboost() -> str:
    import catboost as library

    model = library.CatBoostClassifier(iterations=3, depth=2, verbose=0, thread_count=1, allow_writing_files=False)
    model.fit(frame(), words())
    path = _path("catboost")
    signature = infer_signature(frame(), model.predict(frame()))
    mlflow.catboost.save_model(model, path, signature=signature, **_REQUIREMENTS)
    return path


@cache
def onnx() -> str:
    from skl2onnx import to_onnx
    from sklearn.linear_model import LinearRegression

    data = frame().astype(np.float32)
    model = to_onnx(LinearRegression().fit(data, data["a"] * 2 - data["c"]), data.to_numpy()[:1])
    path = _path("onnx")
    signature = infer_signature(data, np.zeros((2, 1), np.float32))
    mlflow.onnx.save_model(model, path, signature=signature, **_REQUIREMENTS)
    return path


@cache
def pytorch(kind: str) -> str:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    data = frame().to_numpy(np.float32)
    path = _path(f"pytorch-{kind}")
    more: dict[str, Any] = {"input_example": data[:2]} if kind == "pt2" else {}
    signature = infer_signature(data, np.zeros((2, 2), np.float32))
    mlflow.pytorch.save_model(net, path, serialization_format=kind, signature=signature, **more, **_REQUIREMENTS)
    return path


@cache
def own() -> str:
    inputs = Schema([ColSpec(DataType.double, name) for name in NAMES])
    outputs = Schema([ColSpec(DataType.double, "sum"), ColSpec(DataType.string, "sign")])
    parameters = ParamSchema([ParamSpec("factor", DataType.double, 1.0)])
    signature = ModelSignature(inputs, outputs, parameters)
    return saved("own", Sums(), signature=signature)


def saved(name: str, model: Any, **more: Any) -> str:
    """The folder of an author's own model: a PythonModel or a function."""
    path = _path(name)
    mlflow.pyfunc.save_model(path, python_model=model, **more, **_REQUIREMENTS)
    return path


def _saved(name: str, save: Callable[..., None], model: Any, function: Any, signature: Any, form: Any = None) -> str:
    path = _path(name)
    more = {"pyfunc_predict_fn": function} if function else {}
    save(model, path, serialization_format=form, signature=signature, **more, **_REQUIREMENTS)
    return path


def _path(name: str) -> str:
    return os.path.join(_HOME.name, name)


def edited(folder: str, target: Path, *changes: tuple[str, str]) -> str:
    """A copy of a folder whose MLmodel has other words in it."""
    import shutil

    shutil.copytree(folder, target)
    file = target / "MLmodel"
    text = file.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")
    return str(target)


def says(path: str, data: Any) -> Any:
    """What MLflow itself predicts."""
    return mlflow.pyfunc.load_model(path, suppress_warnings=True).predict(data)
