"""CatBoost models on the shipped suite, and what only CatBoost can get wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import catboost
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tidemill.domain.errors import InvalidSpec, ModelUnusable, SchemaMismatch
from tidemill.flavors.catboost import CatBoostFlavor
from tidemill.testing.flavor import Case, FileFlavorContract

ROWS = 300
CATEGORICAL = ["kind", "size", "flag"]
EDGES = [0.0, -0.0, 1e-46, 1e300, -1e300, np.inf, -np.inf, 16777217.0, 0.1, np.nan]


@cache
def frame() -> pd.DataFrame:
    """Numbers with gaps, and categories of every kind that CatBoost takes."""
    random = np.random.default_rng(7)
    data = pd.DataFrame({"a": random.normal(size=ROWS), "kind": random.choice(["red", "green", "blüe", ""], ROWS)})
    data["size"] = random.choice([10, 20, -30], ROWS)
    data["b"] = random.normal(size=ROWS).astype("f4")
    data["flag"] = random.random(ROWS) < 0.5
    data["small"] = random.integers(-5, 5, ROWS).astype("i1")
    data.loc[random.random(ROWS) < 0.1, "a"] = np.nan
    return data


@cache
def target(kind: str) -> np.ndarray[Any, Any]:
    data = frame()
    score = (data["a"].fillna(0) + (data["kind"] == "red") - (data["size"] == 20) + data["flag"] * 0.5).to_numpy()
    classes = np.digitize(score, [-0.5, 0.7])
    return {
        "value": score,
        "positive": np.abs(score) + 0.1,
        "share": 1 / (1 + np.exp(-score)),
        "text": np.where(score > 0.2, "yes", "no"),
        "bool": score > 0.2,
        "int": (score > 0.2) * 7,
        "float": (score > 0.2) * 1.5,
        "classes": classes,
        "words": np.array(["low", "mid", "high"])[classes],
        "values": np.column_stack([score, -score]),
        "several": np.column_stack([score > 0.2, score < -0.4]).astype(int),
        "bounds": np.column_stack([np.abs(score), np.abs(score) + 1]),
    }[kind]


def settings(**more: Any) -> dict[str, Any]:
    quiet = {"verbose": 0, "thread_count": 1, "allow_writing_files": False, "random_seed": 0}
    return {"iterations": 8, "depth": 3, **quiet, **more}


@cache
def trained(kind: str, loss: str, wrapper: type[Any] = catboost.CatBoostClassifier) -> Any:
    return wrapper(**settings(loss_function=loss)).fit(frame(), target(kind), cat_features=CATEGORICAL)


def rows(data: pd.DataFrame | None = None) -> pa.RecordBatch:
    """The frame as the engine hands it over: doubles, and categories as the input has them."""
    data = frame() if data is None else data
    kinds = {"kind": pa.string(), "size": pa.int64(), "flag": pa.bool_(), "words": pa.string()}
    return pa.RecordBatch.from_pydict(
        {
            str(name): pa.array(data[name].astype(object), kinds.get(str(name), pa.float64()), from_pandas=True)
            for name in data
        }
    )


def loaded(model: Any, folder: Path, **options: Any) -> Any:
    path = folder / "model.cbm"
    model.save_model(str(path))
    return CatBoostFlavor().load(str(path), options)


def columns(model: Any, data: pd.DataFrame | None = None) -> dict[str, Any]:
    return model.predict(rows(data)).columns.to_pydict()


class TestCatBoost(FileFlavorContract):
    flavor_class = CatBoostFlavor
    framework = ("catboost", "pandas", "scipy")

    @pytest.fixture(autouse=True)
    def _made(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._path = str(tmp_path_factory.getbasetemp() / "classifier.cbm")
        if not Path(self._path).exists():
            trained("text", "Logloss").save_model(self._path)

    def case(self) -> Case:
        own = trained("text", "Logloss")
        p = own.predict_proba(frame())
        expected = {
            "prediction": pa.array(own.predict(frame()).tolist()),
            "probability": pa.array(p[:, 1].tolist()),
            "probability_no": pa.array(p[:, 0].tolist()),
            "probability_yes": pa.array(p[:, 1].tolist()),
        }
        return Case(path=self._path, rows=rows(), expected=expected, options={"probabilities": True})


@pytest.mark.parametrize("kind", ["text", "bool", "int", "float"])
def test_labels_are_the_model_s(tmp_path: Path, kind: str) -> None:
    own = trained(kind, "Logloss")
    model = loaded(own, tmp_path)
    assert columns(model) == {
        "prediction": own.predict(frame()).tolist(),
        "probability": own.predict_proba(frame())[:, 1].tolist(),
    }
    assert model.info.classes == tuple(own.classes_.tolist())
    assert model.info.notes == (f"probability is of class {own.classes_.tolist()[1]!r}",)


@pytest.mark.parametrize("loss, kind", [("MultiClass", "classes"), ("MultiClassOneVsAll", "words")])
def test_classes_and_their_probabilities(tmp_path: Path, loss: str, kind: str) -> None:
    own = trained(kind, loss)
    found = loaded(own, tmp_path, probabilities=True).predict(rows()).columns
    assert found.schema.names == ["prediction", *(f"probability_{each}" for each in own.classes_)]
    assert found.column(0).to_pylist() == own.predict(frame()).reshape(-1).tolist()
    assert np.column_stack(found.columns[1:]).tobytes() == np.ascontiguousarray(own.predict_proba(frame())).tobytes()


def test_shares_are_a_classifier_s(tmp_path: Path) -> None:
    own = trained("share", "CrossEntropy")
    assert columns(loaded(own, tmp_path)) == {
        "prediction": own.predict(frame()).tolist(),
        "probability": own.predict_proba(frame())[:, 1].tolist(),
    }


@pytest.mark.parametrize("loss", ["MultiLogloss", "MultiCrossEntropy"])
def test_several_labels_are_a_decision_and_a_probability_each(tmp_path: Path, loss: str) -> None:
    own = trained("several", loss)
    found = loaded(own, tmp_path).predict(rows()).columns
    assert found.schema.names == ["prediction_0", "probability_0", "prediction_1", "probability_1"]
    assert np.column_stack([found.column(0), found.column(2)]).tolist() == own.predict(frame()).tolist()
    assert np.column_stack([found.column(1), found.column(3)]).tolist() == own.predict_proba(frame()).tolist()
    named = loaded(own, tmp_path, classes=["hot", "cold"], threshold=0.2).predict(rows()).columns
    assert named.column("prediction_cold").to_pylist() == (own.predict_proba(frame())[:, 1] >= 0.2).tolist()


@pytest.mark.parametrize(
    "loss, kind",
    [
        *((loss, "value") for loss in ("RMSE", "MAE", "Quantile:alpha=0.3", "Expectile:alpha=0.3", "Huber:delta=1")),
        *((loss, "positive") for loss in ("Poisson", "Tweedie:variance_power=1.5", "Cox", "LogLinQuantile")),
        ("SurvivalAft", "bounds"),
    ],
)
def test_values_are_the_wrapper_s(tmp_path: Path, loss: str, kind: str) -> None:
    own = trained(kind, loss, catboost.CatBoostRegressor)
    model = loaded(own, tmp_path)
    found = model.predict(rows()).columns
    assert found.schema == pa.schema([("prediction", pa.float64())])
    assert found.column(0).to_numpy().tobytes() == own.predict(frame()).tobytes()
    assert model.info.task == "regression"
    with pytest.raises(InvalidSpec, match=f"loss {loss.partition(':')[0]} has no threshold"):
        loaded(own, tmp_path, threshold=0.5)


@pytest.mark.parametrize(
    "loss, kind, names",
    [
        ("MultiRMSE", "values", ["prediction_0", "prediction_1"]),
        ("MultiQuantile:alpha=0.1,0.9", "value", ["prediction_0", "prediction_1"]),
        ("RMSEWithUncertainty", "value", ["prediction", "variance"]),
    ],
)
def test_several_values(tmp_path: Path, loss: str, kind: str, names: list[str]) -> None:
    own = trained(kind, loss, catboost.CatBoostRegressor)
    found = loaded(own, tmp_path).predict(rows()).columns
    assert found.schema.names == names
    assert np.column_stack(found.columns).tolist() == own.predict(frame()).tolist()


def test_ranking_and_a_loss_of_one_s_own(tmp_path: Path) -> None:
    groups = catboost.Pool(frame(), target("classes"), cat_features=CATEGORICAL, group_id=np.arange(ROWS) // 10)
    own = catboost.CatBoostRanker(**settings(loss_function="YetiRank")).fit(groups)
    model = loaded(own, tmp_path)
    assert columns(model) == {"prediction": own.predict(frame()).tolist()}
    assert (model.info.task, model.info.notes) == ("other", ("prediction is a score for ranking",))

    regressors = [trained("value", "RMSE", catboost.CatBoostRegressor)] * 2
    summed = catboost.sum_models(regressors, weights=[0.25, 0.5])
    model = loaded(summed, tmp_path)
    assert columns(model)["prediction"] == summed.predict(frame()).tolist()


@pytest.mark.parametrize("threshold", [0.2, 0.8])
def test_the_model_s_own_threshold_decides_unless_the_job_has_one(tmp_path: Path, threshold: float) -> None:
    own = catboost.CatBoostClassifier(**settings()).fit(frame(), target("text"), cat_features=CATEGORICAL)
    own.set_probability_threshold(threshold)
    assert columns(loaded(own, tmp_path))["prediction"] == own.predict(frame()).tolist()
    p = own.predict_proba(frame())[:, 1]
    assert columns(loaded(own, tmp_path, threshold=0.5))["prediction"] == np.where(p >= 0.5, "yes", "no").tolist()


@pytest.mark.parametrize("kind", ["text", "words"])
def test_what_is_as_good_as_equal_is_decided_by_the_library(tmp_path: Path, kind: str) -> None:
    """Every class is as frequent on both sides of all splits."""
    names = np.unique(target(kind))
    data = pd.DataFrame({"x": np.arange(ROWS) // len(names) % 2 * 1.0})
    more = {"boost_from_average": False} if kind == "text" else {"loss_function": "MultiClass"}
    own = catboost.CatBoostClassifier(**settings(**more)).fit(data, np.resize(names, ROWS))
    assert np.ptp(own.predict_proba(data)) < 1e-9
    if kind == "text":
        own.set_scale_and_bias(1.0, 1e-18)
        assert own.predict(data).tolist() == ["yes"] * ROWS
    found = columns(loaded(own, tmp_path), data)
    assert found["prediction"] == own.predict(data).reshape(-1).tolist()


def test_numbers_at_the_edge_of_32_bits_go_where_the_library_sends_them(tmp_path: Path) -> None:
    data = pd.DataFrame({"x": np.array(EDGES * 20), "y": np.tile(np.arange(20.0), len(EDGES)) / 7})
    own = catboost.CatBoostRegressor(**settings()).fit(data.clip(-1e30, 1e30), data["y"] + data["x"].isna())
    found = loaded(own, tmp_path).predict(rows(data)).columns
    assert found.column(0).to_numpy().tobytes() == own.predict(data).tobytes()


@pytest.mark.parametrize("width", [1, 400])
def test_one_column_and_many(tmp_path: Path, width: int) -> None:
    data = pd.DataFrame(np.random.default_rng(1).normal(size=(60, width)), columns=[f"x{n}" for n in range(width)])
    own = catboost.CatBoostRegressor(**settings()).fit(data, data["x0"])
    model = loaded(own, tmp_path)
    assert columns(model, data) == {"prediction": own.predict(data).tolist()}
    with pytest.raises(ValueError, match=f"takes {width} columns but got {width + 1}"):
        model.predict(rows(data.assign(more=1.0)))


def test_categories_that_training_did_not_see_are_taken_as_the_library_takes_them(tmp_path: Path) -> None:
    own = trained("text", "Logloss")
    data = frame().assign(kind="pink", size=99)
    assert columns(loaded(own, tmp_path), data)["probability"] == own.predict_proba(data)[:, 1].tolist()
    words = frame().assign(size=frame()["size"].astype(str))
    batch = rows().set_column(2, "size", pa.array(words["size"].tolist()).dictionary_encode())
    found = loaded(own, tmp_path).predict(batch).columns
    assert found["probability"].to_pylist() == own.predict_proba(words)[:, 1].tolist()


def test_a_missing_category_is_a_bad_row_and_another_type_is_refused(tmp_path: Path) -> None:
    own = trained("text", "Logloss")
    model = loaded(own, tmp_path)
    data = frame()[:6].astype({"kind": object, "size": object, "flag": object})
    data.loc[1, "kind"], data.loc[4, "flag"] = None, None
    found = model.predict(rows(data))
    assert found.row_errors == {
        1: "column 'kind' is missing, which CatBoost does not take",
        4: "column 'flag' is missing, which CatBoost does not take",
    }
    good = [0, 2, 3, 5]
    expected = own.predict_proba(frame().iloc[good])[:, 1].tolist()
    assert [found.columns["probability"].to_pylist()[row] for row in good] == expected
    with pytest.raises(catboost.CatBoostError, match="must be integer or string"):
        own.predict(frame().assign(size=1.5))
    with pytest.raises(SchemaMismatch, match="Column 'size' holds double"):
        model.predict(rows().set_column(2, "size", pa.array([1.5] * ROWS)))
    nothing = model.predict(rows().set_column(1, "kind", pa.nulls(ROWS)))
    assert sorted(nothing.row_errors) == list(range(ROWS))


def test_texts(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    words = [" ".join(random.choice(["sea", "mill", "tide", "wheel"], 4)) for _ in range(ROWS)]
    data = frame()[["a", "kind"]].assign(words=words)
    target = data["words"].str.contains("tide") & (data["kind"] != "red")
    own = catboost.CatBoostClassifier(**settings()).fit(data, target, cat_features=["kind"], text_features=["words"])
    model = loaded(own, tmp_path)
    assert [each.type for each in model.info.inputs] == ["double", "any", "string"]
    assert columns(model, data)["probability"] == own.predict_proba(data)[:, 1].tolist()
    missing = model.predict(rows(data.assign(words=data["words"].where(np.arange(ROWS) != 3, None))))
    assert missing.row_errors == {3: "column 'words' is missing, which CatBoost does not take"}


def test_embeddings_are_refused_with_the_way_out(tmp_path: Path) -> None:
    data = pd.DataFrame({"x": np.arange(60.0)})
    data["vector"] = [[float(n % 3), float(n % 5)] for n in range(60)]
    own = catboost.CatBoostClassifier(**settings()).fit(data, np.arange(60) % 2, embedding_features=["vector"])
    with pytest.raises(ModelUnusable, match="trained with embeddings") as caught:
        loaded(own, tmp_path)
    assert "columns" in str(caught.value.remedy)


def test_a_model_without_names_takes_columns_by_position(tmp_path: Path) -> None:
    data = frame()[["a", "b"]].to_numpy()
    own = catboost.CatBoostRegressor(**settings()).fit(data, target("value"))
    assert loaded(own, tmp_path).info.positional == 2
    model = loaded(own, tmp_path, features=["b", "a"])
    batch = pa.RecordBatch.from_arrays([pa.array(data[:, 0]), pa.array(data[:, 1])], names=["b", "a"])
    assert model.predict(batch).columns.column(0).to_pylist() == own.predict(data).tolist()


_CUT = """
import json, sys
from pathlib import Path
from tidemill.domain.errors import ModelUnusable
from tidemill.flavors.catboost import CatBoostFlavor
whole, path = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
sizes = [*range(0, len(whole), max(1, len(whole) // 60)), *range(len(whole) - 250, len(whole), 5)]
taken = []
for size in sizes:
    path.write_bytes(whole[:size])
    try:
        CatBoostFlavor().load(str(path), {})
    except ModelUnusable as exc:
        assert str(path) in exc.message and exc.remedy, exc
    else:
        taken.append(size)
print(json.dumps(taken))
"""


def test_cut_anywhere_is_refused_and_never_ends_the_process(tmp_path: Path) -> None:
    """Also within the tables of categories at its end, where the library crashes or notices nothing."""
    trained("text", "Logloss").save_model(str(tmp_path / "m.cbm"))
    command = [sys.executable, "-c", _CUT, str(tmp_path / "m.cbm"), str(tmp_path / "cut.cbm")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr[-2000:]


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda content: content[:6], "where a length should stand"),
        (lambda content: content[:200], "its trees alone should end at byte"),
        (lambda content: content + b"more", "bytes, not"),
        (lambda content: b"CBM2" + content[4:], "does not begin with CBM1"),
        (lambda content: content[:8] + b"\0" * 40 + content[48:], "cannot load"),
    ],
)
def test_damage_is_named(tmp_path: Path, change: Callable[[bytes], bytes], reason: str) -> None:
    trained("text", "Logloss").save_model(str(tmp_path / "m.cbm"))
    path = tmp_path / "broken.cbm"
    path.write_bytes(change((tmp_path / "m.cbm").read_bytes()))
    with pytest.raises(ModelUnusable, match=reason) as caught:
        CatBoostFlavor().load(str(path), {})
    assert str(path) in caught.value.message


def test_missing_library_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['catboost'] = None\n"
        "from tidemill.domain.errors import MissingExtra\n"
        "from tidemill.flavors.catboost import CatBoostFlavor\n"
        "try: CatBoostFlavor().load(sys.argv[1], {})\n"
        "except MissingExtra as exc: print(exc.remedy)\n"
    )
    trained("text", "Logloss").save_model(str(tmp_path / "m.cbm"))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.cbm")], capture_output=True, text=True)
    assert done.stdout == "Run: pip install 'tidemill[catboost]'\n", done.stderr


_FORKED = """
import json, os, sys
import tidemill.flavors.catboost_library
assert "catboost" in sys.modules
child = os.fork()
if child == 0:
    import pyarrow as pa
    from tidemill.flavors.catboost import CatBoostFlavor
    model = CatBoostFlavor().load(sys.argv[1], {})
    print(json.dumps(model.predict(pa.RecordBatch.from_pydict({"x": [0.0, 9.0]})).columns.to_pydict()), flush=True)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_it_is_preloaded_before_a_fork_and_keeps_quiet(tmp_path: Path) -> None:
    data = pd.DataFrame({"x": np.arange(40.0)})
    own = catboost.CatBoostRegressor(**settings()).fit(data, data["x"])
    own.save_model(str(tmp_path / "m.cbm"))
    command = [sys.executable, "-c", _FORKED, str(tmp_path / "m.cbm")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"prediction": own.predict(pd.DataFrame({"x": [0.0, 9.0]})).tolist()}
