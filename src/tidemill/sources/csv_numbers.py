"""Numbers of CSV straight from its bytes, where a kernel is there and the bytes are plain.

What comes of it is what comes of reading text and casting it; only faster. So whatever is not plain is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tidemill.kernels.delimited import IS_FLOAT64, IS_INT64, IS_NULL, IS_OTHER, NUMBERS, TEXT, Column, Delimited
from tidemill.sources.cast import Caster, NullValues
from tidemill.sources.records import CsvGrammar, Piece
from tidemill.sources.text import Layout

_NUMBERS = {pa.float64(): "float64", pa.float32(): "float32", pa.int64(): "int64", pa.int32(): "int32"}
assert set(_NUMBERS.values()) == NUMBERS


def typed_batch(
    piece: Piece, layout: Layout, columns: Sequence[str], caster: Caster
) -> tuple[pa.RecordBatch, int] | None:
    """Records at the beginning of a piece, numbers with the caster's types, and how many bytes they have.

    None if there are none to read, or some of their text does not cast.
    """
    kernel, names = _kernel_and_names(layout)
    types = [_NUMBERS.get(caster.targets.get(name), TEXT) for name in columns]
    if kernel is None or all(kind == TEXT for kind in types):
        return None
    places = {name: place for place, name in enumerate(names)}
    wanted = [(places[name], kind) for name, kind in zip(columns, types, strict=True)]
    found, rows, length = kernel.read(piece.buffer, piece.length, piece.records, len(names), wanted, caster.nulls.plain)
    if not rows:
        return None
    arrays = []
    for name, column in zip(columns, found, strict=True):
        array = _array(column, caster.targets.get(name, pa.string()))
        if array is None:
            return None
        arrays.append(array)
    batch = pa.RecordBatch.from_arrays(arrays, names=list(columns))
    batch, _, failed = caster.cast(batch, np.arange(rows))
    return None if failed else (batch, length)


def plain_kinds(piece: Piece, layout: Layout, nulls: NullValues) -> dict[str, tuple[str, bool]] | None:
    """Of columns whose values are numbers or missing: their type, and whether some are missing.

    None if records of the piece have to be looked at one by one.
    """
    kernel, names = _kernel_and_names(layout)
    if kernel is None or nulls.numeric or not _is_text(piece):
        return None
    found = kernel.kinds(piece.buffer, piece.length, len(names), nulls.plain)
    if found is None or found[0] != piece.records:
        return None
    return {
        name: ("double" if met & IS_FLOAT64 else "int64" if met & IS_INT64 else "null", bool(met & IS_NULL))
        for name, met in zip(names, found[1], strict=True)
        if not met & IS_OTHER
    }


def _kernel_and_names(layout: Layout) -> tuple[Delimited | None, tuple[str, ...]]:
    assert isinstance(layout.grammar, CsvGrammar)
    assert layout.columns is not None
    return layout.grammar.kernel, layout.columns


def _is_text(piece: Piece) -> bool:
    """Whether all of it is UTF-8: else a record that it is not true of is no row."""
    if piece.buffer.isascii():
        return True
    try:
        piece.data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _array(column: Column, kind: pa.DataType) -> pa.Array | None:
    """Numbers of this type, or text; None if that is not UTF-8."""
    valid = pa.py_buffer(np.packbits(column.valid, bitorder="little")) if column.nulls else None
    rows, values = len(column.valid), pa.py_buffer(column.values)
    if column.ends is None:
        return pa.Array.from_buffers(kind, rows, [valid, values], column.nulls)
    text = pa.Array.from_buffers(pa.string(), rows, [valid, pa.py_buffer(column.ends), values], column.nulls)
    if not column.ascii:
        try:
            text.validate(full=True)
        except pa.ArrowInvalid:
            return None
    return text
