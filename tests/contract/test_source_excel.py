"""Workbooks on the shipped suite, and what only workbooks can get wrong."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any, ClassVar

import openpyxl
import pyarrow as pa
import pytest

from tests.contract.workbooks import Cell, compound, write_ods, write_xls
from tidemill.domain.errors import InputUnreadable, InvalidSpec, MissingExtra
from tidemill.sources.excel import ExcelSource
from tidemill.testing.source import ReadBack, SourceContract, collect, pin, segment

MOMENT = datetime(2024, 2, 29, 12, 30, 15, 123000)


def write_xlsx(path: Path, rows: list[list[Any]], name: str = "One") -> Path:
    book = openpyxl.Workbook()
    book.active.title = name
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def read(path: Path, tmp_path: Path, **options: Any) -> ReadBack:
    source = ExcelSource(options, tmp_path / "spool")
    facts = source.examine(pin(path))
    return collect(source.read(segment(pin(path), facts), facts.schema.names, {}, 100), 0, facts.rows)


def rows_of(table: pa.Table) -> list[list[Any]]:
    return [table.column_names, *map(list, zip(*(column.to_pylist() for column in table.columns), strict=True))]


class TestXlsx(SourceContract):
    source_class = ExcelSource
    small_blocks: ClassVar[dict[str, Any]] = {"block_rows": 300}

    def write(self, path: Path, table: pa.Table) -> None:
        write_xlsx(path, rows_of(table))


class TestXls(TestXlsx):
    def write(self, path: Path, table: pa.Table) -> None:
        write_xls(path, rows_of(table))


class TestOds(TestXlsx):
    def write(self, path: Path, table: pa.Table) -> None:
        write_ods(path, rows_of(table))


ROWS: list[list[Any]] = [
    ["n", "gaps", "f", "s", "yes", "day", "at", "when", "long", "mixed", "empty", "few"],
    [1, 1, 1.5, "a", True, date(2024, 2, 29), MOMENT, time(1, 2, 3), timedelta(hours=30), 1, None, "NA"],
    [2, None, 2, "NA", False, None, date(2024, 3, 1), None, timedelta(hours=1), "x", None, 2],
    [3, 7, None, None, None, date(2024, 3, 1), None, time(0, 0, 1), None, 1.25, None, None],
]


def test_types_are_those_of_the_cells(tmp_path: Path) -> None:
    table = read(write_xlsx(tmp_path / "a.xlsx", ROWS), tmp_path).table
    assert {field.name: str(field.type) for field in table.schema} == {
        "n": "int64", "gaps": "int64", "f": "double", "s": "string", "yes": "bool", "day": "date32[day]",
        "at": "timestamp[us]", "when": "time64[us]", "long": "duration[us]", "mixed": "string", "empty": "null",
        "few": "int64",
    }  # fmt: skip
    assert table.to_pydict() == {
        "n": [1, 2, 3],
        "gaps": [1, None, 7],
        "f": [1.5, 2.0, None],
        "s": ["a", "NA", None],
        "yes": [True, False, None],
        "day": [date(2024, 2, 29), None, date(2024, 3, 1)],
        "at": [MOMENT, datetime(2024, 3, 1), None],
        "when": [time(1, 2, 3), None, time(0, 0, 1)],
        "long": [timedelta(hours=30), timedelta(hours=1), None],
        "mixed": ["1", "x", "1.25"],
        "empty": [None] * 3,
        "few": [None, 2, None],
    }


@pytest.mark.parametrize("write", [write_xls, write_ods])
def test_older_and_open_workbooks(write: Callable[[Path, list[list[Cell]]], Path], tmp_path: Path) -> None:
    rows: list[list[Cell]] = [["n", "s", "yes"], [1, "\u00fc", True], [None, None, False], [2, "b", None]]
    assert read(write(tmp_path / "a.bin", rows), tmp_path).table.to_pydict() == {
        "n": [1, None, 2],
        "s": ["\u00fc", None, "b"],
        "yes": [True, False, None],
    }


def test_errors_formulas_and_merged_cells(tmp_path: Path) -> None:
    """As Excel stores them: a formula beside its value, an error as a value of its own."""
    path = write_xlsx(tmp_path / "a.xlsx", [["x", "err", "sum"], [1, 2, 5], [3, 7, 6], [9, 8, None]])
    sheet = "xl/worksheets/sheet1.xml"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    text = parts[sheet].decode()
    text = text.replace('<c r="B2" t="n"><v>2</v></c>', '<c r="B2" t="e"><v>#N/A</v></c>')
    text = text.replace('<c r="C2" t="n"><v>5</v></c>', '<c r="C2"><f>A2+4</f><v>5</v></c>')
    text = text.replace("</sheetData>", '</sheetData><mergeCells count="1"><mergeCell ref="C3:C4"/></mergeCells>')
    assert text.count("#N/A") == text.count("A2+4") == 1
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**parts, sheet: text.encode()}.items():
            archive.writestr(name, data)
    assert read(path, tmp_path).table.to_pydict() == {"x": [1, 3, 9], "err": [None, 7, 8], "sum": [5, 6, None]}


def test_where_the_table_stands_does_not_matter_and_empty_rows_within_are_rows(tmp_path: Path) -> None:
    rows: list[list[Any]] = [[], [], [None, "a", "b"], [None, 1, "x"], [], [None, None, "y"], [], [None, " "]]
    path = write_xlsx(tmp_path / "a.xlsx", rows)
    book = openpyxl.load_workbook(path)
    book.active["B8"] = None
    book.active["Z9"].font = openpyxl.styles.Font(bold=True)
    book.save(path)
    assert read(path, tmp_path).table.to_pydict() == {"a": [1, None, None], "b": ["x", None, "y"]}


def test_rows_above_the_names_are_skipped(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "a.xlsx", [["Report of November"], ["by", "me"], ["a", 2024], [1, 2]])
    assert read(path, tmp_path, skip_rows=2).table.to_pydict() == {"a": [1], "2024": [2]}


@pytest.mark.parametrize("sheet, value", [(1, 1), ("2", 2), (2, 2), ("Data", 2), ("3", 3), ("7", 3)])
def test_sheets_go_by_name_or_number(sheet: Any, value: int, tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for number, name in enumerate(("First", "Data", "7"), 1):
        added = book.create_sheet(name)
        added.append(["x"])
        added.append([number])
        book.create_chartsheet(f"Chart {number}", index=0)
    del book["Sheet"]
    book.save(tmp_path / "a.xlsx")
    assert read(tmp_path / "a.xlsx", tmp_path, sheet=sheet).table.to_pydict() == {"x": [value]}
    with pytest.raises(InvalidSpec, match=r"a\.xlsx has no sheet '9'") as caught:
        read(tmp_path / "a.xlsx", tmp_path, sheet="9")
    assert "1 'First', 2 'Data', 3 '7'" in str(caught.value.remedy)


@pytest.mark.parametrize("bad", [{"sheet": True}, {"sheet": 1.5}, {"sheets": 1}, {"skip_rows": -1}, {"block_rows": 0}])
def test_options_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec):
        ExcelSource(bad)


def test_without_the_library_the_install_line_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_xlsx(tmp_path / "a.xlsx", ROWS)
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(MissingExtra, match="'python_calamine'") as caught:
        read(path, tmp_path)
    assert "tidemill[excel]" in str(caught.value.remedy)


def test_an_empty_sheet_has_no_columns(tmp_path: Path) -> None:
    openpyxl.Workbook().save(tmp_path / "a.xlsx")
    assert read(tmp_path / "a.xlsx", tmp_path).table.num_columns == 0


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputUnreadable, match=r"two\.xlsx .*'a'"):
        read(write_xlsx(tmp_path / "two.xlsx", [["a", "a"], [1, 2]]), tmp_path)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "is empty"),
        (b"a,b\n1,2\n", "is not a workbook"),
        (b"PK\x03\x04 and no more", "not a whole workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "not a whole workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\xff" * 5000, "not a whole workbook"),
    ],
)
def test_what_is_no_workbook_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.xlsx"
    path.write_bytes(content)
    with pytest.raises(InputUnreadable, match=rf"bad\.xlsx {'is' if 'whole' in reason else ''}.*{reason}") as caught:
        read(path, tmp_path)
    assert caught.value.remedy


@pytest.mark.parametrize("write", [write_xlsx, write_xls, write_ods])
def test_a_cut_off_workbook_is_named(write: Callable[[Path, list[list[Any]]], Path], tmp_path: Path) -> None:
    path = write(tmp_path / "cut.bin", [["n", "s"], *([n, f"text {n}"] for n in range(400))])
    whole = path.read_bytes()
    for size in (len(whole) // 2, len(whole) - 600, 700):
        path.write_bytes(whole[:size])
        with pytest.raises(InputUnreadable, match=r"cut\.bin is not a whole workbook") as caught:
            read(path, tmp_path)
        assert caught.value.remedy


def test_a_protected_workbook_is_named(tmp_path: Path) -> None:
    path = tmp_path / "shut.xlsx"
    path.write_bytes(compound(b"EncryptedPackage", b"secret"))
    with pytest.raises(InputUnreadable, match=r"shut\.xlsx is protected by a password"):
        read(path, tmp_path)


def test_a_workbook_whose_cells_lie_far_apart_is_refused_before_room_is_made(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active["A1"], book.active["XFD1048576"] = "x", 1
    book.save(tmp_path / "far.xlsx")
    with pytest.raises(InputUnreadable, match=r"far\.xlsx has a sheet of 17,179,869,184 cells") as caught:
        read(tmp_path / "far.xlsx", tmp_path)
    assert "max_cells" in str(caught.value.remedy)


def test_repeated_cells_of_an_open_workbook_are_counted(tmp_path: Path) -> None:
    vast = (
        '<table:table-row table:number-rows-repeated="1000000"><table:table-cell'
        ' table:number-columns-repeated="16000" office:value-type="float" office:value="1"/></table:table-row>'
    )
    with pytest.raises(InputUnreadable, match=r"16,000,016,000 cells"):
        read(write_ods(tmp_path / "far.ods", [["x"]], vast), tmp_path)
    padding = (
        '<table:table-row table:number-rows-repeated="1000000"><table:table-cell'
        ' table:number-columns-repeated="16000"/></table:table-row>'
    )
    assert read(write_ods(tmp_path / "padded.ods", [["x"], [5]], padding), tmp_path).table.to_pydict() == {"x": [5]}


def test_a_binary_sheet_says_its_size_first(tmp_path: Path) -> None:
    from tidemill.sources.excel_extent import check_extent

    size = (4).to_bytes(4, "little") + (1_000_000).to_bytes(4, "little") + bytes(4) + (999).to_bytes(4, "little")
    with zipfile.ZipFile(tmp_path / "far.xlsb", "w") as archive:
        archive.writestr("xl/worksheets/sheet1.bin", b"\x81\x01\x00" + b"\x94\x01\x10" + size)
    with pytest.raises(InputUnreadable, match=r"far\.xlsb has a sheet of 1,000,001,000 cells"):
        check_extent(pin(tmp_path / "far.xlsb"), 1_000_000)
    check_extent(pin(tmp_path / "far.xlsb"), 2_000_000_000)


def test_workbooks_are_told_from_other_archives(tmp_path: Path) -> None:
    for path in (
        write_xlsx(tmp_path / "a", [["x"]]),
        write_ods(tmp_path / "b", [["x"]]),
        write_xls(tmp_path / "c", [["x"]]),
    ):
        assert ExcelSource.matches(path.read_bytes()[: 1 << 16], str(path))
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("model.json", "{}")
    assert not ExcelSource.matches((tmp_path / "d.zip").read_bytes(), "d.zip")


def test_the_spool_is_made_again_where_it_is_gone(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "a.xlsx", ROWS)
    source = ExcelSource({}, tmp_path / "spool")
    facts = source.examine(pin(path))
    (spooled,) = (tmp_path / "spool").iterdir()
    before = spooled.read_bytes()
    spooled.unlink()
    assert collect(source.read(segment(pin(path), facts), ["n"], {}, 100), 0, 3).numbers == [0, 1, 2]
    assert spooled.read_bytes() == before
