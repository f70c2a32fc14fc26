"""A model that is a class: it adds up numbers and the lengths of texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


class Score:
    """`numbers` and `categories` name its columns; a missing number counts -1, a missing text nothing."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.inputs = {**dict.fromkeys(options["numbers"], "double"), **dict.fromkeys(options["categories"], "string")}
        self.outputs = {"prediction": "double"}

    def predict(self, batch: pa.RecordBatch) -> Any:
        total = pc.multiply(pc.cast(pc.is_null(batch.column(0)), pa.float64()), 0.0)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if self.inputs[name] == "double":
                total = pc.add(total, pc.fill_null(column, -1.0))
            else:
                total = pc.add(total, pc.cast(pc.fill_null(pc.utf8_length(column), 0), pa.float64()))
        return total
