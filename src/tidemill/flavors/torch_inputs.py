"""How columns become the tensors that a program of PyTorch takes.

A program with one argument gets one matrix of all columns, or one column of lists; a program with
several gets one column for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.domain.errors import InvalidSpec, SchemaMismatch
from tidemill.domain.signature import Field
from tidemill.flavors.bad_rows import is_null, missing
from tidemill.flavors.inputs import column_names
from tidemill.flavors.matrix import Array, floats, plain, to_matrix, values
from tidemill.flavors.torch_program import DTYPES, Argument

_FLOATS = ("f4", "f8")
_TYPES = {"float16": "float", "bfloat16": "float", "float32": "float", "float64": "double"}
"""Arrow types of columns for tensors; whole numbers and booleans have the same names in both."""
_ARROW = {"i1": pa.int8(), "i2": pa.int16(), "i4": pa.int32(), "i8": pa.int64(), "u1": pa.uint8()}


def told(arguments: Sequence[Argument], dtype: Any, shape: Any) -> tuple[Argument, ...]:
    """The arguments with what the user says of them: one word or one list for all, or a dict by argument.

    Raises InvalidSpec for an unknown dtype or argument, and for a shape that is none.
    """
    names = [argument.name for argument in arguments]
    dtypes, shapes = _by_name("dtype", dtype, names), _by_name("shape", shape, names)
    for name, word in dtypes.items():
        if word not in DTYPES:
            raise InvalidSpec(f"dtype {word!r} of {name!r} is none.", remedy=f"Say one of {', '.join(DTYPES)}.")
    for name, sizes in shapes.items():
        if not isinstance(sizes, (list, tuple)) or not all(_is_size(each) for each in sizes):
            raise InvalidSpec(
                f"shape {sizes!r} of {name!r} is not the shape of one row.",
                remedy="Give the sizes after the rows, such as [3, 8, 8]; [1] for one column, [] for a vector.",
            )
    return tuple(
        replace(
            argument,
            dtype=dtypes.get(argument.name, argument.dtype),
            row_shape=tuple(shapes[argument.name]) if argument.name in shapes else argument.row_shape,
        )
        for argument in arguments
    )


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _by_name(option: str, said: Any, names: Sequence[str]) -> Mapping[str, Any]:
    if said is None:
        return {}
    if not isinstance(said, Mapping):
        return dict.fromkeys(names, said)
    unknown = sorted(set(said) - set(names))
    if unknown:
        raise InvalidSpec(f"{option} names {', '.join(unknown)}.", remedy=f"The program takes: {', '.join(names)}.")
    return said


class Feed:
    """Columns to arrays. `fields` are the columns by name, empty if all that come are taken in their order."""

    def __init__(self, path: str, arguments: Sequence[Argument], features: Sequence[str]) -> None:
        """Raises SchemaMismatch or InvalidSpec if `features` cannot be the columns of these arguments."""
        self._path, self.arguments = path, tuple(arguments)
        self.fields = self._single(features) if len(arguments) == 1 else self._separate(features)

    @property
    def positional(self) -> int:
        """How many columns of numbers fill a row, if they are taken by position and it is known."""
        shape = self.arguments[0].row_shape
        return 0 if self.fields or shape is None or -1 in shape else prod(shape)

    def _single(self, features: Sequence[str]) -> tuple[Field, ...]:
        (argument,) = self.arguments
        if features:
            self._check_count(argument, features)
        # One column may be one number a row, or a list of them.
        known = len(features) > 1 or argument.row_shape == ()
        return tuple(Field(name=name, type=_type(argument) if known else "any") for name in features)

    def _separate(self, features: Sequence[str]) -> tuple[Field, ...]:
        names = column_names([argument.name for argument in self.arguments], features, len(self.arguments)).names
        return tuple(
            Field(name=name, type=_type(argument) if argument.row_shape in ((), (1,)) else "any")
            for name, argument in zip(names, self.arguments, strict=True)
        )

    def _check_count(self, argument: Argument, names: Sequence[str]) -> None:
        """Raises SchemaMismatch unless so many columns of numbers fill a row, or one column of lists can."""
        shape = argument.row_shape
        if shape is None or -1 in shape or len(names) in (1, prod(shape)):
            return
        raise SchemaMismatch(
            f"{self._path} takes {prod(shape)} column(s) but gets {len(names)}: {_some(names)}.",
            remedy="Name those it was trained with, in that order: --features a,b,c.",
        )

    def missing(self, batch: pa.RecordBatch) -> dict[int, str]:
        """Rows that no tensor can hold: position -> why."""
        arguments = self.arguments * batch.num_columns if len(self.arguments) == 1 else self.arguments
        fields = [
            # A list that is missing has no NaN to stand for it.
            Field(name=name, type="a list" if _is_list(column.type) else _type(argument))
            for name, column, argument in zip(batch.schema.names, batch.columns, arguments, strict=True)
        ]
        errors = missing(fields, batch)
        for field, column, argument in zip(fields, batch.columns, arguments, strict=True):
            if _is_list(column.type):
                for row, why in _bad_lists(column, argument).items():
                    errors.setdefault(row, f"column {field.name!r} {why}")
        return errors

    def arrays(self, batch: pa.RecordBatch) -> list[Array]:
        """One array for each argument. Every list in a column is of the same length, and no row is missing.

        Raises SchemaMismatch naming a column that does not fit.
        """
        if not batch.num_columns:
            raise SchemaMismatch(f"{self._path} gets no column.", remedy="Score rows that have columns for the model.")
        if len(self.arguments) > 1:
            pairs = zip(self.arguments, batch.schema.names, batch.columns, strict=True)
            return [self._separate_array(argument, name, column) for argument, name, column in pairs]
        (argument,) = self.arguments
        if batch.num_columns == 1 and (_is_list(batch.column(0).type) or argument.row_shape == ()):
            return [self._separate_array(argument, batch.schema.names[0], batch.column(0))]
        self._check_count(argument, batch.schema.names)
        shape = argument.row_shape or (-1,)
        if -1 not in shape and prod(shape) != batch.num_columns:
            raise self._misfit(batch.schema.names[0], batch.column(0), argument)
        matrix = _matrix(batch, DTYPES[argument.dtype])
        return [matrix if shape == (-1,) else matrix.reshape(batch.num_rows, *shape)]

    def _separate_array(self, argument: Argument, name: str, column: pa.Array) -> Array:
        shape, dtype = argument.row_shape, DTYPES[argument.dtype]
        if not _is_list(column.type):
            if shape not in (None, (), (1,)):
                raise self._misfit(name, column, argument)
            return _vector(column, name, dtype).reshape(len(column), *(shape or ()))
        flat = _vector(_flat(column), name, dtype)
        return flat.reshape(len(column), *(shape or (-1,))) if len(column) else flat.reshape(0, *_least(shape))

    def _misfit(self, name: str, column: pa.Array, argument: Argument) -> SchemaMismatch:
        return SchemaMismatch(
            f"Column {name!r} holds {column.type} but {self._path} takes {_counted(argument)} a row.",
            remedy="Give a column of lists of that many numbers, or name a column for each with --features a,b,c.",
        )


def _counted(argument: Argument) -> str:
    shape = argument.row_shape or ()
    return "a list of numbers" if -1 in shape else f"{prod(shape)} number(s)"


def _least(shape: tuple[int, ...] | None) -> tuple[int, ...]:
    return tuple(1 if size == -1 else size for size in (shape if shape else (1,)))


def _type(argument: Argument) -> str:
    return _TYPES.get(argument.dtype, argument.dtype)


def list_lengths(batch: pa.RecordBatch) -> Array:
    """How long the lists of each row are, (rows, columns of lists)."""
    columns = [column for column in batch.columns if _is_list(column.type)]
    return np.array([_lengths(column) for column in columns], np.int64).reshape(len(columns), batch.num_rows).T


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _lengths(column: pa.Array) -> Array:
    inner, kind = 1, column.type.value_type
    while pa.types.is_fixed_size_list(kind):
        inner, kind = inner * kind.list_size, kind.value_type
    return values(pc.fill_null(pc.list_value_length(column).cast(pa.int64()), 0)) * inner


def _flat(column: pa.Array) -> pa.Array:
    while _is_list(column.type):
        column = column.flatten()
    return column


def _bad_lists(column: pa.Array, argument: Argument) -> dict[int, str]:
    """Rows whose list cannot become the argument: of the wrong length, or with gaps where there is no NaN."""
    lengths = _lengths(column)
    bad = {}
    shape = argument.row_shape
    if shape is not None:
        rest = abs(prod(shape))
        wrong = lengths % rest != 0 if -1 in shape else lengths != rest
        wanted = f"a multiple of {rest}" if -1 in shape else str(rest)
        bad = {int(row): f"has {lengths[row]} numbers, not {wanted}" for row in np.flatnonzero(wrong)}
    flat = _flat(column)
    if flat.null_count and DTYPES[argument.dtype] not in _FLOATS:
        there = np.where(is_null(column), 0, lengths)
        for row in np.unique(np.repeat(np.arange(len(column)), there)[is_null(flat)]).tolist():
            bad.setdefault(row, f"has gaps, and for {argument.dtype} the model knows no missing value")
    return bad


def _matrix(rows: pa.RecordBatch, dtype: str) -> Array:
    if dtype in _FLOATS:
        return to_matrix(rows, order="C", dtype=dtype)
    columns = zip(rows.columns, rows.schema.names, strict=True)
    return np.column_stack([_vector(column, name, dtype) for column, name in columns])


def _vector(column: pa.Array, name: str, dtype: str) -> Array:
    """One column of numbers. Raises ArrowInvalid for a number that is not whole where it must be."""
    if dtype in _FLOATS:
        return floats(column, name, dtype)
    column = plain(column)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        raise SchemaMismatch(
            f"Column {name!r} holds {column.type} but the model wants numbers.", remedy="Convert the column."
        )
    if dtype == "?":
        return values(column.cast(pa.bool_()).cast(pa.int8())).astype(bool)
    return values(pc.cast(column, _ARROW[dtype]))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
