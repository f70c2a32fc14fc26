"""CSV on the shipped suite, and what only CSV can get wrong."""

from __future__ import annotations

import csv
import gzip
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tidemill.domain.errors import InputUnreadable, InvalidSpec
from tidemill.sources.csv import CsvSource
from tidemill.testing.source import ReadBack, SourceContract, collect, pin, segment


class TestCsv(SourceContract):
    source_class = CsvSource
    small_blocks: ClassVar[dict[str, Any]] = {"block_bytes": 3_000}

    def write(self, path: Path, table: pa.Table) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            out = csv.writer(file)
            out.writerow(table.column_names)
            out.writerows(row.values() for row in table.to_pylist())


class TestGzippedCsv(TestCsv):
    def write(self, path: Path, table: pa.Table) -> None:
        super().write(path, table)
        path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))

    def test_recognises_its_own_files(self, file: Any) -> None:
        """What it is recognised by is decompressed first: `detect_format` is tested for that."""


def read_bytes(
    folder: Path,
    content: bytes,
    columns: Sequence[str] | None = None,
    types: dict[str, str] | None = None,
    batch_rows: int = 1000,
    **options: Any,
) -> ReadBack:
    """Read a file of this content block by block."""
    path = folder / "in.csv"
    path.write_bytes(content)
    source = CsvSource(options, folder / "spool")
    file = pin(path)
    facts = source.examine(file)
    names = facts.schema.names if columns is None else list(columns)
    tables, numbers, unread, row = [], [], {}, 0
    for block in facts.blocks:
        part = segment(file, facts, row, row + block.rows)
        found = collect(source.read(part, names, types or {}, batch_rows), row, row + block.rows)
        tables.append(found.table)
        numbers += found.numbers
        unread.update(found.unread)
        row += block.rows
    empty = pa.schema([(name, pa.string()) for name in names]).empty_table()
    return ReadBack(table=pa.concat_tables(tables) if tables else empty, numbers=numbers, unread=unread)


def rows_of(found: ReadBack) -> list[list[Any]]:
    return [list(row.values()) for row in found.table.to_pylist()]


VALUES = st.text(alphabet=st.sampled_from('ab,;"\n\r \t\0é€😀'), max_size=8)


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    columns=st.integers(1, 4),
    block_bytes=st.integers(1, 200),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_blocks_together_equal_the_csv_module(data: st.DataObject, columns: int, block_bytes: int, end: str) -> None:
    records = data.draw(st.lists(st.lists(VALUES, min_size=columns, max_size=columns), max_size=25))
    # The csv module's writer leaves line ends other than its own unquoted.
    plain = not any(end in value for record in records for value in record for end in "\r\n")
    quoting = csv.QUOTE_MINIMAL if plain and data.draw(st.booleans()) else csv.QUOTE_ALL
    text = io.StringIO(newline="")
    out = csv.writer(text, lineterminator=end, quoting=quoting)
    out.writerow([f"c{number}" for number in range(columns)])
    out.writerows(records)
    content = text.getvalue()
    if data.draw(st.booleans()) and not content.endswith(end * 2):
        content = content.removesuffix(end)
    expected = list(csv.reader(io.StringIO(content, newline="")))[1:]
    with tempfile.TemporaryDirectory() as folder:
        found = read_bytes(Path(folder), content.encode(), block_bytes=block_bytes, batch_rows=7)
    assert [["" if value is None else value for value in row] for row in rows_of(found)] == [
        row or [""] for row in expected
    ]
    assert not found.unread


@settings(max_examples=300, deadline=None)
@example(raw=[b"\n", b'5" x'], block_bytes=1, max_record_bytes=4)
@example(raw=[b"a", b"\n", b'""', b","], block_bytes=1, max_record_bytes=1 << 20)
@given(
    raw=st.lists(
        st.sampled_from([b"a", b",", b'"', b'""', b"\n", b"\r\n", b"\r", b"\xff", b'5" x', b"\0"]), max_size=60
    ),
    block_bytes=st.integers(1, 50),
    max_record_bytes=st.one_of(st.integers(4, 60), st.just(1 << 20)),
)
def test_any_bytes_read_the_same_whatever_the_blocks(raw: list[bytes], block_bytes: int, max_record_bytes: int) -> None:
    content = b"x,y\n" + b"".join(raw)
    with tempfile.TemporaryDirectory() as folder:
        whole = read_bytes(Path(folder), content, max_record_bytes=max_record_bytes)
        small = read_bytes(
            Path(folder), content, block_bytes=block_bytes, batch_rows=3, max_record_bytes=max_record_bytes
        )
    assert rows_of(small) == rows_of(whole)
    assert small.numbers == whole.numbers
    assert small.unread == whole.unread


@settings(max_examples=100, deadline=None)
@given(
    lines=st.lists(
        st.sampled_from(['1,5" pipe', "2,ok", '3,"a\nb"', '4,"q""q"', '5,"x"y', "6,", '"7","8"']), max_size=30
    ),
    block_bytes=st.integers(1, 60),
)
def test_stray_quotes_are_characters(lines: list[str], block_bytes: int) -> None:
    content = "\n".join(["id,t", *lines, ""])
    expected = list(csv.reader(io.StringIO(content, newline="")))[1:]
    with tempfile.TemporaryDirectory() as folder:
        found = read_bytes(Path(folder), content.encode(), block_bytes=block_bytes)
    assert [[value or "" for value in row] for row in rows_of(found)] == expected


def test_ragged_rows_are_unread_and_counted(tmp_path: Path) -> None:
    content = b'a,b\n1,2\n3\n4,5,6\n"7\n",8\n9,10\n'
    for block_bytes in (1, 8, 1000):
        found = read_bytes(tmp_path, content, block_bytes=block_bytes)
        assert found.numbers == [0, 3, 4]
        assert rows_of(found) == [["1", "2"], ["7\n", "8"], ["9", "10"]]
        assert found.unread == {
            1: ("ParseError", "The row has 1 fields, the file 2 columns.", b"3"),
            2: ("ParseError", "The row has 3 fields, the file 2 columns.", b"4,5,6"),
        }


def test_an_unclosed_quote_costs_only_its_own_line(tmp_path: Path) -> None:
    found = read_bytes(tmp_path, b'a,b\n1,2\n3,"x\n4,5\n6,7\n')
    assert found.numbers == [0, 2, 3]
    assert rows_of(found) == [["1", "2"], ["4", "5"], ["6", "7"]]
    assert found.unread[1][0] == "ParseError"
    assert "never closed" in found.unread[1][1]
    assert found.unread[1][2] == b'3,"x'


@pytest.mark.parametrize("block_bytes", [10, 100, 10_000])
def test_a_record_above_the_bound_is_one_unread_row(tmp_path: Path, block_bytes: int) -> None:
    lines = [b"%d,x" % number for number in range(200)]
    lines[50] = b'50,"' + b"y" * 20
    lines[150] = b"150," + b"z" * 5000
    found = read_bytes(tmp_path, b"a,b\n" + b"\n".join(lines), max_record_bytes=500, block_bytes=block_bytes)
    assert sorted(found.unread) == [50, 150]
    assert found.numbers == [number for number in range(200) if number not in (50, 150)]
    assert found.table["a"].to_pylist() == [str(number) for number in found.numbers]
    assert found.unread[150][2] is not None
    assert len(found.unread[150][2]) <= 4096


def test_bad_utf8_costs_only_its_own_row_and_only_where_it_is_needed(tmp_path: Path) -> None:
    content = b"a,b\nx,1\n\xff,2\ny,3\n"
    found = read_bytes(tmp_path, content)
    assert found.numbers == [0, 2]
    assert found.unread[1] == (
        "EncodingError",
        "Column 'a' holds bytes that are no text in the file's encoding (the input option encoding names another).",
        b"\xff,2",
    )
    assert rows_of(read_bytes(tmp_path, content, ["b"])) == [["1"], ["2"], ["3"]]
    # Another row's fault in the same piece must not change what is asked of this one.
    assert rows_of(read_bytes(tmp_path, content + b"z\n", ["b"])) == [["1"], ["2"], ["3"]]


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"a,b\n1,2\n\n\n3,4\n\n", [["1", "2"], ["3", "4"]]),
        (b"\n\na,b\r\n\r\n1,2\r\n\r\n3,4", [["1", "2"], ["3", "4"]]),
        (b"a,b\r1,2\r\r3,4\r", [["1", "2"], ["3", "4"]]),
        (b"a\n1\n\n3\n", [["1"], [None], ["3"]]),
        (b'a\r\n1\r\n\r\n""\r\n', [["1"], [None], [""]]),
        (b"a\r\r\r1", [[None], [None], ["1"]]),
        (b"\xef\xbb\xbfa,b\n1,2\n", [["1", "2"]]),
        (b"a,b\n1,\0\n", [["1", "\0"]]),
        (b"a,b\n\xef\xbb\xbf1,2\n", [["\ufeff1", "2"]]),
        (b'a,b\n,""\n', [[None, ""]]),
        (b"a,b\n", []),
        (b"a,b", []),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 5, 1000])
def test_line_ends_and_empty_lines(tmp_path: Path, content: bytes, expected: list[Any], block_bytes: int) -> None:
    found = read_bytes(tmp_path, content, block_bytes=block_bytes)
    assert rows_of(found) == expected
    assert not found.unread


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputUnreadable, match=r"in\.csv is empty") as caught:
        read_bytes(tmp_path, content)
    assert caught.value.remedy


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputUnreadable, match=r"in\.csv .*'a', 'b'"):
        read_bytes(tmp_path, b"a,b,a,b\n1,2,3,4\n")


@pytest.mark.parametrize(
    "options", [{"delimiter": "ab"}, {"quote": ","}, {"encoding": "klingon"}, {"delimeter": ";"}, {"header": 1}]
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec):
        read_bytes(tmp_path, b"a,b\n1,2\n", **options)


def test_options(tmp_path: Path) -> None:
    assert rows_of(read_bytes(tmp_path, b"a;b\n'x;y';2\n", delimiter=";", quote="'")) == [["x;y", "2"]]
    assert rows_of(read_bytes(tmp_path, b'a\tb\n"x\ty"\n', delimiter="\t", quote="")) == [['"x', 'y"']]
    found = read_bytes(tmp_path, b"1,2\n3,4\n", header=False)
    assert found.table.to_pydict() == {"f0": ["1", "3"], "f1": ["2", "4"]}


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "shift_jis"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = "n,ä\n1,Zoë\n2,x\n" if encoding != "shift_jis" else "n,ソ\n1,表ソ\n2,x\n"
    found = read_bytes(tmp_path, text.encode(encoding), encoding=encoding, block_bytes=4)
    assert ",".join(found.table.column_names) + "\n" + "".join(f"{a},{b}\n" for a, b in rows_of(found)) == text


def test_bytes_that_an_encoding_does_not_know_cost_only_their_row(tmp_path: Path) -> None:
    found = read_bytes(tmp_path, b"a,b\n1,\xe9\n2,\x81\n3,x\n", encoding="cp1252")
    assert rows_of(found) == [["1", "é"], ["3", "x"]]
    assert found.unread[1][0] == "EncodingError"


def test_utf16_is_named_when_it_is_not_expected(tmp_path: Path) -> None:
    with pytest.raises(InputUnreadable, match="UTF-16"):
        read_bytes(tmp_path, "a,b\n1,2\n".encode("utf-16"))


def test_casting_is_row_by_row(tmp_path: Path) -> None:
    content = (
        b'n,x,s\n1,1.5,p\nNA,,NA\nseven,2,q\n 8 ,+3e2,\n9.0,1.5.5,r\n0x10,1,s\n"",nan,""\n' + b"9" * 150 + b",1,t\n"
    )
    found = read_bytes(tmp_path, content, types={"n": "int64", "x": "double"})
    assert found.numbers == [0, 1, 3, 6]
    assert rows_of(found) == [[1, 1.5, "p"], [None, None, "NA"], [8, 300.0, None], [None, None, ""]]
    assert {row: error for row, (error, _, _) in found.unread.items()} == dict.fromkeys((2, 4, 5, 7), "ConversionError")
    assert found.unread[2][1] == "Column 'n': 'seven' is not int64."
    assert found.unread[2][2] == b'{"n": "seven", "x": "2", "s": "q"}'
    assert found.unread[4][1] == "Column 'x': '1.5.5' is not double."
    assert found.unread[5][1] == "Column 'n': '0x10' is not int64."
    assert len(found.unread[7][1]) < 150


def test_casting_does_not_depend_on_neighbours(tmp_path: Path) -> None:
    values = ["1", "nan", "NA", "bad", " 2", "+3", "0x1", "1.0", "inf", "1e3", "-nan", ""]
    content = "v\n" + "".join(f"{value}\n" for value in values)
    for kind in ("double", "int64", "bool", "string", "float", "date32[day]", "timestamp[us]", "decimal128(10, 2)"):
        together = read_bytes(tmp_path, content.encode(), types={"v": kind})
        alone = read_bytes(tmp_path, content.encode(), types={"v": kind}, batch_rows=1)
        assert str(rows_of(together)) == str(rows_of(alone))
        assert together.unread == alone.unread


def test_other_types(tmp_path: Path) -> None:
    content = b"b,d,t,s\ntrue,2026-01-31,2026-01-31 12:30:00,NA\nFALSE,nonsense,x,y\n"
    types = {"b": "bool", "d": "date32[day]", "t": "timestamp[us]", "s": "string"}
    found = read_bytes(tmp_path, content, types=types)
    assert [str(field.type) for field in found.table.schema] == list(types.values())
    assert found.numbers == [0]
    assert found.table["s"].to_pylist() == [None]
    assert found.unread[1][1] == "Column 'd': 'nonsense' is not date32[day]."


@pytest.mark.parametrize(
    "values, kind",
    [
        (["1", "-2", " 3"], "int64"),
        (["1", "", "3"], "double"),
        (["1", "NA", "3"], "double"),
        (["1", "2.5"], "double"),
        (["1e3", "inf", "nan"], "double"),
        (["123456789012345678901"], "double"),
        (["True", "false"], "bool"),
        (["true", "1"], "string"),
        (["0x1F"], "string"),
        (["1", "x"], "string"),
        (["2026-01-31"], "string"),
        (["NA", ""], "null"),
    ],
)
def test_infers_what_pandas_would_over_the_whole_file(tmp_path: Path, values: list[str], kind: str) -> None:
    path = tmp_path / "in.csv"
    path.write_text("v,w\n" + "".join(f"{value},1\n" for value in values))
    for block_bytes in (1, 1000):
        schema = CsvSource({"block_bytes": block_bytes}).examine(pin(path), infer=True).schema
        assert [str(field.type) for field in schema] == [kind, "int64"]
    assert [str(field.type) for field in CsvSource().examine(pin(path)).schema] == ["string", "string"]


def test_compressed_text_is_unpacked_once_and_members_join(tmp_path: Path) -> None:
    content = gzip.compress(b"a,b\n1,2\n3,") + gzip.compress(b"4\n")
    assert rows_of(read_bytes(tmp_path, content, block_bytes=4)) == [["1", "2"], ["3", "4"]]
    spooled = list((tmp_path / "spool").iterdir())
    assert [file.read_bytes() for file in spooled] == [b"a,b\n1,2\n3,4\n"]
    assert rows_of(read_bytes(tmp_path, pa.compress(b"a,b\n1,2\n", codec="zstd", asbytes=True))) == [["1", "2"]]


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_stream_is_refused_and_leaves_nothing(tmp_path: Path, codec: str, damage: str) -> None:
    text = b"a,b\n" + b"".join(b"%d,%d\n" % (number, number * 7919 % 1000) for number in range(20_000))
    content = gzip.compress(text) if codec == "gzip" else pa.compress(text, codec="zstd", asbytes=True)
    if damage == "cut":
        content = content[:-9]
    else:
        content = content[:12] + bytes(byte ^ 0xFF for byte in content[12:52]) + content[52:]
    with pytest.raises(InputUnreadable, match=r"in\.csv cannot be decompressed"):
        read_bytes(tmp_path, content)
    assert list((tmp_path / "spool").iterdir()) == []


def test_unpacking_keeps_to_its_bound(tmp_path: Path) -> None:
    with pytest.raises(InputUnreadable, match="more than 1000 bytes") as caught:
        read_bytes(tmp_path, gzip.compress(b"a,b\n" + b"1,2\n" * 1000), max_spool_bytes=1000)
    assert caught.value.remedy
    assert list((tmp_path / "spool").iterdir()) == []


READ_BIG = """
import sys
from pathlib import Path
from tidemill.sources.csv import CsvSource
from tidemill.testing.source import pin, segment
file = pin(Path(sys.argv[1]))
source = CsvSource()
facts = source.examine(file)
rows = unread = 0
for item in source.read(segment(file, facts), ["a", "b"], {}, 65536):
    rows += item.batch.num_rows
    unread += len(item.unread)
# Not ru_maxrss: that begins with the memory of whoever started this process.
status = Path("/proc/self/status").read_text()
print(rows, unread, int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


@pytest.mark.parametrize("line", [b"", b"x,y\n" * 16])
def test_memory_is_bounded_whatever_a_quote_leaves_open(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "big.csv"
    with path.open("wb") as file:
        file.write(b'a,b\n1,2\n3,"')
        for _ in range(200):
            file.write((line * (1 << 14) or b"z" * (1 << 20))[: 1 << 20])
    done = subprocess.run(
        [sys.executable, "-c", READ_BIG, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    rows, unread, peak_mib = map(int, done.stdout.split())
    per_mib = len(line) and (1 << 20) // 4
    # The line with the quote takes the first of the lines behind it along.
    assert (rows, unread) == (1 + max(0, 200 * per_mib - 1), 1)
    assert peak_mib < 600
