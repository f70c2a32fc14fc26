"""What a python_function of MLflow returned, as named columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.flavors.matrix import plain
from tidemill.flavors.python_result import columns_of

PREDICTION = "prediction"


def columns(result: Any) -> dict[str, pa.Array]:
    """The columns of a result, none of them dictionary-encoded: of an array, a list, a Series, a frame, a list
    of dicts or a dict of arrays.

    Values without a name are `prediction`, several of a row `prediction_0` and so on. Raises TypeError for
    what holds no value for each row, ValueError for arrays of more than two dimensions.
    """
    return {name: plain(column) for name, column in _columns(result).items()}


def _columns(result: Any) -> dict[str, pa.Array]:
    if _is_frame(result):
        return columns_of(_renamed(result), ())
    if isinstance(result, Mapping):
        return _flat(result)
    if isinstance(result, Sequence) and not isinstance(result, str) and result and isinstance(result[0], Mapping):
        return columns_of(_transposed(result), ())
    if isinstance(result, list) and result and isinstance(result[0], (list, tuple, np.ndarray)):
        result = np.asarray(result)
    width = result.shape[1] if getattr(result, "ndim", 1) == 2 else 1
    return columns_of(result, numbered(PREDICTION, width))


def numbered(base: str, width: int) -> list[str]:
    """Names for so many values of a row."""
    return [base] if width == 1 else [f"{base}_{number}" for number in range(width)]


def _is_frame(result: Any) -> bool:
    return hasattr(result, "columns") and getattr(result, "ndim", 0) == 2


def _renamed(frame: Any) -> Any:
    """The frame with text for names: pandas numbers columns that nobody named."""
    if all(isinstance(name, str) for name in frame.columns):
        return frame
    labels = numbered(PREDICTION, frame.shape[1]) if _is_counted(frame.columns) else list(map(str, frame.columns))
    renamed = frame.copy(deep=False)
    renamed.columns = labels
    return renamed


def _is_counted(labels: Any) -> bool:
    return bool(list(labels) == list(range(len(labels))))


def _flat(result: Mapping[Any, Any]) -> dict[str, pa.Array]:
    found: dict[str, pa.Array] = {}
    for name, values in result.items():
        width = values.shape[1] if getattr(values, "ndim", 1) == 2 else 1
        found.update(columns_of(values, numbered(str(name), width)))
    return found


def _transposed(rows: Sequence[Any]) -> dict[str, list[Any]]:
    if not all(isinstance(row, Mapping) for row in rows):
        raise TypeError("predict returned a list in which only some rows are dicts")
    names = dict.fromkeys(str(name) for row in rows for name in row)
    texts = [{str(name): value for name, value in row.items()} for row in rows]
    return {name: [row.get(name) for row in texts] for name in names}
