"""scikit-learn's trees with their sums taken by the kernel of `tidemill.kernels.trees`.

Only the sum over the trees is replaced in the estimator that was loaded: checks of the rows, links and labels stay
scikit-learn's own. Decisions are those of `_predictor.pyx` and `_tree.pyx` in its sources.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tidemill.kernels.kept import Place
from tidemill.kernels.library import NotCompilable
from tidemill.kernels.tree import Forest, Question, Tree, of_nodes
from tidemill.kernels.trees import TreeKernel, kernel_of

Array = np.ndarray[Any, Any]
Sums = Callable[[Array], Array]
"""Checked rows -> sums of each, (rows, sums)."""

DENSE_ROWS = 1_024
"""Of a sparse matrix, rows that are written out at a time."""


def kind_of(estimator: Any) -> str | None:
    """What `accelerate` would do with an estimator; None if it knows none of its class."""
    return _KINDS.get(f"{type(estimator).__module__}.{type(estimator).__name__}")


def accelerate(estimator: Any, kept_at: str | None = None) -> None:
    """Have the kernel sum the trees of this very estimator from now on; it is kept at `kept_at`, as
    `PredictOptions.kernel_file` says. Raises NotCompilable."""
    kind = kind_of(estimator)
    if kind is None:
        raise NotCompilable(f"there is no kernel for a {type(estimator).__name__}")
    try:
        _ACCELERATE[kind](estimator, Place.at(kept_at, __file__))
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as exc:
        raise NotCompilable(f"this version of scikit-learn keeps trees in another way: {exc}") from exc


def _of_histograms(estimator: Any, place: Place | None) -> None:
    def trees() -> list[Tree]:
        categories = estimator._bin_mapper.make_known_categories_bitsets()
        return [_of_predictor(predictor, categories) for stage in estimator._predictors for predictor in stage]

    width = int(estimator.n_trees_per_iteration_)
    start = np.ascontiguousarray(np.broadcast_to(np.ravel(estimator._baseline_prediction), (width,)), np.float64)
    kernel = _kernel(trees, estimator, width, place)

    def raw_predict(x: Any, n_threads: int | None = None) -> Array:
        return _summed(kernel, np.asarray(estimator._preprocess_X(x, reset=False), np.float64), start)

    estimator._raw_predict = raw_predict


def _of_predictor(predictor: Any, categories: tuple[Array, Array]) -> Tree:
    nodes = predictor.nodes
    inner = nodes["is_leaf"] == 0
    known, mapped = categories
    tests = nodes[inner]
    questions = {}
    for place in np.flatnonzero(tests["is_categorical"]).tolist():
        test = tests[place]
        left = _bits(predictor.raw_left_cat_bitsets[test["bitset_idx"]])
        seen = _bits(known[mapped[test["feature_idx"]]])
        questions[place] = _among(left, seen, bool(test["missing_go_to_left"]))
    return of_nodes(
        inner=inner,
        left=nodes["left"].astype(np.int64),
        right=nodes["right"].astype(np.int64),
        feature=nodes["feature_idx"],
        threshold=nodes["num_threshold"].astype(np.float64),
        missing_left=nodes["missing_go_to_left"],
        values=nodes["value"].astype(np.float64),
        questions=questions,
    )


def _bits(words: Array) -> Array:
    """Which categories, of 256, are in a set."""
    return np.unpackbits(np.ascontiguousarray(words, "<u4").view(np.uint8), bitorder="little").astype(bool)


def _among(left: Array, known: Array, missing_left: bool) -> Question:
    """Whether a value, cut off to a byte, is among the categories; those that training did not see are as missing."""

    def goes_left(values: Array) -> Array:
        found = np.full(len(values), missing_left)
        whole = (values >= 0) & (values < len(left))
        codes = values[whole].astype(np.int64)
        found[whole] = np.where(known[codes], left[codes], missing_left)
        return found

    return Question(breaks=np.nextafter(np.arange(0.0, len(left) + 1), -np.inf), goes_left=goes_left)


def _of_stages(estimator: Any, place: Place | None) -> None:
    def trees() -> list[Tree]:
        return [
            _of_tree(fitted.tree_, estimator.learning_rate * fitted.tree_.value[:, 0, 0], never_missing=True)
            for fitted in estimator.estimators_.ravel()
        ]

    kernel = _kernel(trees, estimator, int(estimator.n_trees_per_iteration_), place)

    def raw_predict(x: Any) -> Array:
        start: Array = estimator._raw_predict_init(x)
        return _by_blocks(x, lambda rows, begin: _summed(kernel, rows, start[begin : begin + len(rows)].T))

    estimator._raw_predict = raw_predict


def _of_forest(estimator: Any, place: Place | None) -> None:
    _mean(estimator, estimator.estimators_, estimator._validate_X_predict, place)
    # Gigabytes for deep trees, of which checks of the rows ask the first one.
    estimator.estimators_ = estimator.estimators_[:1]


def _of_one(estimator: Any, place: Place | None) -> None:
    _mean(estimator, [estimator], lambda x: estimator._validate_X_predict(x, True), place)


def _mean(estimator: Any, fitted: Sequence[Any], checked: Callable[[Any], Any], place: Place | None) -> None:
    """Replace what gives the mean of trees: shares of classes, or values."""
    if estimator.n_outputs_ != 1:
        raise NotCompilable("it has several outputs")
    classifies = hasattr(estimator, "classes_")
    width = int(estimator.n_classes_) if classifies else 1

    def trees() -> list[Tree]:
        return [_of_tree(each.tree_, each.tree_.value[:, 0, :width]) for each in fitted]

    kernel, count, start = _kernel(trees, estimator, width, place), len(fitted), np.zeros(width)

    def mean(x: Any) -> Array:
        sums = _by_blocks(checked(x), lambda rows, begin: _summed(kernel, rows, start))
        sums /= count
        return sums

    if not classifies:
        estimator.predict = lambda x: mean(x)[:, 0]
        return
    estimator.predict_proba = mean
    estimator.predict = lambda x: estimator.classes_.take(np.argmax(mean(x), axis=1), axis=0)


def _of_tree(tree: Any, values: Array, *, never_missing: bool = False) -> Tree:
    inner = tree.children_left != -1
    return of_nodes(
        inner=inner,
        left=tree.children_left,
        right=tree.children_right,
        feature=tree.feature,
        threshold=_narrow(tree.threshold),
        missing_left=np.zeros(len(inner), bool) if never_missing else tree.missing_go_to_left,
        values=values,
    )


def _narrow(thresholds: Array) -> Array:
    """Rows are 32-bit numbers to these trees, and thresholds 64-bit ones: the largest 32-bit number not above each."""
    with np.errstate(over="ignore"):
        narrow = thresholds.astype(np.float32)
    above = narrow > thresholds
    narrow[above] = np.nextafter(narrow[above], np.float32(-np.inf))
    return narrow


_KINDS = {
    **{
        f"sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoosting{kind}": "histograms"
        for kind in ("Classifier", "Regressor")
    },
    **{f"sklearn.ensemble._gb.GradientBoosting{kind}": "stages" for kind in ("Classifier", "Regressor")},
    **{
        f"sklearn.ensemble._forest.{name}{kind}": "forest"
        for name in ("ExtraTrees", "RandomForest")
        for kind in ("Classifier", "Regressor")
    },
    **{
        f"sklearn.tree._classes.{name}{kind}": "one"
        for name in ("DecisionTree", "ExtraTree")
        for kind in ("Classifier", "Regressor")
    },
}
_ACCELERATE: dict[str, Callable[[Any, Place | None], None]] = {
    "histograms": _of_histograms,
    "stages": _of_stages,
    "forest": _of_forest,
    "one": _of_one,
}


def _kernel(trees: Callable[[], Sequence[Tree]], estimator: Any, sums: int, place: Place | None) -> TreeKernel:
    """Trees that add to all sums, or, with one number a leaf, to one after the other."""

    def forest() -> Forest:
        found = trees()
        several = bool(found) and found[0].leaves.ndim == 2
        groups = np.zeros(len(found), np.int32) if several else (np.arange(len(found)) % sums).astype(np.int32)
        return Forest(trees=found, features=int(estimator.n_features_in_), groups=groups, sums=sums)

    return kernel_of(forest, dtype="f8", place=place)


def _by_blocks(x: Any, sums: Callable[[Array, int], Array]) -> Array:
    """Sums of rows as 32-bit numbers; a sparse matrix is written out some rows at a time."""
    if not hasattr(x, "toarray"):
        return sums(np.asarray(x, np.float32), 0)
    blocks = [
        sums(x[begin : begin + DENSE_ROWS].toarray().astype(np.float32, copy=False), begin)
        for begin in range(0, max(x.shape[0], 1), DENSE_ROWS)
    ]
    return np.asfortranarray(np.concatenate(blocks))


def _summed(kernel: TreeKernel, matrix: Array, start: Array) -> Array:
    """Sums (rows, sums) of a matrix of rows, of the type that the trees compare."""
    columns = np.asfortranarray(matrix)
    return np.asfortranarray(kernel.scores([columns[:, number] for number in range(columns.shape[1])], start).T)
