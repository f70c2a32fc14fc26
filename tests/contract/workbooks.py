"""Workbooks of the kinds that no library here writes, made by hand from rows of cells."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

Cell = int | float | str | bool | None
_SECTOR = 512
_END, _FREE, _TABLE = 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFD


def write_ods(path: Path, rows: list[list[Cell]], more: str = "") -> Path:
    """An OpenDocument spreadsheet with one sheet; `more` stands behind its rows as it is."""
    body = "".join(f"<table:table-row>{''.join(map(_ods_cell, row))}</table:table-row>" for row in rows)
    content = (
        '<?xml version="1.0"?><office:document-content'
        ' xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"'
        ' xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"'
        ' xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"><office:body><office:spreadsheet>'
        f'<table:table table:name="One">{body}{more}</table:table>'
        "</office:spreadsheet></office:body></office:document-content>"
    )
    kind = "application/vnd.oasis.opendocument.spreadsheet"
    manifest = (
        '<?xml version="1.0"?><manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0">'
        f'<manifest:file-entry manifest:full-path="/" manifest:media-type="{kind}"/></manifest:manifest>'
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", kind, compress_type=zipfile.ZIP_STORED)
        archive.writestr("content.xml", content)
        archive.writestr("META-INF/manifest.xml", manifest)
    return path


def _ods_cell(cell: Cell) -> str:
    if cell is None:
        return "<table:table-cell/>"
    if isinstance(cell, bool):
        value = str(cell).lower()
        return f'<table:table-cell office:value-type="boolean" office:boolean-value="{value}"/>'
    if isinstance(cell, str):
        return f'<table:table-cell office:value-type="string"><text:p>{escape(cell)}</text:p></table:table-cell>'
    return f'<table:table-cell office:value-type="float" office:value="{cell}"/>'


def write_xls(path: Path, rows: list[list[Cell]]) -> Path:
    """An Excel 97 workbook with one sheet: BIFF8 records in a compound file."""
    sheet = _record(0x0809, struct.pack("<HHHHII", 0x0600, 0x0010, 0, 0, 0, 0))
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            place = struct.pack("<HHH", number, column, 0)
            if isinstance(cell, bool):
                sheet += _record(0x0205, place + struct.pack("<BB", cell, 0))
            elif isinstance(cell, str):
                text = cell.encode("utf-16-le")
                sheet += _record(0x0204, place + struct.pack("<HB", len(cell), 1) + text)
            elif cell is not None:
                sheet += _record(0x0203, place + struct.pack("<d", cell))
    sheet += _record(0x000A, b"")
    start = _record(0x0809, struct.pack("<HHHHII", 0x0600, 0x0005, 0, 0, 0, 0))
    start += _record(0x0042, struct.pack("<H", 1200))
    listed = struct.pack("<HBB", 0, 3, 0) + b"One"
    place = len(start) + 4 + 4 + len(listed) + 4
    stream = start + _record(0x0085, struct.pack("<I", place) + listed) + _record(0x000A, b"") + sheet
    path.write_bytes(compound(b"Workbook", stream))
    return path


def _record(kind: int, body: bytes) -> bytes:
    return struct.pack("<HH", kind, len(body)) + body


def compound(name: bytes, stream: bytes) -> bytes:
    """A compound file with one stream, which lies in plain sectors."""
    stream = stream.ljust(4096, b"\0")
    sectors = -(-len(stream) // _SECTOR)
    tables = -(-(sectors + 2 + 1) // (_SECTOR // 4))
    table = [*range(1, sectors), _END, _END, *[_TABLE] * tables]
    table += [_FREE] * (tables * _SECTOR // 4 - len(table))
    head = struct.pack(
        "<8s16xHHHHH6xIIIIIIIIII", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 0x3E, 3, 0xFFFE, 9, 6,
        0, tables, sectors, 0, 4096, _END, 0, _END, 0, 0,
    )  # fmt: skip
    difat = [*range(sectors + 1, sectors + 1 + tables)]
    difat += [_FREE] * (109 - len(difat))
    head = head[:76] + struct.pack("<109I", *difat)
    entries = _entry(b"Root Entry", 5, 1, _END, 0) + _entry(name, 2, _FREE, 0, len(stream))
    entries += struct.pack("<64xHBBIII36xIQ", 0, 0, 0, _FREE, _FREE, _FREE, 0, 0) * 2
    return head + stream.ljust(sectors * _SECTOR, b"\0") + entries + struct.pack(f"<{len(table)}I", *table)


def _entry(name: bytes, kind: int, child: int, start: int, size: int) -> bytes:
    text = name.decode().encode("utf-16-le")
    return struct.pack("<64sHBBIII36xIQ", text, len(text) + 2, kind, 1, _FREE, _FREE, child, start, size)
