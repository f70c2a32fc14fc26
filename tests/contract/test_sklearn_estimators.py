"""Every estimator of scikit-learn that predicts: the flavors say what it says, to the bit."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skops.io
from sklearn.base import ClassifierMixin, RegressorMixin, is_classifier, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
from sklearn.utils import all_estimators

from tidemill.domain.errors import ModelUnusable
from tidemill.flavors.options import PredictOptions
from tidemill.flavors.sklearn import PickleFlavor, SklearnFlavor, model_of
from tidemill.ports.flavor import Model

ROWS = 40
CLASSES = dict(all_estimators())
BY_ATTRIBUTE = {"FrozenEstimator", "LocalOutlierFactor"}
"""Those whose `predict` is not there before they are made, or fitted."""
PREDICTING = sorted(name for name, kind in CLASSES.items() if hasattr(kind, "predict") or name in BY_ATTRIBUTE)
OTHERS = sorted(set(CLASSES) - set(PREDICTING))

NOT_SKOPS = {"Birch"}
"""skops cannot write it: its tree refers to itself. It goes by pickle."""
SETTINGS: dict[str, dict[str, Any]] = {
    "LocalOutlierFactor": {"novelty": True},
    "LogisticRegressionCV": {"Cs": 2, "cv": 2},
    "HistGradientBoostingClassifier": {"max_iter": 2},
    "HistGradientBoostingRegressor": {"max_iter": 2},
    "CalibratedClassifierCV": {"cv": 2},
    "TunedThresholdClassifierCV": {"cv": 2, "thresholds": 3},
    "GridSearchCV": {"param_grid": {"tol": [1e-3]}, "cv": 2},
    "HalvingGridSearchCV": {"param_grid": {"tol": [1e-3]}, "cv": 2},
    "RandomizedSearchCV": {"param_distributions": {"tol": [1e-3]}, "cv": 2, "n_iter": 1},
    "HalvingRandomSearchCV": {"param_distributions": {"tol": [1e-3]}, "cv": 2},
    "Pipeline": {"steps": [("r", Ridge())]},
    "SelfTrainingClassifier": {"estimator": LogisticRegression()},
}
SMALL = {"n_estimators": 3, "random_state": 0}


@cache
def table() -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(0).uniform(0.1, 1, size=(ROWS, 4)), columns=list("abcd"))


def with_gaps() -> pd.DataFrame:
    data = table().copy()
    data.iloc[::7, 1] = np.nan
    data.iloc[3::11, 2] = np.nan
    return data


def targets() -> dict[str, Any]:
    data = table()
    words = np.where(data["a"] + data["b"] > 1.1, "yes", "no").astype(object)
    flags = np.c_[data["a"] > 0.5, data["b"] > 0.5].astype(int)
    numbers = (2 * data["a"] + data["b"]).to_numpy()
    return {"words": words, "flags": flags, "numbers": numbers, "pairs": np.c_[numbers, data["c"]], "none": None}


def made(name: str) -> Any:
    kind = CLASSES[name]
    asked = inspect.signature(kind).parameters
    words = {word: value for word, value in SMALL.items() if word in asked}
    if name == "FrozenEstimator":
        return kind(Ridge().fit(table(), targets()["numbers"]))
    inner = LogisticRegression() if issubclass(kind, ClassifierMixin) else Ridge()
    for word in ("estimator", "base_estimator"):
        if word in asked and asked[word].default is inspect.Parameter.empty:
            words[word] = inner
    if "estimators" in asked:
        words["estimators"] = [("inner", inner)]
    return kind(**{**words, **SETTINGS.get(name, {})})


def fitted(name: str, data: pd.DataFrame) -> tuple[Any, pd.DataFrame]:
    """The estimator, and the columns that it took: with the first target that it can be fitted to."""
    faults = []
    for columns in (data, data[["a"]]):
        for target in _in_turn(name):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    return made(name).fit(columns, target), columns
            except (ValueError, TypeError, IndexError, AttributeError) as exc:
                faults.append(str(exc))
    raise AssertionError(f"{name} fits no small table: {faults}")


def _in_turn(name: str) -> list[Any]:
    """The targets, those first that the estimator is for."""
    known = targets()
    first = ["numbers", "pairs"] if issubclass(CLASSES[name], RegressorMixin) else []
    return [known[each] for each in dict.fromkeys([*first, *known])]


def load(estimator: Any, path: Path, options: Mapping[str, Any]) -> Model:
    if type(estimator).__name__ in NOT_SKOPS:
        joblib.dump(estimator, path)
        return PickleFlavor().load(str(path), options)
    skops.io.dump(estimator, path)
    return SklearnFlavor().load(str(path), options)


def batch_of(data: pd.DataFrame) -> pa.RecordBatch:
    """Columns as the engine hands them over: gaps are nulls."""
    return pa.RecordBatch.from_arrays(
        [pa.array(data[name].tolist(), from_pandas=True) for name in data.columns], names=list(data.columns)
    )


def check(estimator: Any, data: pd.DataFrame, path: Path) -> Model:
    """The flavor against the estimator itself: its decisions, and every probability that it has."""
    single = is_classifier(estimator) and isinstance(getattr(estimator, "classes_", None), np.ndarray)
    said = np.asarray(estimator.predict(data))
    every = single and hasattr(estimator, "predict_proba") and said.ndim == 1
    names_known = hasattr(estimator, "n_features_in_")
    options = {"probabilities": every, "features": [] if names_known else list(data.columns)}
    model = load(estimator, path, options)
    predicted = model.predict(batch_of(data))
    assert predicted.row_errors == {}
    table = said.reshape(len(said), -1)
    names = ["prediction"] if table.shape[1] == 1 else [f"prediction_{n}" for n in range(table.shape[1])]
    assert [predicted.columns.column(name).to_pylist() for name in names] == table.T.tolist()
    if every:
        of_classes = [f"probability_{label}" for label in estimator.classes_]
        found = [predicted.columns.column(name).to_pylist() for name in of_classes]
        assert found == estimator.predict_proba(data).T.tolist()
    if not is_classifier(estimator) and not is_regressor(estimator):
        assert model.info.task == "other"
    return model


def test_the_list_has_not_shrunk() -> None:
    assert len(PREDICTING) >= 117
    assert len(OTHERS) >= 80


@pytest.mark.parametrize("name", PREDICTING)
@pytest.mark.filterwarnings("ignore")
def test_estimator(name: str, tmp_path: Path) -> None:
    estimator, data = fitted(name, table())
    check(estimator, data, tmp_path / "model")


def takes_gaps(name: str) -> bool:
    return bool(made(name).__sklearn_tags__().input_tags.allow_nan)


@pytest.mark.parametrize("name", [name for name in PREDICTING if takes_gaps(name)])
@pytest.mark.filterwarnings("ignore")
def test_estimator_with_nulls(name: str, tmp_path: Path) -> None:
    estimator, data = fitted(name, with_gaps())
    assert data.isna().to_numpy().any()
    check(estimator, data, tmp_path / "model")


def test_enough_of_them_take_nulls() -> None:
    assert sum(map(takes_gaps, PREDICTING)) >= 10


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_not_predict_is_refused(name: str) -> None:
    kind = CLASSES[name]
    with pytest.raises(ModelUnusable, match=f"holds a {name}, which has no method predict") as caught:
        model_of(kind.__new__(kind), "model.skops", PredictOptions(), ())
    assert "file.py:Class" in (caught.value.remedy or "")


def _days(dates: pd.DataFrame) -> Any:
    return dates.apply(lambda column: (column - pd.Timestamp("2026-01-01")).dt.days)


def test_text_categories_flags_and_dates_in_one_pipeline(tmp_path: Path) -> None:
    data = pd.DataFrame(
        {
            "note": ["good day", "bad day", "good night", "bad night"] * 10,
            "city": ["Bern", "Rome", "Łódź", None] * 10,
            "member": [True, False] * 20,
            "since": pd.date_range("2026-01-01", periods=40, freq="D"),
            "age": np.linspace(20, 60, 40),
        }
    )
    columns = ColumnTransformer(
        [
            ("note", TfidfVectorizer(), "note"),
            ("city", OneHotEncoder(handle_unknown="ignore"), ["city"]),
            ("member", "passthrough", ["member", "age"]),
            ("since", FunctionTransformer(_days), ["since"]),
        ]
    )
    model = make_pipeline(columns, RandomForestClassifier(5, random_state=0)).fit(data, targets()["words"])
    path = tmp_path / "model.joblib"
    joblib.dump(model, path)
    loaded = PickleFlavor().load(str(path), {})
    assert {field.name: field.type for field in loaded.info.inputs}["note"] == "string"
    rows = pa.RecordBatch.from_pandas(data, preserve_index=False)
    found = loaded.predict(rows).columns
    assert found.column("prediction").to_pylist() == model.predict(data).tolist()
    assert found.column("probability").to_pylist() == model.predict_proba(data)[:, 1].tolist()


def test_an_outlier_detector_without_novelty_is_refused() -> None:
    with pytest.raises(ModelUnusable, match="LocalOutlierFactor, which has no method predict"):
        model_of(LocalOutlierFactor().fit(table()), "model.skops", PredictOptions(), ())
