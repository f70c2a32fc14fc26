"""What a user's `predict` returned, as Arrow columns; or an error that says what came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.flavors.matrix import is_number, to_arrow


def columns_of(result: Any, names: Sequence[str]) -> dict[str, pa.Array]:
    """The columns of a result. One without a name, or a matrix, takes `names` by position.

    Raises TypeError for what is no column or table, ValueError for a wrong number of columns.
    """
    if result is None:
        raise TypeError("predict returned None, not a prediction for each row; is a `return` missing?")
    if isinstance(result, (pa.RecordBatch, pa.Table)):
        return dict(zip(result.schema.names, map(_whole, result.columns), strict=True))
    if isinstance(result, Mapping):
        return {str(name): _column(values) for name, values in result.items()}
    if isinstance(result, (pa.Array, pa.ChunkedArray)):
        return _named([_whole(result)], names)
    if _is_frame(result):
        return {str(name): _column(result[name]) for name in result.columns}
    if isinstance(result, (str, bytes)) or np.isscalar(result):
        raise TypeError(f"predict returned one {type(result).__name__}, not a prediction for each row")
    if isinstance(result, (list, tuple)) and result and isinstance(result[0], (list, tuple, np.ndarray)):
        result = np.asarray(result)
    if getattr(result, "ndim", 1) != 1:
        return _matrix(np.asarray(result), names)
    return _named([_column(result)], names)


DECLARE = "declare the attribute outputs = {name: type}"


def fitted(
    columns: Mapping[str, pa.Array], wanted: Mapping[str, pa.DataType], rows: int, remedy: str = DECLARE
) -> pa.RecordBatch:
    """The columns with the promised names, types and number of rows. Raises ValueError or TypeError, which
    end with the remedy where something else was returned than was promised."""
    if set(columns) != set(wanted):
        raise ValueError(
            f"predict returned the columns {', '.join(columns) or 'none'}; expected {', '.join(wanted)}: {remedy}"
        )
    fit = [_fit(name, columns[name], kind, rows, remedy) for name, kind in wanted.items()]
    return pa.RecordBatch.from_arrays(fit, names=list(wanted))


def _fit(name: str, column: pa.Array, wanted: pa.DataType, rows: int, remedy: str) -> pa.Array:
    if len(column) != rows:
        raise ValueError(f"predict returned {len(column)} values of {name!r} for {rows} rows")
    if column.type == wanted:
        return column
    if pa.types.is_null(column.type) and rows:
        raise TypeError(f"predict returned only None for {name!r}; expected {wanted}")
    if _is_text(column.type) != _is_text(wanted) and not pa.types.is_null(column.type):
        raise TypeError(_misfit(name, column, wanted, remedy))
    try:
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
        raise TypeError(f"{_misfit(name, column, wanted, remedy)} ({exc})") from exc


def _misfit(name: str, column: pa.Array, wanted: pa.DataType, remedy: str) -> str:
    return f"predict returned {name!r} as {column.type}; expected {wanted}: {remedy}"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_frame(result: Any) -> bool:
    """Whether it is a pandas or Polars frame (both give columns by name)."""
    return hasattr(result, "columns") and hasattr(result, "__getitem__") and getattr(result, "ndim", 2) == 2


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _named(columns: Sequence[pa.Array], names: Sequence[str]) -> dict[str, pa.Array]:
    if len(columns) != len(names):
        raise ValueError(f"predict returned {len(columns)} column(s); expected {len(names)}: {', '.join(names)}")
    return dict(zip(names, columns, strict=True))


def _matrix(result: np.ndarray[Any, Any], names: Sequence[str]) -> dict[str, pa.Array]:
    if result.ndim != 2:
        raise ValueError(f"predict returned an array of shape {result.shape}; expected one value for each row")
    return _named([_column(result[:, position]) for position in range(result.shape[1])], names)


def _column(values: Any) -> pa.Array:
    """One column of whatever holds values. NaN stays NaN, None becomes null."""
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return _whole(values)
    if isinstance(values, np.ndarray) and values.ndim == 1 and is_number(values.dtype):
        return to_arrow(values)
    try:
        if type(values).__module__.partition(".")[0] == "pandas":
            return _whole(pa.array(values, from_pandas=False))
        if hasattr(values, "__arrow_c_stream__"):
            return _whole(pa.chunked_array(values))
        if hasattr(values, "__array__"):
            return pa.array(np.asarray(values))
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError) as exc:
        raise TypeError(f"predict returned a {type(values).__name__} that is no column of values: {exc}") from exc
