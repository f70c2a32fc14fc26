"""LightGBM's text models scored by the kernel of `tidemill.kernels.trees`: the same bits, without the library.

Decisions are those of `Tree::NumericalDecision`, `Tree::CategoricalDecision` and of the objectives'
`ConvertOutput` in LightGBM's sources, asked for one value between each two breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tidemill.flavors.lightgbm_text import BoosterText, tree_texts
from tidemill.kernels.library import NotCompilable
from tidemill.kernels.transforms import exponential, log1p_exp, logistic, softmax
from tidemill.kernels.trees import Ensemble, Shape, TreeKernel, asked, compile_trees

Array = np.ndarray[Any, Any]

ZERO = float(np.float32(1e-35))
"""What is nearer to zero is zero to the library."""

_MULTICLASS = ("multiclass", "softmax")
_LOGISTIC = ("binary", "multiclassova", "multiclass_ova", "ova", "ovr", "cross_entropy", "xentropy")
_EXPONENTIAL = ("poisson", "gamma", "tweedie")
_IDENTITY = (
    *("", "regression", "regression_l2", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank"),
    *("rank_xendcg", "xendcg", "xe_ndcg", "xe_ndcg_mart", "xendcg_mart"),
)
_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_MISSING_ZERO, _MISSING_NAN = 1, 2
MAX_CATEGORIES = 60_000


class TreeBooster:
    """A booster of tables. `predict` may be called from several threads at once."""

    def __init__(self, text: bytes, said: BoosterText) -> None:
        """`text` is a whole model file and `said` what it says. Raises NotCompilable."""
        self._convert = _converter(said)
        self._groups = said.per_iteration
        self._rounds = said.trees // said.per_iteration
        self._averaged = said.averaged
        found = ensemble(tree_texts(text), len(said.features), self._groups)
        self._kernel = TreeKernel(compile_trees(found, dtype="f8"))

    def predict(self, columns: Sequence[Array]) -> Array:
        """Predictions of contiguous float64 vectors, NaN for null: (rows,), or (rows, groups) if groups > 1."""
        sums = self._kernel.scores(columns, np.zeros(self._groups))
        if self._averaged and self._rounds:
            sums /= self._rounds
        return self._convert(sums)


def _converter(said: BoosterText) -> Callable[[Array], Array]:
    """What an objective makes of sums, (groups, rows) -> what the library returns."""
    name, words = said.objective, dict(word.partition(":")[::2] for word in said.objective_words)
    if name in _MULTICLASS:
        return softmax
    if name in _LOGISTIC:
        slope = float(words.get("sigmoid", "1"))
        return lambda sums: _rows(logistic(sums, slope))
    if name in _EXPONENTIAL:
        return lambda sums: _rows(exponential(sums))
    if name == "cross_entropy_lambda":
        return lambda sums: _rows(log1p_exp(sums))
    if name in _IDENTITY:
        return _squared if "sqrt" in words else _rows
    raise NotCompilable(f"its objective {name!r} is not known")


def _rows(sums: Array) -> Array:
    """Sums of one group as they are, of several a row for each row."""
    return sums[0] if len(sums) == 1 else np.ascontiguousarray(sums.T)


def _squared(sums: Array) -> Array:
    """Of a model that was trained on square roots."""
    return _rows(np.copysign(sums * sums, sums))


def ensemble(blocks: Sequence[Mapping[str, str]], features: int, groups: int) -> Ensemble:
    """The trees of a model, each given as the pairs of key and value of its text. Raises NotCompilable."""
    parts = [_parts(block) for block in blocks]
    shapes = [
        Shape(
            feature=part["split_feature"],
            left=part["left_child"],
            right=part["right_child"],
            leaves=part["leaf_value"],
        )
        for part in parts
    ]
    of = (np.arange(len(shapes)) % groups).astype(np.int32)
    return asked(shapes, _breaks(parts, features), _asker(parts), groups=of, sums=groups)


def _parts(block: Mapping[str, str]) -> dict[str, Array]:
    if block.get("is_linear", "0").strip() not in ("0", ""):
        raise NotCompilable("its leaves are linear models")
    kinds: dict[str, type] = {
        "split_feature": np.int32, "left_child": np.int32, "right_child": np.int32, "threshold": np.float64,
        "decision_type": np.int32, "cat_boundaries": np.int64, "cat_threshold": np.uint32, "leaf_value": np.float64,
    }  # fmt: skip
    return {key: np.array((block.get(key) or "").split(), dtype=kind) for key, kind in kinds.items()}


def _breaks(parts: Sequence[Mapping[str, Array]], features: int) -> list[Array]:
    """All values at which a test of a feature may change its answer."""
    found: list[list[Array]] = [[] for _ in range(features)]
    for part in parts:
        categorical = (part["decision_type"] & _CATEGORICAL).astype(bool)
        for feature in np.unique(part["split_feature"]).tolist():
            here = part["split_feature"] == feature
            found[feature].append(part["threshold"][here & ~categorical])
            for place in part["threshold"][here & categorical].astype(int).tolist():
                found[feature].append(_between_categories(_bits(part, place)))
    around_zero = np.array([np.nextafter(-ZERO, -np.inf), ZERO])
    return [np.unique(np.concatenate([*each, around_zero])) if each else np.empty(0) for each in found]


def _bits(part: Mapping[str, Array], place: int) -> Array:
    """Which categories a categorical test sends to the left."""
    begin, end = part["cat_boundaries"][place : place + 2]
    words = part["cat_threshold"][begin:end].astype("<u4")
    bits = np.unpackbits(words.view(np.uint8), bitorder="little").astype(bool)
    if len(bits) > MAX_CATEGORIES:
        raise NotCompilable(f"a feature has more than {MAX_CATEGORIES:,} categories")
    return bits


def _between_categories(bits: Array) -> Array:
    """Breaks around each category: a value counts as the whole number it is cut off to, -0.9 as 0."""
    return np.concatenate([[-1.0], np.nextafter(np.arange(1.0, len(bits) + 1), -np.inf)])


def _asker(parts: Sequence[Mapping[str, Array]]) -> Callable[[Array, Array], Array]:
    bounds = np.cumsum([0, *(len(part["split_feature"]) for part in parts)])
    threshold = np.concatenate([np.empty(0, np.float64), *(part["threshold"] for part in parts)])
    kind = np.concatenate([np.empty(0, np.int32), *(part["decision_type"] for part in parts)])

    def ask(nodes: Array, values: Array) -> Array:
        found = _numerical(values, threshold[nodes], kind[nodes])
        for row in np.flatnonzero(kind[nodes] & _CATEGORICAL).tolist():
            tree = parts[int(np.searchsorted(bounds, nodes[row], side="right")) - 1]
            found[row] = _categorical(values, _bits(tree, int(threshold[nodes[row]])))
        return found

    return ask


def _numerical(values: Array, thresholds: Array, kinds: Array) -> Array:
    """Answers (nodes x values) of tests for less or equal."""
    missing = (kinds >> 2) & 3
    by_default = (kinds & _DEFAULT_LEFT).astype(bool)
    # Rows are kept as sparse ones, without what is so near to zero: that is zero. NaN is zero to most tests.
    zero = np.abs(values) <= ZERO
    nan = np.isnan(values)
    goes_left: Array = np.where(zero | nan, 0.0, values) <= thresholds[:, None]
    np.copyto(goes_left, by_default[:, None], where=(missing == _MISSING_NAN)[:, None] & nan)
    np.copyto(goes_left, by_default[:, None], where=(missing == _MISSING_ZERO)[:, None] & (zero | nan))
    return goes_left


def _categorical(values: Array, bits: Array) -> Array:
    """Whether each value, cut off to a whole number, is among the categories; NaN and negatives are not."""
    goes_left = np.zeros(len(values), bool)
    inside = (values > -1.0) & (values < len(bits))
    goes_left[inside] = bits[values[inside].astype(int)]
    return goes_left
