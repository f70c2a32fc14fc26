"""Tree ensembles by walking: for trees that are shallow, and for those whose tables would not stay in the caches."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, kw_only=True)
class Walks:
    """What the compiled library walks."""

    nodes: Array
    """Records of a threshold, the feature's place in `used` with a bit for missing values, and two children."""
    used: Array
    """Positions of the features that a tree tests, ascending."""
    groups: Array
    sums: int
    first: Array
    """int64: where the nodes of each tree begin, and where all end."""
    leaves: Array
    width: int
    """How many numbers a leaf holds."""


def compile_walks(forest: Forest, *, dtype: str) -> Walks:
    """A forest whose sums are of `dtype` ("f8" or "f4"); no tree may ask questions. Raises NotCompilable."""
    record = np.dtype([("threshold", forest.test_type), ("feature", "u4"), ("child", "i4", 2)], align=True)
    used, positions = np.unique(joined([tree.feature for tree in forest.trees], np.int32), return_inverse=True)
    first = np.cumsum([0, *(len(tree.feature) for tree in forest.trees)], dtype=np.int64)
    all_nodes = np.empty(first[-1], record)
    for tree, begin in zip(forest.trees, first.tolist(), strict=False):
        check(tree)
        nodes = all_nodes[begin : begin + len(tree.feature)]
        nodes["threshold"] = tree.threshold
        nodes["child"][:, 0], nodes["child"][:, 1] = tree.left, tree.right
        nodes["feature"] = tree.missing_left
    all_nodes["feature"] <<= _MISSING_SHIFT
    all_nodes["feature"] |= positions.astype(np.uint32)
    return Walks(
        nodes=all_nodes,
        used=used,
        groups=forest.groups,
        sums=forest.sums,
        first=first,
        leaves=np.ascontiguousarray(joined([tree.leaves for tree in forest.trees], dtype)),
        width=forest.width,
    )


class WalkKernel:
    """Trees that are walked down. `scores` may be called from several threads at once."""

    def __init__(self, walks: Walks) -> None:
        """Raises NotCompilable if the compiled library is not there."""
        self._walks = walks
        self._float, self._test = walks.leaves.dtype, walks.nodes["threshold"].dtype
        tile = max(TILE_BYTES, TILE_TREES * walks.nodes.nbytes // max(len(walks.groups), 1))
        self._rows = max(tile // max(len(walks.used) * self._test.itemsize, 1), LEAST_ROWS)
        self._walk = getattr(library(), f"tidemill_walk_{self._test.str[1:]}_{self._float.str[1:]}")
        self._walk.restype = None

    def scores(self, columns: Sequence[Array], start: Array) -> Array:
        """As of `TableKernel`."""
        rows = len(columns[0]) if columns else 0
        out = np.empty((self._walks.sums, rows), self._float)
        out[:] = start if start.ndim == 2 else start[:, None]
        used = [columns[each] for each in self._walks.used.tolist()]
        for begin in range(0, rows, self._rows):
            here = slice(begin, begin + self._rows)
            out[:, here] = self._summed([column[here] for column in used], out[:, here])
        return out

    def _summed(self, columns: Sequence[Array], start: Array) -> Array:
        """Sums of the rows of a tile: `start`, (sums, rows), and then the leaves. Columns are those that are tested."""
        walks, out = self._walks, np.array(start, order="C")
        rows = out.shape[1]
        matrix = np.empty((rows, len(columns)), self._test)
        for begin in range(0, rows, BLOCK_ROWS):
            for position, column in enumerate(columns):
                matrix[begin : begin + BLOCK_ROWS, position] = column[begin : begin + BLOCK_ROWS]
        missing = bool(np.isnan(matrix.min(initial=0.0)))
        self._walk(
            ctypes.c_int32(missing), _at(matrix), ctypes.c_int64(rows), ctypes.c_int64(matrix.shape[1]),
            ctypes.c_int32(len(walks.groups)), _at(walks.groups), _at(walks.first), _at(walks.nodes),
            _at(walks.leaves), ctypes.c_int32(walks.width), _at(out),
        )  # fmt: skip
        return out
