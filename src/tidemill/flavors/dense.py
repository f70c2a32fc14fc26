"""How many rows a network gets at once, by its layers."""

from __future__ import annotations

BATCH_ROWS = 1_024
"""For networks of which nothing is known."""

_NUMBERS_HELD = 524_288
"""What one layer may hold for all rows of a call, 2 MiB of 32-bit floats: with more, layers wait for memory instead
of finding in the cache what the one before them left there."""
_LEAST_ROWS, _MOST_ROWS = 256, 16_384

_NUMBERS_HELD_BY_GPU = 33_554_432
"""There it is calls that cost: 128 MiB."""
_MOST_ROWS_OF_GPU = 65_536


def batch_rows(widest: int | None) -> int:
    """Rows of a call, a power of two. `widest` is how many numbers the widest layer has for each row; None if that
    cannot be told."""
    return BATCH_ROWS if widest is None else _power(_NUMBERS_HELD, widest, _LEAST_ROWS, _MOST_ROWS)


def gpu_batch_rows(widest: int | None) -> int:
    """The same for a network on a GPU."""
    return BATCH_ROWS if widest is None else _power(_NUMBERS_HELD_BY_GPU, widest, BATCH_ROWS, _MOST_ROWS_OF_GPU)


def _power(held: int, widest: int, least: int, most: int) -> int:
    rows = max(held // max(widest, 1), 1)
    return min(max(1 << (rows.bit_length() - 1), least), most)
