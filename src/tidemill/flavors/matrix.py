"""Between Arrow columns and numpy: fast, and without importing pandas.

`pa.array` and `Array.to_numpy` import pandas wherever it is installed, which costs a child half a
second; so buffers are wrapped by hand here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.domain.errors import SchemaMismatch
from tidemill.kernels.linear import Validity

Array = np.ndarray[Any, Any]

TILE_ROWS = 2048
"""Rows of a C-ordered matrix that are filled at a time: the tile stays in the cache."""

_ARROW_TYPES: dict[str, pa.DataType] = {
    "f2": pa.float16(),
    "f4": pa.float32(),
    "f8": pa.float64(),
    "i1": pa.int8(),
    "i2": pa.int16(),
    "i4": pa.int32(),
    "i8": pa.int64(),
    "u1": pa.uint8(),
    "u2": pa.uint16(),
    "u4": pa.uint32(),
    "u8": pa.uint64(),
}
_NUMPY_TYPES = {arrow: numpy for numpy, arrow in _ARROW_TYPES.items()}


def to_matrix(columns: Sequence[pa.Array], names: Sequence[str], *, order: str = "F", dtype: str = "f8") -> Array:
    """Columns of numbers as a writable matrix (rows x columns, float64 or float32), null as NaN.

    "F" order lays columns out one after the other, "C" rows. Numbers that float cannot hold become the
    nearest one, as in pandas. Raises SchemaMismatch naming a column that holds no numbers.
    """
    rows = len(columns[0]) if columns else 0
    vectors = [floats(column, name, dtype) for column, name in zip(columns, names, strict=True)]
    matrix = _allocate(rows, len(columns), dtype, order)
    if order == "F":
        for position, vector in enumerate(vectors):
            matrix[:, position] = vector
        return matrix
    for start in range(0, rows, TILE_ROWS):
        for position, vector in enumerate(vectors):
            matrix[start : start + TILE_ROWS, position] = vector[start : start + TILE_ROWS]
    return matrix


def _allocate(rows: int, columns: int, dtype: str, order: str) -> Array:
    """Memory of Arrow's pool: it is reused from batch to batch, where numpy's faults in fresh pages."""
    size = rows * columns * np.dtype(dtype).itemsize
    if not size:
        return np.empty((rows, columns), dtype, order="F" if order == "F" else "C")
    return np.ndarray((rows, columns), dtype, buffer=pa.allocate_buffer(size), order="F" if order == "F" else "C")


def floats(column: pa.Array, name: str, dtype: str = "f8") -> Array:
    """One column of numbers or booleans as floats, null as NaN; perhaps a view of the column's memory."""
    wanted = _ARROW_TYPES[dtype]
    column = plain(column)
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan, dtype)
    if column.type != wanted:
        if not _is_number(column.type):
            raise SchemaMismatch(
                f"Column {name!r} holds {column.type} but the model wants numbers.",
                remedy="Convert the column, or score with the model's whole pipeline.",
            )
        column = pc.cast(column, wanted, safe=False)
    if column.null_count:
        column = pc.fill_null(column, _NAN[dtype])
    return values(column)


def type_name(dtype: Any) -> str:
    """The Arrow type, by name, that `to_arrow` gives to numbers of this numpy type."""
    kind = np.dtype(dtype)
    return str(_ARROW_TYPES[f"{kind.kind}{kind.itemsize}"])


def is_number(dtype: np.dtype[Any]) -> bool:
    """Whether `to_arrow` takes vectors of this numpy type as they are."""
    return dtype.kind == "b" or f"{dtype.kind}{dtype.itemsize}" in _ARROW_TYPES


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind))


def plain(column: pa.Array) -> pa.Array:
    """The column without dictionary encoding."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def values(column: pa.Array) -> Array:
    """A view of a column of fixed-width numbers; where the column is null it means nothing."""
    dtype = np.dtype(_NUMPY_TYPES[column.type])
    if not len(column):
        return np.empty(0, dtype)
    return np.frombuffer(column.buffers()[1], dtype, count=len(column), offset=column.offset * dtype.itemsize)


def validity(column: pa.Array) -> Validity | None:
    """Which rows of a column are not null; None if no row is."""
    if not column.null_count:
        return None
    return Validity(bits=np.frombuffer(column.buffers()[0], np.uint8), first=column.offset)


def to_arrow(array: Array) -> pa.Array:
    """A vector of numbers, booleans or text as an Arrow column without nulls."""
    array = np.ascontiguousarray(array)
    if array.dtype.kind in "USO":
        return strings([str(value) for value in array.tolist()])
    if array.dtype.kind == "b":
        bits = np.packbits(array, bitorder="little")
        return pa.Array.from_buffers(pa.bool_(), len(array), [None, pa.py_buffer(bits)])
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    kind = _ARROW_TYPES[f"{native.dtype.kind}{native.dtype.itemsize}"]
    return pa.Array.from_buffers(kind, len(native), [None, pa.py_buffer(native)])


def strings(texts: Sequence[str]) -> pa.Array:
    """Texts as an Arrow column."""
    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int32)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    return pa.Array.from_buffers(
        pa.string(), len(encoded), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    )


_NAN = {dtype: to_arrow(np.array([np.nan], dtype))[0] for dtype in ("f4", "f8")}
