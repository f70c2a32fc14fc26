"""CatBoost's binary format: whether a file is whole.

The library crashes on some files that are cut off, and takes others for whole. A file is a head, the trees,
and then tables of categories, each with its length before it; texts and embeddings come last.
"""

from __future__ import annotations

from tidemill.domain.errors import ModelUnusable

BEGINNING = b"CBM1"
_LENGTH_BYTES = 4
_LONG = 2**32 - 1
"""A length that does not fit into four bytes follows in eight."""
_TABLES, _LAST = b"static_provider_v1", (b"text_process_v2", b"embed_process_1")
"""Parts after the trees, which list them by these names."""


class _DamageError(Exception):
    """What is wrong with the file."""


def check(content: bytes, path: str) -> None:
    """Raise ModelUnusable naming `path` unless all parts that the file announces are there."""
    try:
        _check(content)
    except _DamageError as exc:
        raise ModelUnusable(
            f"{path} is not a whole CatBoost model: {exc}.", remedy="Copy or save the model again."
        ) from exc


def _check(content: bytes) -> None:
    if not content.startswith(BEGINNING):
        raise _DamageError("it does not begin with CBM1")
    start, length = _length(content, len(BEGINNING))
    end = start + length
    if end > len(content):
        raise _DamageError(f"it has {len(content)} bytes, but its trees alone should end at byte {end}")
    trees = content[start:end]
    if _TABLES in trees:
        end, tables = _length(content, end)
        for _ in range(tables):
            start, length = _length(content, end)
            end = start + length
    last = tuple(each for each in _LAST if each in trees)
    if last and not content.startswith(last, end):
        raise _DamageError(f"what it knows of texts or embeddings is missing at byte {end}")
    if end > len(content) or (end < len(content) and not last):
        raise _DamageError(f"it has {len(content)} bytes, not {end}")


def _length(content: bytes, position: int) -> tuple[int, int]:
    """(where what has this length begins, the length written at `position`)."""
    found, after = _integer(content, position, _LENGTH_BYTES)
    if found == _LONG:
        found, after = _integer(content, after, 2 * _LENGTH_BYTES)
    return after, found


def _integer(content: bytes, position: int, size: int) -> tuple[int, int]:
    written = content[position : position + size]
    if len(written) < size:
        raise _DamageError(f"it ends at byte {len(content)}, where a length should stand")
    return int.from_bytes(written, "little"), position + size
