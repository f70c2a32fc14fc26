"""Decision trees as kernels take them: what each node tests, and what stands in the leaves.

A kernel knows no library's rules. Most tests of most libraries are of one kind, "not above a threshold, and missing
values to one side"; a flavor says them as that. What is none of that kind, a set of categories say, is a `Question`:
the flavor answers it itself, once for each of its feature's values that could make a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tidemill.kernels.library import NotCompilable

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One tree of n nodes and n + 1 leaves; node 0 is the root. A child >= 0 is a node, ~child a leaf."""

    feature: Array
    """int32: what each node tests."""
    left: Array
    right: Array
    """int32: where it sends a row."""
    leaves: Array
    """(n + 1,), or (n + 1, width) where a leaf holds several numbers."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A test that no threshold says."""

    breaks: Array
    """Between two of these values, an upper one included, the answer is always the same."""
    goes_left: Callable[[Array], Array]
    """Values, of which some are infinite and one is NaN -> which of them go to the left."""


@dataclass(frozen=True, kw_only=True)
class Tree(Shape):
    """A tree and its tests."""

    threshold: Array
    """float64 or float32, as the model compares: a value that is not above it goes to the left, none if it is NaN."""
    missing_left: Array
    """bool: whether missing values do."""
    questions: Mapping[int, Question] = field(default_factory=dict)
    """Of nodes that have one instead of their threshold."""


@dataclass(frozen=True, kw_only=True)
class Forest:
    """Trees that are summed up."""

    trees: Sequence[Tree]
    features: int
    groups: Array
    """int32: of each tree, the first of a row's sums that it adds to."""
    sums: int
    """How many sums a row has."""

    @property
    def test_type(self) -> np.dtype[Any]:
        """The type of the thresholds, and of the values that they are compared with."""
        return self.trees[0].threshold.dtype if self.trees else np.dtype(np.float64)

    @property
    def width(self) -> int:
        """How many numbers a leaf holds."""
        return width_of(self.trees)

    @property
    def largest(self) -> int:
        """Leaves of the largest tree."""
        return max((len(tree.leaves) for tree in self.trees), default=0)


def check(tree: Shape) -> None:
    """Raise NotCompilable unless one way leads to each node and leaf: then none leads in a circle."""
    nodes, leaves = len(tree.feature), len(tree.leaves)
    reached = np.concatenate([tree.left, tree.right, [0 if nodes else ~0]]).astype(np.int64) + leaves
    inside = leaves == nodes + 1 and reached.min() >= 0
    if not inside or not np.array_equal(np.bincount(reached, minlength=leaves + nodes), np.ones(leaves + nodes)):
        raise NotCompilable("a tree does not reach each of its leaves once")


def width_of(trees: Sequence[Shape]) -> int:
    """How many numbers a leaf of these trees holds."""
    return int(trees[0].leaves.shape[1]) if trees and trees[0].leaves.ndim == 2 else 1


def of_nodes(
    *, inner: Array, left: Array, right: Array, feature: Array, threshold: Array, missing_left: Array, values: Array,
    questions: Mapping[int, Question] | None = None,
) -> Tree:  # fmt: skip
    """The tree of a list of nodes in which leaves stand among the others.

    `inner` says which are none; `left` and `right` are places in the list; `values` are those of leaves. `questions`
    are numbered as the inner nodes are.
    """
    place = np.where(inner, np.cumsum(inner) - 1, ~(np.cumsum(~inner) - 1)).astype(np.int32)
    return Tree(
        feature=feature[inner].astype(np.int32),
        left=place[left[inner]],
        right=place[right[inner]],
        leaves=values[~inner],
        threshold=threshold[inner],
        missing_left=missing_left[inner].astype(bool),
        questions=questions or {},
    )


def joined(pieces: Sequence[Array], dtype: Any) -> Array:
    """Vectors, one after the other."""
    return np.concatenate(pieces).astype(dtype, copy=False) if pieces else np.empty(0, dtype)
