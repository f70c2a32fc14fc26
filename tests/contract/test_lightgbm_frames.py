"""LightGBM models trained on frames of pandas, and what only LightGBM can get wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tidemill.domain.errors import InvalidSpec, ModelUnusable, SchemaMismatch
from tidemill.flavors.lightgbm import LightGBMFlavor, LightGBMModel
from tidemill.testing.flavor import Case, FileFlavorContract, bits

ROWS = 500
FEATURES = ["a", "b", "kind", "size"]
CATEGORIES = {"kind": ["red", "green", "blüe"], "size": [10, 20, 30]}


@cache
def frame() -> pd.DataFrame:
    """Numbers with gaps, and two columns that pandas holds as categories, with gaps."""
    random = np.random.default_rng(7)
    data = pd.DataFrame({"a": random.normal(size=ROWS), "b": random.normal(size=ROWS)})
    for name, values in CATEGORIES.items():
        codes = random.integers(-1, 3, ROWS)
        data[name] = pd.Categorical.from_codes(codes, values)
    data.loc[random.random(ROWS) < 0.1, "a"] = np.nan
    return data


@cache
def targets() -> Mapping[str, np.ndarray]:
    data = frame()
    score = data["a"].fillna(0) + (data["kind"] == "red") - (data["size"] == 20) + data["b"] * 0.3
    return {
        "binary": (score > 0.2).to_numpy().astype(int),
        "multiclass": np.digitize(score, [-0.5, 0.7]),
        "regression": score.to_numpy(),
        "poisson": np.abs(score.to_numpy()),
        "cross_entropy": 1 / (1 + np.exp(-score.to_numpy())),
        "lambdarank": np.clip(np.digitize(score, [-0.5, 0.7]), 0, 2),
    }


@cache
def booster(objective: str) -> lightgbm.Booster:
    options = {"objective": objective, "num_leaves": 15, "verbose": -1, "seed": 3, "num_threads": 1}
    if objective == "multiclass":
        options["num_class"] = 3
    group = [50] * (ROWS // 50) if objective == "lambdarank" else None
    return lightgbm.train(options, lightgbm.Dataset(frame(), targets()[objective], group=group), 20)


def rows(data: pd.DataFrame | None = None) -> pa.RecordBatch:
    """The frame as the engine hands it over: doubles, text, and whatever the input has."""
    data = frame() if data is None else data
    numbers = {name: pa.array(data[name], pa.float64(), from_pandas=True) for name in ("a", "b")}
    kind = pa.array(data["kind"].astype(object), pa.string(), from_pandas=True)
    size = pa.array(data["size"].astype("Int64"), pa.int64(), from_pandas=True)
    return pa.RecordBatch.from_pydict({**numbers, "kind": kind, "size": size})


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    folder = tmp_path_factory.mktemp("lightgbm")

    @cache
    def make(objective: str) -> str:
        path = folder / f"{objective}.txt"
        booster(objective).save_model(path)
        return str(path)

    return make


@pytest.fixture(scope="module")
def load(model_file: Callable[[str], str]) -> Callable[..., LightGBMModel]:
    def make(objective: str, **options: Any) -> LightGBMModel:
        model = LightGBMFlavor().load(model_file(objective), options)
        assert isinstance(model, LightGBMModel)
        return model

    return make


class TestLightGBM(FileFlavorContract):
    flavor_class = LightGBMFlavor
    framework = ("lightgbm", "sklearn", "pandas", "scipy")

    @pytest.fixture(autouse=True)
    def _made(self, model_file: Callable[[str], str]) -> None:
        self._path = model_file("binary")

    def case(self) -> Case:
        p = booster("binary").predict(frame(), num_threads=1)
        expected = {"prediction": pa.array((p > 0.5).astype(int)), "probability": pa.array(p)}
        return Case(path=self._path, rows=rows(), expected=expected)


@pytest.mark.parametrize("objective", ["regression", "poisson", "cross_entropy", "lambdarank"])
def test_values_are_the_library_s(load: Callable[..., LightGBMModel], objective: str) -> None:
    model = load(objective)
    found = model.predict(rows()).columns
    assert found.schema.names == ["prediction"]
    assert found.column(0).to_numpy().tobytes() == booster(objective).predict(frame(), num_threads=1).tobytes()
    assert model.info.task == ("other" if objective == "lambdarank" else "regression")
    with pytest.raises(InvalidSpec, match="probabilities"):
        load(objective, probabilities=True)


def test_multiclass_gives_the_likeliest_class(load: Callable[..., LightGBMModel]) -> None:
    p = booster("multiclass").predict(frame(), num_threads=1)
    found = load("multiclass").predict(rows()).columns
    assert found.to_pydict() == {"prediction": p.argmax(axis=1).tolist()}
    every = load("multiclass", probabilities=True)
    columns = every.predict(rows()).columns
    assert columns.schema.names == ["prediction", "probability_0", "probability_1", "probability_2"]
    assert np.column_stack(columns.columns[1:]).tobytes() == p.tobytes()
    assert every.info.classes == (0, 1, 2)
    assert every.info.notes == ("class names unknown: 0 to 2",)


def test_threshold_and_both_probabilities(load: Callable[..., LightGBMModel]) -> None:
    p = booster("binary").predict(frame(), num_threads=1)
    model = load("binary", threshold=0.3, probabilities=True)
    found = model.predict(rows()).columns.to_pydict()
    assert found["prediction"] == (p >= 0.3).astype(int).tolist()
    assert found["probability"] == found["probability_1"] == p.tolist()
    assert found["probability_0"] == (1 - p).tolist()
    assert 0 < sum(found["prediction"]) < ROWS
    assert model.info.notes[0] == "class names unknown: 0 and 1"


def test_class_names_can_be_given(load: Callable[..., LightGBMModel]) -> None:
    model = load("binary", options={"classes": ["stay", "go"]})
    plain = load("binary").predict(rows()).columns.column("prediction")
    assert model.predict(rows()).columns.column("prediction").to_pylist() == [
        ["stay", "go"][each] for each in plain.to_pylist()
    ]
    assert (model.info.positive_class, model.info.classes) == ("go", ("stay", "go"))


def test_inputs_have_types_and_categories(load: Callable[..., LightGBMModel]) -> None:
    assert [(each.name, each.type) for each in load("binary").info.inputs] == [
        ("a", "double"),
        ("b", "double"),
        ("kind", "string"),
        ("size", "any"),
    ]


@pytest.mark.parametrize(
    "kind, size",
    [
        (pa.array(["red", "brown", None, ""]), pa.array([10, 15, None, 30])),
        (pa.array(["blüe", "RED", "green", None]), pa.array([10.0, 20.5, 30.0, float("nan")])),
        (pa.array(["red", "x", "red", None]).dictionary_encode(), pa.array([20, 20, None, 30]).dictionary_encode()),
        (pa.array(["red", "x", "red", None], pa.large_string()), pa.array([20, 21, None, 30], pa.uint8())),
        (pa.nulls(4, pa.string()), pa.nulls(4)),
    ],
)
def test_unknown_and_missing_categories_are_missing(
    load: Callable[..., LightGBMModel], kind: pa.Array, size: pa.Array
) -> None:
    batch = pa.RecordBatch.from_pydict(
        {"a": pa.array([0.1, None, -1.0, 5.0]), "b": [0.0] * 4, "kind": kind, "size": size}
    )
    data = pd.DataFrame({"a": [0.1, np.nan, -1.0, 5.0], "b": [0.0] * 4})
    for name, column in (("kind", kind), ("size", size)):
        known = [value if value in CATEGORIES[name] else None for value in column.to_pylist()]
        data[name] = pd.Categorical(known, categories=CATEGORIES[name])
    wanted = booster("regression").predict(data, num_threads=1)
    assert load("regression").predict(batch).columns.column(0).to_pylist() == wanted.tolist()


def test_slices_of_categories_keep_their_nulls(load: Callable[..., LightGBMModel]) -> None:
    whole = load("regression").predict(rows()).columns
    for start in (1, 8, 13):
        assert bits(load("regression").predict(rows().slice(start, 50))) == bits(whole.slice(start, 50))


def test_category_of_another_type_is_refused(load: Callable[..., LightGBMModel]) -> None:
    batch = rows().set_column(3, "size", pa.array(["10"] * ROWS))
    with pytest.raises(SchemaMismatch, match=r"'size' holds string but its categories in the model are numbers"):
        load("binary").predict(batch)


def test_text_for_a_number_is_refused(load: Callable[..., LightGBMModel]) -> None:
    batch = rows().set_column(1, "b", pa.array(["x"] * ROWS))
    with pytest.raises(SchemaMismatch, match=r"'b' holds string but the model wants numbers"):
        load("binary").predict(batch)


@pytest.mark.parametrize("kind", [pa.float32(), pa.int64(), pa.int8(), pa.uint16(), pa.bool_(), pa.decimal128(25, 2)])
def test_numbers_of_any_type_are_fed_as_pandas_would(kind: pa.DataType, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    data = random.integers(0, 2 if kind == pa.bool_() else 100, (300, 2))
    trained = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(data, data[:, 0] * data[:, 1]), 5)
    trained.save_model(tmp_path / "m.txt")
    model = LightGBMFlavor().load(str(tmp_path / "m.txt"), {"features": ["x", "y"]})
    columns = [pa.array(data[:, n].tolist()).cast(kind) for n in (0, 1)]
    found = model.predict(pa.RecordBatch.from_arrays(columns, names=["x", "y"])).columns
    assert found.column(0).to_pylist() == trained.predict(data.astype(float)).tolist()


def unnamed(folder: Path) -> str:
    random = np.random.default_rng(5)
    data = random.normal(size=(200, 3))
    trained = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(data, data[:, 0]), 5)
    trained.save_model(folder / "unnamed.txt")
    return str(folder / "unnamed.txt")


def test_columns_can_be_named_by_position(tmp_path: Path) -> None:
    path = unnamed(tmp_path)
    model = LightGBMFlavor().load(path, {})
    assert [each.name for each in model.info.inputs] == ["Column_0", "Column_1", "Column_2"]
    assert model.info.positional == 3
    named = LightGBMFlavor().load(path, {"features": ["x", "y", "z"]})
    assert [each.name for each in named.info.inputs] == ["x", "y", "z"]
    assert named.info.positional == 0
    with pytest.raises(InvalidSpec, match="names 2"):
        LightGBMFlavor().load(path, {"features": ["x", "y"]})


def test_own_names_in_another_order_are_refused(load: Callable[..., LightGBMModel]) -> None:
    with pytest.raises(InvalidSpec, match="another order"):
        load("binary", features=["b", "a", "kind", "size"])
    assert load("binary", features=FEATURES).info == load("binary").info


def test_own_objective_gives_raw_scores(tmp_path: Path) -> None:
    data = np.random.default_rng(2).normal(size=(300, 2))

    def loss(predicted: np.ndarray, dataset: lightgbm.Dataset) -> tuple[np.ndarray, np.ndarray]:
        return predicted - dataset.get_label(), np.ones_like(predicted)

    trained = lightgbm.train(
        {"objective": loss, "verbose": -1, "num_threads": 1}, lightgbm.Dataset(data, data[:, 0]), 5
    )
    trained.save_model(tmp_path / "own.txt")
    model = LightGBMFlavor().load(str(tmp_path / "own.txt"), {})
    assert (model.info.task, "raw score" in model.info.notes[0]) == ("other", True)
    batch = pa.RecordBatch.from_arrays([pa.array(data[:, 0]), pa.array(data[:, 1])], names=["Column_0", "Column_1"])
    assert model.predict(batch).columns.column(0).to_pylist() == trained.predict(data).tolist()


@pytest.mark.parametrize(
    "extra",
    [{"linear_tree": True}, {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, {"boosting": "dart"}],
    ids=["linear", "forest", "dart"],
)
def test_other_kinds_of_trees(tmp_path: Path, extra: dict[str, Any]) -> None:
    data = np.random.default_rng(2).normal(size=(400, 4))
    options = {"verbose": -1, "num_threads": 1, **extra}
    trained = lightgbm.train(options, lightgbm.Dataset(data, data[:, 0] * data[:, 1]), 6)
    trained.save_model(tmp_path / "m.txt")
    model = LightGBMFlavor().load(str(tmp_path / "m.txt"), {})
    data[::7, 1] = np.nan
    batch = pa.RecordBatch.from_arrays(
        [pa.array(data[:, n]) for n in range(4)], names=[f"Column_{n}" for n in range(4)]
    )
    assert model.predict(batch).columns.column(0).to_pylist() == trained.predict(data, num_threads=1).tolist()


def test_model_of_one_leaf(tmp_path: Path) -> None:
    data = np.ones((100, 2))
    trained = lightgbm.train({"verbose": -1, "objective": "regression"}, lightgbm.Dataset(data, np.full(100, 3.5)), 3)
    trained.save_model(tmp_path / "m.txt")
    model = LightGBMFlavor().load(str(tmp_path / "m.txt"), {})
    batch = pa.RecordBatch.from_pydict({"Column_0": [1.0, None], "Column_1": [1.0, 2.0]})
    assert model.predict(batch).columns.column(0).to_pylist() == trained.predict(np.ones((2, 2))).tolist()


def test_ordered_categories_are_found_by_their_codes(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    data = pd.DataFrame({"x": random.normal(size=400), "c": pd.Categorical(random.choice(["p", "q", "r"], 400))})
    grades = ["low", "mid", "high", "top"]
    data["grade"] = pd.Categorical(random.choice(grades, 400), categories=grades, ordered=True)
    y = data["x"] + data["grade"].cat.codes + (data["c"] == "q")
    trained = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(data, y), 10)
    trained.save_model(tmp_path / "m.txt")
    model = LightGBMFlavor().load(str(tmp_path / "m.txt"), {})
    assert [each.type for each in model.info.inputs] == ["double", "string", "string"]
    batch = pa.RecordBatch.from_pydict({name: data[name].tolist() for name in data})
    assert model.predict(batch).columns.column(0).to_pylist() == trained.predict(data, num_threads=1).tolist()


def test_ambiguous_categories_must_be_named(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    data = pd.DataFrame({"flag": random.integers(0, 2, 400), "x": random.normal(size=400)})
    data["grade"] = pd.Categorical(random.choice(["low", "high"], 400), categories=["low", "high"], ordered=True)
    y = data["x"] + data["flag"] * 2 + data["grade"].cat.codes
    trained = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(data, y), 10)
    path = str(tmp_path / "m.txt")
    trained.save_model(path)
    with pytest.raises(ModelUnusable, match="cannot be told") as caught:
        LightGBMFlavor().load(path, {})
    assert "categorical_features" in str(caught.value.remedy)
    model = LightGBMFlavor().load(path, {"options": {"categorical_features": ["grade"]}})
    batch = pa.RecordBatch.from_pydict(
        {"flag": data["flag"].astype(float).tolist(), "x": data["x"].tolist(), "grade": data["grade"].tolist()}
    )
    assert model.predict(batch).columns.column(0).to_pylist() == trained.predict(data, num_threads=1).tolist()
    with pytest.raises(InvalidSpec, match="categorical_features must be 1"):
        LightGBMFlavor().load(path, {"options": {"categorical_features": ["nothing"]}})


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda text: text.replace(b"end of trees", b"end of tree"), "end of trees"),
        (lambda text: text.replace(b"tree_sizes=", b"tree_sizes=1"), "not where the header says"),
        (lambda text: text.replace(b"\n", b"\r\n"), "line ends were changed"),
        (lambda text: b"shrub" + text[4:], "does not begin"),
        (lambda text: text.replace(b"feature_infos", b"feature_info"), "lacks feature_infos"),
        (lambda text: text.replace(b"max_feature_idx=3", b"max_feature_idx=4"), "5 features are announced"),
        (lambda text: text.replace(b"Tree=1\n", b"Tree=7\n"), "tree 1 is not"),
        (lambda text: text.replace(b"Tree=0", b"Tr\0e=0"), "zero bytes"),
        (lambda text: text[: text.rindex(b"]")], "cut off"),
        (lambda text: _edit(text, b"split_feature=", b"9"), "split_feature points outside"),
        (lambda text: _edit(text, b"left_child=", b"99"), "left_child points outside"),
        (lambda text: _edit(text, b"right_child=", b"-99"), "right_child points outside"),
        (lambda text: _edit(text, b"leaf_value=", b"x"), "damaged"),
        (lambda text: _edit(text, b"leaf_value=", b"1 2"), "leaf_value has"),
        (lambda text: _edit(text, b"cat_boundaries=", b"5"), "damaged"),
        (lambda text: _edit(text, b"num_leaves=", b"4"), "damaged"),
        (lambda text: _edit(text, b"leaf_count=", b"-"), "damaged"),
        (lambda text: _edit(text, b"internal_value=", b"1 2"), "internal_value has"),
    ],
)
def test_damage_is_named_before_the_library_sees_it(
    tmp_path: Path, model_file: Callable[[str], str], change: Callable[[bytes], bytes], reason: str
) -> None:
    path = tmp_path / "broken.txt"
    path.write_bytes(change(Path(model_file("binary")).read_bytes()))
    with pytest.raises(ModelUnusable, match=reason) as caught:
        LightGBMFlavor().load(str(path), {})
    assert str(path) in caught.value.message


def _edit(text: bytes, key: bytes, first: bytes) -> bytes:
    """Replace the first value of the first such line, and say so in the sizes of the trees."""
    start = text.index(b"Tree=0")
    position = text.index(b"\n" + key, start) + 1 + len(key)
    end = min(text.index(b"\n", position), text.find(b" ", position) % (1 << 60))
    size = int(text[text.index(b"tree_sizes=") :].split(b"=")[1].split()[0])
    changed = text[:position] + first + text[end:]
    return changed.replace(b"tree_sizes=%d" % size, b"tree_sizes=%d" % (size + len(changed) - len(text)), 1)


_CUT = """
import json, sys
from pathlib import Path
from tidemill.domain.errors import ModelUnusable
from tidemill.flavors.lightgbm import LightGBMFlavor
text, path = Path(sys.argv[1]).read_bytes(), sys.argv[2]
rests = []
for size in range(0, len(text) - 1, max(1, len(text) // 200)):
    Path(path).write_bytes(text[:size])
    try:
        LightGBMFlavor().load(path, {})
    except ModelUnusable:
        continue
    rests.append(text[size:].decode().strip()[:20])
print(json.dumps(rests))
"""


def test_cut_anywhere_is_refused_and_never_ends_the_process(tmp_path: Path, model_file: Callable[[str], str]) -> None:
    """Without what follows the trees a model predicts the same; converters leave it out."""
    command = [sys.executable, "-c", _CUT, model_file("regression"), str(tmp_path / "cut.txt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(json.loads(done.stdout)) <= {"feature_importances:", "pandas_categorical:"}


def test_trees_alone_are_a_model_whose_categories_are_codes(tmp_path: Path, model_file: Callable[[str], str]) -> None:
    text = Path(model_file("regression")).read_text(encoding="utf-8")
    path = tmp_path / "trees.txt"
    path.write_text(text[: text.index("\nfeature_importances")], encoding="utf-8")
    model = LightGBMFlavor().load(str(path), {})
    assert "codes" in model.info.notes[0]
    codes = {"kind": frame()["kind"].cat.codes, "size": frame()["size"].cat.codes}
    batch = rows()
    for position, name in ((2, "kind"), (3, "size")):
        column = codes[name].astype(float).where(codes[name] >= 0).tolist()
        batch = batch.set_column(position, name, pa.array(column, pa.float64(), from_pandas=True))
    wanted = booster("regression").predict(frame(), num_threads=1)
    assert model.predict(batch).columns.column(0).to_pylist() == wanted.tolist()


def test_neither_lightgbm_nor_pandas_is_imported(model_file: Callable[[str], str]) -> None:
    code = (
        "import sys, pyarrow as pa\n"
        "from tidemill.flavors.lightgbm import LightGBMFlavor\n"
        "from tidemill.flavors.matrix import strings, to_arrow\n"
        "import numpy as np\n"
        "model = LightGBMFlavor().load(sys.argv[1], {'probabilities': True})\n"
        "n = to_arrow(np.array([0.0, 1.0]))\n"
        "model.predict(pa.RecordBatch.from_arrays([n, n, strings(['red', 'x']), n], names=list('abks')))\n"
        "print(sorted({'lightgbm', 'pandas', 'sklearn', 'scipy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, model_file("binary")], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_library_keeps_quiet_and_the_package_still_works_beside_it(model_file: Callable[[str], str]) -> None:
    code = (
        "import sys\n"
        "from tidemill.flavors.lightgbm import LightGBMFlavor\n"
        "LightGBMFlavor().load(sys.argv[1], {})\n"
        "import lightgbm\n"
        "print(lightgbm.Booster(model_file=sys.argv[1]).num_trees(), lightgbm.LGBMClassifier.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, model_file("binary")], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("20 LGBMClassifier\n", "")


def test_missing_library_says_what_to_install(model_file: Callable[[str], str]) -> None:
    code = (
        "import sys, importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'lightgbm' else find(name, *rest)\n"
        "from tidemill.domain.errors import MissingExtra\n"
        "from tidemill.flavors.lightgbm import LightGBMFlavor\n"
        "try: LightGBMFlavor().load(sys.argv[1], {})\n"
        "except MissingExtra as exc: print(exc.remedy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, model_file("binary")], capture_output=True, text=True)
    assert done.stdout == "Run: pip install 'tidemill[lightgbm]'\n", done.stderr


def test_a_closed_model_refuses(load: Callable[..., LightGBMModel]) -> None:
    model = load("binary")
    model.close()
    with pytest.raises(ValueError, match="closed"):
        model.predict(rows())
