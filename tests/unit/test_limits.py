"""What a job may not pass, in rows and seconds."""

from __future__ import annotations

import pytest

from tidemill.wire.spec import LimitsSpec


@pytest.mark.parametrize(
    ("said", "planned", "rows"),
    [
        ("auto", 1_000, 100),
        ("auto", 50_000, 500),
        ("1%", 1_000, 10),
        ("1%", 99, 0),
        ("0.29%", 10_000, 29),
        ("100%", 7, 7),
        ("0%", 1_000, 0),
        ("5", 1_000, 5),
        (5, 1_000, 5),
        ("none", 1_000, 1_000),
    ],
)
def test_only_the_default_has_a_floor(said: str | int, planned: int, rows: int) -> None:
    assert LimitsSpec(rejected=said).max_rejected(planned) == rows


def test_the_default_is_one_percent_but_at_least_a_hundred_rows() -> None:
    assert LimitsSpec() == LimitsSpec(rejected="auto")
    assert LimitsSpec(rejected="1%").model_dump(exclude_defaults=True) == {"rejected": "1%"}


@pytest.mark.parametrize("said", ["101%", "-1", "1 %", "many", ""])
def test_what_is_no_limit_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match="is not a number of rows"):
        LimitsSpec(rejected=said)
