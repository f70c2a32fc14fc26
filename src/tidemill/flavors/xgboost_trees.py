"""XGBoost's trees scored by the kernel of `tidemill.kernels.trees`, without the library.

Decisions are those of `predict_fn.h` and `categorical.h` in XGBoost's sources, asked for one value between each two
breaks; sums are 32-bit ones in the order of the trees, as there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tidemill.flavors.xgboost_file import ModelFile, learner
from tidemill.kernels.library import NotCompilable
from tidemill.kernels.transforms import exponential, logarithm, logistic, softmax
from tidemill.kernels.trees import Ensemble, Shape, TreeKernel, asked, compile_trees

Array = np.ndarray[Any, Any]

MAX_CATEGORIES = 60_000

_LOGISTIC = ("binary:logistic", "reg:logistic")
_EXPONENTIAL = ("count:poisson", "reg:gamma", "reg:tweedie")
_IDENTITY = (
    *("reg:squarederror", "reg:pseudohubererror", "reg:absoluteerror", "reg:quantileerror", "reg:squaredlogerror"),
    *("rank:pairwise", "rank:ndcg", "rank:map", "multi:softmax"),
)
"""Of multi:softmax the sums are wanted: the library itself gives the class alone."""


class TreeBooster:
    """A booster of tables. `predict` may be called from several threads at once."""

    def __init__(self, content: bytes, said: ModelFile) -> None:
        """`content` is a whole model file and `said` what it says. Raises NotCompilable."""
        if said.booster == "gblinear":
            raise NotCompilable("it is a linear function")
        if said.booster == "dart":
            raise NotCompilable("the trees of dart have weights, which the library adds up in another way")
        model = learner(content)
        trees = model["gradient_booster"]["model"]
        width = max(said.classes, said.targets, 1)
        self._convert = _converter(said.objective)
        self._start = _start(model["learner_model_param"]["base_score"], said.objective, width)
        count = _counted(trees, said)
        groups = np.asarray(trees["tree_info"][:count], np.int32)
        found = _ensemble(trees["trees"][:count], said.features, groups, width)
        self._kernel = TreeKernel(compile_trees(found, dtype="f4"))

    def predict(self, columns: Sequence[Array]) -> Array:
        """Predictions of contiguous float64 vectors, NaN for missing: (rows, width) as float32."""
        with np.errstate(over="ignore"):
            narrow = [column.astype(np.float32) for column in columns]
        return self._convert(self._kernel.scores(narrow, self._start))


def _counted(trees: Mapping[str, Any], said: ModelFile) -> int:
    """Trees that count: of the rounds up to the best one."""
    total = len(trees["trees"])
    if said.rounds is None:
        return total
    borders = np.asarray(trees.get("iteration_indptr", ()), np.int64)
    if not len(borders):
        raise NotCompilable("it does not say which trees belong to its best rounds")
    return int(borders[min(said.rounds, len(borders) - 1)])


def _converter(objective: str) -> Callable[[Array], Array]:
    """What an objective makes of sums, (width, rows) -> (rows, width)."""
    if objective == "multi:softprob":
        return softmax
    if objective in _LOGISTIC:
        return lambda sums: np.ascontiguousarray(logistic(sums).T)
    if objective in _EXPONENTIAL:
        return lambda sums: np.ascontiguousarray(exponential(sums).T)
    if objective in _IDENTITY:
        return lambda sums: np.ascontiguousarray(sums.T)
    raise NotCompilable(f"its objective {objective!r} has no kernel")


def _start(said: str, objective: str, width: int) -> Array:
    """What sums begin with: the base score, turned from a prediction into a sum."""
    values = json.loads(said) if said.startswith("[") else [float(said)]
    base = np.asarray([float(value) for value in values], np.float32)
    if objective in _LOGISTIC:
        base = -logarithm(np.float32(1.0) / base - np.float32(1.0))
    elif objective in _EXPONENTIAL:
        base = logarithm(base)
    return np.broadcast_to(base, (width,)).astype(np.float32)


def _ensemble(trees: Sequence[Mapping[str, Any]], features: int, groups: Array, width: int) -> Ensemble:
    parts = [_Part(tree) for tree in trees]
    shapes = [Shape(feature=part.feature, left=part.left, right=part.right, leaves=part.leaves) for part in parts]
    return asked(shapes, _breaks(parts, features), _asker(parts), groups=groups, sums=width)


class _Part:
    """One tree as arrays: its inner nodes, and its leaves apart."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        if int(tree["tree_param"].get("size_leaf_vector", "0")) > 1:
            raise NotCompilable("its leaves hold several values")
        left, right = (np.asarray(tree[key], np.int64) for key in ("left_children", "right_children"))
        conditions = np.asarray(tree["split_conditions"], np.float32)
        inner = left != -1
        reached = np.zeros(len(left), bool)
        reached[0] = True
        reached[left[inner]] = reached[right[inner]] = True
        leaf = ~inner & reached
        # Nodes that were pruned away stand in the file still, and nothing leads to them.
        place = np.where(inner, np.cumsum(inner) - 1, ~(np.cumsum(leaf) - 1)).astype(np.int32)
        self.left, self.right = place[left[inner]], place[right[inner]]
        self.feature = np.asarray(tree["split_indices"], np.int32)[inner]
        self.threshold = conditions[inner]
        self.default_left = np.asarray(tree["default_left"], np.int64)[inner].astype(bool)
        self.leaves = conditions[leaf]
        kinds = np.asarray(tree.get("split_type", ()), np.int64)
        self.categories = self._listed(tree, np.flatnonzero(inner)) if kinds.any() else {}

    def _listed(self, tree: Mapping[str, Any], nodes: Array) -> dict[int, Array]:
        """Categories that are sent to the right, by inner node."""
        starts, sizes = tree["categories_segments"], tree["categories_sizes"]
        listed = np.asarray(tree["categories"], np.int64)
        if len(listed) and listed.max() > MAX_CATEGORIES:
            raise NotCompilable(f"a feature has more than {MAX_CATEGORIES:,} categories")
        return {
            int(np.searchsorted(nodes, node)): listed[start : start + size]
            for node, start, size in zip(tree["categories_nodes"], starts, sizes, strict=True)
        }


def _breaks(parts: Sequence[_Part], features: int) -> list[Array]:
    """All values at which a test of a feature may change its answer."""
    found: list[list[Array]] = [[] for _ in range(features)]
    for part in parts:
        numeric = np.ones(len(part.feature), bool)
        for node, listed in part.categories.items():
            numeric[node] = False
            codes = np.arange(listed.max(initial=0) + 2, dtype=np.float32)
            found[part.feature[node]].append(np.nextafter(codes, np.float32(-np.inf)))
        for feature in np.unique(part.feature[numeric]).tolist():
            thresholds = part.threshold[numeric & (part.feature == feature)]
            found[feature].append(np.nextafter(thresholds, np.float32(-np.inf)))
    return [np.unique(np.concatenate(each)) if each else np.empty(0, np.float32) for each in found]


def _asker(parts: Sequence[_Part]) -> Callable[[Array, Array], Array]:
    bounds = np.cumsum([0, *(len(part.feature) for part in parts)])
    threshold = np.concatenate([np.empty(0, np.float32), *(part.threshold for part in parts)])
    default_left = np.concatenate([np.empty(0, bool), *(part.default_left for part in parts)])
    categorical = {
        int(bounds[tree]) + node: listed for tree, part in enumerate(parts) for node, listed in part.categories.items()
    }

    def ask(nodes: Array, values: Array) -> Array:
        found: Array = values < threshold[nodes][:, None]
        for row, node in enumerate(nodes.tolist()):
            if node in categorical:
                found[row] = _not_among(values, categorical[node])
        found[:, -1] = default_left[nodes]
        return found

    return ask


def _not_among(values: Array, listed: Array) -> Array:
    """Whether each value, cut off to a whole number, is none of the categories listed."""
    among = np.zeros(int(listed.max(initial=0)) + 1, bool)
    among[listed] = True
    inside = (values >= 0) & (values < len(among))
    goes_left = np.ones(len(values), bool)
    goes_left[inside] = ~among[values[inside].astype(np.int64)]
    return goes_left
