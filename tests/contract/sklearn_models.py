"""Small fitted models for the suites of scikit-learn's file formats."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

ROWS = 300


@cache
def frame() -> pd.DataFrame:
    """Numbers with gaps, a word with gaps, and a column that no model needs."""
    random = np.random.default_rng(11)
    data = pd.DataFrame({"age": random.normal(40, 10, ROWS), "income": random.lognormal(size=ROWS)})
    data["city"] = random.choice(["Bern", "Rome", "Łódź"], ROWS)
    data["unused"] = random.normal(size=ROWS)
    data.loc[random.random(ROWS) < 0.1, "age"] = np.nan
    data.loc[random.random(ROWS) < 0.1, "city"] = None
    return data


@cache
def labels(kind: str = "text") -> np.ndarray[Any, Any]:
    data = frame()
    score = data["age"].fillna(40) / 40 + data["income"] * 0.2 + (data["city"] == "Rome") * 0.5
    if kind == "many":
        return np.array(["low", "mid", "high"])[np.digitize(score, [1.2, 1.6])]
    yes = (score > score.median()).to_numpy()
    return {"text": np.where(yes, "yes", "no"), "bool": yes, "int": yes * 7, "float": yes + 1.0}[kind]


@cache
def pipeline(kind: str = "text") -> Any:
    """The usual: impute, scale, one-hot, logistic regression; drops what it was not told to use."""
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    words = OneHotEncoder(handle_unknown="ignore")
    columns = make_column_transformer((numbers, ["age", "income"]), (words, ["city"]))
    return make_pipeline(columns, LogisticRegression()).fit(frame(), labels(kind))


@cache
def boosting(kind: str = "text") -> Any:
    return HistGradientBoostingClassifier(max_iter=15, random_state=0).fit(numbers(), labels(kind))


@cache
def forest(kind: str = "text") -> Any:
    return RandomForestClassifier(10, random_state=0, n_jobs=2).fit(numbers(), labels(kind))


def numbers() -> pd.DataFrame:
    return frame()[["age", "income"]]


def batch(*columns: str) -> pa.RecordBatch:
    """Those columns of the frame, as the engine hands them over."""
    arrays = [pa.array(frame()[name].tolist(), from_pandas=True) for name in columns]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def expected(model: Any, data: Any, *, every: bool = False) -> dict[str, pa.Array]:
    """What the library itself says, in the columns that we promise."""
    p = model.predict_proba(data)
    columns = {"prediction": pa.array(model.predict(data).tolist())}
    if len(model.classes_) == 2:
        columns["probability"] = pa.array(p[:, 1].tolist(), pa.float64())
    if every:
        columns.update({f"probability_{c}": pa.array(p[:, n].tolist()) for n, c in enumerate(model.classes_.tolist())})
    return columns
