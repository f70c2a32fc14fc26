"""scikit-learn's boosted trees with their sums taken by the kernel of `tidemill.kernels.trees`.

Only the sum over the trees is replaced, `_raw_predict` of the estimator that was loaded: checks of the rows, links and
labels stay scikit-learn's own. Decisions are those of `_predictor.pyx` and `_tree.pyx` in its sources.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tidemill.kernels.library import NotCompilable
from tidemill.kernels.trees import Shape, TreeKernel, asked, compile_trees

Array = np.ndarray[Any, Any]

_HISTOGRAM = "sklearn.ensemble._hist_gradient_boosting.gradient_boosting"
_STAGES = "sklearn.ensemble._gb"


def is_boosted(estimator: Any) -> bool:
    """Whether it is one of those that `accelerate` knows."""
    return type(estimator).__module__ in (_HISTOGRAM, _STAGES)


def accelerate(estimator: Any) -> None:
    """Have the kernel sum the trees of this very estimator from now on. Raises NotCompilable."""
    try:
        summed = _of_histograms(estimator) if type(estimator).__module__ == _HISTOGRAM else _of_stages(estimator)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as exc:
        raise NotCompilable(f"this version of scikit-learn keeps trees in another way: {exc}") from exc
    estimator._raw_predict = summed


def _of_histograms(estimator: Any) -> Callable[..., Array]:
    nodes = [predictor.nodes for stage in estimator._predictors for predictor in stage]
    if any(tree["is_categorical"].any() for tree in nodes):
        raise NotCompilable("it splits by categories")
    width, features = int(estimator.n_trees_per_iteration_), int(estimator.n_features_in_)
    start = np.ascontiguousarray(np.broadcast_to(np.ravel(estimator._baseline_prediction), (width,)), np.float64)
    parts = [
        _Part(
            inner=tree["is_leaf"] == 0,
            left=tree["left"].astype(np.int64),
            right=tree["right"].astype(np.int64),
            feature=tree["feature_idx"],
            threshold=tree["num_threshold"],
            missing_left=tree["missing_go_to_left"].astype(bool),
            values=tree["value"],
        )
        for tree in nodes
    ]
    kernel = _kernel(parts, features, width)

    def raw_predict(x: Any, n_threads: int | None = None) -> Array:
        return _summed(kernel, estimator._preprocess_X(x, reset=False), start)

    return raw_predict


def _of_stages(estimator: Any) -> Callable[..., Array]:
    width, features = int(estimator.n_trees_per_iteration_), int(estimator.n_features_in_)
    parts = []
    for fitted in estimator.estimators_.ravel():
        tree = fitted.tree_
        inner = tree.children_left != -1
        parts.append(
            _Part(
                inner=inner,
                left=tree.children_left,
                right=tree.children_right,
                feature=tree.feature,
                threshold=tree.threshold,
                missing_left=np.zeros(len(inner), bool),
                values=estimator.learning_rate * tree.value[:, 0, 0],
            )
        )
    kernel = _kernel(parts, features, width)

    def raw_predict(x: Any) -> Array:
        start: Array = estimator._raw_predict_init(x)
        # Rows are 32-bit numbers to these trees, and thresholds 64-bit ones.
        return _summed(kernel, np.asarray(x, np.float32).astype(np.float64), start.T)

    return raw_predict


class _Part:
    """One tree as arrays: its inner nodes, and its leaves apart."""

    def __init__(
        self, *, inner: Array, left: Array, right: Array, feature: Array, threshold: Array, missing_left: Array,
        values: Array,
    ) -> None:  # fmt: skip
        place = np.where(inner, np.cumsum(inner) - 1, ~(np.cumsum(~inner) - 1)).astype(np.int32)
        self.threshold, self.missing_left = threshold[inner], missing_left[inner]
        self.shape = Shape(
            feature=feature[inner].astype(np.int32),
            left=place[left[inner]],
            right=place[right[inner]],
            leaves=values[~inner].astype(np.float64),
        )


def _kernel(parts: Sequence[_Part], features: int, width: int) -> TreeKernel:
    threshold = np.concatenate([np.empty(0), *(part.threshold for part in parts)])
    missing_left = np.concatenate([np.empty(0, bool), *(part.missing_left for part in parts)])
    tested = np.concatenate([np.empty(0, np.int32), *(part.shape.feature for part in parts)])
    breaks = [np.unique(threshold[tested == number]) for number in range(features)]

    def ask(nodes: Array, values: Array) -> Array:
        found: Array = values <= threshold[nodes][:, None]
        found[:, -1] = missing_left[nodes]
        return found

    groups = (np.arange(len(parts)) % width).astype(np.int32)
    ensemble = asked([part.shape for part in parts], breaks, ask, groups=groups, sums=width)
    return TreeKernel(compile_trees(ensemble, dtype="f8"))


def _summed(kernel: TreeKernel, matrix: Array, start: Array) -> Array:
    columns = np.asfortranarray(matrix, np.float64)
    return np.asfortranarray(kernel.scores([columns[:, number] for number in range(columns.shape[1])], start).T)
