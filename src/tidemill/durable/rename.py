"""Renames that never overwrite, and renames that swap: `renameat2`, where the file system really does it.

One FUSE file system says OK to EXCHANGE and does a plain rename: so `probe` reads back what happened.
"""

from __future__ import annotations

import ctypes
import errno
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tidemill.durable.files import remove_file

_AT_FDCWD = -100
_NOREPLACE = 1
_EXCHANGE = 2
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


@dataclass(frozen=True, kw_only=True)
class RenameSupport:
    """Which renames a folder's file system was seen to do right."""

    noreplace: bool
    exchange: bool


NO_SUPPORT = RenameSupport(noreplace=False, exchange=False)


def _load() -> Callable[[int, bytes, int, bytes, int], int] | None:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    function.restype = ctypes.c_int
    renameat2: Callable[[int, bytes, int, bytes, int], int] = function
    return renameat2


_renameat2 = _load()


def _rename(source: str | os.PathLike[str], target: str | os.PathLike[str], flags: int) -> None:
    if _renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), os.fspath(target))
    if _renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fspath(source), None, os.fspath(target))


def is_unsupported(error: OSError) -> bool:
    """Whether the kernel or the file system does not know the rename that was asked for."""
    return error.errno in _UNSUPPORTED


def probe(folder: str | os.PathLike[str]) -> RenameSupport:
    """Try both renames on two scratch files in `folder` and read them back."""
    first = Path(folder) / f".probe-{uuid.uuid4().hex}"
    second = first.with_name(f"{first.name}.2")
    try:
        first.write_bytes(b"1")
        second.write_bytes(b"2")
        return RenameSupport(noreplace=_refuses(first, second), exchange=_swaps(first, second))
    finally:
        remove_file(first)
        remove_file(second)


def _refuses(first: Path, second: Path) -> bool:
    try:
        _rename(first, second, _NOREPLACE)
    except FileExistsError:
        return first.read_bytes() == b"1" and second.read_bytes() == b"2"
    except OSError as exc:
        if is_unsupported(exc):
            return False
        raise
    # A plain rename in disguise: the exchange probe needs two files again.
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    return False


def _swaps(first: Path, second: Path) -> bool:
    try:
        _rename(first, second, _EXCHANGE)
    except OSError as exc:
        if is_unsupported(exc):
            return False
        raise
    return first.exists() and first.read_bytes() == b"2" and second.read_bytes() == b"1"


def rename_noreplace(source: str | os.PathLike[str], target: str | os.PathLike[str], support: RenameSupport) -> None:
    """Rename a file or folder to a name that must be free. Raises FileExistsError; atomic.

    Without support: a file is linked and unlinked (a crash between leaves both names on one inode); a
    folder is renamed plainly, which refuses a full folder and a file but replaces an empty folder.
    """
    if support.noreplace:
        _rename(source, target, _NOREPLACE)
    elif os.path.isdir(source) and not os.path.islink(source):
        try:
            os.rename(source, target)
        except OSError as exc:
            if exc.errno in (errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target)) from exc
            raise
    else:
        os.link(source, target, follow_symlinks=False)
        os.unlink(source)


def exchange(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> None:
    """Swap two names of the same file system, files or folders, in one atomic step.

    Ask `RenameSupport.exchange` before: there is no safe fallback with the same meaning.
    """
    _rename(first, second, _EXCHANGE)
