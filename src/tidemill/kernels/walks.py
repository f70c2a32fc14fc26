"""Tree ensembles by walking: for trees of so many leaves that their tables would not stay in the caches."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from tidemill.kernels.library import NotCompilable, library
from tidemill.kernels.library import address as _at
from tidemill.kernels.tree import Array, Forest, Tree, joined

TILE_ROWS = 2_048
"""Rows that are laid one after the other at a time: what is read and written stays in the cache."""
_MISSING_SHIFT = 31


class WalkKernel:
    """Trees that are walked down. `scores` may be called from several threads at once."""

    def __init__(self, forest: Forest, *, dtype: str) -> None:
        """Sums are of `dtype` ("f8" or "f4"); no tree may ask questions. Raises NotCompilable."""
        test = forest.test_type
        node = np.dtype([("threshold", test), ("feature", "u4"), ("child", "i4", 2)], align=True)
        self._float, self._sums, self._width = np.dtype(dtype), forest.sums, forest.width
        self._used, positions = np.unique(
            joined([tree.feature for tree in forest.trees], np.int32), return_inverse=True
        )
        self._groups = forest.groups
        self._first = np.cumsum([0, *(len(tree.feature) for tree in forest.trees)], dtype=np.int64)
        self._nodes = np.empty(self._first[-1], node)
        for tree, begin in zip(forest.trees, self._first.tolist(), strict=False):
            _check(tree)
            nodes = self._nodes[begin : begin + len(tree.feature)]
            nodes["threshold"] = tree.threshold
            nodes["child"][:, 0], nodes["child"][:, 1] = tree.left, tree.right
            nodes["feature"] = tree.missing_left
        self._nodes["feature"] <<= _MISSING_SHIFT
        self._nodes["feature"] |= positions.astype(np.uint32)
        self._leaves = np.ascontiguousarray(joined([tree.leaves for tree in forest.trees], dtype))
        self._walk = getattr(library(), f"tidemill_walk_{test.str[1:]}_{dtype}")
        self._walk.restype = None

    def scores(self, columns: Sequence[Array], start: Array) -> Array:
        """As of `TableKernel`; columns need not be contiguous."""
        rows = len(columns[0]) if columns else 0
        out = np.empty((self._sums, rows), self._float)
        out[:] = start if start.ndim == 2 else start[:, None]
        matrix = np.empty((rows, len(self._used)), self._nodes["threshold"].dtype)
        for begin in range(0, rows, TILE_ROWS):
            for position, feature in enumerate(self._used.tolist()):
                matrix[begin : begin + TILE_ROWS, position] = columns[feature][begin : begin + TILE_ROWS]
        missing = bool(np.isnan(matrix.min(initial=0.0)))
        self._walk(
            ctypes.c_int32(missing), _at(matrix), ctypes.c_int64(rows), ctypes.c_int64(matrix.shape[1]),
            ctypes.c_int32(len(self._groups)), _at(self._groups), _at(self._first), _at(self._nodes),
            _at(self._leaves), ctypes.c_int32(self._width), _at(out),
        )  # fmt: skip
        return out


def _check(tree: Tree) -> None:
    """Raise NotCompilable unless one way leads to each node and leaf: then none leads in a circle."""
    nodes, leaves = len(tree.feature), len(tree.leaves)
    reached = np.concatenate([tree.left, tree.right, [0 if nodes else ~0]]).astype(np.int64) + leaves
    inside = leaves == nodes + 1 and reached.min() >= 0
    if not inside or not np.array_equal(np.bincount(reached, minlength=leaves + nodes), np.ones(leaves + nodes)):
        raise NotCompilable("a tree does not reach each of its leaves once")
