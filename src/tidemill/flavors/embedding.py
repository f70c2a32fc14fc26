"""What a model of embeddings writes: one column of lists of numbers, all of one length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from tidemill.domain.signature import Field, Task
from tidemill.flavors.matrix import Array, to_arrow
from tidemill.flavors.options import PredictOptions


@dataclass(frozen=True, kw_only=True)
class EmbeddingRule:
    """Embeddings of `width` numbers of 32 bits."""

    width: int
    notes: tuple[str, ...] = ()
    task: ClassVar[Task] = "other"
    labels: ClassVar[None] = None
    positive: ClassVar[None] = None

    @staticmethod
    def of(width: int, options: PredictOptions) -> EmbeddingRule:
        """Raises InvalidSpec where options ask for classes."""
        options.refuse_decisions("A model of embeddings")
        return EmbeddingRule(width=width)

    @property
    def _type(self) -> pa.DataType:
        return pa.list_(pa.float32(), self.width)

    @property
    def outputs(self) -> tuple[Field, ...]:
        """The column that `columns` gives."""
        return (Field(name="embedding", type=str(self._type), nullable=False),)

    def columns(self, vectors: Array) -> pa.RecordBatch:
        """What is written for these vectors, (rows, width) of float32. Raises ValueError for another width."""
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            raise ValueError(f"the model gave vectors of shape {vectors.shape}, not of {self.width} numbers")
        column = pa.FixedSizeListArray.from_arrays(to_arrow(vectors.reshape(-1)), type=self._type)
        return pa.RecordBatch.from_arrays([column], names=["embedding"])
