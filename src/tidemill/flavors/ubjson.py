"""Universal Binary JSON: what JSON holds, in bytes. Numbers are big-endian, and arrays of one type are packed."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

_NUMBERS = {b"i": "b", b"U": "B", b"I": "h", b"u": "H", b"l": "i", b"m": "I", b"L": "q", b"d": "f", b"D": "d"}
_CONSTANTS = {b"Z": None, b"N": None, b"T": True, b"F": False}
_DEEPEST = 200


def loads(content: bytes) -> Any:
    """The value that the bytes are; packed arrays of numbers become numpy arrays.

    Raises ValueError for what is cut off, damaged, or nested absurdly deep.
    """
    return _Reader(content).value(0)


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content, self._position = memoryview(content), 0

    def value(self, depth: int, marker: bytes | None = None) -> Any:
        if depth > _DEEPEST:
            raise ValueError(f"it is nested too deeply at byte {self._position}")
        marker = marker or self._take(1)
        if kind := _NUMBERS.get(marker):
            return struct.unpack(f">{kind}", self._take(struct.calcsize(kind)))[0]
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        if marker in (b"S", b"C"):
            return self._text(1 if marker == b"C" else None)
        if marker == b"[":
            return self._array(depth + 1)
        if marker == b"{":
            return self._object(depth + 1)
        raise ValueError(f"byte {self._position - 1} begins no value")

    def _take(self, size: int) -> bytes:
        found = self._content[self._position : self._position + size]
        if size < 0 or len(found) < size:
            raise ValueError(f"it is cut off, or damaged, at byte {self._position}")
        self._position += size
        return bytes(found)

    def _next_is(self, marker: bytes) -> bool:
        found = self._content[self._position : self._position + 1] == marker
        self._position += found
        return bool(found)

    def _text(self, length: int | None = None) -> str:
        return self._take(self._length() if length is None else length).decode()

    def _length(self) -> int:
        found = self.value(_DEEPEST)
        if not isinstance(found, int) or found < 0:
            raise ValueError(f"byte {self._position} should end a length")
        return found

    def _array(self, depth: int) -> Any:
        kind = self._take(1) if self._next_is(b"$") else None
        count = self._length() if self._next_is(b"#") else None
        if kind in _NUMBERS and count is not None:
            dtype = np.dtype(f">{_NUMBERS[kind]}")
            packed = np.frombuffer(self._take(count * dtype.itemsize), dtype)
            return packed.astype(dtype.newbyteorder("="))
        if kind is not None:
            raise ValueError(f"byte {self._position} follows an array of a type that is no number")
        found: list[Any] = []
        while len(found) != count:
            if count is None and self._next_is(b"]"):
                break
            found.append(self.value(depth))
        return found

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self._next_is(b"}"):
            key = self._text()
            found[key] = self.value(depth)
        return found
