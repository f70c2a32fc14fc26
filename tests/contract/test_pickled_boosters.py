"""Pickled wrappers of boosters predict as they do themselves, and as the files of their own libraries."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import pyarrow as pa
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.contract import sklearn_models as models
from tidemill.domain.errors import ModelUnusable
from tidemill.flavors.catboost import CatBoostFlavor
from tidemill.flavors.lightgbm import LightGBMFlavor
from tidemill.flavors.sklearn import PickleFlavor
from tidemill.testing.flavor import bits


def dumped(model: Any, path: Path) -> str:
    path.write_bytes(pickle.dumps(model))
    return str(path)


def rows() -> pa.RecordBatch:
    return models.batch("age", "income")


def lgbm(kind: str) -> lightgbm.LGBMClassifier:
    settings: dict[str, Any] = {"n_estimators": 8, "num_leaves": 7, "verbose": -1, "n_jobs": 1}
    return lightgbm.LGBMClassifier(**settings).fit(models.numbers(), models.labels(kind))


@pytest.mark.parametrize("kind", ["int", "text", "bool", "many"])
def test_pickled_lightgbm_classifiers_predict_as_they_do_themselves(tmp_path: Path, kind: str) -> None:
    model = lgbm(kind)
    own = PickleFlavor().load(dumped(model, tmp_path / "m.pkl"), {"probabilities": True})
    expected = models.expected(model, models.numbers(), every=True)
    assert bits(own.predict(rows())) == bits(pa.RecordBatch.from_pydict(expected))
    assert (own.info.flavor, own.info.layout, own.info.batch_invariant) == ("lightgbm", "threads", True)
    assert own.info.classes == tuple(model.classes_.tolist())


def test_pickle_and_text_of_one_model_give_the_same_columns(tmp_path: Path) -> None:
    labels = models.labels("bool").astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=8, verbose=-1).fit(models.numbers(), labels)
    model.booster_.save_model(tmp_path / "m.txt")
    text = LightGBMFlavor().load(str(tmp_path / "m.txt"), {})
    for name, content in (("classifier.pkl", model), ("booster.pkl", model.booster_)):
        own = PickleFlavor().load(dumped(content, tmp_path / name), {})
        assert bits(own.predict(rows())) == bits(text.predict(rows()))
        assert own.info.outputs == text.info.outputs


def test_the_best_iteration_is_kept(tmp_path: Path) -> None:
    data, target = models.numbers(), models.labels("bool").astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=60, verbose=-1, n_jobs=1)
    stop = lightgbm.early_stopping(3, verbose=False)
    model.fit(data[:200], target[:200], eval_X=data[200:], eval_y=target[200:], callbacks=[stop])
    assert 0 < model.best_iteration_ < 60
    own = PickleFlavor().load(dumped(model, tmp_path / "m.pkl"), {})
    assert bits(own.predict(rows())) == bits(pa.RecordBatch.from_pydict(models.expected(model, data)))


def test_pickled_regressor_and_lightgbm_inside_a_pipeline(tmp_path: Path) -> None:
    data, target = models.numbers(), models.frame()["income"]
    regressor = lightgbm.LGBMRegressor(n_estimators=5, verbose=-1, n_jobs=1).fit(data, target)
    own = PickleFlavor().load(dumped(regressor, tmp_path / "r.pkl"), {})
    assert own.predict(rows()).columns.to_pydict() == {"prediction": regressor.predict(data).tolist()}
    scale = StandardScaler().set_output(transform="pandas")
    pipeline = make_pipeline(scale, lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=2))
    pipeline.fit(data, models.labels())
    own = PickleFlavor().load(dumped(pipeline, tmp_path / "p.pkl"), {})
    expected = models.expected(pipeline, data)
    assert bits(own.predict(rows())) == bits(pa.RecordBatch.from_pydict(expected))
    assert own.info.flavor == "sklearn"


def cat(kind: str, loss: str) -> Any:
    settings = {"iterations": 5, "verbose": 0, "thread_count": 1, "allow_writing_files": False, "loss_function": loss}
    if kind == "number":
        return catboost.CatBoostRegressor(**settings).fit(models.numbers(), models.frame()["income"].abs())
    frame = models.numbers().assign(city=models.frame()["city"].fillna(""))
    return catboost.CatBoostClassifier(**settings, cat_features=["city"]).fit(frame, models.labels(kind))


@pytest.mark.parametrize("kind, loss", [("text", "Logloss"), ("many", "MultiClass"), ("number", "Poisson")])
def test_a_pickled_catboost_gives_the_columns_of_the_saved_model(tmp_path: Path, kind: str, loss: str) -> None:
    own = cat(kind, loss)
    own.save_model(tmp_path / "m.cbm")
    pickled = PickleFlavor().load(dumped(own, tmp_path / "m.pkl"), {})
    file = CatBoostFlavor().load(str(tmp_path / "m.cbm"), {})
    batch = rows() if kind == "number" else models.batch("age", "income", "city")
    assert bits(pickled.predict(batch)) == bits(file.predict(batch))
    assert pickled.info == file.info


@pytest.mark.parametrize("kind", [lightgbm.LGBMClassifier, catboost.CatBoostClassifier])
def test_an_unfitted_wrapper_is_refused(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(ModelUnusable, match=rf"m\.pkl holds a {kind.__name__} that is not fitted"):
        PickleFlavor().load(dumped(kind(), tmp_path / "m.pkl"), {})
