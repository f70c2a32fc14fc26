"""XGBoost models: the JSON or UBJSON that `save_model` writes, of boosters and of scikit-learn's wrappers.

Values are those of the wrappers' `predict`: rounds after the best one do not count. A row with a category
that training did not see is rejected: XGBoost 3.2 refuses such rows only where the category comes after all
others in the order of the alphabet, and silently takes others for their neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tidemill.domain.errors import InvalidSpec, ModelUnusable
from tidemill.domain.signature import Field, Kernel, ModelInfo
from tidemill.flavors import xgboost_file
from tidemill.flavors.bad_rows import is_null, predicted_without
from tidemill.flavors.categories import Categories
from tidemill.flavors.decision import AnyRule, ClassRule, LabelsRule, ValueRule, positive_probabilities
from tidemill.flavors.inputs import column_names
from tidemill.flavors.matrix import Array, Vectors, to_arrow, to_matrix
from tidemill.flavors.options import PredictOptions
from tidemill.flavors.xgboost_library import Booster, distribution
from tidemill.flavors.xgboost_trees import TreeBooster
from tidemill.kernels.library import NotCompilable
from tidemill.kernels.library import version as kernels_version
from tidemill.ports.flavor import Flavor, Model, Predicted

BATCH_ROWS = 16_384
"""2.4 microseconds of CPU a row with 200 trees and 28 features, the same from 4k to 64k rows; 2.6 at 1k.
Order and width of the matrix make no difference either."""
ROWS_PER_CHUNK = 262_144
SLOW_ROWS_PER_CHUNK = 32_768
SLOW_TREES = 10_000
"""From so many trees on, 262k rows would keep a core busy for half a minute and more."""

KERNEL = "trees"
TOLERANCE = 1e-6
"""Of a kernel's 32-bit numbers, relative."""

_FLAG = "i"
"""The type of a column that was true or false in training. Text would not become a number; truth does."""
_PROBABILITIES = ("binary:logistic", "multi:softprob", "multi:softmax")
_CLASSIFIERS = (*_PROBABILITIES, "binary:logitraw", "binary:hinge")


class XGBoostFlavor(Flavor):
    """JSON and UBJSON models of XGBoost, scored by its own library."""

    name: ClassVar[str] = "xgboost"
    preload: ClassVar[tuple[str, ...]] = ("tidemill.flavors.xgboost_library",)

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        return xgboost_file.looks_like(head)

    def load(self, path: str, options: Mapping[str, Any]) -> Model:
        try:
            content = Path(path).read_bytes()
        except OSError as exc:
            raise ModelUnusable(f"The model {path} cannot be read: {exc.strerror}.", remedy="Check the file.") from exc
        return XGBoostModel(content, path, PredictOptions.of(options))


class XGBoostModel(Model):
    """A booster; each call runs in its own thread alone."""

    widens = True

    def __init__(self, content: bytes, path: str, options: PredictOptions, *, missing: float = math.nan) -> None:
        """`missing` is the number that stands for a missing one, where the container of the booster knows it.

        Raises ModelUnusable, SchemaMismatch, InvalidSpec, MissingExtra.
        """
        extra = dict(options.extra)
        self._missing = _number(extra.pop("missing", missing))
        replace(options, extra=extra).refuse_extra("xgboost")
        said, learner = xgboost_file.read(content, path)
        self._said = said
        called = column_names(said.names, options.features, said.features)
        self._names, self._positional = called.names, called.positional
        self._categories = {
            position: Categories(self._names[position], _decoded(listed, self._names[position], path))
            for position, listed in said.categories.items()
        }
        self._rule = _rule(said, options)
        self._linear = said.booster == "gblinear"
        self._compiled = self._compile(learner, options.kernel_file) if options.accelerate else None
        self._library = Booster(content, path) if self._compiled is None else None
        self.info = self._describe()

    def _compile(self, learner: Mapping[str, Any], kept_at: str | None) -> TreeBooster | None:
        try:
            if not math.isnan(self._missing):
                raise NotCompilable(f"{self._missing:g} stands for a missing number")
            booster = TreeBooster(learner, self._said, kept_at)
        except NotCompilable as exc:
            self.not_accelerated = str(exc)
            return None
        self.kernel = Kernel(name=KERNEL, version=kernels_version(), tolerance=TOLERANCE)
        return booster

    def _describe(self) -> ModelInfo:
        return ModelInfo(
            flavor="xgboost",
            inputs=tuple(Field(name=name, type=self._type(position)) for position, name in enumerate(self._names)),
            outputs=self._rule.outputs,
            positional=self._positional,
            task=self._rule.task,
            kernel=KERNEL,
            classes=self._rule.labels,
            positive_class=self._rule.positive,
            # Only trees may be asked by several threads at once.
            layout="processes" if self._linear else "threads",
            batch_invariant=True,
            batch_rows=BATCH_ROWS,
            rows_per_chunk=SLOW_ROWS_PER_CHUNK if self._said.trees >= SLOW_TREES else ROWS_PER_CHUNK,
            libraries=(distribution(),),
            notes=(*self._rule.notes, *self._notes()),
        )

    def _type(self, position: int) -> str:
        # Whole numbers beyond 2**53 are rounded twice on their way to the library's 32 bits; the nearest
        # float is missed only where the first rounding meets the middle of two.
        categories = self._categories.get(position)
        if self._said.types and self._said.types[position] == _FLAG:
            return "any"
        return "double" if categories is None else "string" if categories.text else "int64"

    def _notes(self) -> tuple[str, ...]:
        said, notes = self._said, []
        boosted = said.boosted if self._library is None else self._library.rounds
        if said.rounds is not None and boosted is not None and said.rounds < boosted:
            notes.append(f"predicts with the best {said.rounds} of {boosted} rounds of boosting")
        if said.codes_expected:
            notes.append("the file lists no categories: categorical columns must hold the codes used in training")
        for position, listed in said.categories.items():
            if any(isinstance(each, bytes) and not each.isascii() for each in listed):
                notes.append(
                    f"check the categories of column {self._names[position]!r}: XGBoost 3.1 and 3.2 save those of "
                    "pandas wrongly where a letter is beyond ASCII, and rows with an unknown category are rejected"
                )
        return tuple(notes)

    def predict(self, batch: pa.RecordBatch) -> Predicted:
        if batch.num_columns != len(self._names):
            raise ValueError(f"the model takes {len(self._names)} columns but got {batch.num_columns}")
        coded, bad = self._coded(batch)
        if self._linear:
            bad = {**self._infinite(coded), **bad}
        predicted = predicted_without(coded, bad, self._rule, self._predicted)
        return replace(predicted, by_kernel=self._compiled is not None)

    def _coded(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, dict[int, str]]:
        """The batch with categories as their codes, and rows with an unknown one."""
        bad: dict[int, str] = {}
        if not self._categories:
            return batch, bad
        columns = batch.columns
        for position, categories in self._categories.items():
            codes = categories.codes(columns[position])
            for row in np.flatnonzero(np.isnan(codes) & ~is_null(columns[position])).tolist():
                what = f"column {self._names[position]!r}: {str(columns[position][row].as_py())[:100]!r}"
                bad.setdefault(row, f"{what} is no category that the model was trained with")
            columns[position] = to_arrow(codes)
        return pa.RecordBatch.from_arrays(columns, names=batch.schema.names), bad

    def _infinite(self, rows: pa.RecordBatch) -> dict[int, str]:
        """Rows that the library refuses for linear functions, where trees take them."""
        found = np.isinf(to_matrix(rows, dtype="f4"))
        return {
            int(row): f"column {self._names[int(found[row].argmax())]!r} is infinite, or too large for 32 bits"
            for row in np.flatnonzero(found.any(axis=1))
        }

    def _predicted(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        margin = self._said.objective == "multi:softmax"
        if self._compiled is not None:
            return _columns(self._rule, self._compiled.predict(Vectors(batch, "f4")), margin)
        assert self._library is not None
        matrix = to_matrix(batch, dtype=None)
        if self._linear:
            values = self._library.predict_linear(matrix, missing=self._missing, margin=margin)
        else:
            rounds = self._said.rounds or 0
            values = self._library.predict(matrix, rounds=rounds, missing=self._missing, margin=margin)
        return _columns(self._rule, values, margin)

    def close(self) -> None:
        if self._library is not None:
            self._library.close()


def _columns(rule: AnyRule, values: Array, margin: bool) -> pa.RecordBatch:
    """What is written for what the library gave: (rows, width); scores of classes if `margin`."""
    if isinstance(rule, ValueRule):
        return rule.columns(values, len(values))
    if isinstance(rule, LabelsRule):
        return rule.columns(values)
    if rule.probability_type is None:
        return rule.columns(values.argmax(axis=1) if values.shape[1] > 1 else values[:, 0] > 0.5, None)
    if values.shape[1] == 1:
        values = positive_probabilities(values[:, 0])
    elif margin:
        return rule.columns(values.argmax(axis=1), _softmax(values))
    return rule.columns(rule.decide(values), values)


def _softmax(scores: Array) -> Array:
    """Probabilities of scores: the wrapper computes them so, since the library only gives the class."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _rule(said: xgboost_file.ModelFile, options: PredictOptions) -> AnyRule:
    width = max(said.classes, said.targets)
    if said.objective in _CLASSIFIERS or said.classifier:
        kind = "float" if said.objective in _PROBABILITIES else None
        if said.targets > 1:
            return LabelsRule.of(width, options, probability_type="float")
        return ClassRule.of(max(width, 2), options, probability_type=kind)
    what = f"An XGBoost model of objective {said.objective}"
    if said.objective.startswith("rank:"):
        notes = ("prediction is a score for ranking",)
        return ValueRule.of(width, options, what=what, type="float", task="other", notes=notes)
    return ValueRule.of(width, options, what=what, type="float")


def _decoded(listed: Sequence[bytes] | Sequence[int], column: str, path: str) -> list[str] | list[int]:
    try:
        return [each.decode() if isinstance(each, bytes) else each for each in listed]  # type: ignore[return-value]
    except UnicodeDecodeError as exc:
        raise ModelUnusable(
            f"{path}: the categories of column {column!r} are not text: XGBoost 3.1 and 3.2 save those of pandas "
            "wrongly where a letter is beyond ASCII.",
            remedy="Train with a newer XGBoost, or with numbers for these categories, and save the model again.",
        ) from exc


def _number(missing: Any) -> float:
    try:
        return float(missing)
    except (TypeError, ValueError) as exc:
        raise InvalidSpec(f"missing is {missing!r}, which is no number.", remedy="Leave it out, or say -999.") from exc
