"""Types of text columns: what is learned piece by piece is what the whole column says."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.sources.cast import PANDAS_NULLS, Inference, NullValues

VALUES = (None, "", "1", "-3", "+4", " 5 ", "1.5", "1e3", "NaN", "NA", "inf", "true", "x", "0x1F", "9" * 30, "-999")


def kind_of(*pieces: list[str | None], nulls: tuple[str, ...] = PANDAS_NULLS) -> str:
    inference = Inference(NullValues(nulls))
    for piece in pieces:
        inference.learn(pa.array(piece, pa.string()))
    return inference.kind


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(VALUES), max_size=3), max_size=5),
    st.sampled_from([PANDAS_NULLS, (*PANDAS_NULLS, "-999"), ()]),
)
def test_pieces_tell_what_the_whole_tells(pieces: list[list[str | None]], nulls: tuple[str, ...]) -> None:
    assert kind_of(*pieces, nulls=nulls) == kind_of([value for piece in pieces for value in piece], nulls=nulls)


@pytest.mark.parametrize(
    "later, kind",
    [
        (["2"], "int64"),
        ([None], "double"),
        (["NA"], "double"),
        (["-999"], "double"),
        (["2.5"], "double"),
        (["0x1F"], "string"),
        (["x"], "string"),
    ],
)
def test_whole_numbers_are_what_later_pieces_leave_of_them(later: list[str | None], kind: str) -> None:
    """With -999 for a missing value, which is a number as well."""
    assert kind_of(["1"], later, nulls=(*PANDAS_NULLS, "-999")) == kind
