"""LightGBM's text models scored by the kernel of `tidemill.kernels.trees`: the same bits, without the library.

Decisions are those of `Tree::NumericalDecision`, `Tree::CategoricalDecision` and of the objectives'
`ConvertOutput` in LightGBM's sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tidemill.flavors.lightgbm_text import BoosterText, tree_texts
from tidemill.kernels.kept import Place
from tidemill.kernels.library import NotCompilable
from tidemill.kernels.transforms import exponential, log1p_exp, logistic, softmax
from tidemill.kernels.tree import Forest, Question, Tree
from tidemill.kernels.trees import kernel_of

Array = np.ndarray[Any, Any]

ZERO = float(np.float32(1e-35))
"""What is nearer to zero is zero to the library."""
_BELOW_ZERO = float(np.nextafter(-ZERO, -np.inf))

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

    def __init__(self, text: bytes, said: BoosterText, kept_at: str | None = None) -> None:
        """`text` is a whole model file and `said` what it says; its kernel is kept at `kept_at`, as
        `PredictOptions.kernel_file` says. Raises NotCompilable."""
        self._convert = _converter(said)
        self._groups = said.per_iteration
        self._rounds = said.trees // said.per_iteration
        self._averaged = said.averaged
        self._kernel = kernel_of(
            lambda: forest(tree_texts(text), len(said.features), self._groups),
            dtype="f8",
            place=Place.at(kept_at, __file__),
        )

    def predict(self, columns: Sequence[Array]) -> Array:
        """Predictions of vectors of floats, NaN for null: (rows,), or (rows, groups) if groups > 1."""
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


def forest(blocks: Sequence[Mapping[str, str]], features: int, groups: int) -> Forest:
    """The trees of a model, each given as the pairs of key and value of its text. Raises NotCompilable."""
    trees = [_tree(_parts(block)) for block in blocks]
    of = (np.arange(len(trees)) % groups).astype(np.int32)
    return Forest(trees=trees, features=features, groups=of, sums=groups)


def _parts(block: Mapping[str, str]) -> dict[str, Array]:
    if block.get("is_linear", "0").strip() not in ("0", ""):
        raise NotCompilable("its leaves are linear models")
    kinds: dict[str, type] = {
        "split_feature": np.int32, "left_child": np.int32, "right_child": np.int32, "threshold": np.float64,
        "decision_type": np.int32, "cat_boundaries": np.int64, "cat_threshold": np.uint32, "leaf_value": np.float64,
    }  # fmt: skip
    return {key: np.array((block.get(key) or "").split(), dtype=kind) for key, kind in kinds.items()}


def _tree(part: Mapping[str, Array]) -> Tree:
    kind, said = part["decision_type"], part["threshold"]
    default_left, missing = (kind & _DEFAULT_LEFT).astype(bool), (kind >> 2) & 3
    # Rows are kept as sparse ones, without what is so near to zero: that is zero. NaN is zero to most tests.
    threshold = np.where(said < 0.0, np.minimum(said, _BELOW_ZERO), np.maximum(said, ZERO))
    missing_left = np.where(missing == _MISSING_NAN, default_left, said >= 0.0)
    questions = {}
    for node in np.flatnonzero(kind & _CATEGORICAL).tolist():
        questions[node] = _among(_bits(part, int(said[node])))
    for node in np.flatnonzero((missing == _MISSING_ZERO) & ~(kind & _CATEGORICAL).astype(bool)).tolist():
        questions[node] = _but_zero(float(threshold[node]), bool(default_left[node]))
    return Tree(
        feature=part["split_feature"], left=part["left_child"], right=part["right_child"], leaves=part["leaf_value"],
        threshold=threshold, missing_left=missing_left, questions=questions,
    )  # fmt: skip


def _but_zero(threshold: float, default_left: bool) -> Question:
    """Of a feature whose missing values are zeros: both go by default."""

    def goes_left(values: Array) -> Array:
        return np.where((np.abs(values) <= ZERO) | np.isnan(values), default_left, values <= threshold)

    return Question(breaks=np.array([_BELOW_ZERO, ZERO, threshold]), goes_left=goes_left)


def _bits(part: Mapping[str, Array], place: int) -> Array:
    """Which categories a categorical test sends to the left."""
    begin, end = part["cat_boundaries"][place : place + 2]
    words = part["cat_threshold"][begin:end].astype("<u4")
    bits = np.unpackbits(words.view(np.uint8), bitorder="little").astype(bool)
    if len(bits) > MAX_CATEGORIES:
        raise NotCompilable(f"a feature has more than {MAX_CATEGORIES:,} categories")
    return bits


def _among(bits: Array) -> Question:
    """Whether a value is among the categories; NaN and negatives are not. It counts as the whole number that it is
    cut off to, -0.9 as 0."""

    def goes_left(values: Array) -> Array:
        found = np.zeros(len(values), bool)
        inside = (values > -1.0) & (values < len(bits))
        found[inside] = bits[values[inside].astype(int)]
        return found

    breaks = np.concatenate([[-1.0], np.nextafter(np.arange(1.0, len(bits) + 1), -np.inf)])
    return Question(breaks=breaks, goes_left=goes_left)
