"""Folders that hold a column's value in their names: `year=2026/month=11/x.parquet`."""

from __future__ import annotations

import re
from urllib.parse import unquote

DEFAULT_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""What Hive and Spark call a missing value."""

_FOLDER = re.compile(r"([^=]+)=(.*)", re.DOTALL)
_INTEGER = re.compile(r"-?[0-9]{1,19}")


def partitions_of(path: str) -> dict[str, str | None]:
    """The values that a file's path says: those of the folders right above it that are called NAME=VALUE.

    From the outermost inwards; names and values percent-decoded; a missing value is None.
    """
    found: list[tuple[str, str | None]] = []
    for folder in reversed(path.split("/")[:-1]):
        named = _FOLDER.fullmatch(folder)
        if named is None:
            break
        value = unquote(named[2])
        found.append((unquote(named[1]), None if value == DEFAULT_PARTITION else value))
    return dict(reversed(found))


def is_integer(value: str) -> bool:
    """Whether a value is a whole number of 64 bits."""
    return _INTEGER.fullmatch(value) is not None and -(2**63) <= int(value) < 2**63
