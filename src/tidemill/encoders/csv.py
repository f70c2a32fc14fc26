"""CSV as in RFC 4180, in UTF-8, with a header and "\\n" as line end.

Text is always quoted and a null is an empty field: so a null, an empty text and the text "NA" are three
things. With a single column a null is a quoted empty field, because readers drop empty lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.domain.errors import Damaged, OutputUnwritable
from tidemill.encoders.part import write_whole
from tidemill.encoders.text import (
    REMEDY,
    TEXT,
    TextEncoder,
    TextWriter,
    decoded,
    is_scalar,
    is_text,
    plain_type,
    scalar_text,
    write_text,
)
from tidemill.ports.encoder import PartWriter, Unwritable, Written

_QUOTE = ord('"')
_NEWLINE = ord("\n")


class CsvEncoder(TextEncoder):
    """Refuses bytes, lists, structs and durations, which no reader would read back. Holds no metadata."""

    name: ClassVar[str] = "csv"
    suffix: ClassVar[str] = ".csv"

    def unwritable(self, schema: pa.Schema) -> Sequence[Unwritable]:
        return [
            Unwritable(column=field.name, type=str(field.type), remedy=REMEDY)
            for field in schema
            if not is_scalar(plain_type(field.type))
        ]

    def open(self, path: Path, schema: pa.Schema, metadata: Mapping[str, str]) -> PartWriter:
        return _CsvWriter(path, schema, self.compression, header_of(schema.names)).begin()

    def assemble(self, parts: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> Written:
        header = _first_record(self.read(parts[0]))

        def texts() -> Iterator[tuple[bytes, int]]:
            for part in parts:
                records = _Records()
                for block in _without(header, part, self.read(part)):
                    yield block, records.ending_in(block)

        def fill(path: Path) -> Written:
            return write_text(_CsvWriter(path, pa.schema([]), self.compression, header).begin(), texts())

        return write_whole(target, fill)


class _CsvWriter(TextWriter):
    def __init__(self, path: Path, schema: pa.Schema, compression: str | None, header: bytes) -> None:
        super().__init__(path, schema, compression)
        self._header = header

    def _begin(self) -> None:
        super()._begin()
        self._stream.write(memoryview(self._header))

    def _lines(self, batch: pa.RecordBatch) -> pa.LargeStringArray:
        single = batch.num_columns == 1
        fields = [_field(name, column, single) for name, column in zip(self.schema.names, batch.columns, strict=True)]
        rows = pc.binary_join_element_wise(*fields, pa.scalar(",", TEXT))
        return pc.binary_join_element_wise(rows, pa.scalar("", TEXT), pa.scalar("\n", TEXT))


def _field(name: str, column: pa.Array, single: bool) -> pa.LargeStringArray:
    plain = decoded(column)
    if is_text(plain.type):
        if single and plain.null_count:
            raise OutputUnwritable(
                f"Column {name!r} holds a null, which a CSV file of one text column cannot tell from an empty text.",
                remedy="Use Parquet, or keep another column beside it.",
            )
        text = pc.replace_substring(plain.cast(TEXT), '"', '""')
        quote = pa.scalar('"', TEXT)
        found = pc.binary_join_element_wise(quote, text, quote, pa.scalar("", TEXT))
    else:
        found = scalar_text(name, plain)
    return pc.fill_null(found, '""' if single else "")


def header_of(names: Sequence[str]) -> bytes:
    """The first line: names, quoted where they must be."""
    return (",".join(_name(name) for name in names) + "\n").encode()


def _name(name: str) -> str:
    quoted = not name or name != name.strip() or any(mark in name for mark in ',"\r\n')
    return '"' + name.replace('"', '""') + '"' if quoted else name


def _first_record(blocks: Iterator[bytes]) -> bytes:
    """The header of a part: up to the first line end outside quotes."""
    held = b""
    for block in blocks:
        held += block
        inside = False
        for position, byte in enumerate(held):
            inside ^= byte == _QUOTE
            if byte == _NEWLINE and not inside:
                return held[: position + 1]
    return held


def _without(header: bytes, part: Path, blocks: Iterator[bytes]) -> Iterator[bytes]:
    head = b""
    for block in blocks:
        head += block
        if len(head) >= len(header):
            break
    if not head.startswith(header):
        raise Damaged(
            f"{part} does not begin with the columns of the first part.", remedy="Run the job again with --restart."
        )
    yield head[len(header) :]
    yield from blocks


class _Records:
    """Counts line ends outside quotes, block by block."""

    def __init__(self) -> None:
        self._inside = False

    def ending_in(self, block: bytes) -> int:
        """How many records end in the next block."""
        count = 0
        for number, piece in enumerate(block.split(b'"')):
            self._inside ^= number > 0
            count += 0 if self._inside else piece.count(b"\n")
        return count
