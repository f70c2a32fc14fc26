"""Records of delimited text (CSV) in one pass: where they end, what their values are, and the values themselves.

What is not plain is left to the caller: another number of fields, something behind a closing quote, or a value that
is neither missing nor a decimal number where one is wanted. Numbers are rounded once, as they should be.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tidemill.kernels.library import NotCompilable, address, library

Array = np.ndarray[Any, Any]

TEXT = "text"
_KINDS = {"float64": 1, "float32": 2, "int64": 3, "int32": 4, TEXT: 5}
NUMBERS = frozenset(_KINDS) - {TEXT}
"""Types of numbers that fields can be read as."""

IS_NULL, IS_INT64, IS_FLOAT64, IS_OTHER = 1, 2, 4, 8
"""What values of a field may be, as far as they are plain."""

_IN_NUMBERS = b"+-.0123456789eE"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One field of all records that were read."""

    values: Array
    """Numbers, (rows,); of text its bytes."""
    valid: Array
    """uint8, (rows,): 0 where the value is missing."""
    nulls: int
    ends: Array | None = None
    """Of text: where each value begins, int32, (rows + 1,)."""
    ascii: bool = True
    """Of text: whether it is. Where not, nothing is known of its encoding."""


class _Column(ctypes.Structure):
    _fields_: ClassVar = [
        ("kind", ctypes.c_int32),
        ("has_non_ascii", ctypes.c_int32),
        ("nulls", ctypes.c_int64),
        ("values", ctypes.c_void_p),
        ("valid", ctypes.c_void_p),
        ("ends", ctypes.c_void_p),
    ]


class _Missing(ctypes.Structure):
    _fields_: ClassVar = [
        ("text", ctypes.c_void_p),
        ("ends", ctypes.c_void_p),
        ("count", ctypes.c_int32),
        ("numeric", ctypes.c_int32),
    ]


class Delimited:
    """One grammar. `kinds` and `read` take bytes whose first `length` are whole records."""

    def __init__(self, delimiter: bytes, quote: bytes, *, keep_empty: bool) -> None:
        """`quote` may be empty; an empty line is a record if `keep_empty`. Raises NotCompilable."""
        if delimiter in _IN_NUMBERS or (quote and quote in _IN_NUMBERS):
            raise NotCompilable("a mark of the file is one of numbers, too")
        found = library()
        self._cut, self._kinds, self._read = (
            found.tidemill_delimited_cut,
            found.tidemill_delimited_kinds,
            found.tidemill_delimited_read,
        )
        self._cut.restype = self._kinds.restype = self._read.restype = ctypes.c_int64
        self._marks = (
            ctypes.c_uint8(delimiter[0]),
            ctypes.c_int32(quote[0] if quote else -1),
            ctypes.c_int32(keep_empty),
        )

    def cut(self, data: bytes, final: bool) -> tuple[int, int]:
        """(bytes, records) of the whole records at the beginning; `final` says that nothing follows."""
        records = ctypes.c_int64()
        length = self._cut(data, ctypes.c_int64(len(data)), *self._marks, ctypes.c_int32(final), ctypes.byref(records))
        return int(length), records.value

    def kinds(self, data: bytes, length: int, fields: int, missing: MissingValues) -> tuple[int, list[int]] | None:
        """(records, what the values of each field are: the sum of some `IS_...`), or None if a record is not plain."""
        kinds = np.zeros(fields, np.uint8)
        records = self._kinds(data, ctypes.c_int64(length), *self._marks, fields, missing.reference, address(kinds))
        return None if records < 0 else (int(records), kinds.tolist())

    def read(
        self,
        data: bytes,
        length: int,
        rows: int,
        fields: int,
        wanted: Sequence[tuple[int, str]],
        missing: MissingValues,
    ) -> tuple[list[Column], int, int]:
        """(columns, records, bytes) of at most `rows` records, up to the first that is not plain.

        `wanted` are the fields to read, each once, and what as: one of `NUMBERS`, or `TEXT`.
        """
        table = (_Column * fields)()
        kept: list[tuple[Array, Array, Array | None]] = []
        for place, kind in wanted:
            ends = np.zeros(rows + 1, np.int32) if kind == TEXT else None
            values = np.empty(length, np.uint8) if kind == TEXT else np.empty(rows, kind)
            valid = np.empty(rows, np.uint8)
            table[place].kind, table[place].values = _KINDS[kind], values.ctypes.data
            table[place].valid, table[place].ends = valid.ctypes.data, None if ends is None else ends.ctypes.data
            kept.append((values, valid, ends))
        taken = ctypes.c_int64()
        read = int(
            self._read(
                data,
                ctypes.c_int64(length),
                *self._marks,
                ctypes.c_int32(fields),
                table,
                missing.reference,
                ctypes.c_int64(rows),
                ctypes.byref(taken),
            )
        )
        columns = [
            Column(
                values=values[:read] if ends is None else values[: ends[read]],
                valid=valid[:read],
                nulls=table[place].nulls,
                ends=None if ends is None else ends[: read + 1],
                ascii=not table[place].has_non_ascii,
            )
            for (place, _), (values, valid, ends) in zip(wanted, kept, strict=True)
        ]
        return columns, read, taken.value


class MissingValues:
    """Texts that mean that there is no value, as calls take them."""

    def __init__(self, texts: Sequence[bytes], *, numeric: bool) -> None:
        """`numeric`: one of them may be a number."""
        self._text = b"".join(texts)
        self._ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
        text = ctypes.cast(ctypes.c_char_p(self._text), ctypes.c_void_p)
        self._missing = _Missing(text, self._ends.ctypes.data, len(texts), numeric)
        self.reference = ctypes.byref(self._missing)
