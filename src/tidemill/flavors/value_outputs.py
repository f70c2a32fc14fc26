"""What a model writes whose outputs are plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.domain.errors import ModelUnusable
from tidemill.domain.signature import Task
from tidemill.flavors.decision import ValueRule
from tidemill.flavors.options import PredictOptions

_KINDS = {"f2": "float", "f4": "float", "f8": "double", "b1": "bool"}


class ValueOutputs:
    """Named outputs without classes: one column for each of them, or for each of its columns."""

    def __init__(self, path: str, sample: Mapping[str, Any], options: PredictOptions, *, what: str) -> None:
        """`sample` are the outputs for one row; `what` is the model in an error that says what it lacks."""
        names: list[str] = []
        kinds: set[str] = set()
        for name, values in sample.items():
            if not isinstance(values, np.ndarray) or values.ndim not in (1, 2) or values.shape[0] != 1:
                raise ModelUnusable(
                    f"{path}: the output {name!r} does not have one row of values for each input row.",
                    remedy="Export the model with outputs of shape [rows] or [rows, columns].",
                )
            base = "prediction" if len(sample) == 1 else name
            width = 1 if values.ndim == 1 else values.shape[1]
            names += [base] if width == 1 else [f"{base}_{number}" for number in range(width)]
            kinds.add(_kind(values.dtype))
        options.refuse_decisions(what)
        kind = _common(path, kinds)
        task: Task = "regression" if kind in ("float", "double") else "other"
        self.rule = ValueRule(names=tuple(names), type=kind, task=task)

    def columns(self, found: Mapping[str, Any], rows: int) -> pa.RecordBatch:
        """The predictions of so many rows."""
        tables = []
        for name, values in found.items():
            if values.shape[0] != rows:
                raise ValueError(f"the output {name!r} has {values.shape[0]} rows, not {rows}")
            tables.append(values.reshape(rows, -1))
        return self.rule.columns(np.concatenate(tables, axis=1), rows)


def _kind(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "OUS":
        return "string"
    return _KINDS.get(f"{dtype.kind}{dtype.itemsize}", "int64")


def _common(path: str, kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    if kinds <= {"float", "double", "int64"}:
        return "double"
    raise ModelUnusable(
        f"{path} has outputs of different types: {', '.join(sorted(kinds))}.",
        remedy="Export the model with outputs of one type, or with labels first and probabilities second.",
    )
