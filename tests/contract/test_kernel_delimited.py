"""The kernel of delimited text: the same types, values and rejected rows as without it, whatever the bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tidemill.kernels import library
from tidemill.kernels.delimited import Delimited, MissingValues
from tidemill.kernels.library import NotCompilable
from tidemill.sources.csv import CsvSource
from tidemill.sources.records import CsvGrammar
from tidemill.testing.source import ReadBack, collect, pin, segment

TYPES = ("double", "float", "int64", "int32", "string", "bool", "any")
NUMBERS = (
    "0", "-0", "0.0", "-0.0", "1", "-1", "007", "1.", ".5", "-.5", "+1", "1e5", "1E-5", "1e+05", "1e", "e5", "-", ".",
    "", "9007199254740993", "9223372036854775807", "9223372036854775808", "999999999999999999", "2147483648",
    "-2147483648",
    "16777217", "0.1", "0.30000000000000004", "123456789012345678901234567890", "0.000000000000000000000000000001",
    "1e308", "1e309", "1e-308", "5e-324", "1e-400", "3.4028235e38", "3.5e38", "1e-46", "1e22", "1e23", "8.5e27",
    "8.5e28",    "1.17549435e-38", "0x1F", "inf", "nan", "NaN", "1 ", " 1", "1_000", "1,0", "0.1e99999", "-999",
    "2.22507385850720138309e-308", "4.35e-27", "10000000000000000000000", "0" * 400 + "1", "0." + "0" * 300 + "1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def compiled() -> None:
    """Nothing here says anything if there is no kernel."""
    library.library()


def read(content: bytes, types: dict[str, str], *, kernel: bool, **options: Any) -> tuple[pa.Schema, ReadBack]:
    """Types and rows of a CSV file, with or without the kernel."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        if not kernel:
            patched.setattr("tidemill.sources.records.Delimited", _missing)
        path = Path(folder) / "in.csv"
        path.write_bytes(content)
        source = CsvSource(options, Path(folder) / "spool")
        file = pin(path)
        facts = source.examine(file, infer=True)
        names = facts.schema.names
        kinds = types or {field.name: str(field.type) for field in facts.schema if str(field.type) != "null"}
        parts = segment(file, facts, 0, facts.rows)
        return facts.schema, collect(source.read(parts, names, kinds, 1_000), 0, facts.rows)


def _missing(*args: object, **options: object) -> None:
    raise NotCompilable("it is not asked for")


def assert_same(content: bytes, types: dict[str, str], **options: Any) -> ReadBack:
    ours, found = read(content, types, kernel=True, **options)
    theirs, expected = read(content, types, kernel=False, **options)
    assert ours == theirs
    assert found.numbers == expected.numbers
    assert found.unread == expected.unread
    assert found.table.schema == expected.table.schema
    for ours_, theirs_ in zip(found.table.columns, expected.table.columns, strict=True):
        assert _bits(ours_) == _bits(theirs_)
    return found


def _bits(column: pa.ChunkedArray) -> list[Any]:
    """Values, of floats their bits: -0.0 is not 0.0, and NaN is NaN."""
    if pa.types.is_floating(column.type):
        return [None if value is None else np.array(value, column.type.to_pandas_dtype()).tobytes()
                for value in column.to_pylist()]  # fmt: skip
    return column.to_pylist()  # type: ignore[no-any-return]


FIELD = st.one_of(
    st.sampled_from(
        [*NUMBERS, "NA", "None", "true", "False", "word", '"1"', '""', '"a""b"', '"1""2"', '5" x', '"1"2', "é", "€"]
    ),
    st.floats(allow_nan=False).map(repr),
    st.integers(-(2**70), 2**70).map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
)
LINES = st.lists(st.lists(FIELD, min_size=1, max_size=3), max_size=20)


@settings(max_examples=250, deadline=None)
@given(
    data=st.data(),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    delimiter=st.sampled_from(";|\t"),
    nulls=st.sampled_from([None, ["-999", "", "NA"], []]),
)
def test_files_read_the_same_without_the_kernel(
    data: st.DataObject, end: str, delimiter: str, nulls: list[str] | None
) -> None:
    plain = data.draw(st.booleans())
    rows = st.lists(st.lists(st.sampled_from(["1", "-2.5", "", "NA", "12345.678901234567"]), min_size=2, max_size=2))
    lines = data.draw(rows if plain else LINES)
    types = data.draw(st.fixed_dictionaries({"a": st.sampled_from(TYPES), "b": st.sampled_from(TYPES)}))
    content = end.join(delimiter.join(line) for line in [["a", "b"], *lines]) + data.draw(
        st.sampled_from(["", end, end * 2])
    )
    options: dict[str, Any] = {} if nulls is None else {"null_values": nulls}
    raw = content.encode("utf-8" if data.draw(st.integers(0, 9)) else "latin-1", errors="replace")
    assert_same(raw, types if data.draw(st.booleans()) else {}, delimiter=delimiter, **options)


MESS = st.lists(st.sampled_from([b"a", b",", b'"', b'""', b"\n", b"\r\n", b"\r", b"\xff", b'5" x']), max_size=40)
WELL_FORMED = st.lists(
    st.lists(
        st.sampled_from([b"", b"a", b'""', b'"a,b\n"', b'"x""y"', b'"""\n"', b"0.1234567"]), min_size=1, max_size=5
    )
    .map(b",".join)
    .map(lambda line: line + b"\n"),
    max_size=60,
)


@settings(max_examples=500, deadline=None)
@example(raw=[b'"', b'"', b'"'], tail=[], final=False, keep_empty=False, quote='"')
@given(
    raw=st.one_of(MESS, WELL_FORMED),
    tail=st.one_of(st.just([]), MESS),
    final=st.booleans(),
    keep_empty=st.booleans(),
    quote=st.sampled_from(['"', ""]),
)
def test_records_end_where_the_grammar_says(
    raw: list[bytes], tail: list[bytes], final: bool, keep_empty: bool, quote: str
) -> None:
    data = b"".join([*raw, *tail])
    grammar = CsvGrammar(",", quote, keep_empty)
    assert grammar.kernel is not None
    found = grammar.kernel.cut(data, final)
    grammar.kernel = None
    assert found == grammar.cut(data, final)


@pytest.mark.parametrize("stray", [b'"a"b,', b'a"b,c"', b'"a" ,b', b'a,"b'])
def test_a_stray_quote_is_seen_wherever_it_stands(stray: bytes) -> None:
    grammar, by_hand = CsvGrammar(",", '"', False), CsvGrammar(",", '"', False)
    by_hand.kernel = None
    for before in range(200):
        data = b"x" * before + b',"\n"\n' + stray + b'\n1,"2"\n' * 20
        assert grammar.cut(data, False) == by_hand.cut(data, False)


@pytest.mark.parametrize("kind", ["double", "float", "int64", "int32"])
def test_numbers_are_those_of_arrow_to_the_bit(kind: str) -> None:
    random = np.random.default_rng(7)
    shapes = [
        *NUMBERS,
        *map(repr, random.normal(size=3_000).tolist()),
        *map(str, random.random(1_000).astype(np.float32)),
        *(
            f"{value:.{digits}e}"
            for value in np.exp(random.uniform(-60, 60, 500)).tolist()
            for digits in (3, 15, 17, 18)
        ),
        *map(str, random.integers(-(2**62), 2**62, 500)),
        *map(str, random.integers(-(2**33), 2**33, 500)),
        *_halfway(random),
    ]
    kernel = Delimited(b";", b"", keep_empty=False)
    target = pa.type_for_alias(kind)
    read_alone = 0
    for text in shapes:
        (column,), rows, _ = kernel.read(
            text.encode() + b"\n",
            len(text) + 1,
            1,
            1,
            [(0, target.to_pandas_dtype().__name__)],
            MissingValues([], numeric=False),
        )
        if not rows or column.nulls:
            continue
        read_alone += 1
        expected = pc.cast(pa.array([text]), target)
        assert column.values.tobytes() == expected.to_numpy().tobytes(), text
    assert read_alone > (len(shapes) / 2 if pa.types.is_floating(target) else 100)


@pytest.mark.parametrize("kind", ["float64", "float32"])
def test_many_digits_are_rounded_once(kind: str) -> None:
    random = np.random.default_rng(11)
    rows = 200_000
    digits, powers = random.integers(10**16, 2**63, rows).tolist(), random.integers(-27, 9, rows).tolist()
    text = [f"{number}e{power}" for number, power in zip(digits, powers, strict=True)]
    content = "\n".join(text).encode()
    kernel = Delimited(b";", b"", keep_empty=False)
    (column,), read_, _ = kernel.read(content, len(content), rows, 1, [(0, kind)], MissingValues([], numeric=False))
    expected = pc.cast(pa.array(text[:read_]), pa.type_for_alias(kind)).to_numpy()
    assert column.values.tobytes() == expected.tobytes()
    assert read_ == rows


def _halfway(random: np.random.Generator) -> Iterator[str]:
    """Decimals on the middle between two doubles or two floats, and one digit beside it."""
    from decimal import Decimal, getcontext

    getcontext().prec = 60
    for kind, bits in ((np.float64, np.int64), (np.float32, np.int32)):
        for value in random.uniform(1, 1e6, 200).astype(kind):
            above = (value.view(bits) + bits(1)).view(kind)
            middle = (Decimal(float(value)) + Decimal(float(above))) / 2
            text = f"{middle:f}"
            yield text
            yield text[:18]
            yield text + "1"
    yield from ("9007199254740993", "9007199254740995", "16777217", "16777219", "1.00000005960464477539")


@pytest.mark.parametrize("first", ["3000,one,word", "3000,1.5", "3000", "3000,1.5,word,more"])
def test_a_fault_costs_its_row_and_what_is_around_it_comes_by_the_kernel(first: str) -> None:
    lines = [f"{number},{number / 7!r},word {number}" for number in range(5_000)]
    lines[3_000] = first
    lines[3_500] = "3500,1.5"
    found = assert_same("\n".join(["a,b,c", *lines, ""]).encode(), {"a": "int64", "b": "double", "c": "string"})
    assert sorted(found.unread) == [3_000, 3_500]
    assert found.table.num_rows == 4_998


def test_what_the_kernel_reads_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.sources.csv._parse", _missing)
    content = b"a,b,c\n" + b"".join(b"%d,%d.5,NA\n" % (number, number) for number in range(1_000))
    schema, found = read(content, {}, kernel=True)
    assert [str(field.type) for field in schema] == ["int64", "double", "null"]
    assert found.table["b"].to_pylist() == [number + 0.5 for number in range(1_000)]


@pytest.mark.parametrize("marks", [("1", '"'), (".", '"'), (",", "e"), ("-", "")])
def test_marks_that_are_in_numbers_are_left_alone(marks: tuple[str, str]) -> None:
    delimiter, quote = marks
    with pytest.raises(NotCompilable):
        Delimited(delimiter.encode(), quote.encode(), keep_empty=False)
    content = delimiter.join(["a", "b"]) + "\n" + delimiter.join(["2", "3"]) + "\n"
    assert_same(content.encode(), {}, delimiter=delimiter, quote=quote)


def test_a_missing_value_that_is_a_number_is_missing_beside_numbers() -> None:
    content = b"a,b\n1,-999\n-999,2\n3,3\n"
    for kernel in (True, False):
        _, found = read(content, {"a": "double", "b": "int64"}, kernel=kernel, null_values=["-999"])
        assert found.table.to_pydict() == {"a": [1.0, None, 3.0], "b": [None, 2, 3]}
