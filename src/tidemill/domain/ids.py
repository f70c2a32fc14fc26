"""Ids: a prefix that says what it is, then 16 characters that sort by time."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_CHARACTERS = 9
_RANDOM_CHARACTERS = 7


def new_id(prefix: str, *, now_ms: int | None = None) -> str:
    """For example `job_1jk9w3x2tq8m4c0z`: milliseconds since 1970, then 35 random bits."""
    ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    clock = "".join(_ALPHABET[(ms >> (5 * k)) & 31] for k in reversed(range(_TIME_CHARACTERS)))
    noise = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))
    return f"{prefix}_{clock}{noise}"
