"""Tree ensembles by walking: for trees that are shallow, and for those whose tables would not stay in the caches."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from tidemill.kernels.library import address as _at
from tidemill.kernels.library import library
from tidemill.kernels.tree import Array, Forest, check, joined

BLOCK_ROWS = 2_048
"""Rows that are laid one after the other at a time: what is read and written stays in the cache."""
TILE_BYTES = 512 << 10
"""Of the rows that go down all trees before others do: each tree reads them again, so they stay in the cache."""
TILE_TREES = 4
"""Where that many trees are larger, a tile is as large as they are: each tile reads the trees again."""
LEAST_ROWS = 256
"""Of a tile."""
_MISSING_SHIFT = 31


class WalkKernel:
    """Trees that are walked down. `scores` may be called from several threads at once."""

    def __init__(self, forest: Forest, *, dtype: str) -> None:
        """Sums are of `dtype` ("f8" or "f4"); no tree may ask questions. Raises NotCompilable."""
        test = forest.test_type
        node = np.dtype([("threshold", test), ("feature", "u4"), ("child", "i4", 2)], align=True)
        self._float, self._sums, self._width = np.dtype(dtype), forest.sums, forest.width
        used, positions = np.unique(joined([tree.feature for tree in forest.trees], np.int32), return_inverse=True)
        self._used = used.tolist()
        self._groups = forest.groups
        self._first = np.cumsum([0, *(len(tree.feature) for tree in forest.trees)], dtype=np.int64)
        self._nodes = np.empty(self._first[-1], node)
        for tree, begin in zip(forest.trees, self._first.tolist(), strict=False):
            check(tree)
            nodes = self._nodes[begin : begin + len(tree.feature)]
            nodes["threshold"] = tree.threshold
            nodes["child"][:, 0], nodes["child"][:, 1] = tree.left, tree.right
            nodes["feature"] = tree.missing_left
        self._nodes["feature"] <<= _MISSING_SHIFT
        self._nodes["feature"] |= positions.astype(np.uint32)
        self._leaves = np.ascontiguousarray(joined([tree.leaves for tree in forest.trees], dtype))
        tile = max(TILE_BYTES, TILE_TREES * self._nodes.nbytes // max(len(forest.trees), 1))
        self._rows = max(tile // max(len(self._used) * test.itemsize, 1), LEAST_ROWS)
        self._walk = getattr(library(), f"tidemill_walk_{test.str[1:]}_{dtype}")
        self._walk.restype = None

    def scores(self, columns: Sequence[Array], start: Array) -> Array:
        """As of `TableKernel`."""
        rows = len(columns[0]) if columns else 0
        out = np.empty((self._sums, rows), self._float)
        out[:] = start if start.ndim == 2 else start[:, None]
        used = [columns[each] for each in self._used]
        for begin in range(0, rows, self._rows):
            here = slice(begin, begin + self._rows)
            out[:, here] = self._summed([column[here] for column in used], out[:, here])
        return out

    def _summed(self, columns: Sequence[Array], start: Array) -> Array:
        """Sums of the rows of a tile: `start`, (sums, rows), and then the leaves. Columns are those that are tested."""
        out = np.array(start, order="C")
        rows = out.shape[1]
        matrix = np.empty((rows, len(columns)), self._nodes["threshold"].dtype)
        for begin in range(0, rows, BLOCK_ROWS):
            for position, column in enumerate(columns):
                matrix[begin : begin + BLOCK_ROWS, position] = column[begin : begin + BLOCK_ROWS]
        missing = bool(np.isnan(matrix.min(initial=0.0)))
        self._walk(
            ctypes.c_int32(missing), _at(matrix), ctypes.c_int64(rows), ctypes.c_int64(matrix.shape[1]),
            ctypes.c_int32(len(self._groups)), _at(self._groups), _at(self._first), _at(self._nodes),
            _at(self._leaves), ctypes.c_int32(self._width), _at(out),
        )  # fmt: skip
        return out
