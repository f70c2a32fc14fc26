"""From what a model computes to the columns that are written: one rule for all flavors.

`prediction` is always the decision: the label of a classifier, the value of a regressor, whatever the
file's format. A binary classifier also writes `probability`, of its positive (second) class; on request
every class has its `probability_<class>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.domain.errors import InvalidSpec, ModelUnusable
from tidemill.domain.signature import Field, Task
from tidemill.flavors.matrix import Array, to_arrow
from tidemill.flavors.options import PredictOptions

Label = str | int | float | bool

_LABEL_REMEDY = "Train the model with different labels of one type: text, whole numbers, numbers or booleans."
_VALUE_DTYPES = {"double": "f8", "float": "f4", "int64": "i8", "bool": "?", "string": "U"}
_LABEL_TYPES = {"b": "bool", "i": "int64", "u": "int64", "f": "double", "U": "string"}


@dataclass(frozen=True, kw_only=True)
class ClassRule:
    """How a classifier decides and what it writes. Arrays of probabilities are (rows, classes)."""

    labels: tuple[Label, ...]
    named: bool = True
    """False if nobody knows what the classes are called, and `labels` are just 0, 1, ..."""
    probability_type: str | None = "double"
    """Arrow type of the library's probabilities; None if the model gives none."""
    every_probability: bool = False
    threshold: float | None = None

    @staticmethod
    def of(
        labels: Sequence[Any] | int, options: PredictOptions, *, probability_type: str | None = "double"
    ) -> ClassRule:
        """The rule for these classes, or for so many whose names nobody knows.

        Raises InvalidSpec where the options ask for what such a classifier cannot give.
        """
        named, found = (False, list(range(labels))) if isinstance(labels, int) else (True, list(labels))
        if options.classes:
            named, found = True, _renamed(found, options.classes, named)
        rule = ClassRule(
            labels=tuple(label_of(each) for each in found),
            named=named,
            probability_type=probability_type,
            every_probability=options.probabilities,
            threshold=options.threshold,
        )
        rule._check()
        return rule

    def _check(self) -> None:
        if self.probability_type is None and (self.every_probability or self.threshold is not None):
            raise InvalidSpec(
                "The model gives no probabilities, only labels.",
                remedy="Leave probabilities and threshold out, or train a model that gives them.",
            )
        if self.threshold is not None and not self.binary:
            raise InvalidSpec(
                f"A threshold decides between two classes; the model has {len(self.labels)}.",
                remedy="Leave the threshold out.",
            )
        if len({str(label) for label in self.labels}) != len(self.labels):
            raise ModelUnusable(
                f"The model's classes are not different when written: {list(self.labels)!r}.", remedy=_LABEL_REMEDY
            )

    @property
    def binary(self) -> bool:
        return len(self.labels) == 2

    @property
    def writes_probabilities(self) -> bool:
        """Whether a column needs them."""
        return self.probability_type is not None and (self.binary or self.every_probability)

    @property
    def task(self) -> Task:
        return "binary" if self.binary else "multiclass"

    @property
    def positive(self) -> Label | None:
        """The class that `probability` is of."""
        return self.labels[1] if self.binary else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What people must be told of this rule."""
        notes = []
        if not self.named:
            numbers = "0 and 1" if self.binary else f"0 to {len(self.labels) - 1}"
            notes.append(f"class names unknown: {numbers}")
        if self.binary and self.probability_type:
            notes.append(f"probability is of class {self.positive!r}")
        return tuple(notes)

    @cached_property
    def outputs(self) -> tuple[Field, ...]:
        """The columns that `columns` gives."""
        names = [self._label_field()]
        if self.probability_type is not None:
            if self.binary:
                names.append(Field(name="probability", type=self.probability_type, nullable=False))
            if self.every_probability:
                names += [
                    Field(name=f"probability_{label}", type=self.probability_type, nullable=False)
                    for label in self.labels
                ]
        return tuple(names)

    def _label_field(self) -> Field:
        return Field(name="prediction", type=_LABEL_TYPES[self._label_array.dtype.kind], nullable=False)

    @cached_property
    def _label_array(self) -> Array:
        kinds = {type(label) for label in self.labels}
        if kinds == {int, float}:
            return np.array(self.labels, np.float64)
        if len(kinds) != 1:
            raise ModelUnusable(
                f"The model's classes are of different types: {list(self.labels)!r}.", remedy=_LABEL_REMEDY
            )
        return np.array(self.labels, np.int64 if kinds == {int} else None)

    @cached_property
    def _label_column(self) -> pa.Array:
        return to_arrow(self._label_array)

    def decide(self, probabilities: Array) -> Array:
        """The position of the class of each row: the likeliest, the first of equals; or by threshold."""
        if self.threshold is not None:
            return np.asarray(probabilities[:, 1] >= self.threshold, np.int64)
        if self.binary:
            return np.asarray(probabilities[:, 1] > probabilities[:, 0], np.int64)
        return np.asarray(np.argmax(probabilities, axis=1), np.int64)

    def columns(self, classes: Array, probabilities: Array | None) -> pa.RecordBatch:
        """What is written for rows of these classes (positions in `labels`). Probabilities may be None where none is
        written.

        Raises ValueError unless there is one probability for each row and class.
        """
        columns = [self._label_column.take(to_arrow(classes.astype(np.int64, copy=False)))]
        if self.writes_probabilities or (self.probability_type is not None and probabilities is not None):
            wanted = (len(classes), len(self.labels))
            if probabilities is None or probabilities.shape != wanted:
                found = "no probabilities" if probabilities is None else f"probabilities of shape {probabilities.shape}"
                raise ValueError(f"the model gave {found}, not of shape {wanted}")
            if self.binary:
                columns.append(to_arrow(probabilities[:, 1]))
            if self.every_probability:
                columns += [to_arrow(probabilities[:, position]) for position in range(len(self.labels))]
        return pa.RecordBatch.from_arrays(columns, names=[field.name for field in self.outputs])


@dataclass(frozen=True, kw_only=True)
class ValueRule:
    """What a model without classes writes: one column of numbers, or several that keep their names."""

    names: tuple[str, ...] = ("prediction",)
    type: str = "double"
    task: Task = "regression"
    labels: None = None
    positive: None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(
        width: int,
        options: PredictOptions,
        *,
        what: str = "The model",
        type: str = "double",
        task: Task = "regression",
        notes: tuple[str, ...] = (),
    ) -> ValueRule:
        """The rule for so many numbers a row. Raises InvalidSpec where options ask for classes."""
        options.refuse_decisions(what)
        names = ("prediction",) if width == 1 else tuple(f"prediction_{number}" for number in range(width))
        return ValueRule(names=names, type=type, task=task, notes=notes)

    @property
    def outputs(self) -> tuple[Field, ...]:
        return tuple(Field(name=name, type=self.type, nullable=False) for name in self.names)

    def columns(self, values: Array, rows: int) -> pa.RecordBatch:
        """What is written for these values: (rows,) or (rows, columns). Raises ValueError for another shape."""
        table = values.reshape(-1, 1) if values.ndim == 1 else values
        table = table.astype(_VALUE_DTYPES[self.type], copy=False)
        if table.shape != (rows, len(self.names)):
            raise ValueError(f"the model gave values of shape {values.shape}, not ({rows}, {len(self.names)})")
        columns = [to_arrow(table[:, position]) for position in range(len(self.names))]
        return pa.RecordBatch.from_arrays(columns, names=list(self.names))


@dataclass(frozen=True, kw_only=True)
class LabelsRule:
    """What a classifier writes that answers several questions with yes or no: `prediction_<name>`, 0 or 1,
    and `probability_<name>` for each."""

    names: tuple[str, ...]
    probability_type: str = "double"
    threshold: float | None = None
    task: Task = "other"
    labels: None = None
    positive: None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(names: Sequence[Any] | int, options: PredictOptions, *, probability_type: str = "double") -> LabelsRule:
        """The rule for questions of these names, or for so many whose names nobody knows.

        Raises InvalidSpec where the options name others.
        """
        named, found = (False, list(range(names))) if isinstance(names, int) else (True, list(names))
        if options.classes:
            found = _renamed(found, options.classes, named)
        return LabelsRule(names=tuple(map(str, found)), probability_type=probability_type, threshold=options.threshold)

    @property
    def outputs(self) -> tuple[Field, ...]:
        """The columns that `columns` gives."""
        kinds = (("prediction", "int64"), ("probability", self.probability_type))
        return tuple(
            Field(name=f"{what}_{name}", type=kind, nullable=False) for name in self.names for what, kind in kinds
        )

    def columns(self, probabilities: Array) -> pa.RecordBatch:
        """What is written for these probabilities: (rows, names). Raises ValueError for another shape."""
        if probabilities.ndim != 2 or probabilities.shape[1] != len(self.names):
            raise ValueError(
                f"the model gave probabilities of shape {probabilities.shape}, not {len(self.names)} a row"
            )
        yes = probabilities > 0.5 if self.threshold is None else probabilities >= self.threshold
        columns = []
        for position in range(len(self.names)):
            columns += [to_arrow(yes[:, position].astype(np.int64)), to_arrow(probabilities[:, position])]
        return pa.RecordBatch.from_arrays(columns, names=[field.name for field in self.outputs])


Rule = ClassRule | ValueRule
AnyRule = Rule | LabelsRule


def label_of(value: Any) -> Label:
    """A class label as plain Python. Raises ModelUnusable for a type that cannot be written."""
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, (bool, int, float, str)):
        return plain
    raise ModelUnusable(
        f"A class label of the model is {plain!r}, of type {type(plain).__name__}.", remedy=_LABEL_REMEDY
    )


def positive_probabilities(positive: Array) -> Array:
    """Both columns of a binary classifier that only gives the second: (rows, 2)."""
    both = np.empty((len(positive), 2), positive.dtype, order="F")
    both[:, 1] = positive
    np.subtract(1, positive, out=both[:, 0])
    return both


def _renamed(found: list[Any], wanted: Sequence[Any], known: bool) -> list[Any]:
    if len(wanted) != len(found):
        raise InvalidSpec(
            f"classes names {len(wanted)} classes but the model has {len(found)}.",
            remedy="Name each class once, in order.",
        )
    if known:
        raise InvalidSpec(f"The model knows its classes: {found!r}.", remedy="Leave classes out.")
    return list(wanted)
