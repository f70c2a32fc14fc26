"""XGBoost models trained on frames of pandas, and what only XGBoost can get wrong."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xgboost

from tidemill.domain.errors import InvalidSpec, ModelUnusable
from tidemill.flavors import ubjson
from tidemill.flavors.sklearn import PickleFlavor
from tidemill.flavors.xgboost import XGBoostFlavor
from tidemill.testing.flavor import Case, FileFlavorContract, bits

ROWS = 400
EDGES = [0.0, -0.0, 1e-46, 1e300, -1e300, np.inf, -np.inf, 16777217.0, 0.1, np.nan]
"""Beyond 32 bits on both sides, between two 32-bit numbers, and signed zeros."""

Make = Callable[..., str]


@cache
def frame() -> pd.DataFrame:
    """All that a frame may hold for XGBoost, with gaps where its types allow them."""
    random = np.random.default_rng(7)
    data = pd.DataFrame({"a": random.normal(size=ROWS), "b": random.normal(size=ROWS).astype("f4")})
    data["kind"] = pd.Categorical.from_codes(random.integers(-1, 3, ROWS), ["red", "green", "blue"])
    data["size"] = pd.Categorical.from_codes(random.integers(-1, 3, ROWS), [10, 20, 30])
    data["small"] = random.integers(-5, 5, ROWS).astype("i1")
    data["flag"] = random.random(ROWS) < 0.5
    data.loc[random.random(ROWS) < 0.1, "a"] = np.nan
    return data


@cache
def target(kind: str) -> np.ndarray[Any, Any]:
    data = frame()
    score = (data["a"].fillna(0) + (data["kind"] == "red") - (data["size"] == 20) + data["flag"] * 0.3).to_numpy()
    classes = np.digitize(score, [-0.5, 0.7])
    return {
        "value": score,
        "positive": np.abs(score) + 0.1,
        "share": 1 / (1 + np.exp(-score)),
        "yes": (score > 0.2).astype(int),
        "classes": classes,
        "values": np.column_stack([score, -score]),
        "several": np.column_stack([score > 0.2, score < -0.4]).astype(int),
        "count": np.round(np.abs(score)),
    }[kind]


def rows(data: pd.DataFrame | None = None) -> pa.RecordBatch:
    """The frame as the engine hands it over: doubles, text, whole numbers, truth."""
    data = frame() if data is None else data
    columns = {}
    for name in data:
        kind = {"kind": pa.string(), "size": pa.int64(), "flag": pa.bool_()}.get(str(name), pa.float64())
        columns[str(name)] = pa.array(data[name].astype(object), kind, from_pandas=True)
    return pa.RecordBatch.from_pydict(columns)


def settings(**more: Any) -> dict[str, Any]:
    return {"n_estimators": 6, "max_depth": 4, "n_jobs": 1, "random_state": 0, "enable_categorical": True, **more}


@cache
def classifier(kind: str = "yes", **more: Any) -> xgboost.XGBClassifier:
    return xgboost.XGBClassifier(**settings(**more)).fit(frame(), target(kind))


@cache
def regressor(kind: str = "value", **more: Any) -> xgboost.XGBRegressor:
    return xgboost.XGBRegressor(**settings(**more)).fit(frame(), target(kind))


def saved(model: Any, path: Path) -> str:
    model.save_model(path)
    return str(path)


def loaded(model: Any, folder: Path, ending: str = "ubj", **options: Any) -> Any:
    return XGBoostFlavor().load(saved(model, folder / f"model.{ending}"), options)


def columns(model: Any, data: pd.DataFrame | None = None) -> dict[str, Any]:
    return model.predict(rows(data)).columns.to_pydict()


class TestXGBoost(FileFlavorContract):
    flavor_class = XGBoostFlavor
    framework = ("xgboost", "sklearn", "pandas", "scipy")

    @pytest.fixture(autouse=True)
    def _made(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._path = str(tmp_path_factory.getbasetemp() / "classifier.ubj")
        if not Path(self._path).exists():
            saved(classifier(), Path(self._path))

    def case(self) -> Case:
        p = classifier().predict_proba(frame())
        expected = {
            "prediction": pa.array(classifier().predict(frame())),
            "probability": pa.array(p[:, 1]),
            "probability_0": pa.array(p[:, 0]),
            "probability_1": pa.array(p[:, 1]),
        }
        return Case(path=self._path, rows=rows(), expected=expected, options={"probabilities": True})


class TestXGBoostJson(FileFlavorContract):
    flavor_class = XGBoostFlavor
    framework = ("xgboost", "sklearn", "pandas", "scipy")

    @pytest.fixture(autouse=True)
    def _made(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._path = str(tmp_path_factory.getbasetemp() / "regressor.json")
        if not Path(self._path).exists():
            saved(regressor(booster="dart", rate_drop=0.3), Path(self._path))

    def case(self) -> Case:
        expected = regressor(booster="dart", rate_drop=0.3).predict(frame())
        return Case(path=self._path, rows=rows(), expected={"prediction": pa.array(expected)})


@pytest.mark.parametrize(
    "objective, kind",
    [
        ("reg:squarederror", "value"),
        ("reg:absoluteerror", "value"),
        ("reg:pseudohubererror", "value"),
        ("reg:squaredlogerror", "positive"),
        ("reg:logistic", "share"),
        ("reg:gamma", "positive"),
        ("reg:tweedie", "positive"),
        ("count:poisson", "count"),
        ("survival:cox", "positive"),
    ],
)
def test_values_are_the_wrapper_s(tmp_path: Path, objective: str, kind: str) -> None:
    trained = regressor(kind, objective=objective)
    model = loaded(trained, tmp_path)
    found = model.predict(rows()).columns
    assert found.schema == pa.schema([("prediction", pa.float32())])
    assert found.column(0).to_numpy().tobytes() == trained.predict(frame()).tobytes()
    assert model.info.task == "regression"
    with pytest.raises(InvalidSpec, match=f"objective {objective} has no probabilities"):
        loaded(trained, tmp_path, probabilities=True)


@pytest.mark.parametrize("more", [{}, {"multi_strategy": "multi_output_tree"}, {"n_estimators": 1}])
def test_several_values(tmp_path: Path, more: dict[str, Any]) -> None:
    data = frame().drop(columns=["kind", "size"])
    trained = xgboost.XGBRegressor(**settings(**more)).fit(data, target("values"))
    found = loaded(trained, tmp_path).predict(rows(data)).columns
    assert found.schema.names == ["prediction_0", "prediction_1"]
    assert np.column_stack(found.columns).tobytes() == trained.predict(data).tobytes()


def test_quantiles(tmp_path: Path) -> None:
    trained = regressor(objective="reg:quantileerror", quantile_alpha=(0.1, 0.5, 0.9))
    found = loaded(trained, tmp_path).predict(rows()).columns
    assert found.schema.names == ["prediction_0", "prediction_1", "prediction_2"]
    assert np.column_stack(found.columns).tobytes() == trained.predict(frame()).tobytes()


def test_survival_with_bounds_and_ranking(tmp_path: Path) -> None:
    data = xgboost.DMatrix(frame(), enable_categorical=True)
    data.set_float_info("label_lower_bound", target("positive"))
    data.set_float_info("label_upper_bound", target("positive") + 1)
    survival = xgboost.train({"objective": "survival:aft", "nthread": 1}, data, 4)
    found = columns(loaded(survival, tmp_path))
    assert found == {"prediction": survival.inplace_predict(frame()).tolist()}
    ranker = xgboost.XGBRanker(**settings(objective="rank:ndcg"))
    ranker.fit(frame(), target("classes"), qid=np.arange(ROWS) // 20)
    model = loaded(ranker, tmp_path)
    assert columns(model) == {"prediction": ranker.predict(frame()).tolist()}
    assert (model.info.task, model.info.notes) == ("other", ("prediction is a score for ranking",))


@pytest.mark.parametrize("objective", ["multi:softprob", "multi:softmax"])
def test_classes_and_their_probabilities(tmp_path: Path, objective: str) -> None:
    trained = classifier("classes", objective=objective)
    model = loaded(trained, tmp_path, probabilities=True)
    found = model.predict(rows()).columns
    assert found.schema.names == ["prediction", "probability_0", "probability_1", "probability_2"]
    assert found.column(0).to_pylist() == trained.predict(frame()).tolist()
    assert np.column_stack(found.columns[1:]).tobytes() == trained.predict_proba(frame()).tobytes()
    assert (model.info.task, model.info.classes) == ("multiclass", (0, 1, 2))
    assert model.info.notes == ("class names unknown: 0 to 2",)
    named = columns(loaded(trained, tmp_path, classes=["low", "mid", "high"]))
    assert named == {"prediction": [["low", "mid", "high"][each] for each in trained.predict(frame())]}


def test_softmax_booster_gives_the_library_s_own_labels(tmp_path: Path) -> None:
    booster = classifier("classes", objective="multi:softmax").get_booster()
    assert columns(loaded(booster, tmp_path))["prediction"] == booster.inplace_predict(frame()).tolist()


@pytest.mark.parametrize("objective", ["binary:logitraw", "binary:hinge"])
def test_binary_without_probabilities(tmp_path: Path, objective: str) -> None:
    trained = classifier(objective=objective)
    model = loaded(trained, tmp_path)
    assert columns(model) == {"prediction": trained.predict(frame()).tolist()}
    assert model.info.task == "binary"
    with pytest.raises(InvalidSpec, match="no probabilities"):
        loaded(trained, tmp_path, threshold=0.3)


def test_a_threshold_decides(tmp_path: Path) -> None:
    found = columns(loaded(classifier(), tmp_path, threshold=0.3))
    p = classifier().predict_proba(frame())[:, 1]
    assert found == {"prediction": (p >= np.float32(0.3)).astype(int).tolist(), "probability": p.tolist()}


def test_several_labels_are_a_decision_and_a_probability_each(tmp_path: Path) -> None:
    trained = classifier("several")
    p = trained.predict_proba(frame())
    model = loaded(trained, tmp_path)
    found = model.predict(rows()).columns
    assert found.schema.names == ["prediction_0", "probability_0", "prediction_1", "probability_1"]
    assert np.column_stack([found.column(0), found.column(2)]).tolist() == trained.predict(frame()).tolist()
    assert np.column_stack([found.column(1), found.column(3)]).tobytes() == p.tobytes()
    other = columns(loaded(trained, tmp_path, classes=["hot", "cold"], threshold=0.2))
    assert other["prediction_hot"] == (p[:, 0] >= np.float32(0.2)).astype(int).tolist()
    assert model.predict(rows().slice(0, 0)).columns.schema == found.schema


def test_a_classifier_with_a_function_of_its_own(tmp_path: Path) -> None:
    def logistic(y: Any, raw: Any) -> tuple[Any, Any]:
        p = 1 / (1 + np.exp(-raw))
        return p - y, p * (1 - p)

    trained = xgboost.XGBClassifier(**settings(objective=logistic)).fit(frame(), target("yes"))
    file = xgboost.XGBClassifier()
    file.load_model(saved(trained, tmp_path / "m.ubj"))
    expected = {"prediction": file.predict(frame()).tolist(), "probability": file.predict_proba(frame())[:, 1].tolist()}
    assert columns(loaded(trained, tmp_path)) == expected


def test_a_classifier_with_an_objective_of_values_decides_as_the_wrapper_does(tmp_path: Path) -> None:
    trained = classifier(objective="reg:squarederror")
    assert columns(loaded(trained, tmp_path)) == {"prediction": trained.predict(frame()).tolist()}


@pytest.mark.parametrize("kind", ["value", "classes"])
def test_linear_functions(tmp_path: Path, kind: str) -> None:
    data = frame()[["a", "b", "small"]]
    wrapper = xgboost.XGBClassifier if kind == "classes" else xgboost.XGBRegressor
    trained = wrapper(n_estimators=4, booster="gblinear", n_jobs=1).fit(data, target(kind))
    model = loaded(trained, tmp_path)
    assert columns(model, data) == {"prediction": trained.predict(data).tolist()}
    assert model.info.layout == "processes"
    pieces = [model.predict(rows(data).slice(start, 7)).columns for start in range(0, ROWS, 7)]
    assert bits(pa.concat_batches(pieces)) == bits(model.predict(rows(data)))
    edges = pa.RecordBatch.from_pydict({"a": EDGES, "b": EDGES, "small": [0.0] * len(EDGES)})
    found = model.predict(edges)
    assert sorted(found.row_errors) == [3, 4, 5, 6]
    assert found.row_errors[3] == "column 'a' is infinite, or too large for 32 bits"
    good = [row for row in range(len(EDGES)) if row not in found.row_errors]
    expected = trained.predict(edges.to_pandas().iloc[good])
    assert [found.columns.column(0).to_pylist()[row] for row in good] == expected.tolist()


def test_numbers_at_the_edge_of_32_bits_go_where_the_library_sends_them(tmp_path: Path) -> None:
    data = pd.DataFrame({"x": np.array(EDGES * 20), "y": np.tile(np.arange(20.0), len(EDGES)) / 7})
    trained = xgboost.XGBRegressor(n_estimators=5, n_jobs=1).fit(data.clip(-1e30, 1e30), data["y"] + data["x"].isna())
    split = float(json.loads(trained.get_booster().get_dump(dump_format="json")[0])["split_condition"])
    near = np.nextafter(np.float64(split), [-np.inf, np.inf])
    data = pd.concat([data, pd.DataFrame({"x": near, "y": near}), pd.DataFrame({"x": [split], "y": [split]})])
    found = loaded(trained, tmp_path).predict(rows(data)).columns
    assert found.column(0).to_numpy().tobytes() == trained.predict(data).tobytes()


@pytest.mark.parametrize("width", [1, 400])
def test_one_column_and_many(tmp_path: Path, width: int) -> None:
    data = pd.DataFrame(np.random.default_rng(1).normal(size=(60, width)), columns=[f"x{n}" for n in range(width)])
    trained = xgboost.XGBRegressor(n_estimators=3, n_jobs=1).fit(data, data["x0"])
    model = loaded(trained, tmp_path)
    assert columns(model, data) == {"prediction": trained.predict(data).tolist()}
    with pytest.raises(ValueError, match=f"takes {width} columns but got {width + 1}"):
        model.predict(rows(data.assign(more=1.0)))


def test_the_best_iteration_decides(tmp_path: Path) -> None:
    stopping = settings(n_estimators=60, early_stopping_rounds=3, learning_rate=1.0)
    trained = xgboost.XGBClassifier(**stopping)
    trained.fit(frame()[:200], target("yes")[:200], eval_set=[(frame()[200:], target("yes")[200:])], verbose=False)
    assert trained.best_iteration + 1 < trained.get_booster().num_boosted_rounds()
    model = loaded(trained, tmp_path)
    assert columns(model)["probability"] == trained.predict_proba(frame())[:, 1].tolist()
    rounds = trained.get_booster().num_boosted_rounds()
    assert model.info.notes[-1] == f"predicts with the best {trained.best_iteration + 1} of {rounds} rounds of boosting"
    by_kernel = loaded(trained, tmp_path, accelerate=True)
    assert by_kernel.kernel is not None, by_kernel.not_accelerated
    assert by_kernel.info == model.info


def test_an_unknown_category_is_a_bad_row_as_the_library_refuses_it(tmp_path: Path) -> None:
    data = frame()[:6].astype({"kind": object, "size": object})
    data.loc[1, "kind"], data.loc[3, "size"], data.loc[4, "kind"] = "pink", 99, None
    with pytest.raises(xgboost.core.XGBoostError, match="not in the training set"):
        classifier().predict(frame()[:1].assign(kind=pd.Categorical(["zinc"])))
    found = loaded(classifier(), tmp_path).predict(rows(data))
    assert found.row_errors == {
        1: "column 'kind': 'pink' is no category that the model was trained with",
        3: "column 'size': '99' is no category that the model was trained with",
    }
    whole = classifier().predict_proba(frame()[:6].assign(kind=frame()["kind"][:6].where(np.arange(6) != 4)))
    kept = [row for row in range(6) if row not in found.row_errors]
    assert [found.columns["probability"].to_pylist()[row] for row in kept] == whole[kept, 1].tolist()


def test_letters_beyond_ascii(tmp_path: Path) -> None:
    """XGBoost 3.2 cuts categories of pandas by letters where they lie in bytes; those of Arrow are right."""
    words = np.random.default_rng(1).choice(["blüe", "red", "gräy"], 100).tolist()
    table = pa.table({"kind": pa.array(words).dictionary_encode()})
    y = [float(word == "red") + 2 * (word == "gräy") for word in words]
    trained = xgboost.train({"nthread": 1}, xgboost.DMatrix(table, y, enable_categorical=True), 3)
    model = loaded(trained, tmp_path)
    found = model.predict(pa.RecordBatch.from_pydict({"kind": words}))
    assert found.columns.column(0).to_pylist() == trained.inplace_predict(table).tolist()
    assert "beyond ASCII" in model.info.notes[0]
    data = pd.DataFrame({"kind": pd.Categorical(words, categories=["ü", "ýx", "blüe", "red", "gräy"])})
    wrong = xgboost.train({"nthread": 1}, xgboost.DMatrix(data, y, enable_categorical=True), 3)
    with pytest.raises(ModelUnusable, match="categories of column 'kind' are not text"):
        loaded(wrong, tmp_path)


def test_without_a_list_of_categories_codes_are_expected(tmp_path: Path) -> None:
    """As files of XGBoost before 3.1 are."""
    said = json.loads(regressor().get_booster().save_raw("json"))
    del said["learner"]["gradient_booster"]["model"]["cats"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(said))
    model = XGBoostFlavor().load(str(path), {})
    assert "codes" in model.info.notes[0]
    assert [each.type for each in model.info.inputs] == ["double"] * 5 + ["any"]
    codes = {name: frame()[name].cat.codes.astype(float).where(lambda code: code >= 0) for name in ("kind", "size")}
    batch = pa.RecordBatch.from_pandas(frame().assign(**codes).astype(float), preserve_index=False)
    assert model.predict(batch).columns.column(0).to_pylist() == regressor().predict(frame()).tolist()


def test_a_model_without_names_takes_columns_by_position(tmp_path: Path) -> None:
    data = frame()[["a", "b"]].to_numpy()
    trained = xgboost.XGBRegressor(n_estimators=3, n_jobs=1).fit(data, target("value"))
    assert loaded(trained, tmp_path).info.positional == 2
    model = loaded(trained, tmp_path, features=["b", "a"])
    assert ([each.name for each in model.info.inputs], model.info.positional) == (["b", "a"], 0)
    batch = pa.RecordBatch.from_arrays([pa.array(data[:, 0]), pa.array(data[:, 1])], names=["b", "a"])
    assert model.predict(batch).columns.column(0).to_pylist() == trained.predict(data).tolist()


def test_a_number_may_stand_for_a_missing_one(tmp_path: Path) -> None:
    data = frame()[["a", "b"]].fillna(-999)
    trained = xgboost.XGBRegressor(n_estimators=5, n_jobs=1, missing=-999).fit(data, target("value"))
    expected = {"prediction": trained.predict(data).tolist()}
    assert columns(loaded(trained, tmp_path, options={"missing": -999}), data) == expected
    assert columns(loaded(trained, tmp_path), data) != expected
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(trained))
    assert columns(PickleFlavor().load(str(tmp_path / "m.pkl"), {}), data) == expected
    with pytest.raises(InvalidSpec, match="missing is 'none'"):
        loaded(trained, tmp_path, options={"missing": "none"})
    with pytest.raises(InvalidSpec, match="no option called misssing"):
        loaded(trained, tmp_path, options={"misssing": 1})


@pytest.mark.parametrize(
    "trained",
    [
        classifier,
        lambda: classifier("classes"),
        regressor,
        lambda: classifier().get_booster(),
        lambda: xgboost.XGBRFClassifier(**settings(n_estimators=3)).fit(frame(), target("yes")),
    ],
    ids=["binary", "multiclass", "regressor", "booster", "forest"],
)
def test_a_pickle_gives_the_columns_of_the_saved_model(tmp_path: Path, trained: Callable[[], Any]) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(trained()))
    own = PickleFlavor().load(str(tmp_path / "m.pkl"), {"probabilities": not isinstance(trained(), type(regressor()))})
    file = loaded(trained(), tmp_path, probabilities=not isinstance(trained(), type(regressor())))
    assert bits(own.predict(rows())) == bits(file.predict(rows()))
    assert own.info == file.info


def test_an_unfitted_wrapper_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(xgboost.XGBClassifier()))
    with pytest.raises(ModelUnusable, match=r"m\.pkl holds a XGBClassifier that is not fitted"):
        PickleFlavor().load(str(tmp_path / "m.pkl"), {})


@pytest.mark.parametrize("start", [b"", b"binf"])
def test_the_old_binary_format_is_refused_with_the_way_out(tmp_path: Path, start: bytes) -> None:
    header = np.zeros(34, "<i4")
    header[0], header[1] = np.float32(0.5).view("<i4"), 6
    content = header.tobytes() + b"\x0f\0\0\0\0\0\0\0binary:logistic" + b"\x06\0\0\0\0\0\0\0gbtree" + b"\0" * 200
    path = tmp_path / "old.model"
    path.write_bytes(start + content)
    assert XGBoostFlavor.matches(start + content, str(path))
    with pytest.raises(ModelUnusable, match=r"old\.model has XGBoost's old binary format") as caught:
        XGBoostFlavor().load(str(path), {})
    assert "model.json" in str(caught.value.remedy)


def test_json_is_recognised_however_it_is_laid_out(tmp_path: Path) -> None:
    said = json.loads(regressor().get_booster().save_raw("json"))
    other = {"version": said["version"], "learner": said["learner"]}
    for text in (json.dumps(said, indent=2), json.dumps(other), json.dumps(other, separators=(",", ":"))):
        assert XGBoostFlavor.matches(text.encode()[:65536], "m.json")
        (tmp_path / "m.json").write_text(text)
        assert columns(XGBoostFlavor().load(str(tmp_path / "m.json"), {})) == {
            "prediction": regressor().predict(frame()).tolist()
        }
    assert not XGBoostFlavor.matches(b'{"learners": {"a": 1}}', "m.json")
    assert not XGBoostFlavor.matches(b'{"a": {"learner": {}}}', "m.json")


def _tree(said: Any) -> Any:
    return said["learner"]["gradient_booster"]["model"]["trees"][1]


def _put(target: Any, key: Any, value: Any) -> None:
    target[key] = value


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda said: said.pop("learner"), "'learner' is missing"),
        (lambda said: said["learner"]["feature_names"].pop(), "6 features are announced but there are 5 names"),
        (lambda said: said["learner"]["gradient_booster"]["model"]["trees"].pop(), "6 trees are announced"),
        (lambda said: _put(said["learner"]["gradient_booster"]["model"]["tree_info"], 0, 7), "none of the 1 outputs"),
        (
            lambda said: _put(said["learner"]["gradient_booster"]["model"]["iteration_indptr"], 1, 99),
            "rounds of boosting do not divide",
        ),
        (
            lambda said: _put(said["learner"]["gradient_booster"]["model"]["cats"]["enc"][2]["offsets"], 1, 99),
            "categories of feature 2 are cut wrongly",
        ),
        (lambda said: _put(_tree(said)["left_children"], 0, 99), "tree 1 is damaged: its branches do not make a tree"),
        (lambda said: _put(_tree(said)["left_children"], 0, 0), "do not make a tree"),
        (lambda said: _put(_tree(said)["right_children"], 0, _tree(said)["left_children"][0]), "do not make a tree"),
        (lambda said: _put(_tree(said)["split_indices"], 0, 99), "splits by a feature beyond the 6"),
        (lambda said: _put(_tree(said)["parents"], 1, 99), "parent is beyond"),
        (lambda said: _put(_tree(said)["parents"], 1, 1), "parent is another"),
        (lambda said: _tree(said)["split_conditions"].pop(), "nodes are announced"),
        (lambda said: _tree(said).pop("default_left"), "'default_left' is missing"),
        (lambda said: _put(_tree(said)["tree_param"], "num_feature", "7"), "its parameters are not"),
        (lambda said: _put(_tree(said)["split_type"], 0, 5), "types of its splits"),
        (lambda said: _put(_tree(said)["categories_segments"], 0, 99), "its categories are cut wrongly"),
        (lambda said: _put(_tree(said)["categories_nodes"], 0, 99), "split by categories has none|do not belong"),
        (lambda said: _tree(said)["categories_sizes"].pop(), "do not belong to its splits"),
        (lambda said: _put(said["learner"]["objective"], "name", "binary:magic"), "cannot load .*Unknown objective"),
    ],
)
def test_damage_is_named_before_the_library_sees_it(tmp_path: Path, change: Callable[[Any], Any], reason: str) -> None:
    said = json.loads(classifier().get_booster().save_raw("json"))
    change(said)
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(said))
    with pytest.raises(ModelUnusable, match=reason) as caught:
        XGBoostFlavor().load(str(path), {})
    assert str(path) in caught.value.message
    assert caught.value.remedy


_FLIPS = """
import json, random, sys
from pathlib import Path
from tidemill.domain.errors import TidemillError
from tidemill.flavors.xgboost import XGBoostFlavor
from tidemill.flavors.matrix import strings, to_arrow
import numpy as np, pyarrow as pa
number, text = to_arrow(np.zeros(3)), strings(["red"] * 3)
whole = to_arrow(np.full(3, 10))
batch = pa.RecordBatch.from_arrays([number, number, text, whole, number, number], names=list("abcdef"))
dice, path = random.Random(5), Path(sys.argv[2])
found = dict(loaded=0, refused=0)
for _ in range(400):
    content = bytearray(Path(sys.argv[1]).read_bytes())
    content[dice.randrange(len(content))] = dice.randrange(256)
    path.write_bytes(content)
    try:
        model = XGBoostFlavor().load(str(path), {"features": list("abcdef")})
    except TidemillError as exc:
        assert str(path) in exc.message or exc.code != "model_unusable", exc
        found["refused"] += 1
        continue
    try:
        model.predict(batch)
    except (TidemillError, ValueError):
        pass
    found["loaded"] += 1
print(json.dumps(found))
"""


def test_changed_bytes_never_end_the_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FLIPS, saved(classifier(), tmp_path / "m.ubj"), str(tmp_path / "changed.ubj")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["loaded"] > 20
    assert found["refused"] > 200


def test_ubjson_is_read_as_json_is() -> None:
    booster = classifier().get_booster()
    found = ubjson.loads(bytes(booster.save_raw("ubj")))
    text = json.loads(booster.save_raw("json"))
    assert found["learner"]["attributes"] == text["learner"]["attributes"]
    tree, same = _tree(found), _tree(text)
    assert tree["left_children"].tolist() == same["left_children"]
    assert tree["split_conditions"].tolist() == np.array(same["split_conditions"], "f4").tolist()
    assert ubjson.loads(b"[i\x01U\xffI\xff\xfel\0\0\0\x02L\0\0\0\0\0\0\0\x03TFZCx]") == [
        1, 255, -2, 2, 3, True, False, None, "x",
    ]  # fmt: skip
    for wrong in (b"", b"[", b"{i", b"[" * 5000, b"q", b"[$S#i\x01i\x01x", b"Si\xffx", b"S[]"):
        with pytest.raises(ValueError):
            ubjson.loads(wrong)


def test_neither_xgboost_nor_pandas_is_imported_and_the_package_works_beside_it(tmp_path: Path) -> None:
    code = (
        "import sys, pyarrow as pa, numpy as np\n"
        "from tidemill.flavors.xgboost import XGBoostFlavor\n"
        "from tidemill.flavors.matrix import to_arrow\n"
        "model = XGBoostFlavor().load(sys.argv[1], {})\n"
        "batch = pa.RecordBatch.from_arrays([to_arrow(np.arange(3.0))], names=['x'])\n"
        "found = model.predict(batch).columns.column(0).to_pylist()\n"
        "print(sorted({'xgboost', 'pandas', 'sklearn', 'scipy'} & set(sys.modules)))\n"
        "import xgboost\n"
        "booster = xgboost.Booster(model_file=sys.argv[1])\n"
        "print(booster.inplace_predict(np.arange(3.0).reshape(-1, 1)).tolist() == found)\n"
    )
    data = pd.DataFrame({"x": np.arange(40.0)})
    path = saved(xgboost.XGBRegressor(n_estimators=2, n_jobs=1).fit(data, data["x"]), tmp_path / "m.ubj")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\nTrue\n", "")


def test_missing_library_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'xgboost' else find(name, *rest)\n"
        "from tidemill.domain.errors import MissingExtra\n"
        "from tidemill.flavors.xgboost import XGBoostFlavor\n"
        "try: XGBoostFlavor().load(sys.argv[1], {})\n"
        "except MissingExtra as exc: print(exc.remedy)\n"
    )
    path = saved(classifier(), tmp_path / "m.ubj")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout == "Run: pip install 'tidemill[xgboost]'\n", done.stderr


def test_the_library_is_named_as_it_was_installed(tmp_path: Path) -> None:
    """So that a job is not resumed with another version of it."""
    (library,) = loaded(classifier(), tmp_path).info.libraries
    assert version(library[0]) == library[1] == xgboost.__version__


def test_a_closed_model_refuses(tmp_path: Path) -> None:
    model = loaded(classifier(), tmp_path)
    model.close()
    with pytest.raises(ValueError, match="closed"):
        model.predict(rows())
