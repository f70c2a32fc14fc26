"""How many rows a network gets at once, by its layers."""

from __future__ import annotations

BATCH_ROWS = 1_024
"""For networks of which nothing is known."""

_NUMBERS_HELD = 524_288
"""What one layer may hold for all rows of a call, 2 MiB of 32-bit floats: with more, layers wait for memory instead
of finding in the cache what the one before them left there."""
_LEAST_ROWS, _MOST_ROWS = 256, 16_384


def batch_rows(widest: int | None) -> int:
    """Rows of a call, a power of two. `widest` is how many numbers the widest layer has for each row; None if that
    cannot be told."""
    if widest is None:
        return BATCH_ROWS
    rows = max(_NUMBERS_HELD // max(widest, 1), 1)
    return min(max(1 << (rows.bit_length() - 1), _LEAST_ROWS), _MOST_ROWS)
