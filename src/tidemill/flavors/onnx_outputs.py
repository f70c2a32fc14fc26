"""What the outputs of an ONNX graph mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from tidemill.domain.errors import InvalidSpec
from tidemill.flavors.decision import ClassRule, Rule
from tidemill.flavors.matrix import Array
from tidemill.flavors.options import PredictOptions
from tidemill.flavors.value_outputs import ValueOutputs

_DTYPES = {
    "tensor(float16)": "f2",
    "tensor(float)": "f4",
    "tensor(double)": "f8",
    "tensor(int8)": "i1",
    "tensor(int16)": "i2",
    "tensor(int32)": "i4",
    "tensor(int64)": "i8",
    "tensor(uint8)": "u1",
    "tensor(uint16)": "u2",
    "tensor(uint32)": "u4",
    "tensor(uint64)": "u8",
    "tensor(bool)": "?",
    "tensor(string)": "O",
}


class Outputs(Protocol):
    """Turns what a run gave into columns."""

    @property
    def rule(self) -> Rule:
        """What is written."""

    def columns(self, found: Mapping[str, Any], rows: int) -> pa.RecordBatch:
        """The predictions of so many rows. Raises ValueError if the graph gave another number."""


def outputs_of(path: str, sample: Mapping[str, Any], labels: Sequence[str | int], options: PredictOptions) -> Outputs:
    """What the outputs mean, seen by those of one row.

    `labels` are the classes that the file names, in the order of the probabilities. Converters write a
    classifier as two outputs: labels (int64 or text), then probabilities (a matrix, or one dict a row).
    """
    found = list(sample.items())
    if len(found) == 2 and _is_label(found[0][1]):
        (label, _), (probability, values) = found
        if isinstance(values, list) and len(values) == 1 and isinstance(values[0], dict):
            return ClassOutputs(path, label, probability, list(values[0]), options)
        if isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype.kind == "f" and values.shape[1] > 1:
            own = _own_labels(path, sample[label], labels, values.shape[1], options)
            return ClassOutputs(path, label, probability, own, options, values.dtype)
    return ValueOutputs(path, sample, options, what="An ONNX model without labels and probabilities")


def described_row(outputs: Sequence[Any], labels: Sequence[str | int]) -> dict[str, Any] | None:
    """Outputs for one row as ONNX Runtime describes them, all zero; None if the description leaves gaps."""
    row: dict[str, Any] = {}
    for output in outputs:
        if output.type.startswith("seq(map("):
            row[output.name] = [dict.fromkeys(labels, 0.0)] if labels else None
        elif (dtype := _DTYPES.get(output.type)) and len(output.shape) in (1, 2):
            width = output.shape[1:]
            row[output.name] = np.zeros((1, *width), dtype) if all(isinstance(each, int) for each in width) else None
        else:
            return None
    return row if all(values is not None for values in row.values()) else None


def _is_label(values: Any) -> bool:
    return isinstance(values, np.ndarray) and values.dtype.kind in "iuOUS" and values.size == 1


def _own_labels(path: str, label: Array, known: Sequence[Any], count: int, options: PredictOptions) -> list[Any]:
    """What the graph calls its classes, in the order of its probabilities."""
    if len(known) == count:
        return list(known)
    if label.dtype.kind in "iu":
        return list(range(count))
    if len(options.classes) != count:
        raise InvalidSpec(
            f"{path} does not say in which order its {count} classes come.",
            remedy="Name them in that order, as predict option classes.",
        )
    return list(options.classes)


class ClassOutputs:
    """A classifier: labels and probabilities."""

    def __init__(
        self,
        path: str,
        label: str,
        probability: str,
        own: list[Any],
        options: PredictOptions,
        dtype: np.dtype[Any] | None = None,
    ) -> None:
        """`own` are the labels as the graph gives them; `dtype` of its probabilities if they are a matrix."""
        self._path, self._label, self._probability, self._own = path, label, probability, own
        self._position = {each: position for position, each in enumerate(own)}
        self._dtype = np.float64 if dtype == np.float64 else np.float32
        numbered = own == list(range(len(own)))
        self.rule = ClassRule.of(
            len(own) if numbered and options.classes else own,
            options if numbered else _without_classes(options),
            probability_type="double" if self._dtype is np.float64 else "float",
        )

    def columns(self, found: Mapping[str, Any], rows: int) -> pa.RecordBatch:
        """The predictions of so many rows."""
        probabilities = self._table(found[self._probability])
        if self.rule.threshold is not None:
            return self.rule.columns(self.rule.decide(probabilities), probabilities)
        labels = np.asarray(found[self._label]).reshape(-1)
        if len(labels) != rows:
            raise ValueError(f"the model gave {len(labels)} labels for {rows} rows")
        try:
            positions = np.fromiter((self._position[each] for each in labels.tolist()), np.int64, rows)
        except KeyError as exc:
            raise ValueError(f"the model gave the label {exc.args[0]!r}, which is none of its classes") from exc
        return self.rule.columns(positions, probabilities)

    def _table(self, found: Any) -> Array:
        if isinstance(found, np.ndarray):
            return found.astype(self._dtype, copy=False)
        return np.array([[row[each] for each in self._own] for row in found], self._dtype)


def _without_classes(options: PredictOptions) -> PredictOptions:
    return PredictOptions(probabilities=options.probabilities, threshold=options.threshold, features=options.features)
