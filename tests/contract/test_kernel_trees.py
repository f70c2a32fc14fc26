"""The kernels of trees: against a plain walk of made-up trees, and against the models' libraries to the bit."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.flavors import sklearn_trees
from tidemill.flavors.lightgbm import LightGBMFlavor
from tidemill.flavors.sklearn import PickleFlavor
from tidemill.flavors.xgboost import XGBoostFlavor
from tidemill.kernels import library, tables, trees, walks
from tidemill.kernels.library import NotCompilable
from tidemill.kernels.tables import (
    MOST_JOINED,
    AskedTree,
    Ensemble,
    TableKernel,
    Tables,
    breaks_of,
    compile_tables,
    ensemble_of,
)
from tidemill.kernels.tree import Forest, Question, Tree
from tidemill.kernels.walks import WalkKernel, Walks, compile_walks
from tidemill.ports.flavor import Flavor
from tidemill.testing.flavor import bits

Array = np.ndarray[Any, Any]

ROWS = 600
FEATURES = 6
NAMES = [f"f{number}" for number in range(FEATURES)]
NEAR_ZERO = (0.0, -0.0, 1e-35, -1e-35, float(np.float32(1e-35)), 1e-36, 5e-324, -5e-324, 1e-45, -1e-34)
EXTREMES = (np.nan, np.inf, -np.inf, 1e308, -1e308, 3.5e38, -3.5e38)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Trains and predicts by OpenMP without waiting for threads that get no core."""
    import sklearn.ensemble  # noqa: F401
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


@st.composite
def ensembles(draw: st.DrawFn) -> tuple[Ensemble, list[Array]]:
    """Trees of any shape whose tests answer anything, and columns of values on, between and beyond the breaks."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    features = draw(st.integers(1, 4))
    dtype = draw(st.sampled_from(["f8", "f4"]))
    most = draw(st.sampled_from([0, 1, 3, 40, 300]))
    breaks = tuple(np.unique(random.normal(size=random.integers(0, most + 1)).astype(dtype)) for _ in range(features))
    answers: list[Array] = []
    made = [_asked(random, draw(st.sampled_from([1, 2, 7, 64, 65, 200])), breaks, answers) for _ in range(5)]
    sums = draw(st.integers(1, 3))
    ensemble = Ensemble(
        trees=made,
        breaks=breaks,
        answers=np.concatenate(answers).astype(np.uint8) if answers else np.empty(0, np.uint8),
        groups=random.integers(0, sums, len(made)).astype(np.int32),
        sums=sums,
    )
    rows = draw(st.sampled_from([0, 1, 513, 2049]))
    pool = [np.concatenate([each, random.normal(size=9).astype(dtype), [np.nan, np.inf, -np.inf]]) for each in breaks]
    return ensemble, [random.choice(each, rows).astype(dtype) for each in pool]


def _asked(random: np.random.Generator, leaves: int, breaks: Sequence[Array], answers: list[Array]) -> AskedTree:
    left, right = children(random, leaves)
    feature = random.integers(0, len(breaks), leaves - 1).astype(np.int32)
    places = np.zeros(leaves - 1, np.int64)
    for node, number in enumerate(feature.tolist()):
        places[node] = sum(map(len, answers))
        answers.append(random.random(len(breaks[number]) + 2) < 0.5)
    return AskedTree(feature=feature, left=left, right=right, answers=places, leaves=random.normal(size=leaves))


def children(random: np.random.Generator, leaves: int) -> tuple[Array, Array]:
    """A random shape: a leaf that is there is split until there are enough."""
    left, right = np.zeros(leaves - 1, np.int32), np.zeros(leaves - 1, np.int32)
    where: list[tuple[Array, int] | None] = [None]
    for node in range(leaves - 1):
        split = int(random.integers(len(where)))
        if (parent := where[split]) is not None:
            parent[0][parent[1]] = node
        where[split] = (left, node)
        where.append((right, node))
    for leaf, parent in enumerate(where):
        if parent is not None:
            parent[0][parent[1]] = ~leaf
    return left, right


def walked(ensemble: Ensemble, columns: Sequence[Array], start: Array, dtype: str) -> Array:
    """The same sums by walking down each tree."""
    rows = len(columns[0])
    out = np.repeat(start.astype(dtype)[:, None], rows, axis=1)
    for tree, group in zip(ensemble.trees, ensemble.groups.tolist(), strict=True):
        for row in range(rows):
            node = 0 if len(tree.feature) else ~0
            while node >= 0:
                feature = int(tree.feature[node])
                breaks, value = ensemble.breaks[feature], columns[feature][row]
                rank = len(breaks) + 1 if np.isnan(value) else int(np.searchsorted(breaks, value, side="left"))
                goes_left = ensemble.answers[tree.answers[node] + rank]
                node = int(tree.left[node] if goes_left else tree.right[node])
            out[group, row] += tree.leaves.astype(dtype)[~node]
    return out


@settings(max_examples=40, deadline=None)
@given(ensembles(), st.sampled_from(["f8", "f4"]))
def test_tables_lead_where_a_walk_leads(made: tuple[Ensemble, list[Array]], dtype: str) -> None:
    ensemble, columns = made
    shown = [column[:300] for column in columns]
    start = np.arange(ensemble.sums, dtype=dtype)
    kernel = TableKernel(compile_tables(ensemble, dtype=dtype))
    assert kernel.scores(shown, start).tobytes() == walked(ensemble, shown, start, dtype).tobytes()
    whole = kernel.scores(columns, start)
    assert whole[:, : len(shown[0])].tobytes() == kernel.scores(shown, start).tobytes()


@st.composite
def forests(draw: st.DrawFn) -> tuple[Forest, list[Array]]:
    """Trees of thresholds with one number a leaf or several, and columns of values on and around the thresholds."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    test = draw(st.sampled_from(["f4", "f8"]))
    width = draw(st.sampled_from([0, 1, 3]))
    pool = np.concatenate([random.normal(size=40), [0.0, -0.0, 1e-45, -1e-45, 3e38, np.inf, -np.inf]]).astype(test)
    made = []
    for leaves in draw(st.lists(st.sampled_from([1, 2, 3, 64, 65, 500]), min_size=1, max_size=4)):
        left, right = children(random, leaves)
        made.append(
            Tree(
                feature=random.choice([0, 1, 5], leaves - 1).astype(np.int32),
                left=left,
                right=right,
                leaves=random.normal(size=(leaves, width) if width else leaves),
                threshold=random.choice([*pool, np.nan], leaves - 1).astype(test),
                missing_left=random.random(leaves - 1) < 0.5,
            )
        )
    sums = max(width, 1) + 2
    groups = random.integers(0, 3, len(made)).astype(np.int32)
    near = [pool, np.nextafter(pool, pool.dtype.type(np.inf)), np.nextafter(pool, pool.dtype.type(-np.inf)), [np.nan]]
    rows = draw(st.sampled_from([0, 1, 7, 8, 17, 2050]))
    columns = [random.choice(np.concatenate(near), rows).astype(test) for _ in range(6)]
    return Forest(trees=made, features=6, groups=groups, sums=sums), columns


def stepped(forest: Forest, columns: Sequence[Array], start: Array, dtype: str) -> Array:
    """The sums of a forest, row by row and node by node."""
    out = np.repeat(start.astype(dtype)[:, None], len(columns[0]), axis=1)
    for tree, group in zip(forest.trees, forest.groups.tolist(), strict=True):
        leaves = tree.leaves.reshape(len(tree.leaves), -1).astype(dtype)
        for row in range(out.shape[1]):
            node = 0 if len(tree.feature) else ~0
            while node >= 0:
                value = columns[tree.feature[node]][row]
                goes_left = tree.missing_left[node] if np.isnan(value) else value <= tree.threshold[node]
                node = int(tree.left[node] if goes_left else tree.right[node])
            for number in range(leaves.shape[1]):
                out[group + number, row] += leaves[~node, number]
    return out


@settings(max_examples=40, deadline=None)
@given(forests(), st.sampled_from([0, 1, 3, 20, 1000]), st.sampled_from([2, 7, 64, 256]))
def test_it_makes_no_difference_which_features_share_a_table(
    made: tuple[Forest, list[Array]], most_steps: int, most_joined: int
) -> None:
    forest, columns = made
    shown = [column[:60] for column in columns]
    start = np.arange(forest.sums, dtype="f8")
    breaks = breaks_of(forest)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tables, "MOST_STEPS", {1: most_steps, 2: most_steps})
        patched.setattr(tables, "MOST_JOINED", most_joined)
        compiled = compile_tables(ensemble_of(forest, breaks), dtype="f8")
    assert TableKernel(compiled).scores(shown, start).tobytes() == stepped(forest, shown, start, "f8").tobytes()
    own = [len(breaks[feature]) + 2 for feature in compiled.features[compiled.weights == 0].tolist()]
    assert compiled.sizes.max(initial=0) <= max([most_joined, most_steps + 1, *own])
    if most_steps == 0:
        assert not len(compiled.steps)


@settings(max_examples=40, deadline=None)
@given(forests())
def test_features_share_tables(made: tuple[Forest, list[Array]]) -> None:
    """A table of one mask for each combination of what its features tell apart, and as few tables as were found."""
    forest, _ = made
    compiled = compile_tables(ensemble_of(forest, breaks_of(forest)), dtype="f8")
    for begin, end, size in zip(compiled.tests[:-1], compiled.tests[1:], compiled.sizes, strict=True):
        told_apart = np.diff(compiled.first_step)[begin:end] + 1
        if compiled.weights[begin]:
            assert size == told_apart.prod()
            assert compiled.weights[begin:end].tolist() == [1, *told_apart.cumprod()[:-1]]
        else:
            assert end == begin + 1
    for begin, end in pairwise(compiled.lookups.tolist()):
        here = sorted(compiled.sizes[place] for place in range(begin, end) if compiled.weights[compiled.tests[place]])
        assert len(here) < 2 or here[0] * here[1] > MOST_JOINED


@settings(max_examples=40, deadline=None)
@given(forests(), st.sampled_from(["f8", "f4"]))
def test_walks_and_tables_end_where_single_steps_end(made: tuple[Forest, list[Array]], dtype: str) -> None:
    forest, columns = made
    shown = [column[:60] for column in columns]
    start = np.arange(forest.sums, dtype=dtype)
    expected = stepped(forest, shown, start, dtype).tobytes()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(walks, "TILE_BYTES", 1)
        patched.setattr(walks, "TILE_TREES", 0)
        in_tiles = WalkKernel(compile_walks(forest, dtype=dtype))
    ranked = TableKernel(compile_tables(ensemble_of(forest, breaks_of(forest)), dtype=dtype))
    for kernel in (WalkKernel(compile_walks(forest, dtype=dtype)), in_tiles, ranked):
        assert kernel.scores(shown, start).tobytes() == expected
        whole = kernel.scores(columns, start)
        assert whole[:, : len(shown[0])].tobytes() == expected
        assert whole.tobytes() == ranked.scores(columns, start).tobytes()
        assert whole.shape == (forest.sums, len(columns[0]))


@pytest.mark.parametrize(("left", "right"), [([0], [~0]), ([~0], [~0]), ([~0], [1]), ([~2], [~0])])
def test_no_walk_leads_astray(left: list[int], right: list[int]) -> None:
    """In a circle, twice to one leaf, to a node or a leaf that is none."""
    tree = Tree(
        feature=np.array([0], np.int32),
        left=np.array(left, np.int32),
        right=np.array(right, np.int32),
        leaves=np.zeros(2),
        threshold=np.zeros(1),
        missing_left=np.zeros(1, bool),
    )
    forest = Forest(trees=[tree], features=1, groups=np.zeros(1, np.int32), sums=1)
    for made in (compile_walks, trees.compiled_of):
        with pytest.raises(NotCompilable, match="each of its leaves once"):
            made(forest, dtype="f8")


def test_large_trees_are_walked_and_others_ranked() -> None:
    def forest(leaves: int, features: int, questions: dict[int, Question]) -> Forest:
        """Of one tree that is grown level by level: a node's children are those of a heap."""
        below = np.arange(1, 2 * leaves - 1, dtype=np.int32)
        children = np.where(below < leaves - 1, below, ~(below - leaves + 1))
        left, right = children[::2].copy(), children[1::2].copy()
        tests = {"threshold": np.arange(leaves - 1.0), "missing_left": np.zeros(leaves - 1, bool)}
        feature = np.arange(leaves - 1, dtype=np.int32) % features
        shape = {"feature": feature, "left": left, "right": right, "leaves": np.zeros(leaves)}
        tree = Tree(**shape, **tests, questions=questions)
        return Forest(trees=[tree], features=features, groups=np.zeros(1, np.int32), sums=1)

    asked = Question(breaks=np.array([1.0]), goes_left=lambda values: values > 1)
    chosen = [
        (64, 1, {}, Tables),
        (64, 63, {}, Tables),
        (65, 1, {}, Walks),
        (65, 1, {3: asked}, Tables),
        (1, 1, {}, Tables),
    ]
    for leaves, features, questions, kind in chosen:
        assert type(trees.compiled_of(forest(leaves, features, questions), dtype="f8")) is kind


def test_a_tree_that_is_none_is_refused() -> None:
    """Nodes that lead in a circle, and leaves that nothing leads to."""
    for left, right in (([0], [~0]), ([~0], [~0])):
        tree = AskedTree(
            feature=np.array([0], np.int32),
            left=np.array(left, np.int32),
            right=np.array(right, np.int32),
            answers=np.array([0]),
            leaves=np.zeros(2),
        )
        ensemble = Ensemble(
            trees=[tree],
            breaks=(np.array([1.0]),),
            answers=np.zeros(3, np.uint8),
            groups=np.zeros(1, np.int32),
            sums=1,
        )
        with pytest.raises(NotCompilable):
            compile_tables(ensemble, dtype="f8")


def data(seed: int = 5) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(ROWS, FEATURES))
    x[random.random((ROWS, FEATURES)) < 0.1] = np.nan
    return x, np.nansum(x, axis=1) + random.normal(size=ROWS)


def probes(x: Array, thresholds: Sequence[float]) -> Array:
    """Rows that a model could get wrong: thresholds, their neighbours in 32 and 64 bits, zeros, extremes."""
    random = np.random.default_rng(6)
    exact = np.array(thresholds or [0.0])
    narrow = exact.astype(np.float32)
    near = [exact, *(np.nextafter(exact, to) for to in (-np.inf, np.inf)), narrow.astype(float)]
    near += [np.nextafter(narrow, np.float32(to)).astype(float) for to in (-np.inf, np.inf)]
    pool = np.concatenate([*near, NEAR_ZERO, EXTREMES])
    return np.concatenate([x, random.choice(pool, (1500, x.shape[1]))])


def batch(x: Array) -> pa.RecordBatch:
    columns = [pa.array(column, pa.float64(), mask=np.isnan(column)) for column in x.T]
    return pa.RecordBatch.from_arrays(columns, names=NAMES[: x.shape[1]])


def both(flavor: type[Flavor], path: Path, rows: pa.RecordBatch, **options: Any) -> tuple[Any, Any]:
    """The predictions of the library and of the kernel, which must have made its own, the same by tables and walks."""
    by_library = flavor().load(str(path), options)
    expected = by_library.predict(rows)
    assert not expected.by_kernel
    by_library.close()
    found = [_by_kernel(flavor, path, rows, most, options) for most in (1 << 20, 0)]
    for one in found:
        assert one.by_kernel
        assert dict(expected.row_errors) == dict(one.row_errors)
        assert bits(one) == bits(found[0])
    return bits(expected), bits(found[0])


def _by_kernel(flavor: type[Flavor], path: Path, rows: pa.RecordBatch, most: int, options: dict[str, Any]) -> Any:
    """What a kernel predicts that an earlier load of the model compiled and kept: by tables up to so many leaves."""
    options = {**options, "accelerate": True, "kernel_file": str(path.with_name(f"kept-{most}"))}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trees, "MOST_TABLE_LEAVES", most)
        model = flavor().load(str(path), options)
        assert model.kernel is not None, model.not_accelerated
        model.close()
        patched.setattr(trees, "compiled_of", None)
        model = flavor().load(str(path), options)
    found = model.predict(rows)
    model.close()
    return found


VALUE, POSITIVE, SHARE, YES, CLASSES = range(5)
LIGHTGBM: dict[str, tuple[dict[str, Any], int]] = {
    "regression": ({}, VALUE),
    "quantile": ({"objective": "quantile"}, VALUE),
    "square roots": ({"reg_sqrt": True}, VALUE),
    "poisson": ({"objective": "poisson"}, POSITIVE),
    "gamma": ({"objective": "gamma"}, POSITIVE),
    "tweedie": ({"objective": "tweedie"}, POSITIVE),
    "binary": ({"objective": "binary", "sigmoid": 1.7}, YES),
    "cross entropy": ({"objective": "cross_entropy"}, SHARE),
    "cross entropy, lambda": ({"objective": "cross_entropy_lambda"}, SHARE),
    "classes": ({"objective": "multiclass", "num_class": 4}, CLASSES),
    "one against all": ({"objective": "multiclassova", "num_class": 4}, CLASSES),
    "forest": ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}, VALUE),
    "dart": ({"boosting": "dart"}, VALUE),
    "255 leaves": ({"num_leaves": 255, "min_data_in_leaf": 1, "max_bin": 2000, "min_data_in_bin": 1}, VALUE),
    "zero is missing": ({"zero_as_missing": True}, VALUE),
    "nothing is missing": ({"use_missing": False}, VALUE),
}


def targets(y: Array) -> list[Array]:
    return [y, np.exp(y / 4) + 0.1, 1 / (1 + np.exp(-y)), (y > 0).astype(int), np.digitize(y, [-2, 0, 2])]


def lightgbm_model(path: Path, x: Array, y: Array, *, rounds: int = 20, **parameters: Any) -> list[float]:
    """Train, save, and give the thresholds."""
    import lightgbm

    own = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 2, "seed": 3, **parameters}
    categorical = own.pop("categorical", "auto")
    kept = lightgbm.Dataset(x, y, feature_name=NAMES, categorical_feature=categorical, params=dict(own))
    model = lightgbm.train(own, kept, rounds)
    model.save_model(path)
    thresholds = model.trees_to_dataframe()["threshold"].dropna()
    return [float(each) for each in thresholds if "||" not in str(each)]


@pytest.mark.parametrize("name", LIGHTGBM)
def test_lightgbm_s_bits(tmp_path: Path, name: str) -> None:
    parameters, target = LIGHTGBM[name]
    x, y = data()
    if name == "zero is missing":
        x[np.random.default_rng(1).random(x.shape) < 0.3] = 0.0
    thresholds = lightgbm_model(tmp_path / "model.txt", x, targets(y)[target], **parameters)
    asked = {"probabilities": True} if target in (YES, CLASSES) else {}
    expected, found = both(LightGBMFlavor, tmp_path / "model.txt", batch(probes(x, thresholds)), **asked)
    assert found == expected


def test_lightgbm_s_categories(tmp_path: Path) -> None:
    """Codes that training saw, codes that it did not, and numbers that are none."""
    random = np.random.default_rng(2)
    x, y = data()
    x[:, 0], x[:, 1] = random.integers(0, 200, ROWS), random.integers(0, 5, ROWS)
    y = y + np.sin(np.nan_to_num(x[:, 0]) * 3) * 2
    words = {"max_cat_threshold": 64, "min_data_per_group": 2, "cat_smooth": 1, "categorical": [0, 1]}
    thresholds = lightgbm_model(tmp_path / "model.txt", x, y, **words)
    rows = probes(x, thresholds)
    codes = [*range(-3, 260), 0.5, -0.5, -0.999, 2.999, 1e9, 2.0**31, 3e9, 1e18, np.nan, np.inf, -np.inf]
    rows[:, 0], rows[:, 1] = random.choice(codes, len(rows)), random.choice(codes, len(rows))
    expected, found = both(LightGBMFlavor, tmp_path / "model.txt", batch(rows))
    assert found == expected


def test_lightgbm_s_linear_leaves_are_left_to_it(tmp_path: Path) -> None:
    x, y = data()
    lightgbm_model(tmp_path / "model.txt", np.nan_to_num(x), y, linear_tree=True)
    model = LightGBMFlavor().load(str(tmp_path / "model.txt"), {"accelerate": True})
    assert (model.kernel, model.not_accelerated) == (None, "its leaves are linear models")
    assert not model.predict(batch(x)).by_kernel


XGBOOST: dict[str, tuple[dict[str, Any], int]] = {
    "squared error": ({"objective": "reg:squarederror"}, VALUE),
    "absolute error": ({"objective": "reg:absoluteerror"}, VALUE),
    "logistic": ({"objective": "binary:logistic"}, YES),
    "logistic, another base": ({"objective": "binary:logistic", "base_score": 0.3}, YES),
    "share": ({"objective": "reg:logistic"}, SHARE),
    "poisson": ({"objective": "count:poisson"}, POSITIVE),
    "gamma": ({"objective": "reg:gamma"}, POSITIVE),
    "tweedie": ({"objective": "reg:tweedie"}, POSITIVE),
    "classes": ({"objective": "multi:softprob", "num_class": 4}, CLASSES),
    "classes, the likeliest": ({"objective": "multi:softmax", "num_class": 4}, CLASSES),
    "forests": ({"objective": "multi:softprob", "num_class": 4, "num_parallel_tree": 3, "subsample": 0.6}, CLASSES),
    "pruned": ({"objective": "reg:squarederror", "tree_method": "exact", "gamma": 2}, VALUE),
    "255 leaves": ({"max_depth": 0, "max_leaves": 255, "grow_policy": "lossguide", "min_child_weight": 0}, VALUE),
}


def xgboost_model(path: Path, x: Array, y: Array, *, types: list[str] | None = None, **parameters: Any) -> list[float]:
    """Train, save, and give the thresholds."""
    import xgboost

    kept = xgboost.DMatrix(x, y, feature_names=NAMES, feature_types=types, enable_categorical=types is not None)
    model = xgboost.train({"nthread": 1, "max_depth": 5, "max_bin": 1000, "seed": 3, **parameters}, kept, 20)
    model.save_model(path)
    if parameters.get("booster") == "gblinear":
        return []
    return [float(each) for each in model.trees_to_dataframe()["Split"].dropna()]


@pytest.mark.parametrize(
    ("name", "ending"), [*((name, "json") for name in XGBOOST), ("logistic", "ubj"), ("classes", "ubj")]
)
def test_xgboost_s_bits(tmp_path: Path, name: str, ending: str) -> None:
    parameters, target = XGBOOST[name]
    x, y = data()
    path = tmp_path / f"model.{ending}"
    thresholds = xgboost_model(path, x, targets(y)[target], **parameters)
    asked = {"probabilities": True} if target == CLASSES else {}
    expected, found = both(XGBoostFlavor, path, batch(probes(x, thresholds)), **asked)
    assert found == expected


def test_xgboost_s_categories(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    x, y = data()
    x[:, 0], x[:, 1] = random.integers(0, 90, ROWS), random.integers(0, 5, ROWS)
    x[::17, 0] = np.nan
    y = y + np.sin(np.nan_to_num(x[:, 0]) * 3) * 2
    types = ["c", "c", *["float"] * (FEATURES - 2)]
    xgboost_model(tmp_path / "model.json", x, y, types=types, max_cat_to_onehot=4)
    expected, found = both(XGBoostFlavor, tmp_path / "model.json", batch(x))
    assert found == expected


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"booster": "gblinear"}, "linear"),
        ({"booster": "dart"}, "dart"),
        ({"objective": "binary:hinge"}, "objective"),
    ],
)
def test_what_no_kernel_knows_is_left_to_xgboost(tmp_path: Path, parameters: dict[str, Any], why: str) -> None:
    x, y = data()
    xgboost_model(tmp_path / "model.json", np.nan_to_num(x), (y > 0).astype(int), **parameters)
    model = XGBoostFlavor().load(str(tmp_path / "model.json"), {"accelerate": True})
    assert model.kernel is None
    assert why in model.not_accelerated
    assert not model.predict(batch(np.nan_to_num(x))).by_kernel


SKLEARN: dict[str, tuple[str, dict[str, Any], int]] = {
    "histograms": ("HistGradientBoostingRegressor", {}, VALUE),
    "histograms, poisson": ("HistGradientBoostingRegressor", {"loss": "poisson"}, POSITIVE),
    "histograms, 200 leaves": (
        "HistGradientBoostingRegressor",
        {"max_leaf_nodes": 200, "min_samples_leaf": 2, "max_depth": None},
        VALUE,
    ),
    "histograms, two classes": ("HistGradientBoostingClassifier", {}, YES),
    "histograms, classes": ("HistGradientBoostingClassifier", {}, CLASSES),
    "stages": ("GradientBoostingRegressor", {}, VALUE),
    "stages from zero": ("GradientBoostingRegressor", {"init": "zero"}, VALUE),
    "stages, two classes": ("GradientBoostingClassifier", {}, YES),
    "stages, classes": ("GradientBoostingClassifier", {}, CLASSES),
    "forest": ("RandomForestRegressor", {}, VALUE),
    "forest, two classes": ("RandomForestClassifier", {}, YES),
    "forest of small trees, classes": ("RandomForestClassifier", {"max_depth": 4}, CLASSES),
    "random splits": ("ExtraTreesRegressor", {"max_leaf_nodes": 30}, VALUE),
    "random splits, classes": ("ExtraTreesClassifier", {"min_samples_leaf": 3}, CLASSES),
    "one tree": ("DecisionTreeRegressor", {}, VALUE),
    "one tree, classes": ("DecisionTreeClassifier", {"min_samples_leaf": 5}, CLASSES),
    "one random tree": ("ExtraTreeClassifier", {"max_depth": 3}, YES),
}


def sklearn_model(path: Path, x: Array, y: Array, name: str, *, scaled: bool = False, **parameters: Any) -> Any:
    import joblib
    from sklearn import ensemble, tree
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kind = getattr(ensemble, name, None) or getattr(tree, name)
    rounds = {"max_iter", "n_estimators"} & set(kind().get_params())
    model = kind(**dict.fromkeys(rounds, 15), random_state=0, **parameters)
    model = make_pipeline(StandardScaler(), model) if scaled else model
    joblib.dump(model.fit(x, y), path)
    return model


def sklearn_thresholds(model: Any) -> list[float]:
    if hasattr(model, "_predictors"):
        nodes = [tree.nodes for stage in model._predictors for tree in stage]
        return [float(each) for tree in nodes for each in tree["num_threshold"][tree["is_leaf"] == 0]]
    fitted = np.ravel(model.estimators_) if hasattr(model, "estimators_") else [model]
    return [float(each) for one in fitted for each in one.tree_.threshold[one.tree_.children_left != -1]]


@pytest.mark.parametrize(
    ("name", "scaled"),
    [*((name, False) for name in SKLEARN), ("histograms", True), ("stages, classes", True), ("forest", True)],
)
def test_scikit_learn_s_bits(tmp_path: Path, name: str, scaled: bool) -> None:
    kind, parameters, target = SKLEARN[name]
    x, y = data()
    if kind.startswith("Gradient"):
        x = np.nan_to_num(x)
    model = sklearn_model(tmp_path / "model.pkl", x, targets(y)[target], kind, scaled=scaled, **parameters)
    thresholds = sklearn_thresholds(model[-1] if scaled else model)
    rows = probes(x, thresholds)
    if not kind.startswith("Hist") or scaled:
        missing = 0.25 if kind.startswith("Gradient") or scaled else np.nan
        rows = np.nan_to_num(rows, nan=missing, posinf=1e30, neginf=-1e30)
        rows[np.abs(rows) > 1e30] = 1e30
    asked = {"features": NAMES, "probabilities": target in (YES, CLASSES)}
    expected, found = both(PickleFlavor, tmp_path / "model.pkl", batch(rows), **asked)
    assert found == expected


def test_scikit_learn_does_not_sum_the_trees_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor

    x, y = data()
    sklearn_model(tmp_path / "model.pkl", x, y, "HistGradientBoostingRegressor")
    model = PickleFlavor().load(str(tmp_path / "model.pkl"), {"features": NAMES, "accelerate": True})
    monkeypatch.setattr(HistGradientBoostingRegressor, "_predict_iterations", None)
    assert model.predict(batch(x)).by_kernel


def test_scikit_learn_s_categories(tmp_path: Path) -> None:
    """Codes that training saw, codes that it did not, and missing ones."""
    random = np.random.default_rng(2)
    x, y = data()
    x[:, 1], x[:, 4] = random.choice(np.arange(0, 180, 3), ROWS), random.integers(0, 5, ROWS)
    x[::17, 1] = np.nan
    y = y + np.sin(np.nan_to_num(x[:, 1]) * 3) * 2
    sklearn_model(
        tmp_path / "model.pkl", x, y, "HistGradientBoostingRegressor", categorical_features=[1, 4], min_samples_leaf=3
    )
    rows = probes(x, [])
    codes = [*range(-3, 260), 0.5, 1e9, np.nan]
    rows[:, 1], rows[:, 4] = random.choice(codes, len(rows)), random.choice(codes, len(rows))
    expected, found = both(PickleFlavor, tmp_path / "model.pkl", batch(rows), features=NAMES)
    assert found == expected


@pytest.mark.parametrize("name", ["RandomForestClassifier", "GradientBoostingRegressor"])
def test_sparse_rows_of_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import joblib
    from sklearn import ensemble
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    random = np.random.default_rng(4)
    words, y = random.integers(0, 20, (300, 3)).astype(float), random.integers(0, 3, 300)
    model = make_pipeline(
        OneHotEncoder(handle_unknown="ignore"), getattr(ensemble, name)(n_estimators=5, random_state=0)
    )
    joblib.dump(model.fit(words, y), tmp_path / "model.pkl")
    monkeypatch.setattr(sklearn_trees, "DENSE_ROWS", 64)
    rows = batch(random.integers(0, 25, (200, 3)).astype(float))
    expected, found = both(PickleFlavor, tmp_path / "model.pkl", rows, features=NAMES[:3])
    assert found == expected


@pytest.mark.parametrize(
    ("name", "columns", "why"),
    [
        ("BaggingRegressor", 1, "there is no kernel for a BaggingRegressor"),
        ("AdaBoostRegressor", 1, "there is no kernel for a AdaBoostRegressor"),
        ("RandomForestRegressor", 2, "it has several outputs"),
        ("DecisionTreeClassifier", 2, "it has several outputs"),
    ],
)
def test_what_no_kernel_knows_is_left_to_scikit_learn(tmp_path: Path, name: str, columns: int, why: str) -> None:
    x, y = data()
    x = np.nan_to_num(x)
    several = np.repeat((y > 0).astype(int)[:, None], columns, axis=1)
    sklearn_model(tmp_path / "model.pkl", x, several if columns > 1 else y, name)
    model = PickleFlavor().load(str(tmp_path / "model.pkl"), {"features": NAMES, "accelerate": True})
    assert (model.kernel, model.not_accelerated) == (None, why)
    assert not model.predict(batch(x)).by_kernel


def test_another_scikit_learn_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is replaced is no promise of scikit-learn's: where it is not there, nothing is replaced."""

    def renamed(**given: Any) -> None:
        raise KeyError("num_threshold")

    x, y = data()
    sklearn_model(tmp_path / "model.pkl", x, y, "HistGradientBoostingRegressor")
    expected = PickleFlavor().load(str(tmp_path / "model.pkl"), {"features": NAMES}).predict(batch(x))
    monkeypatch.setattr(sklearn_trees, "of_nodes", renamed)
    model = PickleFlavor().load(str(tmp_path / "model.pkl"), {"features": NAMES, "accelerate": True})
    assert model.kernel is None
    assert "keeps trees in another way" in model.not_accelerated
    assert bits(model.predict(batch(x))) == bits(expected)


def test_trees_whose_tables_are_too_large_are_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data()
    thresholds = lightgbm_model(tmp_path / "model.txt", x, y)
    monkeypatch.setattr(trees, "MOST_TABLE_BYTES", 1000)
    monkeypatch.setattr(trees, "TableKernel", None)
    expected, found = both(LightGBMFlavor, tmp_path / "model.txt", batch(probes(x, thresholds)))
    assert found == expected


def test_tables_of_categories_that_are_too_large_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data()
    x[:, 0] = np.random.default_rng(3).integers(0, 9, ROWS)
    lightgbm_model(tmp_path / "model.txt", x, y + 3 * (x[:, 0] % 3), categorical=[0])
    monkeypatch.setattr(trees, "MOST_TABLE_BYTES", 1000)
    model = LightGBMFlavor().load(str(tmp_path / "model.txt"), {"accelerate": True})
    assert model.kernel is None
    assert "too large for tables" in model.not_accelerated


@pytest.mark.parametrize("broken", ["absent", "other version"])
def test_without_the_library_all_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    x, y = data()
    lightgbm_model(tmp_path / "model.txt", x, y)
    if broken == "absent":
        monkeypatch.setattr(library, "_PACKAGE", "a_package_that_nobody_has")
    else:
        monkeypatch.setattr(library, "ABI", library.ABI + 1)
    library._found.cache_clear()
    try:
        model = LightGBMFlavor().load(str(tmp_path / "model.txt"), {"accelerate": True})
        assert model.kernel is None
        assert "tidemill-kernels" in model.not_accelerated
        assert not model.predict(batch(x)).by_kernel
    finally:
        library._found.cache_clear()


def test_the_library_is_plain_c() -> None:
    """It needs no Python to be loaded, so one build serves every version."""
    found = library.library()
    assert isinstance(found, ctypes.CDLL)
    assert found.tidemill_abi() == library.ABI
