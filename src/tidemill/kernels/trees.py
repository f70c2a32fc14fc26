"""Tree ensembles by tables: the QuickScorer idea, exact for any tests of single features.

A node tests one feature. All tests of a feature cut its values at a finite number of *breaks*: between two
of them every test answers the same. So a value is ranked once among the breaks of its feature, and for each
(tree, feature) a table says by rank which leaves of the tree can still be reached. The leaf that a row ends
in is the leftmost one that the tables of all its features leave: a node that sends a row to the right takes
the leaves at its left away, and the leaves at the right of a node that sends it left need not be taken away,
because those at the left come first. (Lucchese et al., "QuickScorer", SIGIR 2015, with tables for lists.)
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tidemill.kernels.library import NotCompilable, library
from tidemill.kernels.library import address as _at

Array = np.ndarray[Any, Any]

MAX_TABLE_BYTES = 128 << 20
"""Above, tables would be read from memory for each block of rows, and the library is no slower."""
MAX_BREAKS = 65_533
WORD = 64
"""Leaves of one mask."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One tree of n nodes and n + 1 leaves; node 0 is the root. A child >= 0 is a node, ~child a leaf."""

    feature: Array
    """int32: what each node tests."""
    left: Array
    right: Array
    """int32: where it sends a row."""
    leaves: Array


@dataclass(frozen=True, kw_only=True)
class Tree(Shape):
    """A tree, and where in `Ensemble.answers` the answers of each node begin (int64)."""

    answers: Array


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Trees, and how their tests answer."""

    trees: Sequence[Tree]
    breaks: tuple[Array, ...]
    """Of each feature, ascending, float64 or float32 as the model compares: rank r is above break r - 1 and not
    above break r. There is one more rank for what is above all, and one for a missing value."""
    answers: Array
    """uint8: for a node, by rank of its feature, whether it sends the row to the left."""
    groups: Array
    """int32: of each tree, which of a row's sums it belongs to."""
    sums: int
    """How many sums a row has."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What the compiled library scores by."""

    breaks: tuple[Array, ...]
    groups: Array
    sums: int
    pairs: Array
    features: Array
    places: Array
    ranks: Array
    tables: Array
    first_leaf: Array
    words: Array
    leaves: Array

    @property
    def used(self) -> tuple[int, ...]:
        """Positions of the features that a tree tests."""
        return tuple(np.unique(self.features).tolist())

    @property
    def wide(self) -> bool:
        """Whether a rank needs two bytes."""
        return any(len(breaks) + 2 > 256 for breaks in self.breaks)


def asked(
    shapes: Sequence[Shape],
    breaks: Sequence[Array],
    ask: Callable[[Array, Array], Array],
    *,
    groups: Array,
    sums: int,
) -> Ensemble:
    """The ensemble of these shapes: each test is asked once for a value of each rank of its feature.

    `ask(nodes, values)` says for nodes, numbered over all trees, which of the values (the last one is NaN) they send
    to the left, (nodes, values). Raises NotCompilable if tables would be too large, before anything is asked.
    """
    _check_size(shapes, breaks)
    bounds = np.cumsum([0, *(len(shape.feature) for shape in shapes)])
    features = _joined([shape.feature for shape in shapes], np.int32)
    places = np.zeros(len(features), np.int64)
    pieces: list[Array] = []
    size = 0
    for number, edges in enumerate(breaks):
        nodes = np.flatnonzero(features == number)
        if not len(nodes):
            continue
        values = np.concatenate([edges, np.array([np.inf, np.nan], edges.dtype)])
        found = np.ascontiguousarray(ask(nodes, values), bool)
        places[nodes] = size + np.arange(len(nodes)) * len(values)
        pieces.append(found.view(np.uint8).ravel())
        size += found.size
    trees = [
        Tree(feature=shape.feature, left=shape.left, right=shape.right, leaves=shape.leaves, answers=places[begin:end])
        for shape, (begin, end) in zip(shapes, pairwise(bounds.tolist()), strict=True)
    ]
    return Ensemble(trees=trees, breaks=tuple(breaks), answers=_joined(pieces, np.uint8), groups=groups, sums=sums)


def _check_size(shapes: Sequence[Shape], breaks: Sequence[Array]) -> None:
    if any(len(each) > MAX_BREAKS for each in breaks):
        raise NotCompilable(f"a feature has more than {MAX_BREAKS:,} thresholds")
    ranks = np.array([len(each) + 2 for each in breaks], np.int64)
    size = sum(int(ranks[np.unique(shape.feature)].sum()) * -(-len(shape.leaves) // WORD) for shape in shapes)
    if size * 8 > MAX_TABLE_BYTES:
        raise NotCompilable(f"its tables would take {size * 8 >> 20:,} MB, more than {MAX_TABLE_BYTES >> 20}")


def compile_trees(ensemble: Ensemble, *, dtype: str) -> Tables:
    """Tables of an ensemble whose sums are of `dtype` ("f8" or "f4"). Raises NotCompilable."""
    found = library()
    ranks = np.array([len(each) + 2 for each in ensemble.breaks], np.int32)
    pairs, words, first_leaf = [0], [], [0]
    features, places, tables, leaves = [], [], [], []
    size = 0
    for tree in ensemble.trees:
        count = -(-len(tree.leaves) // WORD)
        used = np.unique(tree.feature)
        lengths = ranks[used].astype(np.int64) * count
        local = np.zeros(len(ranks), np.int64)
        local[used] = np.cumsum(lengths) - lengths
        table = np.full(int(lengths.sum()), np.iinfo(np.uint64).max, np.uint64)
        order, stack = np.empty(len(tree.leaves), np.int32), np.empty(4 * len(tree.leaves), np.int32)
        reached = found.tidemill_tables(
            ctypes.c_int32(len(tree.feature)), _at(tree.feature), _at(tree.left), _at(tree.right),
            _at(ensemble.answers), _at(tree.answers), _at(local), _at(ranks), ctypes.c_int32(count), _at(table),
            _at(order), _at(stack),
        )  # fmt: skip
        if reached != len(tree.leaves) or len(np.unique(order)) != reached:
            raise NotCompilable("a tree does not reach each of its leaves once")
        features.append(used)
        places.append(size + local[used])
        tables.append(table)
        size += len(table)
        leaves.append(tree.leaves[order])
        pairs.append(pairs[-1] + len(used))
        words.append(count)
        first_leaf.append(first_leaf[-1] + len(order))
    where = _joined(features, np.int32)
    return Tables(
        breaks=ensemble.breaks,
        groups=ensemble.groups,
        sums=ensemble.sums,
        pairs=np.array(pairs, np.int64),
        features=where,
        places=_joined(places, np.int64),
        ranks=ranks[where],
        tables=_joined(tables, np.uint64),
        first_leaf=np.array(first_leaf, np.int64),
        words=np.array(words, np.int32),
        leaves=_joined(leaves, dtype),
    )


def _joined(pieces: Sequence[Array], dtype: Any) -> Array:
    return np.concatenate(pieces).astype(dtype) if pieces else np.empty(0, dtype)


class TreeKernel:
    """A compiled ensemble. `scores` may be called from several threads at once."""

    def __init__(self, tables: Tables) -> None:
        """Raises NotCompilable if the compiled library is not there."""
        found = library()
        self._tables = tables
        self._float = tables.leaves.dtype.str[1:]
        self._rank_type = np.dtype(np.uint16 if tables.wide else np.uint8)
        breaks_type = tables.breaks[0].dtype.str[1:] if tables.breaks else "f8"
        self._rank = getattr(found, f"tidemill_rank_{breaks_type}_{self._rank_type.str[1:]}")
        self._score = getattr(found, f"tidemill_score_{self._rank_type.str[1:]}_{self._float}")
        self._rank.restype = self._score.restype = None
        self._padded = tuple(_padded(each) for each in tables.breaks)

    def scores(self, columns: Sequence[Array], start: Array) -> Array:
        """Sums of each row, (sums, rows): `start`, (sums,) or (sums, rows), and then the leaves, tree by tree.

        `columns` are contiguous vectors of the type of the breaks, one for each feature; NaN is missing.
        """
        tables = self._tables
        rows = len(columns[0]) if columns else 0
        ranked = np.empty((len(columns), rows), self._rank_type)
        for feature in tables.used:
            padded, steps = self._padded[feature]
            missing = len(tables.breaks[feature]) + 1
            self._rank(
                _at(columns[feature]), ctypes.c_int64(rows), _at(padded), ctypes.c_int32(steps),
                ctypes.c_int32(missing), _at(ranked[feature]),
            )  # fmt: skip
        out = np.empty((tables.sums, rows), self._float)
        out[:] = start if start.ndim == 2 else start[:, None]
        self._score(
            _at(ranked), ctypes.c_int64(rows), ctypes.c_int64(rows), ctypes.c_int32(len(tables.words)),
            _at(tables.groups), _at(tables.pairs), _at(tables.features), _at(tables.places),
            _at(tables.ranks), _at(tables.tables), _at(tables.first_leaf), _at(tables.words), _at(tables.leaves),
            _at(out),
        )  # fmt: skip
        return out


def _padded(breaks: Array) -> tuple[Array, int]:
    """Breaks with infinity behind them, so that a binary search needs no border; and its number of steps."""
    steps = max(len(breaks).bit_length(), 1)
    padded = np.full((1 << steps) - 1, np.inf, breaks.dtype)
    padded[: len(breaks)] = breaks
    return padded, steps
