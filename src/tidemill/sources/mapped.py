"""Pieces of a mapped file as files for Arrow, without copying them."""

from __future__ import annotations

import io
import mmap
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from tidemill.domain.plan import InputFile
from tidemill.sources.pinned import opened


@contextmanager
def mapped(file: InputFile) -> Iterator[memoryview]:
    """The file's bytes. Values that are handed on must not point into them: they change when the file does."""
    with opened(file) as raw:
        size = raw.seek(0, io.SEEK_END)
        # Not closed here: whatever still points into the map keeps it. An empty file has nothing to map.
        data = memoryview(mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
    yield data


class _Pieces:
    """What Arrow asks of a file that it only reads."""

    closed = False

    def open(self) -> pa.PythonFile:
        return pa.PythonFile(self, mode="r")

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        """The pieces are not its own."""


class Feed(_Pieces):
    """A stream that grows: pieces that are added are read one behind the other."""

    def __init__(self) -> None:
        self._pieces: deque[memoryview] = deque()
        self._position = 0

    def add(self, piece: memoryview) -> None:
        self._pieces.append(piece)

    def read(self, size: int = -1) -> memoryview | bytes:
        """A view where one piece holds it all, else a copy; nothing when all was read."""
        wanted = sum(map(len, self._pieces)) if size < 0 else size
        found: list[memoryview] = []
        while wanted and self._pieces:
            piece = self._pieces.popleft()
            found.append(piece[:wanted])
            if len(piece) > wanted:
                self._pieces.appendleft(piece[wanted:])
            wanted -= len(found[-1])
            self._position += len(found[-1])
        return found[0] if len(found) == 1 else b"".join(found)

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return False


class Splice(_Pieces):
    """A file that consists of pieces, each at its offset, ascending; between them are zeros."""

    def __init__(self, pieces: Sequence[tuple[int, memoryview]]) -> None:
        self._pieces = pieces
        self._size = max((offset + len(piece) for offset, piece in pieces), default=0)
        self._position = 0

    def read(self, size: int = -1) -> memoryview | bytes:
        """A view where one piece holds it all, else a copy."""
        stop = self._size if size < 0 else min(self._position + size, self._size)
        found: list[memoryview] = []
        while self._position < stop:
            found.append(self._at(self._position, stop))
            self._position += len(found[-1])
        return found[0] if len(found) == 1 else b"".join(found)

    def _at(self, position: int, stop: int) -> memoryview:
        for offset, piece in self._pieces:
            if position < offset:
                return memoryview(bytes(min(offset, stop) - position))
            if position < offset + len(piece):
                return piece[position - offset : stop - offset]
        raise AssertionError("the last piece ends where the file does")

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True
