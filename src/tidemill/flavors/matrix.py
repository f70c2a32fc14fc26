"""Between Arrow columns and numpy: fast, and without importing pandas.

`pa.array` and `Array.to_numpy` import pandas wherever it is installed, which costs a child half a
second; so buffers are wrapped by hand here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.domain.errors import SchemaMismatch
from tidemill.kernels.linear import Validity

Array = np.ndarray[Any, Any]

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
_NARROW = frozenset(_ARROW_TYPES[name].id for name in ("f4", "i1", "i2", "u1", "u2"))
_LAID_OUT = {"f4": _NARROW, "f8": _NARROW | {_ARROW_TYPES[name].id for name in ("f8", "i4", "i8", "u4", "u8")}}
"""Of which types Arrow lays out columns, for each type of float."""


def to_matrix(rows: pa.RecordBatch, *, order: Literal["C", "F"] = "F", dtype: str | None = "f8") -> Array:
    """Columns of numbers as a writable matrix (rows x columns, float64 or float32), null as NaN.

    "F" order lays columns out one after the other, "C" rows. Without a `dtype` it is float32 if that holds every
    number of these types exactly, else float64. Numbers that float cannot hold become the nearest one, as in pandas.
    Raises SchemaMismatch naming a column that holds no numbers.
    """
    if not rows.num_columns:
        return np.empty((rows.num_rows, 0), dtype or "f8", order)
    laid: Array = _laid_out(rows, dtype or "f8").to_tensor(null_to_nan=True, row_major=order == "C").to_numpy()
    if dtype is None or laid.dtype == dtype:
        return laid
    matrix = _allocate(laid.shape, dtype, order)
    # All that is not of this type is exact in it.
    matrix[...] = laid
    return matrix


def _laid_out(rows: pa.RecordBatch, dtype: str) -> pa.RecordBatch:
    """The rows with such columns only as Arrow lays out by itself, all at once, without changing a number on the way to
    this type of float."""
    odd = [place for place, kind in enumerate(rows.schema.types) if kind.id not in _LAID_OUT[dtype]]
    if not odd:
        return rows
    names, columns = rows.schema.names, rows.columns
    for place in odd:
        columns[place] = to_arrow(floats(columns[place], names[place], dtype))
    return pa.RecordBatch.from_arrays(columns, names=names)


def _allocate(shape: tuple[int, ...], dtype: str, order: Literal["C", "F"]) -> Array:
    """Memory of Arrow's pool: it is reused from batch to batch, where numpy's faults in fresh pages."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.ndarray(shape, dtype, buffer=pa.allocate_buffer(size), order=order) if size else np.empty(shape, dtype)


class Vectors(Sequence[Array]):
    """Columns of numbers as vectors of floats, null as NaN, each made when it is asked for: of two thousand columns a
    model may test some hundred."""

    def __init__(self, rows: pa.RecordBatch, dtype: str | None = "f8") -> None:
        """Without a `dtype`, columns that are float32 stay so, and others become float64."""
        self._rows, self._dtype = rows, dtype

    def __len__(self) -> int:
        return int(self._rows.num_columns)

    def __getitem__(self, place: Any) -> Any:
        """The vector of a column, contiguous, perhaps a view of its memory. Raises SchemaMismatch."""
        column = self._rows.column(place)
        dtype = self._dtype or ("f4" if pa.types.is_float32(column.type) else "f8")
        return floats(column, self._rows.schema.field(place).name, dtype)


def floats(column: pa.Array, name: str, dtype: str = "f8") -> Array:
    """One column of numbers or booleans as floats, null as NaN; perhaps a view of the column's memory."""
    column = plain(column)
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan, dtype)
    if not _is_number(kind):
        raise SchemaMismatch(
            f"Column {name!r} holds {kind} but the model wants numbers.",
            remedy="Convert the column, or score with the model's whole pipeline.",
        )
    if pa.types.is_decimal(kind):
        column = pc.cast(column, _ARROW_TYPES[dtype], safe=False)
    found = _bits(column.buffers()[1], column) if pa.types.is_boolean(kind) else values(column)
    if found.dtype != dtype or column.null_count:
        found = _converted(found, dtype)
    if column.null_count:
        found[~_bits(column.buffers()[0], column)] = np.nan
    return found


def _converted(numbers: Array, dtype: str) -> Array:
    """A copy, as floats of this type."""
    if numbers.dtype.kind != "f" or numbers.dtype.itemsize <= np.dtype(dtype).itemsize:
        return numbers.astype(dtype)
    # Only narrower floats lack room, and to quiet numpy takes as long as to convert a thousand.
    with np.errstate(over="ignore"):
        return numbers.astype(dtype)


def _bits(packed: pa.Buffer | None, column: pa.Array) -> Array:
    """What a buffer of bits, of values or of validity, says of each row of a column, as booleans."""
    if packed is None:
        return np.empty(0, bool)
    first, skipped = divmod(column.offset, 8)
    bits = np.frombuffer(packed, np.uint8, offset=first)
    return np.unpackbits(bits, count=skipped + len(column), bitorder="little")[skipped:].view(bool)


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
