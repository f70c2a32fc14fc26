"""What a source makes of files in which a few bytes were changed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tidemill.domain.errors import InputUnreadable
from tidemill.ports.source import Source
from tidemill.testing.source import collect, pin, segment

ROUNDS = 150
MOST_ROWS = 10_000
"""A file may be damaged so that it has more; reading those is for the limits of a job."""


def outcomes(source: Source, path: Path) -> set[str]:
    """Read the file with other damage each time: "rows", "unread" and "refused", which is by name and with a remedy."""
    seen = set()
    for raw in _damaged(path.read_bytes()):
        path.write_bytes(raw)
        try:
            seen.add(_outcome(source, path))
        except InputUnreadable as exc:
            seen.add("refused" if str(path) in str(exc) and exc.remedy else f"an error that helps nobody: {exc}")
    return seen


def _outcome(source: Source, path: Path) -> str:
    file = pin(path)
    facts = source.examine(file)
    if facts.rows > MOST_ROWS:
        return "rows"
    found = collect(source.read(segment(file, facts), facts.schema.names, {}, 7), 0, facts.rows)
    found.table.to_pylist()
    return "unread" if found.unread else "rows"


def _damaged(whole: bytes) -> Iterator[bytes]:
    rng = random.Random(7)
    for _ in range(ROUNDS):
        raw = bytearray(whole)
        for _ in range(rng.choice([1, 1, 4, 40])):
            raw[rng.randrange(len(raw))] = rng.choice([0, 0xFF, 0x7F, 0x80, rng.randrange(256)])
        yield bytes(raw)
