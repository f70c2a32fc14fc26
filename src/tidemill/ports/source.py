"""Reading: what a format of input must be able to do.

A source lives only in children: native readers crash on bad bytes. The planner calls `examine` once
per file; scorers call `read` once per segment. Members are picklable by name and options alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from tidemill.domain.plan import Block, InputFile, Segment

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


ENCODED = "dictionary"
"""In `types`: string as int32 numbers of its different values, which come with each batch."""


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What the planner learns of one file. Blocks are in row order and cover every row once."""

    schema: pa.Schema
    blocks: tuple[Block, ...]

    @property
    def rows(self) -> int:
        return sum(block.rows for block in self.blocks)


@dataclass(frozen=True, kw_only=True)
class UnreadRow:
    """A row that could not be read: `row` is its number in the file, `raw` what could be saved of it."""

    row: int
    error: str
    message: str
    raw: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Consecutive planned rows of one file, `row_start` up to `row_start + planned`.

    `batch` holds those that could be read; `row_numbers` (int64, ascending) their numbers in the
    file, or None when all could be read. planned == batch.num_rows + len(unread).
    """

    batch: pa.RecordBatch
    row_start: int
    planned: int
    row_numbers: np.ndarray[Any, Any] | None = None
    unread: tuple[UnreadRow, ...] = field(default=())


def part_of(batch: pa.RecordBatch, start: int, stop: int) -> pa.RecordBatch:
    """Rows [start, stop) of a batch. All of them is the batch itself: to slice is as much work as there are columns."""
    return batch if (start, stop) == (0, batch.num_rows) else batch.slice(start, stop - start)


class Source(ABC):
    """One format of input."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    """File name endings that a folder is searched for, without compression endings."""
    typed: ClassVar[bool]
    """Whether files carry types. Text does not: columns come as string unless `types` names them."""
    casts_text: ClassVar[bool] = False
    """Whether text may feed a model's numbers: each value is cast (`cast_text`), and rows where one does not fit are
    rejected. Else a column of text is no number."""
    mixes: ClassVar[bool] = False
    """Whether a file's values decide the types of its columns: then whole numbers and others make double in all files
    together, and any other mixture makes text."""
    fixed_columns: ClassVar[bool] = True
    """Whether a file has its columns in every row. If not, one without a column gives nulls for it."""

    encodes: ClassVar[bool] = False
    """Whether columns of text come encoded with a dictionary where `types` asks for that (`ENCODED`)."""

    partitions: Mapping[str, str] = MappingProxyType({})
    """Columns that come from the names of folders, with their types, as far as files were examined: the facts of a
    file have them as string."""

    def __init__(self, options: Mapping[str, Any] | None = None, spool: Path | None = None) -> None:
        """`spool` is a folder where `examine` may leave what `read` needs (decompressed text)."""
        self.options = dict(options or {})
        self.spool = spool

    @classmethod
    @abstractmethod
    def matches(cls, head: bytes, path: str) -> bool:
        """Whether a file that begins with `head` (up to 64 KiB, decompressed) is of this format."""

    @abstractmethod
    def examine(self, file: InputFile, *, infer: bool = False) -> FileFacts:
        """Read the footer or scan the text once.

        With `infer`, an untyped format reports for each column the type that pandas would infer over
        the whole file (null, int64, double, bool or string) instead of string.
        Raises InputUnreadable naming the file and a remedy, InputChanged if it is not the pinned file.
        """

    @abstractmethod
    def read(
        self, segment: Segment, columns: Sequence[str], types: Mapping[str, str], batch_rows: int
    ) -> Iterator[Rows]:
        """Stream the segment's rows, `columns` in that order, at most `batch_rows` rows at a time.

        A typed format gives the file's own types, but encodes columns of text that `types` calls ENCODED, if it
        `encodes`; an untyped one gives string, except that columns in `types` are cast row by row and rows that do
        not cast come as `unread` (error "ConversionError").
        Where a number is wanted, true and false are 1 and 0, as they are to models that were trained on them.
        Rows of a typed format that cannot be decoded come as `unread` (error "ReadError").
        The pinned size and mtime are checked on opening and after the last byte: InputChanged.
        """

    def cast_text(self, column: pa.Array, wanted: pa.DataType) -> tuple[pa.Array, Sequence[int]]:
        """Cast text that `read` left as it was, as `read` would have: null where a value does not fit,
        and those positions. Only formats that cast text are asked, from several threads."""
        raise NotImplementedError(f"{self.name} files have types")

    @staticmethod
    def merge_types(first: str, second: str) -> str:
        """The type that holds two inferred ones: null < bool, null < int64 < double, else string."""
        if first == second or second == "null":
            return first
        if first == "null":
            return second
        return "double" if {first, second} == {"int64", "double"} else "string"
