"""XGBoost's trees scored by the kernel of `tidemill.kernels.trees`, without the library.

Decisions are those of `predict_fn.h` and `categorical.h` in XGBoost's sources; sums are 32-bit ones in the order of
the trees, as there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tidemill.flavors.xgboost_file import ModelFile
from tidemill.kernels.kept import Place
from tidemill.kernels.library import NotCompilable
from tidemill.kernels.transforms import exponential, logarithm, logistic, softmax
from tidemill.kernels.tree import Forest, Question, Tree
from tidemill.kernels.trees import kernel_of

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

    def __init__(self, learner: Mapping[str, Any], said: ModelFile, kept_at: str | None = None) -> None:
        """As `xgboost_file.read` gave them; its kernel is kept at `kept_at`, as `PredictOptions.kernel_file` says.
        Raises NotCompilable."""
        if said.booster == "gblinear":
            raise NotCompilable("it is a linear function")
        if said.booster == "dart":
            raise NotCompilable("the trees of dart have weights, which the library adds up in another way")
        trees = learner["gradient_booster"]["model"]
        width = max(said.classes, said.targets, 1)
        self._convert = _converter(said.objective)
        self._start = _start(learner["learner_model_param"]["base_score"], said.objective, width)
        count = _counted(trees, said)

        def forest() -> Forest:
            groups = np.asarray(trees["tree_info"][:count], np.int32)
            found = [_tree(tree) for tree in trees["trees"][:count]]
            return Forest(trees=found, features=said.features, groups=groups, sums=width)

        self._kernel = kernel_of(forest, dtype="f4", place=Place.at(kept_at, __file__))

    def predict(self, columns: Sequence[Array]) -> Array:
        """Predictions of contiguous float32 vectors, NaN for missing: (rows, width) as float32."""
        return self._convert(self._kernel.scores(columns, self._start))


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


def _tree(tree: Mapping[str, Any]) -> Tree:
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
    questions = _questions(tree, np.flatnonzero(inner)) if np.any(tree.get("split_type", ())) else {}
    return Tree(
        feature=np.asarray(tree["split_indices"], np.int32)[inner],
        left=place[left[inner]],
        right=place[right[inner]],
        leaves=conditions[leaf],
        threshold=_not_above(conditions[inner]),
        missing_left=np.asarray(tree["default_left"], np.int64)[inner].astype(bool),
        questions=questions,
    )


def _not_above(less: Array) -> Array:
    """Thresholds that values are not above, from those that they are less than. Nothing is less than -infinity."""
    return np.where(less == -np.inf, np.float32(np.nan), np.nextafter(less, np.float32(-np.inf)))


def _questions(tree: Mapping[str, Any], nodes: Array) -> dict[int, Question]:
    """Of tests for categories, by their places among `nodes`, the inner ones."""
    listed = np.asarray(tree["categories"], np.int64)
    if len(listed) and listed.max() > MAX_CATEGORIES:
        raise NotCompilable(f"a feature has more than {MAX_CATEGORIES:,} categories")
    return {
        int(np.searchsorted(nodes, node)): _not_among(listed[start : start + size], bool(tree["default_left"][node]))
        for node, start, size in zip(
            tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True
        )
    }


def _not_among(listed: Array, default_left: bool) -> Question:
    """Whether a value, cut off to a whole number, is none of the categories listed."""
    among = np.zeros(int(listed.max(initial=0)) + 1, bool)
    among[listed] = True

    def goes_left(values: Array) -> Array:
        found = np.ones(len(values), bool)
        inside = (values >= 0) & (values < len(among))
        found[inside] = ~among[values[inside].astype(np.int64)]
        found[np.isnan(values)] = default_left
        return found

    codes = np.arange(len(among) + 1, dtype=np.float32)
    return Question(breaks=np.nextafter(codes, np.float32(-np.inf)), goes_left=goes_left)
