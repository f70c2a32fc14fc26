"""`@FILE` as an input: a file whose lines are paths."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from tidemill.domain.errors import NotFound

LIST_MARK = "@"
_ELSEWHERE = re.compile(r"\w+://|server:|upload:")


def listed_paths(lines: Iterable[bytes], path: str) -> Iterator[str]:
    """The paths that are the lines of the list at `path`, made absolute: they are relative to the list's folder.

    Empty lines and those that begin with # are none. Raises NotFound if there is no path at all.
    """
    found = False
    for line in lines:
        name = os.fsdecode(line.strip())
        if name and not name.startswith("#"):
            found = True
            is_place = _ELSEWHERE.match(name) is None
            yield os.path.join(os.path.dirname(path), os.path.expanduser(name)) if is_place else name
    if not found:
        raise NotFound(f"The list {path} names no files.", remedy="Write one path on each of its lines.")
