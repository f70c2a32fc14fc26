"""How large the sheets of a workbook are, before a library makes room for every cell between the first and the last."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Any
from xml.parsers import expat

from tidemill.domain.errors import InputUnreadable
from tidemill.domain.plan import InputFile
from tidemill.sources.blocks import COPY_AGAIN
from tidemill.sources.pinned import opened

ZIP_MAGIC = b"PK\x03\x04"
MAX_UNPACKED_BYTES = 4 << 30
_CHUNK_BYTES = 1 << 20
_OVERLAP = 64
_CELL = re.compile(rb"""\br\s*=\s*["']([A-Za-z]{1,3})([0-9]{1,7})["']""")
_ROW = re.compile(rb"""<(?:\w+:)?row\b[^>]*?\br\s*=\s*["']([0-9]{1,7})["']""")
_SHEET_SIZE = 148
"""The record of a binary sheet that holds its first and last row and column."""


def check_extent(file: InputFile, max_cells: int) -> None:
    """Raises InputUnreadable for a workbook whose parts or sheets are beyond the bounds, or that is no whole zip."""
    try:
        with opened(file) as raw, zipfile.ZipFile(raw) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
            if unpacked > MAX_UNPACKED_BYTES:
                raise InputUnreadable(
                    f"{file.path} unpacks to {unpacked:,} bytes, above the bound of {MAX_UNPACKED_BYTES:,}.",
                    remedy="Save the sheet as CSV or Parquet, or in several workbooks.",
                )
            cells = max(_extents(archive), default=0)
    except (zipfile.BadZipFile, zlib.error, expat.ExpatError, EOFError, NotImplementedError, struct.error) as exc:
        raise InputUnreadable(f"{file.path} is not a whole workbook: {exc}.", remedy=COPY_AGAIN) from exc
    if cells > max_cells:
        raise InputUnreadable(
            f"{file.path} has a sheet of {cells:,} cells from its first to its last, above the bound of {max_cells:,}.",
            remedy="Delete cells that stand far from the table, save it as CSV, or raise the input option max_cells.",
        )


def _extents(archive: zipfile.ZipFile) -> Iterator[int]:
    for part in archive.namelist():
        folder, _, name = part.rpartition("/")
        if folder.endswith("worksheets") and name.endswith(".xml"):
            with archive.open(part) as sheet:
                yield _of_xml(sheet)
        elif folder.endswith("worksheets") and name.endswith(".bin"):
            with archive.open(part) as sheet:
                yield _of_binary(sheet)
        elif part == "content.xml":
            with archive.open(part) as content:
                yield from _OpenDocument(content).extents


def _of_xml(sheet: IO[bytes]) -> int:
    """Rows times columns of an .xlsx sheet, by the places that its cells name."""
    rows, columns, before = 0, 0, b""
    while chunk := sheet.read(_CHUNK_BYTES):
        data = before + chunk
        for column, row in _CELL.findall(data):
            rows, columns = max(rows, int(row)), max(columns, _column_number(column))
        for row in _ROW.findall(data):
            rows = max(rows, int(row))
        before = data[-_OVERLAP:]
    return rows * columns


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters.upper():
        number = number * 26 + letter - 64
    return number


def _of_binary(sheet: IO[bytes]) -> int:
    """Rows times columns of an .xlsb sheet, by the record of its size, which is among its first."""
    while head := sheet.read(1):
        kind = head[0]
        if kind & 0x80:
            kind = kind & 0x7F | (sheet.read(1) or b"\0")[0] << 7
        size = shift = 0
        while shift < 28:
            byte = (sheet.read(1) or b"\0")[0]
            size, shift = size | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                break
        body = sheet.read(size)
        if kind == _SHEET_SIZE:
            _, last_row, _, last_column = struct.unpack_from("<4I", body)
            return int(last_row + 1) * int(last_column + 1)
    return 0


class _OpenDocument:
    """Rows times columns of the tables of an .ods, where cells and rows may say that they are repeated."""

    def __init__(self, content: IO[bytes]) -> None:
        self.extents: list[int] = []
        self._rows = self._last_row = self._columns = self._last_column = self._place = self._repeat = 0
        parser = expat.ParserCreate()
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.ParseFile(content)

    def _start(self, name: str, attributes: Mapping[str, Any]) -> None:
        if name == "table:table":
            self._rows = self._last_row = self._last_column = 0
        elif name == "table:table-row":
            self._repeat = int(attributes.get("table:number-rows-repeated", 1))
            self._place = self._columns = 0
        elif name in ("table:table-cell", "table:covered-table-cell"):
            self._place += int(attributes.get("table:number-columns-repeated", 1))
            if any(key.endswith((":value-type", ":formula")) for key in attributes):
                self._columns = self._place

    def _end(self, name: str) -> None:
        if name == "table:table-row":
            self._rows += self._repeat
            if self._columns:
                self._last_row, self._last_column = self._rows, max(self._last_column, self._columns)
        elif name == "table:table":
            self.extents.append(self._last_row * self._last_column)
