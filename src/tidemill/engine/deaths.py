"""Notes in a job's staging folder, from one holder to the next: did the one before leave, or die?

They are hints, and none is durable: one that is lost makes a death out of a farewell, or the first of
several deaths out of a later one.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

log = logging.getLogger(__name__)

_LEFT = "left"
_FIRST = "first-death"


def note_left(staging: str, epoch: int) -> None:
    """The holder of this epoch leaves the job on purpose."""
    _write(Path(staging) / _LEFT, str(epoch))


def was_left(staging: str, epoch: int) -> bool:
    """Whether the holder of that epoch left the job on purpose."""
    return _read(Path(staging) / _LEFT) == epoch


def seconds_since_first(staging: str, count: int) -> float:
    """How long ago the first of `count` deaths in a row was; the first one is noted."""
    path, now = Path(staging) / _FIRST, time.time()
    first = _read(path) if count > 1 else None
    if first is None:
        _write(path, str(now))
        return 0.0
    return max(0.0, now - first)


def _read(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(text)
        os.replace(scratch, path)
    except OSError as exc:
        log.debug("no note in %s: %s", path, exc)
