"""Homes that hold an empty store, as `open_store` makes them, copied: to apply each migration again takes longer than
many a test."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tidemill.stores.sql.store import open_store


@cache
def _kept() -> TemporaryDirectory[str]:
    folder = TemporaryDirectory(prefix="tidemill-home-")
    open_store(Path(folder.name, "home")).close()
    return folder


def furnish(home: Path) -> Path:
    """Make this home if it is not there yet; returns it."""
    if not home.exists():
        shutil.copytree(Path(_kept().name, "home"), home)
    return home
