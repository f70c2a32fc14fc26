"""Where environments of models lie: found by what they are asked for, and swept when nobody asks any more."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tidemill.durable.files import remove_tree
from tidemill.durable.locks import FileLock

CORE = ("numpy", "pyarrow", "pydantic")
"""What a child imports beside the standard library and its model's own libraries."""

RECORD = "tidemill.json"
"""In a finished environment: what `ensure` answered."""

_HOME = re.compile(r"\.?([0-9a-f]{32})(?:\..+)?\Z")
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")


def wanted_lines(requirements: str) -> list[str]:
    """The lines of the requirements that say something, and what children need: in the versions that run
    here, unless the requirements name a version themselves."""
    lines = [line.strip() for line in requirements.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    named = {_normal(found[1]) for line in lines if (found := _NAME.match(line))}
    return [*lines, *(f"{name}=={importlib.metadata.version(name)}" for name in CORE if name not in named)]


def digest_of(wanted: Sequence[str]) -> str:
    """What an environment is found by. Not the version of this package, which is lent and not installed."""
    words = [list(wanted), sys.version, sys.base_prefix]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def sweep(folder: Path, requirements: Iterable[str], before: float, limit: int) -> int:
    """Remove environments that none of these requirements asks for and that nobody asked for since `before`
    (in seconds since 1970), and what broke off while it was made; how many, at most `limit`."""
    try:
        names = sorted({found[1] for name in os.listdir(folder) if (found := _HOME.match(name))})
    except FileNotFoundError:
        return 0
    kept = {digest_of(wanted_lines(text)) for text in requirements}
    gone = 0
    for name in names:
        if gone >= limit:
            break
        if name not in kept or not (folder / name).exists():
            gone += _remove_unused(folder, name, before)
    return gone


def _remove_unused(folder: Path, name: str, before: float) -> bool:
    """Out of sight by one rename, then gone. Whoever makes it or looks it up holds its lock."""
    lock = lock_of(folder, name)
    if not lock.try_lock():
        return False
    try:
        found = [*folder.glob(name), *folder.glob(f".{name}.*")]
        unused = all(_used_at(path) < before for path in found)
        if unused:
            if (folder / name).exists():
                os.rename(folder / name, folder / f".{name}.unused")
            for path in folder.glob(f".{name}.*"):
                remove_tree(path)
        return unused and bool(found)
    finally:
        lock.unlock(unlink=not (folder / name).exists())


def _used_at(home: Path) -> float:
    record = home / RECORD
    return (record if record.exists() else home).stat().st_mtime


def lock_of(folder: Path, name: str) -> FileLock:
    return FileLock(folder / f"{name}.lock")
