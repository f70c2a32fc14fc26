"""Universal Binary JSON: what JSON holds, in bytes. Numbers are big-endian, and arrays of one type are packed."""

from __future__ import annotations

from struct import Struct
from typing import Any

import numpy as np

_KINDS = {"i": "b", "U": "B", "I": "h", "u": "H", "l": "i", "m": "I", "L": "q", "d": "f", "D": "d"}
_NUMBERS = {ord(marker): Struct(f">{kind}") for marker, kind in _KINDS.items()}
_CONSTANTS = {ord("Z"): None, ord("N"): None, ord("T"): True, ord("F"): False}
_TEXT, _LETTER, _ARRAY, _ARRAY_END, _OBJECT, _OBJECT_END, _TYPE, _COUNT = b"SC[]{}$#"
_DEEPEST = 200


def loads(content: bytes) -> Any:
    """The value that the bytes are; packed arrays of numbers become numpy arrays.

    Raises ValueError for what is cut off, damaged, or nested absurdly deep.
    """
    return _Reader(content).value(0)


class _Reader:
    """Models have tens of thousands of small values, so steps are few for each."""

    def __init__(self, content: bytes) -> None:
        self._content, self._position = content, 0

    def value(self, depth: int) -> Any:
        marker = self._next()
        if marker in _NUMBERS:
            return self._number(_NUMBERS[marker])
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        if depth >= _DEEPEST:
            raise ValueError(f"it is nested too deeply at byte {self._position}")
        if marker == _TEXT:
            return self._text(self._length())
        if marker == _LETTER:
            return self._text(1)
        if marker == _ARRAY:
            return self._array(depth + 1)
        if marker == _OBJECT:
            return self._object(depth + 1)
        raise ValueError(f"byte {self._position - 1} begins no value")

    def _cut_off(self) -> ValueError:
        return ValueError(f"it is cut off, or damaged, at byte {self._position}")

    def _next(self) -> int:
        if self._position >= len(self._content):
            raise self._cut_off()
        self._position += 1
        return self._content[self._position - 1]

    def _skip(self, size: int) -> int:
        """Go on by so many bytes, which must be there; where they begin."""
        begin = self._position
        if size > len(self._content) - begin:
            raise self._cut_off()
        self._position += size
        return begin

    def _next_is(self, marker: int) -> bool:
        if self._content[self._position : self._position + 1] != bytes((marker,)):
            return False
        self._position += 1
        return True

    def _number(self, kind: Struct) -> Any:
        return kind.unpack_from(self._content, self._skip(kind.size))[0]

    def _length(self) -> int:
        kind = _NUMBERS.get(self._next())
        found = None if kind is None else self._number(kind)
        if not isinstance(found, int) or found < 0:
            raise ValueError(f"byte {self._position} should end a length")
        return found

    def _text(self, length: int) -> str:
        begin = self._skip(length)
        return self._content[begin : begin + length].decode()

    def _array(self, depth: int) -> Any:
        kind = self._next() if self._next_is(_TYPE) else None
        count = self._length() if self._next_is(_COUNT) else None
        if kind in _NUMBERS and count is not None:
            dtype = np.dtype(_NUMBERS[kind].format)
            packed = np.frombuffer(self._content, dtype, count, self._skip(count * dtype.itemsize))
            return packed.astype(dtype.newbyteorder("="))
        if kind is not None:
            raise ValueError(f"byte {self._position} follows an array of a type that is no number")
        found: list[Any] = []
        while len(found) != count:
            if count is None and self._next_is(_ARRAY_END):
                break
            found.append(self.value(depth))
        return found

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self._next_is(_OBJECT_END):
            key = self._text(self._length())
            found[key] = self.value(depth)
        return found
