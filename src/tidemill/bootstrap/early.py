"""The process that children are forked from, begun before the command has imported anything else.

What a command imports takes as long as what its children import: so they do it side by side. It knows only the words of
the command, and they are read for this alone: what it guesses wrong costs time and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tidemill.bootstrap.preloads import JOB_PRELOAD, LOOKUP_PRELOAD
from tidemill.domain.config_files import config_files
from tidemill.executors.local import LocalExecutor

_OUTPUT = ("-o", "--output")
_ELSEWHERE = ("--server", "--detach", "--save", "--help", "-h")
"""With these no child is needed here."""

_begun: list[LocalExecutor] = []


def begin(words: Sequence[str]) -> None:
    """Start it if a command of these words needs children: one that runs a job here."""
    # What goes wrong here does so again where children are needed, and is told there.
    with suppress(OSError, RuntimeError, ValueError):
        if words and words[0] in ("run", "resume") and not _is_done_elsewhere(words):
            _begun.append(LocalExecutor(preload=_preload(words)))


def taken() -> LocalExecutor | None:
    """What was begun, once: it is the caller's then."""
    return _begun.pop() if _begun else None


def drop() -> None:
    """End what was begun and not taken."""
    begun = taken()
    if begun is not None:
        begun.kill()
        begun.close()


def _is_done_elsewhere(words: Sequence[str]) -> bool:
    if "TIDEMILL_SERVER" in os.environ or any(word.partition("=")[0] in _ELSEWHERE for word in words):
        return True
    return any(file.is_file() and b"server" in file.read_bytes() for file in config_files())


def _preload(words: Sequence[str]) -> tuple[str, ...]:
    """As much as is needed for sure: a command that finds its output finished needs little."""
    output = _output(words)
    sure = words[0] == "resume" or (output is not None and not _manifests(output))
    return JOB_PRELOAD if sure else LOOKUP_PRELOAD


def _output(words: Sequence[str]) -> str | None:
    for place, word in enumerate(words):
        name, separator, value = word.partition("=")
        if name in _OUTPUT:
            return value if separator else next(iter(words[place + 1 :]), None)
    return None


def _manifests(output: str) -> bool:
    """Whether a manifest lies beside an output, which has its name without none, one or two endings."""
    path = Path(os.path.abspath(os.path.expanduser(output)))
    names = (path.name, path.stem, Path(path.stem).stem)
    return any((path.parent / f"{name}.manifest.json").exists() for name in names)
