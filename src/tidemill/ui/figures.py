"""Figures as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")


def count(number: float) -> str:
    """1234567 -> "1,234,567"."""
    return f"{number:,.0f}"


def short_count(number: float) -> str:
    """1234567 -> "1.23 M"; below 100,000 every digit stays."""
    if abs(number) < 100_000:
        return count(number)
    for unit, size in (("G", 1e9), ("M", 1e6)):
        if abs(number) >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number / 1e3:.0f} k"


def size(number: float) -> str:
    """1536 -> "1.5 kB", by powers of ten."""
    for unit in _BYTES:
        if abs(number) < 999.5 or unit == _BYTES[-1]:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 99.95 else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError("the last unit takes everything")


def seconds(number: float) -> str:
    """0.25 -> "0.25 s", 75 -> "1 min 15 s", 93784 -> "1 d 2 h"."""
    if number < 10:
        return f"{max(number, 0):.2f} s"
    whole = round(number)
    for unit, size_, small, small_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size_:
            rest = whole % size_ // small_size
            return f"{whole // size_} {unit} {rest} {small}" if rest else f"{whole // size_} {unit}"
    return f"{whole} s"


def ago(moment: datetime, now: datetime) -> str:
    """How long ago, in one unit: "just now", "40 s ago", "3 h ago"."""
    passed = (now - moment).total_seconds()
    if passed < 2:
        return "just now"
    for unit, size_ in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed >= size_:
            return f"{passed // size_:.0f} {unit} ago"
    return f"{passed:.0f} s ago"


def moment(value: datetime) -> str:
    """ "2026-11-23 02:00:01 UTC"."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def money(amount: float, currency: str) -> str:
    """0.00012 USD -> "0.0001 USD"; cents only from 1 on."""
    return f"{amount:,.2f} {currency}" if amount >= 1 or amount == 0 else f"{amount:.4f} {currency}"


def share(part: float, whole: float) -> float:
    """Percent, from 0 to 100; 0 of nothing."""
    return min(100.0, max(0.0, 100 * part / whole)) if whole > 0 else 0.0
