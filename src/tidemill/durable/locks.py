"""Locks that die with their process: flock on a file that is never trusted by name alone."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from types import TracebackType


class FileLock:
    """An exclusive flock. Not inherited by programs that we start; freed 1-2 ms after kill -9.

    A lock file may be unlinked by its holder, so after locking the name is compared with the inode
    that was locked: two processes never hold "the same" lock on two inodes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._fd = -1

    def try_lock(self) -> bool:
        """Take the lock if nobody holds it; creates the file."""
        if self._fd >= 0:
            return True
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
            except BaseException:
                os.close(fd)
                raise
            if _names(self.path, fd):
                self._fd = fd
                return True
            os.close(fd)

    def unlock(self, *, unlink: bool = False) -> None:
        """Free the lock; with `unlink` remove the file first, while it is still ours."""
        if self._fd < 0:
            return
        if unlink:
            with suppress(FileNotFoundError):
                os.unlink(self.path)
        os.close(self._fd)
        self._fd = -1

    @property
    def held(self) -> bool:
        return self._fd >= 0

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unlock()


def _names(path: str, fd: int) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def is_locked(path: str | os.PathLike[str]) -> bool:
    """Whether another open file holds the lock at `path`; a missing file is not locked."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
