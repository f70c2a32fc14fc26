"""Writing bytes: what a format of output must be able to do. Lives only in children."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Written:
    """A closed file: durable (file and folder fsynced) and checked (size as written)."""

    rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Unwritable:
    """A column that a format cannot hold unchanged, and what to do about it."""

    column: str
    type: str
    remedy: str


class PartWriter(ABC):
    """One file being written. A failed write poisons it for good: `close` then raises too."""

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows. Raises OutputUnwritable (disk full, I/O error) naming the path and the remedy."""

    @abstractmethod
    def close(self) -> Written:
        """Finish, fsync file and folder, check the size. Raises OutputUnwritable."""

    @abstractmethod
    def abort(self) -> None:
        """Drop the file. Never raises."""


class Encoder(ABC):
    """One format of output. Same rows, options and metadata give the same bytes, on any day."""

    name: ClassVar[str]
    suffix: ClassVar[str]
    """File name ending with the dot."""

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.options = dict(options or {})

    @property
    def file_suffix(self) -> str:
        """`suffix` plus a compression ending, for formats that have one outside (`.csv.gz`)."""
        return self.suffix

    @abstractmethod
    def unwritable(self, schema: pa.Schema) -> Sequence[Unwritable]:
        """The columns that this format would change or lose; empty if every value comes out equal."""

    @abstractmethod
    def open(self, path: Path, schema: pa.Schema, metadata: Mapping[str, str]) -> PartWriter:
        """Start a file that must not exist yet. Metadata goes into the file if the format can hold it."""

    @abstractmethod
    def assemble(self, parts: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> Written:
        """Make one file of parts, in order. `target` is replaced if a dead attempt left it."""
