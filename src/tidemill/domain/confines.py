"""Which places of the file system somebody who comes with a key may name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Confines:
    """Folders, as absolute paths without links. Of those that a place lies in, the deepest one decides."""

    allowed: tuple[str, ...]
    """What the operator named, and what the service keeps for whoever asks."""
    kept: tuple[str, ...]
    """The service's own: its store, everybody's files, its secrets."""

    def hold(self, real: str) -> bool:
        """Whether the file or folder may be read; `real` is absolute, links followed."""
        return _depth(self.allowed, real) > _depth(self.kept, real)

    def hold_output(self, real: str) -> bool:
        """Whether an output may be made there. What belongs to it lies beside it, so it is no allowed folder
        itself; and none of the service's own lies in it."""
        beside = os.path.dirname(real)
        return self.hold(real) and self.hold(beside) and not any(_lies_in(kept, real) for kept in self.kept)

    def to_json(self) -> dict[str, Any]:
        return {"allowed": self.allowed, "kept": self.kept}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Confines:
        return Confines(allowed=tuple(data["allowed"]), kept=tuple(data["kept"]))


def _depth(folders: Iterable[str], path: str) -> int:
    """The length of the longest of the folders that the path lies in; -1 if it lies in none."""
    return max((len(folder) for folder in folders if _lies_in(path, folder)), default=-1)


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
