"""Columns to the types that a model wants."""

from __future__ import annotations

from datetime import date

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.engine.casting import can_cast, cast_rows, type_of
from tidemill.sources.csv import CsvSource


@pytest.mark.parametrize(
    "kind",
    [
        pa.int8(),
        pa.uint64(),
        pa.float32(),
        pa.float64(),
        pa.bool_(),
        pa.string(),
        pa.large_string(),
        pa.date32(),
        pa.timestamp("us"),
        pa.timestamp("ns", "UTC"),
        pa.timestamp("ms", "Europe/Berlin"),
        pa.decimal128(12, 3),
        pa.decimal256(50, 3),
        pa.list_(pa.string()),
        pa.list_(pa.float32(), 384),
        pa.list_(pa.list_(pa.int8(), 2)),
    ],
)
def test_a_type_is_found_by_the_name_that_it_prints(kind: pa.DataType) -> None:
    assert type_of(str(kind)) == kind


def test_unknown_names() -> None:
    for name in (
        "number",
        "timestamp[h]",
        "decimal",
        "list<int64>",
        "list<item: int8>[2]",
        "fixed_size_list<item: int8>",
        "",
    ):
        with pytest.raises(ValueError):
            type_of(name)


def cast(values: list[object], kind: pa.DataType, wanted: pa.DataType) -> tuple[list[object], list[int]]:
    column, mask = cast_rows(pa.array(values, kind), wanted, CsvSource().cast_text)
    assert column.type == wanted and len(column) == len(values)
    return column.to_pylist(), [] if mask is None else [k for k, bad in enumerate(mask) if bad]


def test_text_to_numbers() -> None:
    assert cast(["1", " 2 ", "", "NA", None, "1e3", "x"], pa.string(), pa.float64()) == (
        [1.0, 2.0, None, None, None, 1000.0, None],
        [6],
    )
    assert cast(["7", "+7.0", "7.5", "0x1F", str(2**63)], pa.string(), pa.int64()) == (
        [7, 7, None, None, None],
        [2, 3, 4],
    )


def test_text_stays_text() -> None:
    assert cast([" NA ", "", None], pa.string(), pa.large_string()) == ([" NA ", "", None], [])


def test_numbers_to_numbers() -> None:
    assert cast([1.0, 1.5, None, float("nan"), 1e300], pa.float64(), pa.int64()) == (
        [1, None, None, None, None],
        [1, 4],
    )
    assert cast([2**53 + 1], pa.int64(), pa.float64()) == ([float(2**53 + 1)], [])
    assert cast([300, 1], pa.int64(), pa.int8()) == ([None, 1], [0])
    assert cast([0.1], pa.float64(), pa.float32())[1] == []


def test_dictionaries_are_read_as_their_values() -> None:
    column, mask = cast_rows(pa.array(["1", "x", "1"]).dictionary_encode(), pa.int64(), CsvSource().cast_text)
    assert column.to_pylist() == [1, None, 1]
    assert mask is not None and mask.tolist() == [False, True, False]


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1).map(str), st.sampled_from(["x", "1.5", "--1", "2e"]))))
def test_exactly_what_is_no_number_is_bad(texts: list[str]) -> None:
    found, bad = cast(list(texts), pa.string(), pa.int64())
    assert bad == [k for k, text in enumerate(texts) if not text.lstrip("-").isdigit() or text.startswith("--")]
    assert [v for v in found if v is not None] == [int(t) for k, t in enumerate(texts) if k not in bad]


@pytest.mark.parametrize(
    ("found", "wanted", "typed", "text"),
    [
        (pa.int32(), pa.float64(), True, True),
        (pa.bool_(), pa.float64(), True, True),
        (pa.decimal128(5, 2), pa.float64(), True, True),
        (pa.null(), pa.int64(), True, True),
        (pa.string(), pa.float64(), False, True),
        (pa.dictionary(pa.int32(), pa.string()), pa.float64(), False, True),
        (pa.float64(), pa.string(), True, True),
        (pa.list_(pa.int64()), pa.string(), False, True),
        (pa.string(), pa.time64("us"), False, False),
        (pa.timestamp("us"), pa.float64(), False, False),
        (pa.date32(), pa.timestamp("us"), True, True),
        (pa.float64(), pa.bool_(), False, False),
    ],
)
def test_what_may_feed_what(found: pa.DataType, wanted: pa.DataType, typed: bool, text: bool) -> None:
    assert can_cast(found, wanted, text=False) is typed
    assert can_cast(found, wanted, text=True) is text


def test_dates_to_times() -> None:
    found, bad = cast([date(2024, 2, 29), None], pa.date32(), pa.timestamp("us"))
    assert [str(value) for value in found] == ["2024-02-29 00:00:00", "None"] and bad == []


def test_truth_values_are_numbers_for_a_model_that_wants_numbers() -> None:
    values: list[object] = ["True", "false", " TRUE ", "1", "Truely", "yes"]
    assert cast(values, pa.string(), pa.float64()) == ([1.0, 0.0, 1.0, 1.0, None, None], [4, 5])
    assert cast(values, pa.string(), pa.int64()) == ([1, 0, 1, 1, None, None], [4, 5])
