"""Figures as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tidemill.ui import figures

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (99_999, "99,999"), (123_456, "123 k"), (1_234_567, "1.23 M"), (4_200_000_000, "4.20 G")],
)
def test_short_count(number: float, text: str) -> None:
    assert figures.short_count(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1_536, "1.5 kB"), (999_999, "1.0 MB"), (412_000_000, "412 MB"), (5e18, "5000 PB")],
)
def test_size(number: float, text: str) -> None:
    assert figures.size(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (-0.1, "0.00 s"), (0.25, "0.25 s"), (47.4, "47 s"), (59.7, "1 min"), (75, "1 min 15 s"),
        (3_600, "1 h"), (5_400, "1 h 30 min"), (93_784, "1 d 2 h"),
    ],
)  # fmt: skip
def test_seconds(number: float, text: str) -> None:
    assert figures.seconds(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "just now"), (1, "just now"), (40, "40 s ago"), (200, "3 min ago"), (9e4, "1 d ago")]
)
def test_ago(seconds: float, text: str) -> None:
    assert figures.ago(NOW - timedelta(seconds=seconds), NOW) == text


@pytest.mark.parametrize(("part", "whole", "percent"), [(0, 0, 0), (1, 4, 25), (5, 4, 100), (-1, 4, 0)])
def test_share(part: float, whole: float, percent: float) -> None:
    assert figures.share(part, whole) == percent


def test_money() -> None:
    assert figures.money(0, "USD") == "0.00 USD"
    assert figures.money(0.0123, "USD") == "0.0123 USD"
    assert figures.money(1234.5, "EUR") == "1,234.50 EUR"
