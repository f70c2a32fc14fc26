"""What a program of PyTorch gives back, and what is written of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from tidemill.domain.errors import InvalidSpec, ModelUnusable
from tidemill.flavors.decision import ClassRule, LabelsRule, ValueRule, positive_probabilities
from tidemill.flavors.matrix import Array
from tidemill.flavors.options import PredictOptions
from tidemill.flavors.value_outputs import ValueOutputs

ACTIVATIONS = ("softmax", "sigmoid", "none")


class Outputs(Protocol):
    """Turns arrays by name into columns."""

    @property
    def rule(self) -> ClassRule | LabelsRule | ValueRule:
        """What is written."""

    def columns(self, found: Mapping[str, Array], rows: int) -> pa.RecordBatch:
        """The predictions of so many rows. Raises ValueError if there are not so many."""


class Reader:
    """From what a call returns to arrays by name, through the activation that the user named."""

    def __init__(self, torch: Any, path: str, output: Any, activation: Any) -> None:
        """Raises InvalidSpec for an unknown activation."""
        if activation not in (None, *ACTIVATIONS):
            raise InvalidSpec(f"activation {activation!r} is none.", remedy=f"Say {', '.join(ACTIVATIONS)}.")
        self._torch, self._path, self._output, self.activation = torch, path, output, activation

    def read(self, result: Any) -> dict[str, Any]:
        """Tensors on the CPU, by name. Raises ModelUnusable for what is no tensor, InvalidSpec for an output
        that the program does not have."""
        named = self._named(result)
        if self._output is not None:
            if self._output not in named:
                raise InvalidSpec(
                    f"{self._path} has no output {self._output!r}.", remedy=f"It has: {', '.join(named)}."
                )
            named = {"prediction": named[self._output]}
        return {name: self._activated(tensor) for name, tensor in named.items()}

    def _named(self, result: Any) -> dict[str, Any]:
        if isinstance(result, self._torch.Tensor):
            return {"prediction": result}
        named: dict[str, Any]
        if isinstance(result, Mapping):
            named = {str(name): value for name, value in result.items()}
        elif isinstance(result, tuple) and hasattr(result, "_fields"):
            named = dict(zip(result._fields, result, strict=True))
        elif isinstance(result, (tuple, list)):
            named = {f"prediction_{number}": value for number, value in enumerate(result)}
        else:
            named = {"prediction": result}
        named = {name: value for name, value in named.items() if value is not None}
        for name, value in named.items():
            if not isinstance(value, self._torch.Tensor):
                raise ModelUnusable(
                    f"{self._path}: the output {name!r} is a {type(value).__name__}, not a tensor.",
                    remedy="Wrap the model in a module that returns a tensor, a tuple of them or a dict.",
                )
        return named

    def _activated(self, tensor: Any) -> Any:
        if tensor.dtype in (self._torch.float16, self._torch.bfloat16):
            tensor = tensor.float()
        if self.activation == "softmax":
            tensor = self._torch.softmax(tensor, dim=-1)
        elif self.activation == "sigmoid":
            tensor = self._torch.sigmoid(tensor)
        return tensor.cpu()


def outputs_of(path: str, sample: Mapping[str, Array], activation: str | None, options: PredictOptions) -> Outputs:
    """What the outputs mean, seen by those of one row. Raises InvalidSpec where options do not fit them."""
    if activation is not None:
        return ClassOutputs(path, sample, activation, options)
    if options.probabilities or options.threshold is not None or options.classes:
        raise InvalidSpec(
            f"{path} does not say whether it gives probabilities or what becomes them.",
            remedy="Say it with the option activation: softmax, sigmoid (two classes, or labels that do not exclude "
            "each other) or none (they are probabilities).",
        )
    return ValueOutputs(path, sample, options, what="A PyTorch model without an activation")


class ClassOutputs:
    """One output of probabilities: (rows,) or (rows, 1) of the second of two classes, or (rows, classes)."""

    def __init__(self, path: str, sample: Mapping[str, Array], activation: str, options: PredictOptions) -> None:
        if len(sample) != 1:
            raise InvalidSpec(
                f"{path} has several outputs; activation {activation} is of one.",
                remedy=f"Choose it with the option output: {', '.join(sample)}.",
            )
        ((self._name, found),) = sample.items()
        if found.ndim not in (1, 2) or found.dtype.kind != "f":
            raise InvalidSpec(
                f"{path}: the output {self._name!r} of shape {['rows', *found.shape[1:]]} and type {found.dtype} holds "
                "no probabilities.",
                remedy="Leave the option activation out.",
            )
        self._positive = found.ndim == 1 or found.shape[1] == 1
        if self._positive and activation == "softmax":
            raise InvalidSpec(f"{path} gives one number a row; softmax is of several.", remedy="Say sigmoid.")
        width = 2 if self._positive else found.shape[1]
        kind = "double" if found.dtype == np.float64 else "float"
        self.rule: ClassRule | LabelsRule
        if activation == "sigmoid" and not self._positive:
            self.rule = LabelsRule.of(width, options, probability_type=kind)
        else:
            self.rule = ClassRule.of(width, options, probability_type=kind)

    def columns(self, found: Mapping[str, Array], rows: int) -> pa.RecordBatch:
        """The predictions of so many rows."""
        probabilities = found[self._name]
        if isinstance(self.rule, LabelsRule):
            return self.rule.columns(probabilities)
        if self._positive:
            probabilities = positive_probabilities(probabilities.reshape(rows))
        return self.rule.columns(self.rule.decide(probabilities), probabilities)
