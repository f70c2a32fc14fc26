"""Compiled kernels of models, kept from job to job: to compile many large trees takes longer than all else of a start.

A file that is damaged, or that other code made, counts as none. What cannot be written is not kept.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedRandom, BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.domain.version import __version__
from tidemill.kernels.library import ABI

MOST_FILES = 64
MOST_BYTES = 1 << 30
"""Of all files in the folder. Beyond, those that were not used for the longest time go."""
ENDING = ".kernel"
_DIGEST_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the kernel of one model is kept."""

    folder: Path
    model: str
    """What tells the model from all others, as a part of the file's name: digest and flavor."""
    source: str
    """The file of code that reads the model: what it wrote is not for another release of it."""

    @staticmethod
    def at(path: str | None, source: str) -> Place | None:
        """The place that `path` names, without the ending of the file's name."""
        return None if path is None else Place(folder=Path(path).parent, model=Path(path).name, source=source)

    def read(self) -> dict[str, Any] | None:
        """What was written by this very code; None if there is nothing whole."""
        path = self._path()
        try:
            with path.open("rb") as file:
                if file.read(_DIGEST_BYTES) != _digest(file):
                    return None
                os.utime(path)
                with np.load(file, allow_pickle=False) as parts:
                    return {name: part if (part := parts[name]).ndim else part.item() for name in parts.files}
        except OSError:
            return None

    def write(self, parts: Mapping[str, Any]) -> None:
        """Keep arrays, numbers and words by name. Whoever reads meanwhile sees the old file or the new one."""
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, scratch = tempfile.mkstemp(dir=self.folder, suffix=ENDING)
            try:
                with os.fdopen(handle, "w+b") as file:
                    file.write(bytes(_DIGEST_BYTES))
                    np.savez(file, allow_pickle=False, **parts)
                    digest = _digest(file)
                    file.seek(0)
                    file.write(digest)
                os.replace(scratch, self._path())
            except BaseException:
                with suppress(OSError):
                    os.unlink(scratch)
                raise
            self._sweep()

    def _path(self) -> Path:
        return self.folder / f"{self.model}-{_code(self.source)}{ENDING}"

    def _sweep(self) -> None:
        newest = sorted(_files(self.folder), reverse=True)
        size = 0
        for number, (_, bytes_, path) in enumerate(newest):
            size += bytes_
            if number >= MOST_FILES or (number and size > MOST_BYTES):
                with suppress(OSError):
                    path.unlink()


def _digest(file: BufferedReader | BufferedRandom) -> bytes:
    """Of all behind the digest, where the file then stands."""
    file.seek(_DIGEST_BYTES)
    digest = hashlib.file_digest(file, "sha256").digest()
    file.seek(_DIGEST_BYTES)
    return digest


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """(when it was used last, size, path) of all files, what broke off while it was written among them."""
    for path in folder.glob(f"*{ENDING}"):
        with suppress(OSError):
            there = path.stat()
            yield there.st_mtime, there.st_size, path


def _code(source: str) -> str:
    """A digest of what changes when the code does that compiles kernels: its releases, and its sources' stamps."""
    words = [__version__, str(ABI)]
    for path in sorted([*Path(__file__).parent.glob("*.py"), Path(source)]):
        with suppress(OSError):
            there = path.stat()
            words.append(f"{path.name} {there.st_size} {there.st_mtime_ns}")
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
