"""What is written for a classifier whose labels do not exclude each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from tidemill.domain.signature import Field, Task
from tidemill.flavors.matrix import Array, strings, to_arrow
from tidemill.flavors.options import PredictOptions

_THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True)
class MultiLabelRule:
    """`prediction` is the list of the labels whose probability reaches the threshold, perhaps empty."""

    labels: tuple[str, ...]
    threshold: float = _THRESHOLD
    every_probability: bool = False
    probability_type: str = "float"
    task: ClassVar[Task] = "other"
    positive: ClassVar[None] = None

    @staticmethod
    def of(labels: Sequence[str], options: PredictOptions, *, probability_type: str = "float") -> MultiLabelRule:
        """The rule for these labels."""
        return MultiLabelRule(
            labels=tuple(labels),
            threshold=_THRESHOLD if options.threshold is None else options.threshold,
            every_probability=options.probabilities,
            probability_type=probability_type,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What people must be told of this rule."""
        return (f"prediction lists every label with a probability of {self.threshold:g} or more",)

    @property
    def outputs(self) -> tuple[Field, ...]:
        """The columns that `columns` gives."""
        prediction = Field(name="prediction", type=str(pa.list_(pa.string())), nullable=False)
        if not self.every_probability:
            return (prediction,)
        return (
            prediction,
            *(Field(name=f"probability_{label}", type=self.probability_type, nullable=False) for label in self.labels),
        )

    def columns(self, probabilities: Array) -> pa.RecordBatch:
        """What is written for these probabilities, (rows, labels). Raises ValueError for another width."""
        if probabilities.ndim != 2 or probabilities.shape[1] != len(self.labels):
            raise ValueError(
                f"the model gave probabilities of shape {probabilities.shape} for {len(self.labels)} labels"
            )
        reached = probabilities >= self.threshold
        offsets = np.zeros(len(probabilities) + 1, np.int32)
        np.cumsum(reached.sum(axis=1), out=offsets[1:])
        names = strings(self.labels).take(to_arrow(np.nonzero(reached)[1]))
        columns = [pa.ListArray.from_arrays(to_arrow(offsets), names)]
        if self.every_probability:
            columns += [to_arrow(probabilities[:, position]) for position in range(len(self.labels))]
        return pa.RecordBatch.from_arrays(columns, names=[field.name for field in self.outputs])
