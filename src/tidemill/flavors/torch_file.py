"""What a file of PyTorch is, told by the members of its zip: no framework."""

from __future__ import annotations

import re
import zlib
from typing import Literal
from zipfile import BadZipFile, ZipFile

Kind = Literal["script", "program", "compiled", "pickled", "damaged"]

_ZIP = b"PK\x03\x04"
_BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How `torch.save` began its files until PyTorch 1.6: a pickled number."""
_FIRST_MEMBER = re.compile(rb"[^/\0]+/(data\.pkl|\.?data/|code/|models/|archive_format)")
_VERSIONS = frozenset({"version", ".data/version"})
_NAME_OFFSET = 30
"""Where a zip has the name of its first member."""


def kind_of(head: bytes, path: str) -> Kind | None:
    """`script` of `torch.jit.save`, `program` of `torch.export.save`, `compiled` by AOTInductor, `pickled`
    by plain `torch.save`, or `damaged`: begins like one of them and ends too early. None for strangers."""
    if head.startswith(_BEFORE_ZIP):
        return "pickled"
    if not head.startswith(_ZIP):
        return None
    try:
        with ZipFile(path) as archive:
            return _kind_by(archive.namelist())
    except (BadZipFile, OSError, ValueError, NotImplementedError):
        # The last two: the name of a member is no text, or the version is none that there is.
        return "damaged" if _FIRST_MEMBER.match(head, _NAME_OFFSET) else None


def _kind_by(names: list[str]) -> Kind | None:
    # All members lie in one folder that has the name of the file when it was written.
    inner = {name.partition("/")[2] for name in names}
    if "archive_format" in inner:
        has_graph = any(name.startswith("models/") for name in inner)
        return "program" if has_graph else "compiled"
    if "serialized_exported_program.json" in names:
        return "program"
    if "data.pkl" in inner and inner & _VERSIONS:
        return "script" if "constants.pkl" in inner else "pickled"
    return None


def is_whole(path: str) -> bool:
    """Whether every member has the checksum that it was written with. PyTorch does not look: it would predict
    with damaged weights."""
    try:
        with ZipFile(path) as archive:
            return archive.testzip() is None
    except (BadZipFile, OSError, ValueError, NotImplementedError, zlib.error):
        return False
