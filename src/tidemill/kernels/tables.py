"""Tree ensembles by tables: the QuickScorer idea, exact for any tests of single features.

A node tests one feature. All tests of a feature cut its values at a finite number of *breaks*: between two
of them every test answers the same. So a value is ranked once among the breaks of its feature, and for each
(tree, feature) a table says by rank which leaves of the tree can still be reached. The leaf that a row ends
in is the leftmost one that the tables of all its features leave: a node that sends a row to the right takes
the leaves at its left away, and the leaves at the right of a node that sends it left need not be taken away,
because those at the left come first. (Lucchese et al., "QuickScorer", SIGIR 2015, with tables for lists.)

A tree tests a feature at a few of its breaks only. So the tables of several features are joined: one has a mask
for each combination of stretches of ranks that the tree does not tell apart (docs/adr/0038).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tidemill.kernels.library import NotCompilable, library
from tidemill.kernels.library import address as _at
from tidemill.kernels.tree import Array, Forest, Question, Shape, joined, width_of

MAX_BREAKS = 65_533
"""Of a feature: a rank has two bytes."""
WORD = 64
"""Leaves of one mask."""
MOST_JOINED = 256
"""Masks of a table that features share, for each word of leaves."""
MOST_STEPS = {1: 16, 2: 8}
"""Of a feature in a tree, by the bytes of a rank: with more it has a table of its own, by rank. To see
which stretch a rank is in takes a comparison for each, of 32 or 16 rows at once; looking up takes each row its own."""


@dataclass(frozen=True, kw_only=True)
class AskedTree(Shape):
    """A tree, and where in `Ensemble.answers` the answers of each node begin (int64)."""

    answers: Array


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Trees, and how their tests answer."""

    trees: Sequence[AskedTree]
    breaks: tuple[Array, ...]
    """Of each feature, ascending, float64 or float32 as the model compares: rank r is above break r - 1 and not
    above break r. There is one more rank for what is above all, and one for a missing value."""
    answers: Array
    """uint8: for a node, by rank of its feature, whether it sends the row to the left."""
    groups: Array
    """int32: of each tree, the first of a row's sums that it adds to."""
    sums: int
    """How many sums a row has."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What the compiled library scores by."""

    breaks: Array
    """Of one feature after the other; those of a feature ascend."""
    edges: Array
    """int64: where the breaks of each feature begin, and where all end."""
    groups: Array
    sums: int
    lookups: Array
    """int64: where the tables of each tree begin, and where all end."""
    places: Array
    """int64: where in `tables` each table begins."""
    sizes: Array
    """int32: of each table, masks for each word of leaves."""
    tests: Array
    """int64: where the features of each table begin, and where all end."""
    features: Array
    """int32: of each table, which ones it tells of."""
    weights: Array
    """What the place of a mask grows by with each step of a feature; 0: the place is the rank itself."""
    first_step: Array
    """int64: where the steps of each of `features` begin, and where all end."""
    steps: Array
    """Ranks, as wide as they need to be, from which on other masks count, ascending for each of `features`."""
    tables: Array
    first_leaf: Array
    words: Array
    leaves: Array
    width: int
    """How many numbers a leaf holds."""

    @property
    def used(self) -> tuple[int, ...]:
        """Positions of the features that a tree tests."""
        return tuple(np.unique(self.features).tolist())

    @property
    def wide(self) -> bool:
        """Whether a rank needs two bytes."""
        return bool(self.steps.dtype.itemsize == 2)


def ensemble_of(forest: Forest, breaks: tuple[Array, ...]) -> Ensemble:
    """The forest with the answers of all its tests, which `table_bytes` found to be not too many."""
    bounds = np.cumsum([0, *(len(tree.feature) for tree in forest.trees)])
    features = joined([tree.feature for tree in forest.trees], np.int32)
    threshold = joined([tree.threshold for tree in forest.trees], forest.test_type)
    missing_left = joined([tree.missing_left for tree in forest.trees], bool)
    questions = dict(_questions(forest, bounds))
    places = np.zeros(len(features), np.int64)
    pieces: list[Array] = []
    size = 0
    for number, edges in enumerate(breaks):
        nodes = np.flatnonzero(features == number)
        if not len(nodes):
            continue
        values = np.concatenate([edges, np.array([np.inf, np.nan], edges.dtype)])
        answers: Array = values <= threshold[nodes][:, None]
        answers[:, -1] = missing_left[nodes]
        for row, node in enumerate(nodes.tolist()):
            if node in questions:
                answers[row] = questions[node].goes_left(values)
        places[nodes] = size + np.arange(len(nodes)) * len(values)
        pieces.append(answers.view(np.uint8).ravel())
        size += answers.size
    trees = [
        AskedTree(feature=tree.feature, left=tree.left, right=tree.right, leaves=tree.leaves, answers=places[begin:end])
        for tree, (begin, end) in zip(forest.trees, pairwise(bounds.tolist()), strict=True)
    ]
    return Ensemble(
        trees=trees, breaks=breaks, answers=joined(pieces, np.uint8), groups=forest.groups, sums=forest.sums
    )


def table_bytes(forest: Forest, breaks: tuple[Array, ...]) -> int | None:
    """How large the masks by rank of a forest would be, from which tables are made; None where a feature has more
    breaks than a rank can say."""
    ranks = np.array([len(each) + 2 for each in breaks], np.int64)
    if ranks.max(initial=0) > MAX_BREAKS + 2:
        return None
    return 8 * sum(int(ranks[np.unique(tree.feature)].sum()) * _words(tree) for tree in forest.trees)


def breaks_of(forest: Forest) -> tuple[Array, ...]:
    """Of each feature, ascending, all values at which a test may change its answer."""
    features = joined([tree.feature for tree in forest.trees], np.int32)
    values = joined([tree.threshold for tree in forest.trees], forest.test_type)
    kept = ~np.isnan(values)
    bounds = np.cumsum([0, *(len(tree.feature) for tree in forest.trees)])
    of, asked = [features], [values]
    for node, question in _questions(forest, bounds):
        kept[node] = False
        of.append(np.full(len(question.breaks), features[node], np.int32))
        asked.append(question.breaks)
    of[0], asked[0] = features[kept], values[kept]
    features, values = joined(of, np.int32), joined(asked, forest.test_type)
    order = np.lexsort((values, features))
    features, values = features[order], values[order]
    new = np.ones(len(values), bool)
    new[1:] = (features[1:] != features[:-1]) | (values[1:] != values[:-1])
    features, values = features[new], values[new]
    edges = np.searchsorted(features, np.arange(forest.features + 1)).tolist()
    return tuple(values[begin:end] for begin, end in pairwise(edges))


def _questions(forest: Forest, bounds: Array) -> Iterator[tuple[int, Question]]:
    """(number of a node over all trees, its question)."""
    for begin, tree in zip(bounds.tolist(), forest.trees, strict=False):
        yield from ((begin + node, question) for node, question in tree.questions.items())


def _words(tree: Shape) -> int:
    """Of a mask of its leaves."""
    return -(-len(tree.leaves) // WORD)


@dataclass(frozen=True, kw_only=True)
class _Test:
    """A feature in a tree: the ranks from which on other leaves can be reached."""

    feature: int
    steps: Array
    masks: Array
    """(words, masks): one more than steps, or one for each rank."""
    by_rank: bool = False


def compile_tables(ensemble: Ensemble, *, dtype: str) -> Tables:
    """Tables of an ensemble whose sums are of `dtype` ("f8" or "f4"). Raises NotCompilable."""
    ranks = np.array([len(each) + 2 for each in ensemble.breaks], np.int32)
    rank_type = np.dtype(np.uint16 if ranks.max(initial=0) > 256 else np.uint8)
    joined_tests: list[list[_Test]] = []
    lookups, words, first_leaf = [0], [], [0]
    leaves: list[Array] = []
    for tree in ensemble.trees:
        masks, order = _masks(tree, ensemble.answers, ranks)
        joined_tests += _joined(_tests(tree, masks, ranks, MOST_STEPS[rank_type.itemsize]))
        lookups.append(len(joined_tests))
        words.append(len(masks))
        leaves.append(tree.leaves[order])
        first_leaf.append(first_leaf[-1] + len(order))
    return Tables(
        breaks=joined(ensemble.breaks, ensemble.breaks[0].dtype if ensemble.breaks else np.float64),
        edges=np.cumsum([0, *map(len, ensemble.breaks)]),
        groups=ensemble.groups,
        sums=ensemble.sums,
        lookups=np.array(lookups, np.int64),
        first_leaf=np.array(first_leaf, np.int64),
        words=np.array(words, np.int32),
        leaves=np.ascontiguousarray(joined(leaves, dtype)),
        width=width_of(ensemble.trees),
        **_laid_out(joined_tests, np.repeat(np.array(words, np.int32), np.diff(lookups)), rank_type),
    )


def _masks(tree: AskedTree, answers: Array, ranks: Array) -> tuple[Array, Array]:
    """Which leaves, from left to right, can still be reached by rank: (words, ranks of the tree's features, one feature
    after the other); and the order of the leaves."""
    used = np.unique(tree.feature)
    lengths = ranks[used].astype(np.int64)
    local = np.zeros(len(ranks), np.int64)
    local[used] = np.cumsum(lengths) - lengths
    masks = np.full((_words(tree), int(lengths.sum())), np.iinfo(np.uint64).max, np.uint64)
    order, stack = np.empty(len(tree.leaves), np.int32), np.empty(4 * len(tree.leaves), np.int32)
    reached = library().tidemill_tables(
        ctypes.c_int32(len(tree.feature)), _at(tree.feature), _at(tree.left), _at(tree.right),
        _at(answers), _at(tree.answers), _at(local), _at(ranks), ctypes.c_int32(len(masks)),
        ctypes.c_int64(masks.shape[1]), _at(masks), _at(order), _at(stack),
    )  # fmt: skip
    if reached != len(tree.leaves) or len(np.unique(order)) != reached:
        raise NotCompilable("a tree does not reach each of its leaves once")
    return masks, order


def _tests(tree: AskedTree, masks: Array, ranks: Array, most_steps: int) -> Iterator[_Test]:
    """Of each feature that a tree tests."""
    used = np.unique(tree.feature)
    ends = np.cumsum(ranks[used], dtype=np.int64)
    changes = np.ones(masks.shape[1], bool)
    changes[1:] = (masks[:, 1:] != masks[:, :-1]).any(axis=0)
    changes[ends[:-1]] = True
    edges = np.flatnonzero(changes)
    stretches = masks[:, edges]
    begin = cut = 0
    for feature, end, next_cut in zip(used.tolist(), ends.tolist(), np.searchsorted(edges, ends).tolist(), strict=True):
        if next_cut - cut - 1 > most_steps:
            yield _Test(feature=feature, steps=edges[:0], masks=masks[:, begin:end], by_rank=True)
        else:
            steps = edges[cut + 1 : next_cut] - begin
            yield _Test(feature=feature, steps=steps, masks=stretches[:, cut:next_cut])
        begin, cut = end, next_cut


def _joined(tests: Iterable[_Test]) -> list[list[_Test]]:
    """Which tests share a table: each goes, the largest first, where it leaves the least room."""
    found: list[tuple[int, list[_Test]]] = []
    alone = []
    for test in sorted(tests, key=lambda each: -each.masks.shape[1]):
        size = test.masks.shape[1]
        if test.by_rank:
            alone.append([test])
            continue
        fits = [(held * size, place) for place, (held, _) in enumerate(found) if held * size <= MOST_JOINED]
        if fits:
            held, place = max(fits)
            found[place][1].append(test)
            found[place] = held, found[place][1]
        else:
            found.append((size, [test]))
    return [*alone, *(each for _, each in found)]


def _laid_out(shared: Sequence[Sequence[_Test]], words: Array, rank_type: np.dtype[Any]) -> dict[str, Array]:
    """Tables, each of which tells of some tests, and of so many words: what `Tables` says of them."""
    every = [test for together in shared for test in together]
    counts = np.array([test.masks.shape[1] for test in every], np.int32)
    tests = np.cumsum([0, *map(len, shared)], dtype=np.int64)
    weights, sizes = np.zeros(len(every), rank_type), np.zeros(len(shared), np.int32)
    for number, begin in enumerate(tests[:-1].tolist()):
        size = 1
        for place, test in enumerate(shared[number], begin):
            weights[place] = 0 if test.by_rank else size
            size *= int(counts[place])
        sizes[number] = size
    whole = sizes.astype(np.int64) * words
    places = np.cumsum(whole) - whole
    masks = joined([test.masks.ravel() for test in every], np.uint64)
    begins = np.cumsum([0, *(test.masks.size for test in every)], dtype=np.int64)
    tables = np.empty(int(whole.sum()), np.uint64)
    library().tidemill_join(
        ctypes.c_int64(len(shared)), _at(tests), _at(counts), _at(begins), _at(masks),
        _at(words), _at(places), _at(sizes), _at(tables),
    )  # fmt: skip
    return {
        "places": places,
        "sizes": sizes,
        "tests": tests,
        "features": np.array([test.feature for test in every], np.int32),
        "weights": weights,
        "first_step": np.cumsum([0, *(len(test.steps) for test in every)], dtype=np.int64),
        "steps": joined([test.steps for test in every], rank_type),
        "tables": tables,
    }


class TableKernel:
    """A compiled ensemble. `scores` may be called from several threads at once."""

    def __init__(self, tables: Tables) -> None:
        """Raises NotCompilable if the compiled library is not there."""
        found = library()
        self._tables = tables
        self._float = tables.leaves.dtype.str[1:]
        self._rank_type = np.dtype(np.uint16 if tables.wide else np.uint8)
        breaks_type = tables.breaks.dtype.str[1:]
        self._rank = getattr(found, f"tidemill_rank_{breaks_type}_{self._rank_type.str[1:]}")
        self._score = getattr(found, f"tidemill_score_{self._rank_type.str[1:]}_{self._float}")
        self._rank.restype = self._score.restype = None
        self._padded = tuple(_padded(tables.breaks[begin:end]) for begin, end in pairwise(tables.edges.tolist()))

    def scores(self, columns: Sequence[Array], start: Array) -> Array:
        """Sums of each row, (sums, rows): `start`, (sums,) or (sums, rows), and then the leaves, tree by tree.

        `columns` are vectors, one for each feature, of a type that goes into that of the breaks without loss; NaN is
        missing. Only those that a tree tests are asked for.
        """
        tables = self._tables
        rows = len(columns[0]) if columns else 0
        ranked = np.empty((len(columns), rows), self._rank_type)
        for feature in tables.used:
            padded, steps = self._padded[feature]
            missing = tables.edges[feature + 1] - tables.edges[feature] + 1
            # The address is good as long as there is this name for the vector.
            column = np.ascontiguousarray(columns[feature], tables.breaks.dtype)
            self._rank(
                _at(column), ctypes.c_int64(rows), _at(padded), ctypes.c_int32(steps),
                ctypes.c_int32(missing), _at(ranked[feature]),
            )  # fmt: skip
        out = np.empty((tables.sums, rows), self._float)
        out[:] = start if start.ndim == 2 else start[:, None]
        self._score(
            _at(ranked), ctypes.c_int64(rows), ctypes.c_int64(rows), ctypes.c_int32(len(tables.words)),
            _at(tables.groups), _at(tables.lookups), _at(tables.places), _at(tables.sizes), _at(tables.tests),
            _at(tables.features), _at(tables.weights), _at(tables.first_step), _at(tables.steps), _at(tables.tables),
            _at(tables.first_leaf), _at(tables.words), _at(tables.leaves), ctypes.c_int32(tables.width), _at(out),
        )  # fmt: skip
        return out


def _padded(breaks: Array) -> tuple[Array, int]:
    """Breaks with infinity behind them, so that a binary search needs no border; and its number of steps."""
    steps = max(len(breaks).bit_length(), 1)
    padded = np.full((1 << steps) - 1, np.inf, breaks.dtype)
    padded[: len(breaks)] = breaks
    return padded, steps
