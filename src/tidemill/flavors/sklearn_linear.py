"""Linear models of scikit-learn, with the transformers before them, by the kernel of `tidemill.kernels.linear`.

Arithmetic on numbers is scikit-learn's own, column by column. What a value of a category adds is asked of the fitted
transformers when the model is loaded: each value that they know, one that they do not, and a missing one. Where they
refuse, where a sum is no finite number, and where two classes are as good as equal, the library predicts the batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.domain.signature import Field, Kernel
from tidemill.domain.version import __version__
from tidemill.flavors.coded import Lookup, lookup_of
from tidemill.flavors.decision import ClassRule, Rule, ValueRule
from tidemill.flavors.matrix import strings, to_arrow, validity, values
from tidemill.flavors.sklearn_columns import Feature, Tracer
from tidemill.flavors.sklearn_links import link_of
from tidemill.flavors.types import type_of
from tidemill.kernels.library import NotCompilable
from tidemill.kernels.linear import Array, Codes, Numbers, Table, Term
from tidemill.kernels.linear_compiled import linear_kernel
from tidemill.ports.flavor import Predicted

KERNEL = Kernel(name="linear", version=__version__, tolerance=1e-12, distribution="tidemill")
"""Of a value relative to the largest terms of its sum; of a probability relative to it, or to one if it is what another
leaves of one. Classes whose scores are
nearer to each other than this, relative to their terms, are the library's to decide."""
ASKED_BYTES = 32 << 20
"""Of features that transformers make at a time when they are asked."""

_NUMBERS = (pa.float64(), pa.int64(), pa.int32(), pa.uint32())
"""Types that become float64 in all of the library's arithmetic. Narrow ones may stay what they are."""

_REFUSALS = (ValueError, TypeError)
"""What transformers raise for values that they do not take."""

Transform = Callable[[pa.RecordBatch], Any]


def is_linear(final: Any) -> bool:
    """Whether the last step of a pipeline is one that `FoldedPipeline` may know."""
    return link_of(final) is not None


class FoldedPipeline:
    """A pipeline as one sum. `predict` may be called from several threads at once."""

    def __init__(
        self,
        front: Sequence[Any],
        final: Any,
        *,
        names: Sequence[str],
        fields: Mapping[str, Field],
        transform: Transform,
        rule: Rule,
    ) -> None:
        """`front` are the transformers, `names` what their input columns are called, `fields` those of them that a
        batch has, in its order, and `transform` makes features of a batch. Raises NotCompilable.
        """
        link = link_of(final)
        if link is None:
            raise NotCompilable(f"there is no kernel for a {type(final).__name__}")
        try:
            self._link = link(final, rule)
            self._rule = rule
            self._fields = tuple(fields.values())
            self._compile(front, names, list(fields), transform)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as exc:
            raise NotCompilable(f"this version of scikit-learn keeps its models in another way: {exc}") from exc

    def _compile(self, front: Sequence[Any], names: Sequence[str], known: Sequence[str], transform: Transform) -> None:
        places = {name: place for place, name in enumerate(known)}
        tracer = Tracer()
        # A column that is not in the batch is one that the first transformer drops.
        features = [Feature(column=places.get(name, -1)) for name in names]
        for transformer in front:
            features = tracer.through(transformer, features, names)
            names = [str(position) for position in range(len(features))]
        weights = self._link.weights
        if len(features) != weights.shape[1]:
            raise NotCompilable(f"{weights.shape[1]} features are wanted, and {len(features)} are made")
        if any(not feature.coded and feature.steps is None for feature in features):
            raise NotCompilable("a value reaches the model that is no number, or missing in another way than NaN")
        terms = [
            Term(column=feature.column, steps=feature.steps, weights=np.ascontiguousarray(weights[:, position]))
            for position, feature in enumerate(features)
            if not feature.coded and feature.steps is not None
        ]
        coded = {column: lookup_of(self._fields[column].name, met) for column, met in tracer.values.items()}
        of_column = {
            column: np.flatnonzero([feature.coded and feature.column == column for feature in features])
            for column in coded
        }
        asked = _Asked(self._fields, coded, of_column, weights, transform)
        self._numbers = tuple(sorted({term.column for term in terms}))
        self._coded = {column: lookup for column, lookup in coded.items() if len(of_column[column])}
        tables = [Table(column=column, added=asked.table(column)) for column in self._coded]
        self._kernel = linear_kernel(self._link.start, terms, tables)

    @property
    def encoded(self) -> tuple[str, ...]:
        """Inputs of text of which only the codes are needed."""
        texts = (column for column, lookup in self._coded.items() if lookup.kind == "text")
        return tuple(self._fields[column].name for column in texts if column not in self._numbers)

    def predict(self, batch: pa.RecordBatch) -> Predicted | None:
        """Predictions of a batch, or None where they are the library's to make."""
        rows = batch.num_rows
        if not rows:
            return None
        numbers: dict[int, Numbers] = {}
        for column in self._numbers:
            if (found := _numbers(batch.column(column))) is None:
                return None
            numbers[column] = found
        coded: dict[int, Codes] = {}
        for column, lookup in self._coded.items():
            if (codes := lookup.codes(batch.column(column))) is None:
                return None
            coded[column] = codes
        scores = self._kernel.scores(rows, numbers, coded)
        if not scores.known:
            return None
        decided = self._link.decide(scores.sums, KERNEL.tolerance * scores.size)
        if decided is None:
            return None
        if isinstance(self._rule, ValueRule):
            columns = self._rule.columns(decided.values, rows)
        else:
            columns = self._rule.columns(decided.values, decided.probabilities)
        return Predicted(columns=columns, by_kernel=True, sizes=self._sizes(scores.size))

    def _sizes(self, size: float) -> dict[str, float]:
        """Of the columns that are sums: those that are written as they were summed, and what a probability leaves of
        one."""
        if isinstance(self._rule, ClassRule):
            both = self._rule.binary and self._rule.every_probability
            return {self._rule.outputs[2].name: 1.0} if both else {}
        return dict.fromkeys((field.name for field in self._rule.outputs), size) if self._link.values_are_sums else {}


def _numbers(column: pa.Array) -> Numbers | None:
    """The numbers of a column; None if it has none that become float64 here as they do in the library."""
    if pa.types.is_null(column.type):
        return Numbers(values=np.full(len(column), np.nan))
    if column.type not in _NUMBERS:
        return None
    return Numbers(values=values(column), valid=validity(column))


class _Asked:
    """What values of encoded columns add, as the transformers say."""

    def __init__(
        self,
        fields: Sequence[Field],
        coded: Mapping[int, Lookup],
        of_column: Mapping[int, Array],
        weights: Array,
        transform: Transform,
    ) -> None:
        self._fields, self._coded, self._transform = fields, coded, transform
        self._of_column, self._weights = of_column, weights
        self._tables = self._known() if coded else {}
        unknown = {column: lookup.unknown for column, lookup in coded.items() if lookup.unknown is not None}
        for asked in (unknown, {column: lookup.missing for column, lookup in coded.items()}):
            for column, added in self._perhaps_refused(asked).items():
                self._tables[column].append(added)

    def table(self, column: int) -> Array:
        """Of a column: (sums, codes), the codes being those of its lookup."""
        return np.concatenate(self._tables[column], axis=1)

    def _known(self) -> dict[int, list[Array]]:
        """Values that transformers know: all columns at a time, since each is looked at alone."""
        most = max(len(lookup.values) for lookup in self._coded.values())
        piece = max(1, ASKED_BYTES // (8 * self._weights.shape[1]))
        found: dict[int, list[Array]] = {column: [] for column in self._coded}
        for start in range(0, most, piece):
            rows = min(piece, most - start)
            shown = {column: lookup.shown(start, rows) for column, lookup in self._coded.items()}
            for column, added in self._added(shown, rows):
                found[column].append(added[:, : max(len(self._coded[column].values) - start, 0)])
        return found

    def _perhaps_refused(self, asked: Mapping[int, pa.Array]) -> dict[int, Array]:
        """What one value of each of some columns adds; NaN where it is refused, and for all other columns."""
        found = dict.fromkeys(self._coded, np.full((len(self._weights), 1), np.nan))
        known = {column: lookup.shown(0, 1) for column, lookup in self._coded.items()}
        try:
            together = dict(self._added({**known, **asked}, 1))
            found.update((column, together[column]) for column in asked)
        except _REFUSALS:
            for column, value in asked.items():
                with suppress(*_REFUSALS):
                    found[column] = dict(self._added({**known, column: value}, 1))[column]
        return found

    def _added(self, shown: Mapping[int, pa.Array], rows: int) -> Iterator[tuple[int, Array]]:
        """Of each column of codes, what its values add to each sum: (sums, rows)."""
        columns = [
            shown[place].cast(type_of(field.type)) if place in shown and field.type != "any"
            else shown[place] if place in shown
            else _blank(field, rows)
            for place, field in enumerate(self._fields)
        ]  # fmt: skip
        batch = pa.RecordBatch.from_arrays(columns, names=[field.name for field in self._fields])
        with warnings.catch_warnings():
            # That a value is not known is what is asked for here.
            warnings.simplefilter("ignore")
            made = self._transform(batch)
        made = made.tocsr() if hasattr(made, "tocsr") else np.asarray(made, np.float64)
        for column in self._coded:
            of = self._of_column[column]
            yield column, np.asarray(self._weights[:, of] @ made[:, of].T).reshape(len(self._weights), rows)


def _blank(field: Field, rows: int) -> pa.Array:
    return strings([""] * rows) if field.type == "string" else to_arrow(np.zeros(rows))
