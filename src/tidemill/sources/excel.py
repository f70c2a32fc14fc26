"""Workbooks: one sheet of .xlsx, .xls, .xlsb or .ods, whose first row names the columns.

A sheet can only be read whole: so it is, once, within a bound, and its rows are spooled as Arrow.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.ipc

from tidemill.domain.errors import InputUnreadable, InvalidSpec
from tidemill.domain.plan import InputFile
from tidemill.durable.files import fsync_file, make_folder, translated
from tidemill.registry import missing_extra
from tidemill.sources.arrow import ArrowSource
from tidemill.sources.blocks import COPY_AGAIN, BlockSource, OpenFile
from tidemill.sources.cast import PANDAS_NULLS, NullValues, cast_feature
from tidemill.sources.excel_cells import ColumnSurvey, column_of, names_of
from tidemill.sources.excel_extent import ZIP_MAGIC, check_extent
from tidemill.sources.pinned import check_pinned, opened
from tidemill.sources.text import option, refuse_unknown

if TYPE_CHECKING:
    from python_calamine import CalamineSheet, CalamineWorkbook

OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
MAX_CELLS = 64_000_000
BLOCK_ROWS = 32_768
_INSIDE = (b"xl/", b"application/vnd.oasis.opendocument.spreadsheet")


class ExcelSource(BlockSource):
    """Options: sheet, a name or a number from 1 (the first is 1); skip_rows above the names; null_values;
    max_cells, the bound of a sheet; block_rows.

    Empty cells and errors such as #N/A are null, formulas their stored values, and of merged cells the first
    has the value. Row numbers count from the row under the names; empty rows within the table are rows.
    """

    name: ClassVar[str] = "excel"
    suffixes: ClassVar[tuple[str, ...]] = (".xlsx", ".xls", ".xlsb", ".xlsm", ".ods")
    casts_text: ClassVar[bool] = True
    mixes: ClassVar[bool] = True

    def __init__(self, options: Mapping[str, Any] | None = None, spool: Path | None = None) -> None:
        super().__init__(options, spool)
        refuse_unknown(self.options, ("sheet", "skip_rows", "null_values", "max_cells", "block_rows"))
        self.sheet = self.options.get("sheet", 1)
        if isinstance(self.sheet, bool) or not isinstance(self.sheet, int | str):
            raise InvalidSpec(
                f"The input option sheet is {self.sheet!r}.", remedy="Give the name of a sheet, or its number from 1."
            )
        self.skip_rows = option(self.options, "skip_rows", int, 0)
        null_values = option(self.options, "null_values", list, list(PANDAS_NULLS))
        self.max_cells = option(self.options, "max_cells", int, MAX_CELLS)
        self.block_rows = option(self.options, "block_rows", int, BLOCK_ROWS)
        if self.block_rows < 1 or self.skip_rows < 0:
            raise InvalidSpec("block_rows must be positive, and skip_rows not negative.")
        self._nulls = frozenset(("", *null_values))
        self.nulls = NullValues(sorted(self._nulls))

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        if not head:
            return path.lower().endswith(cls.suffixes)
        inside = head.startswith(ZIP_MAGIC) and any(mark in head for mark in _INSIDE)
        return inside or head.startswith(OLE_MAGIC)

    def cast_text(self, column: pa.Array, wanted: pa.DataType) -> tuple[pa.Array, Sequence[int]]:
        return cast_feature(column, wanted, self.nulls)

    @contextmanager
    def _open(self, file: InputFile) -> Iterator[OpenFile]:
        if self.spool is None:
            raise InputUnreadable(
                f"{file.path} is a workbook, and there is no folder to unpack it into.", remedy="Save it as CSV."
            )
        target = self.spool / self._spool_name(file)
        if not target.exists():
            self._fill(file, target)
        found = target.stat()
        spooled = InputFile(path=str(target), size_bytes=found.st_size, mtime_ns=found.st_mtime_ns)
        with ArrowSource({"block_bytes": 1})._open(spooled) as opened:
            yield opened

    def _spool_name(self, file: InputFile) -> str:
        identity = json.dumps([file.path, file.size_bytes, file.mtime_ns, self.options], sort_keys=True)
        return f"{hashlib.sha256(identity.encode()).hexdigest()}.arrow"

    def _fill(self, file: InputFile, target: Path) -> None:
        check_pinned(file)
        rows, columns = self._table(file)
        schema = pa.schema([(name, survey.type) for name, survey in columns])
        check_pinned(file)
        scratch = target.with_name(f".{target.name}.{os.getpid()}-{get_ident()}.tmp")
        with translated(target.parent):
            make_folder(target.parent)
        try:
            with translated(scratch), pa.OSFile(str(scratch), "wb") as out, pa.ipc.new_file(out, schema) as writer:
                for piece in _pieces(rows, self.block_rows):
                    cells = _transposed(piece, len(schema))
                    arrays = [column_of(column, field.type) for column, field in zip(cells, schema, strict=True)]
                    writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            with translated(scratch):
                # The plan counts on its rows, so a power cut must not leave a shorter one under its name.
                fsync_file(scratch)
                os.rename(scratch, target)
        except BaseException:
            with suppress(OSError):
                scratch.unlink()
            raise

    def _table(self, file: InputFile) -> tuple[_Rows, list[tuple[str, ColumnSurvey]]]:
        """The rows under the names, and what is known of each column once all were looked at."""
        sheet = self._sheet(file)
        lines = itertools.islice(_without_leading(sheet.iter_rows()), self.skip_rows, None)
        header = next(lines, [])
        surveys: list[ColumnSurvey] = []
        filled = height = 0
        for piece in _pieces(lines, self.block_rows):
            for number, row in enumerate(piece, height):
                filled = number + 1 if any(cell != "" for cell in row) else filled
            height += len(piece)
            while len(surveys) < max(map(len, piece)):
                surveys.append(ColumnSurvey(self._nulls))
            for survey, cells in zip(surveys, _transposed(piece, len(surveys)), strict=True):
                survey.learn(cells)
        width = max(len(header), len(surveys))
        while len(surveys) < width:
            surveys.append(ColumnSurvey(self._nulls))
        named = list(zip(names_of(header, width), surveys, strict=True))
        while named and (len(named) > len(header) or header[len(named) - 1] == "") and named[-1][1].is_empty:
            named.pop()
        return _Rows(sheet, self.skip_rows + 1, filled), named

    def _sheet(self, file: InputFile) -> CalamineSheet:
        """The sheet that is wanted, as the library reads it. Raises InputUnreadable, InvalidSpec, MissingExtra."""
        try:
            import python_calamine
        except ModuleNotFoundError as exc:
            raise missing_extra(self.name, exc) from exc
        with opened(file) as raw:
            head = raw.read(8)
        if head.startswith(ZIP_MAGIC):
            check_extent(file, self.max_cells)
        elif head != OLE_MAGIC:
            what = "is not a workbook" if head else "is empty, so it is not a workbook"
            raise InputUnreadable(f"{file.path} {what}.", remedy="Name its format, or take it out of the input.")
        try:
            with opened(file) as raw:
                # By a path it would go by the ending of the name.
                book = python_calamine.load_workbook(raw)
            return book.get_sheet_by_name(self._sheet_name(file, book))
        except InvalidSpec:
            raise
        except BaseException as exc:
            if not isinstance(exc, Exception) and not _is_panic(exc):
                raise
            check_pinned(file)
            if _is_encrypted(file):
                raise InputUnreadable(
                    f"{file.path} is protected by a password.",
                    remedy="Save it without one; there is none for it here.",
                ) from exc
            raise InputUnreadable(f"{file.path} is not a whole workbook: {exc}.", remedy=COPY_AGAIN) from exc

    def _sheet_name(self, file: InputFile, book: CalamineWorkbook) -> str:
        import python_calamine

        sheets = [sheet.name for sheet in book.sheets_metadata if sheet.typ is python_calamine.SheetTypeEnum.WorkSheet]
        if self.sheet in sheets:
            return str(self.sheet)
        with suppress(ValueError):
            if 1 <= int(self.sheet) <= len(sheets):
                return sheets[int(self.sheet) - 1]
        listed = ", ".join(f"{number} {name!r}" for number, name in enumerate(sheets[:20], 1))
        raise InvalidSpec(
            f"{file.path} has no sheet {self.sheet!r}.",
            remedy=f"Say --input-option sheet= with one of: {listed}." if sheets else "It has no sheets of cells.",
        )


def _is_panic(exc: BaseException) -> bool:
    """Whether the library's native code met what it did not expect: no Exception, but no reason to end either."""
    return type(exc).__module__ == "pyo3_runtime"


def _is_encrypted(file: InputFile) -> bool:
    """Whether Excel put a workbook with a password into a compound file: the library only sees that it is none."""
    with opened(file) as raw:
        data = raw.read()
    return data.startswith(OLE_MAGIC) and "EncryptedPackage".encode("utf-16-le") in data


class _Rows:
    """The first `count` rows of a sheet under its names, from the top each time."""

    def __init__(self, sheet: CalamineSheet, skipped: int, count: int) -> None:
        self._sheet, self._skipped, self._count = sheet, skipped, count

    def __iter__(self) -> Iterator[list[Any]]:
        rows = _without_leading(self._sheet.iter_rows())
        return itertools.islice(rows, self._skipped, self._skipped + self._count)


def _without_leading(rows: Iterator[list[Any]]) -> Iterator[list[Any]]:
    """From the first row with a value: where a table begins is a matter of taste."""
    return itertools.dropwhile(lambda row: all(cell == "" for cell in row), rows)


def _pieces(rows: Iterable[list[Any]], size: int) -> Iterator[list[list[Any]]]:
    left = iter(rows)
    while piece := list(itertools.islice(left, size)):
        yield piece


def _transposed(rows: list[list[Any]], width: int) -> list[list[Any]]:
    """The cells of each column; short rows end in empty ones."""
    return [[row[number] if number < len(row) else "" for row in rows] for number in range(width)]
