"""Files that are really there after a power cut.

A rename without fsync can leave an empty file, and pyarrow never syncs: so whoever commits, syncs.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from tidemill.domain.errors import OutputUnwritable


def fsync_folder(path: str | os.PathLike[str]) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_file(path: str | os.PathLike[str]) -> None:
    """Make a closed file's content durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder and its missing parents, each name durable. Nothing happens if it is there."""
    target = Path(path)
    if target.is_dir():
        # Whoever made it may have been killed before its name was durable.
        with suppress(PermissionError):
            fsync_folder(target.parent)
        return
    if target.parent == target:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
    make_folder(target.parent)
    try:
        target.mkdir()
    except FileExistsError:
        if not target.is_dir():
            raise
    fsync_folder(target.parent)


def scratch_name(path: str | os.PathLike[str]) -> Path:
    """The hidden name beside a file that `replacing` writes to first."""
    target = Path(path)
    return target.with_name(f".{target.name}.{os.getpid()}.tmp")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write whose content takes the place of `path` in one durable step when the block ends.

    Readers see the old bytes or the new. After an error inside the block the old bytes stay.
    """
    target = Path(path)
    scratch = scratch_name(target)
    try:
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.rename(scratch, target)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise
    fsync_folder(target.parent)


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace a file's content in one durable step: readers see the old bytes or the new."""
    with replacing(path) as file:
        file.write(data)


def remove_file(path: str | os.PathLike[str]) -> None:
    """Remove a file; nothing happens if it is gone. Not durable: sync the folder when it matters."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def remove_tree(path: str | os.PathLike[str]) -> None:
    """Remove a file or a folder with all that is in it, never following links; it may be gone already."""
    target = Path(path)
    if target.is_symlink() or not target.is_dir():
        remove_file(target)
        return
    shutil.rmtree(target, onerror=_unless_gone)


def _unless_gone(function: Callable[..., Any], path: str, failure: tuple[Any, BaseException, Any]) -> None:
    if not isinstance(failure[1], FileNotFoundError):
        raise failure[1]


def unwritable(path: str | os.PathLike[str], error: OSError) -> OutputUnwritable:
    """The error for a failed write, with the remedy that fits."""
    reason = error.strerror or str(error)
    remedy = "Run the same command again when the cause is gone: what was committed is kept."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "Free some space, then run the same command again: what was committed is kept."
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "Choose an output that you may write, or change its permissions."
    elif error.errno in (errno.ENOTDIR, errno.EEXIST):
        remedy = "Something that is no folder is in the way: choose another output, or move it."
    elif error.errno == errno.ENAMETOOLONG:
        remedy = "Choose a shorter name for the output."
    return OutputUnwritable(f"Cannot write {os.fspath(path)}: {reason}.", remedy=remedy)


@contextmanager
def translated(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError inside the block into OutputUnwritable for `path`."""
    try:
        yield
    except OSError as exc:
        raise unwritable(path, exc) from exc


class DurableFile(io.RawIOBase):
    """A new file that hashes what it writes and remembers any failure.

    Writers of native libraries can swallow an error of `write` and close "normally": `commit` raises
    the first one again. Position is the number of bytes written; it cannot seek or read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(path)
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        self._failure: OSError | None = None
        with translated(self.path):
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size_bytes

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        if self._failure:
            raise self._failure
        if self._fd < 0:
            # Given up: a library's destructor may still write, and nobody will miss it.
            return memoryview(data).nbytes
        view = memoryview(data).cast("B")
        rest = view
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as exc:
            self._failure = exc
            raise
        self._hash.update(view)
        self.size_bytes += len(view)
        return len(view)

    def commit(self) -> str:
        """Sync file and folder, check the size, close. Returns the sha256 of the content in hex.

        Raises OutputUnwritable if anything failed since the file was opened.
        """
        with translated(self.path):
            try:
                if self._failure:
                    raise self._failure
                if self._fd < 0:
                    raise OSError(errno.EBADF, "the file was closed or given up before")
                os.fsync(self._fd)
                found = os.fstat(self._fd).st_size
                if found != self.size_bytes:
                    raise OSError(errno.EIO, f"{self.size_bytes} bytes were written but {found} are there")
            finally:
                self._close_fd()
            fsync_folder(self.path.parent)
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Close and remove the file. Never raises."""
        self._close_fd()
        with suppress(OSError):
            self.path.unlink()

    def _close_fd(self) -> None:
        if self._fd >= 0:
            with suppress(OSError):
                os.close(self._fd)
            self._fd = -1
