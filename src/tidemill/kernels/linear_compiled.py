"""The sums of `tidemill.kernels.linear` by the compiled library: the same bits, row by row instead of pass by pass."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tidemill.kernels.library import NotCompilable, address, library
from tidemill.kernels.linear import (
    Arithmetic,
    Array,
    Codes,
    Function,
    LinearKernel,
    Numbers,
    Operation,
    Step,
    Table,
    Term,
    Validity,
    is_sound,
)

_OPERATIONS: tuple[Operation, ...] = (
    "subtract", "add", "multiply", "divide", "at_least", "at_most", "fill", "is_missing",
)  # fmt: skip
"""By their number in the library."""
_TYPES = {np.dtype(name): number for number, name in enumerate(("f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"))}
"""Numbers of types in the library."""

_COLUMN = np.dtype([("values", np.uintp), ("valid", np.uintp), ("first", np.int64), ("type", np.int64)])
_TERM = np.dtype([("column", np.int32), ("step", np.int32)])
_TABLE = np.dtype([("column", _COLUMN), ("added", np.uintp), ("places", np.int64)])
_MALFORMED = -1


class CompiledLinearKernel(LinearKernel):
    """Terms and tables, summed by the compiled library; functions among the steps are numpy's as before."""

    def __init__(self, start: Array, terms: Sequence[Term], tables: Sequence[Table]) -> None:
        """Raises NotCompilable if the compiled library is not there."""
        super().__init__(start, terms, tables)
        self._call = library().tidemill_linear
        self._call.restype = ctypes.c_int32
        sources: dict[tuple[int, tuple[Step, ...]], int] = {}
        places: list[tuple[int, int]] = []
        operations: list[Arithmetic] = []
        for term in self._terms:
            made, rest = _split(term.steps)
            source = sources.setdefault((term.column, made), len(sources))
            places.append((source, len(operations)))
            operations += rest
        self._sources = tuple(sources)
        self._places = np.array([*places, (-1, len(operations))], _TERM)
        self._operations = np.array([_OPERATIONS.index(step.operation) for step in operations], np.int32)
        self._operands = np.array([step.operand for step in operations], np.float64)
        self._weights = np.array([term.weights for term in self._terms], np.float64)
        self._begin = np.ascontiguousarray(start, np.float64)

    def _sum(self, sums: Array, numbers: Mapping[int, Numbers], coded: Mapping[int, Codes]) -> tuple[Array, bool]:
        largest = np.zeros(len(self._terms))
        used = list(self._made(numbers))
        if len(used) < len(self._sources):
            return largest, False
        columns = np.array([_column(each.values, each.valid) for each in used], _COLUMN)
        added = [np.take(table.added, coded[table.column].codes, axis=1) for table in self._tables]
        tables = np.array(
            [
                (_column(coded[table.column].places, coded[table.column].valid), each.ctypes.data, each.shape[1])
                for table, each in zip(self._tables, added, strict=True)
            ],
            _TABLE,
        )
        met = self._call(
            ctypes.c_int64(sums.shape[1]), ctypes.c_int32(len(sums)), address(self._begin),
            ctypes.c_int32(len(columns)), address(columns), ctypes.c_int32(len(self._terms)), address(self._places),
            address(self._operations), address(self._operands), address(self._weights),
            ctypes.c_int32(len(tables)), address(tables), address(sums), address(largest),
        )  # fmt: skip
        assert met != _MALFORMED, "the library takes what this module describes"
        return largest, met == 0

    def _made(self, numbers: Mapping[int, Numbers]) -> Iterator[Numbers]:
        """The columns that terms begin with; they end at one with an infinite number that a function may hide."""
        for column, steps in self._sources:
            found = numbers[column]
            if steps:
                values = found.into(np.empty(len(found.values)), 0)
                for step in steps:
                    if step.hides_infinity and not is_sound(values):
                        return
                    values = step(values)
                found = Numbers(values=values)
            yield found


def linear_kernel(start: Array, terms: Sequence[Term], tables: Sequence[Table]) -> LinearKernel:
    """The kernel that sums by the compiled library, or by numpy where there is none: the same bits."""
    try:
        return CompiledLinearKernel(start, terms, tables)
    except NotCompilable:
        return LinearKernel(start, terms, tables)


def _split(steps: tuple[Step, ...]) -> tuple[tuple[Step, ...], list[Arithmetic]]:
    """Steps up to the last function, and those after it."""
    last = max((number + 1 for number, step in enumerate(steps) if isinstance(step, Function)), default=0)
    return steps[:last], [step for step in steps[last:] if isinstance(step, Arithmetic)]


def _column(values: Array, valid: Validity | None) -> tuple[int, int, int, int]:
    first = 0 if valid is None else valid.first
    bits = 0 if valid is None else valid.bits.ctypes.data
    return values.ctypes.data, bits, first, _TYPES[values.dtype]
