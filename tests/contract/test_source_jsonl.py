"""JSON Lines on the shipped suite, and what only JSON can get wrong."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.errors import InputUnreadable
from tidemill.sources.jsonl import JsonlSource
from tidemill.testing.source import ReadBack, SourceContract, collect, pin, segment


class TestJsonl(SourceContract):
    source_class = JsonlSource
    small_blocks: ClassVar[dict[str, Any]] = {"block_bytes": 3_000}

    def write(self, path: Path, table: pa.Table) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))

    @pytest.mark.parametrize("text", ["", "\n \n"])
    def test_an_empty_file_has_no_rows(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "none.jsonl"
        path.write_text(text)
        facts = JsonlSource().examine(pin(path))
        assert (facts.rows, facts.schema.names) == (0, [])


def read_bytes(
    folder: Path,
    content: bytes,
    columns: Sequence[str] | None = None,
    types: dict[str, str] | None = None,
    **options: Any,
) -> ReadBack:
    """Read a file of this content block by block."""
    path = folder / "in.jsonl"
    path.write_bytes(content)
    source = JsonlSource(options, folder / "spool")
    file = pin(path)
    facts = source.examine(file)
    names = facts.schema.names if columns is None else list(columns)
    tables, numbers, unread, row = [], [], {}, 0
    for block in facts.blocks:
        part = segment(file, facts, row, row + block.rows)
        found = collect(source.read(part, names, types or {}, 7), row, row + block.rows)
        tables.append(found.table)
        numbers += found.numbers
        unread.update(found.unread)
        row += block.rows
    empty = pa.schema([(name, pa.string()) for name in names]).empty_table()
    return ReadBack(table=pa.concat_tables(tables) if tables else empty, numbers=numbers, unread=unread)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(["a", "b", "ä", ""]), VALUES, max_size=4), max_size=25),
    gaps=st.lists(st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\n"]), min_size=25, max_size=25),
    block_bytes=st.integers(1, 200),
    ascii_only=st.booleans(),
)
def test_blocks_together_equal_the_json_module(
    rows: list[dict[str, Any]], gaps: list[str], block_bytes: int, ascii_only: bool
) -> None:
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    content = "".join(line + gap for line, gap in zip(lines, gaps, strict=False))
    names = list(dict.fromkeys(name for row in rows for name in row))
    with tempfile.TemporaryDirectory() as folder:
        found = read_bytes(Path(folder), content.encode(), block_bytes=block_bytes)
    assert not found.unread
    assert found.numbers == list(range(len(rows)))
    assert found.table.column_names == names
    for name in names:
        assert found.table[name].to_pylist() == [as_text(row.get(name)) for row in rows]


def as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


BAD = {
    b"null": ("ParseError", "The line is not a JSON object but null."),
    b"12": ("ParseError", "The line is not a JSON object but a number."),
    b"[1]": ("ParseError", "The line is not a JSON object but an array."),
    b'"x"': ("ParseError", "The line is not a JSON object but a string."),
    b"true": ("ParseError", "The line is not a JSON object but true or false."),
    b'{"a": 1': ("ParseError", "not valid JSON"),
    b'{"a": 1} {"a": 2}': ("ParseError", "not valid JSON"),
    b"{'a': 1}": ("ParseError", "not valid JSON"),
    b'{"a": 1, "a": 2}': ("ParseError", "The key 'a' stands twice in one object."),
    b'{"n": {"q": 1, "q": 2}}': ("ParseError", "The key 'q' stands twice in one object."),
    b'{"a": "\xff"}': ("EncodingError", "no text in UTF-8"),
    b'{"a": "\\ud800"}': ("EncodingError", "no text in UTF-8"),
    b'{"a": ' + b"[" * 201 + b"]" * 201 + b"}": ("ParseError", "nested more than 200 levels"),
    b'{"a": ' + b"[" * 100_000 + b"}": ("ParseError", "nested more than 200 levels"),
    b'{"a": "' + b"x" * 250_000 + b'"}': ("ParseError", "too long"),
}


@pytest.mark.parametrize("block_bytes", [1, 50, 1 << 20])
def test_each_bad_line_is_one_unread_row(tmp_path: Path, block_bytes: int) -> None:
    lines: list[bytes] = []
    for bad in BAD:
        lines += [b'{"a": %d}' % len(lines), b"", bad]
    found = read_bytes(tmp_path, b"\n".join(lines), block_bytes=block_bytes, max_record_bytes=200_000)
    assert found.table.column_names == ["a"]
    assert found.numbers == list(range(0, 2 * len(BAD), 2))
    assert found.table["a"].to_pylist() == [str(3 * number) for number in range(len(BAD))]
    for row, (raw, (error, message)) in zip(range(1, 2 * len(BAD), 2), BAD.items(), strict=True):
        assert found.unread[row][0] == error
        assert message in found.unread[row][1]
        assert found.unread[row][2] == raw[:4096]


def test_nesting_is_counted_outside_strings(tmp_path: Path) -> None:
    found = read_bytes(tmp_path, json.dumps({"a": "[{" * 500 + '\\"', "b": [[[1]]] * 100}).encode())
    assert not found.unread
    assert found.table["a"].to_pylist() == ["[{" * 500 + '\\"']


def test_values_stay_what_they_were(tmp_path: Path) -> None:
    line = (
        '{"i": 12345678901234567890123, "f": 1.10e+05, "t": true, "z": null, "s": "a\\u00e9\\n", '
        '"n": {"k": [1.50, "é", null, NaN]}}\n'
    )
    found = read_bytes(tmp_path, line.encode() + b"{}\n")
    assert found.table.to_pylist() == [
        {
            "i": "12345678901234567890123",
            "f": "1.10e+05",
            "t": "true",
            "z": None,
            "s": "aé\n",
            "n": '{"k":[1.50,"é",null,NaN]}',
        },
        dict.fromkeys("iftzsn"),
    ]


def test_a_number_of_ten_thousand_digits_is_text_like_any_other(tmp_path: Path) -> None:
    found = read_bytes(tmp_path, b'{"a": %s}\n' % (b"7" * 10_000))
    assert found.table["a"].to_pylist() == ["7" * 10_000]


def test_columns_are_cast_row_by_row(tmp_path: Path) -> None:
    content = b'{"n": 1, "x": "2.5"}\n{"n": "NA", "x": 1}\n{"x": 3}\n{"n": "yes", "x": true}\n{"n": true, "x": false}\n'
    found = read_bytes(tmp_path, content, ["x", "n"], {"n": "int64", "x": "double"})
    assert found.table.to_pylist() == [{"x": 2.5, "n": 1}, {"x": 3.0, "n": None}, {"x": 0.0, "n": 1}]
    assert found.unread[1][:2] == ("ConversionError", "Column 'n': 'NA' is not int64.")
    assert found.unread[3][:2] == ("ConversionError", "Column 'n': 'yes' is not int64.")


@pytest.mark.parametrize(
    "values, kind",
    [
        (["1", "-2"], "int64"),
        (["1", "null"], "double"),
        (["1", None], "double"),
        ([None, "1"], "double"),
        (["1", "2.5"], "double"),
        (["1e3"], "double"),
        (["true", "false"], "bool"),
        (["true", "1"], "string"),
        (['"1"', '"2"'], "string"),
        (["[1]", "[2]"], "string"),
        (["null", None], "null"),
    ],
)
def test_infers_over_the_whole_file(tmp_path: Path, values: list[str | None], kind: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("".join("{}\n" if value is None else f'{{"v": {value}}}\n' for value in values))
    for block_bytes in (1, 1000):
        schema = JsonlSource({"block_bytes": block_bytes}).examine(pin(path), infer=True).schema
        assert str(schema.field("v").type) == kind


def test_too_many_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.jsonl"
    with path.open("w") as file:
        for start in range(0, 51_000, 1_000):
            file.write(json.dumps({f"k{number}": 1 for number in range(start, start + 1_000)}) + "\n")
    with pytest.raises(InputUnreadable, match=r"wide\.jsonl have more than 50,000 different keys") as caught:
        JsonlSource().examine(pin(path))
    assert caught.value.remedy


def test_byte_order_mark_and_compression(tmp_path: Path) -> None:
    content = gzip.compress(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}')
    assert read_bytes(tmp_path, content).table.to_pydict() == {"a": ["1", "2"]}
