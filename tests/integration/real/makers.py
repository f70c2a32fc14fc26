"""Models of every flavor on a data set, and what their own library predicts on its frame.

To add a flavor, write a function and its row in `MAKERS`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.integration.real.data_sets import DataSet

Vector = np.ndarray[Any, Any]
SCORE = Path(__file__).with_name("score.py")


@dataclass(frozen=True, kw_only=True)
class Made:
    """A model, and its predictions for the rows of its data set in their order."""

    path: str
    expected: Mapping[str, Any]
    """Output column -> values, to the bit."""
    predict: Mapping[str, Any] = field(default_factory=dict)
    features: Sequence[str] = ()
    """The model's columns, where it does not know them by the names that the data set has."""
    rejected: frozenset[int] = frozenset()
    """Rows that the model cannot take; the others have their places in `expected`."""


def classified(probabilities: Vector, classes: Sequence[Any]) -> dict[str, Any]:
    """The columns of a classifier that writes all probabilities (rows x classes)."""
    labels = [classes[place] for place in probabilities.argmax(axis=1).tolist()]
    columns: dict[str, Any] = {"prediction": labels}
    if len(classes) == 2:
        columns["probability"] = probabilities[:, 1]
    return columns | {f"probability_{name}": probabilities[:, place] for place, name in enumerate(classes)}


def both(positive: Vector) -> Vector:
    """Probabilities of the negative and of the positive class."""
    return np.column_stack([1 - positive, positive])


def codes(data: DataSet) -> Vector:
    """The target as numbers of classes."""
    return np.searchsorted(np.array(data.classes), data.target)


def categorical(data: DataSet) -> pd.DataFrame:
    """The features, text as pandas' categories."""
    return data.frame[data.features].astype(dict.fromkeys(data.categories, "category"))


def lightgbm(data: DataSet, folder: Path) -> Made:
    import lightgbm

    objective = {"regression": "regression", "binary": "binary", "multiclass": "multiclass"}[data.task]
    settings = {"objective": objective, "num_leaves": 7, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1}
    if data.task == "multiclass":
        settings["num_class"] = len(data.classes)
    labels = data.target if data.task == "regression" else codes(data)
    frame = categorical(data).rename(columns=lambda name: name.replace(" ", "_"))
    booster = lightgbm.train(settings, lightgbm.Dataset(frame, labels), 10)
    booster.save_model(folder / "model.txt")
    found = booster.predict(frame, num_threads=1)
    path = str(folder / "model.txt")
    if data.task == "regression":
        return Made(path=path, expected={"prediction": found}, features=data.features)
    probabilities = both(found) if data.task == "binary" else found
    expected = classified(probabilities, range(len(data.classes)))
    return Made(path=path, expected=expected, predict={"probabilities": True}, features=data.features)


def xgboost(data: DataSet, folder: Path) -> Made:
    import xgboost

    settings = {"n_estimators": 8, "max_depth": 4, "n_jobs": 1, "enable_categorical": True}
    frame, path = categorical(data), folder / "model.ubj"
    if data.task == "regression":
        regressor = xgboost.XGBRegressor(**settings).fit(frame, data.target)
        regressor.save_model(path)
        return Made(path=str(path), expected={"prediction": regressor.predict(frame)})
    classifier = xgboost.XGBClassifier(**settings).fit(frame, codes(data))
    classifier.save_model(path)
    expected = classified(classifier.predict_proba(frame), range(len(data.classes)))
    expected["prediction"] = classifier.predict(frame).tolist()
    return Made(path=str(path), expected=expected, predict={"probabilities": True})


def catboost(data: DataSet, folder: Path) -> Made:
    """It takes no row that lacks a category, in training neither."""
    import catboost

    settings = {"iterations": 8, "depth": 4, "verbose": 0, "thread_count": 1, "allow_writing_files": False}
    lacking = data.frame[list(data.categories)].isna().any(axis=1).to_numpy()
    frame, target = data.frame[~lacking][data.features], data.target[~lacking]
    kind = catboost.CatBoostRegressor if data.task == "regression" else catboost.CatBoostClassifier
    model = kind(**settings).fit(frame, target, cat_features=list(data.categories))
    model.save_model(folder / "model.cbm")
    prediction = model.predict(frame, thread_count=1).ravel()
    expected: dict[str, Any] = {"prediction": prediction}
    if data.task != "regression":
        expected = classified(model.predict_proba(frame, thread_count=1), model.classes_.tolist())
        expected["prediction"] = prediction.tolist()
    return Made(
        path=str(folder / "model.cbm"),
        expected=expected,
        predict={"probabilities": data.task != "regression"},
        rejected=frozenset(np.flatnonzero(lacking).tolist()),
    )


def linear(data: DataSet) -> Any:
    """A fitted pipeline: gaps filled, numbers scaled, categories one-hot, then a linear model."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    categories = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    front = make_column_transformer((numbers, list(data.numbers)), (categories, list(data.categories)))
    final = Ridge() if data.task == "regression" else LogisticRegression(max_iter=500)
    return make_pipeline(front, final).fit(data.frame[data.features], data.target)


def forest(data: DataSet) -> Any:
    """A fitted forest on the numbers, gaps and all."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    kind = RandomForestRegressor if data.task == "regression" else RandomForestClassifier
    return kind(8, max_depth=6, random_state=0).fit(data.frame[list(data.numbers)], data.target)


def of_sklearn(estimator: Any, frame: pd.DataFrame, path: Path) -> Made:
    """What scikit-learn itself says of a frame."""
    if not hasattr(estimator, "predict_proba"):
        return Made(path=str(path), expected={"prediction": estimator.predict(frame)})
    expected = classified(estimator.predict_proba(frame), estimator.classes_.tolist())
    expected["prediction"] = estimator.predict(frame).tolist()
    return Made(path=str(path), expected=expected, predict={"probabilities": True})


def skops(data: DataSet, folder: Path) -> Made:
    import skops.io

    estimator = linear(data)
    skops.io.dump(estimator, folder / "model.skops")
    return of_sklearn(estimator, data.frame[data.features], folder / "model.skops")


def joblib(data: DataSet, folder: Path) -> Made:
    import joblib

    estimator = forest(data)
    joblib.dump(estimator, folder / "model.joblib", compress=3)
    return of_sklearn(estimator, data.frame[list(data.numbers)], folder / "model.joblib")


def onnx(data: DataSet, folder: Path) -> Made:
    """The linear pipeline, each column an input of its own: numbers as 32-bit floats, categories as text."""
    import onnxruntime
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    kinds: list[tuple[str, Any]] = [(name, FloatTensorType([None, 1])) for name in data.numbers]
    kinds += [(name, StringTensorType([None, 1])) for name in data.categories]
    options = {} if data.task == "regression" else {"zipmap": False}
    model = to_onnx(linear(data), initial_types=kinds, options=options)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    # ONNX knows missing numbers, but no missing text.
    lacking = data.frame[list(data.categories)].isna().any(axis=1).to_numpy()
    frame = data.frame[~lacking]
    columns = [frame[[name]].to_numpy(np.float32) for name in data.numbers]
    columns += [frame[[name]].to_numpy(object) for name in data.categories]
    # skl2onnx writes names with _ for spaces.
    feed = {tensor.name: column for tensor, column in zip(session.get_inputs(), columns, strict=True)}
    label, *probabilities = session.run(None, feed)
    expected: dict[str, Any] = {"prediction": label.ravel()}
    if probabilities:
        expected = {**classified(probabilities[0], data.classes), "prediction": label.tolist()}
    return Made(
        path=str(path),
        expected=expected,
        predict={"probabilities": bool(probabilities)},
        features=data.features,
        rejected=frozenset(np.flatnonzero(lacking).tolist()),
    )


def torch(data: DataSet, folder: Path) -> Made:
    """A small network in TorchScript over the numbers as 32-bit floats; a missing one makes all that follows NaN."""
    import torch

    # Rows one after the other: PyTorch sums columns that lie so in another order, with other last bits.
    matrix = np.ascontiguousarray(data.frame[list(data.numbers)].to_numpy(np.float32))
    width = 1 if data.task == "regression" else len(data.classes)
    torch.manual_seed(5)
    torch.set_num_threads(1)
    layers = [torch.nn.BatchNorm1d(matrix.shape[1]), torch.nn.Linear(matrix.shape[1], 8), torch.nn.Tanh()]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(8, width))
    whole = torch.from_numpy(matrix[~np.isnan(matrix).any(axis=1)])
    for _ in range(30):
        net(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net.eval()).save(folder / "model.pt")
    with torch.inference_mode():
        found = net(torch.from_numpy(matrix))
        probabilities = torch.softmax(found, 1).numpy()
    path, features = str(folder / "model.pt"), list(data.numbers)
    if data.task == "regression":
        return Made(path=path, expected={"prediction": found.numpy().ravel()}, features=features)
    options = {"activation": "softmax", "classes": data.classes}
    expected = classified(probabilities, data.classes)
    return Made(path=path, expected=expected, predict={"probabilities": True, "options": options}, features=features)


def mlflow(data: DataSet, folder: Path) -> Made:
    """The linear pipeline in MLflow's folder, as skops: the file that Tidemill itself scores."""
    from tidemill.flavors import mlflow_library  # noqa: F401 (its settings come before MLflow)

    # isort: split
    import mlflow
    from mlflow.models import infer_signature

    estimator, frame = linear(data), data.frame[data.features]
    signature = infer_signature(frame, estimator.predict(frame))
    words = {"signature": signature, "skops_trusted_types": ["numpy.dtype"], "pip_requirements": ["mlflow-skinny"]}
    mlflow.sklearn.save_model(estimator, folder / "model", **words)
    return of_sklearn(estimator, frame, folder / "model")


def mlflow_pyfunc(data: DataSet, folder: Path) -> Made:
    """The forest in MLflow's folder, pickled: what `mlflow.pyfunc` scores."""
    from tidemill.flavors import mlflow_library  # noqa: F401 (its settings come before MLflow)

    # isort: split
    import mlflow
    from mlflow.models import infer_signature

    # MLflow takes no whole numbers where the signature has others: it is that of the frame as it is.
    frame = data.frame[list(data.numbers)]
    estimator, path = forest(data), folder / "model"
    signature = infer_signature(frame, estimator.predict(frame))
    words = {"signature": signature, "serialization_format": "cloudpickle", "pip_requirements": ["mlflow-skinny"]}
    mlflow.sklearn.save_model(estimator, path, **words)
    return Made(path=str(path), expected={"prediction": mlflow.pyfunc.load_model(str(path)).predict(frame)})


def python(data: DataSet, folder: Path) -> Made:
    """A class that is told its columns; what it does is done here once more, by other means."""
    frame = data.frame
    total = np.zeros(len(frame))
    for name in data.numbers:
        total += frame[name].astype(float).fillna(-1.0).to_numpy()
    for name in data.categories:
        total += frame[name].str.len().fillna(0).to_numpy()
    options = {"numbers": list(data.numbers), "categories": list(data.categories)}
    return Made(path=f"{SCORE}:Score", expected={"prediction": total}, predict={"options": options})


Maker = Callable[[DataSet, Path], Made]

MAKERS: dict[str, Maker] = {
    "lightgbm": lightgbm,
    "xgboost": xgboost,
    "catboost": catboost,
    "sklearn-skops": skops,
    "sklearn-joblib": joblib,
    "onnx": onnx,
    "torch": torch,
    "mlflow": mlflow,
    "mlflow-pyfunc": mlflow_pyfunc,
    "python": python,
}
