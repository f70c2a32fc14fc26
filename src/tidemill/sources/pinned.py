"""The input is pinned: a file that is not the one of the plan fails the job."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from tidemill.domain.errors import InputChanged, InputUnreadable
from tidemill.domain.plan import InputFile
from tidemill.ports.source import Rows

OPEN_FILES = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"


def check_pinned(file: InputFile) -> None:
    """Compare size and modification time with the plan's. Raises InputChanged or InputUnreadable."""
    with readable(file):
        found = os.stat(file.real_path or file.path)
    if (found.st_size, found.st_mtime_ns) != (file.size_bytes, file.mtime_ns):
        raise InputChanged(
            f"{file.path} changed after the job was planned: {file.size_bytes} bytes were planned, "
            f"{found.st_size} are there now, or its modification time differs.",
            remedy="Do not write into the input while a job runs; run again to score the new content.",
        )


@contextmanager
def opened(file: InputFile) -> Iterator[BinaryIO]:
    """The file, open where the plan says that it lies: a link that was put into its path since leads nowhere.

    Turns errors of the operating system inside the block into InputUnreadable. Raises InputChanged.
    """
    # Without O_NONBLOCK a pipe that took the file's place would be waited for.
    with readable(file), open(file.real_path or file.path, "rb", opener=_open_at_once) as raw:
        if file.real_path is not None and not _lies_at(raw.fileno(), file.real_path):
            raise InputChanged(
                f"{file.path} leads to another file than when the job was planned.",
                remedy="Do not change links in the input while a job runs; run again to score the new content.",
            )
        yield raw


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def path_of(raw: BinaryIO) -> str:
    """A path for libraries that open files themselves: to this very file, whatever its name leads to by now."""
    return f"{OPEN_FILES}/{raw.fileno()}"


def _lies_at(fd: int, real_path: str) -> bool:
    with suppress(OSError):
        return os.readlink(f"{OPEN_FILES}/{fd}") == real_path
    # Where open files are no links (macOS), a second look by name has to do.
    return os.path.realpath(real_path) == real_path and os.path.samestat(os.stat(real_path), os.fstat(fd))


@contextmanager
def readable(file: InputFile) -> Iterator[None]:
    """Turn an OSError of the operating system inside the block into InputUnreadable for `file`."""
    try:
        yield
    except FileNotFoundError as exc:
        raise InputChanged(
            f"{file.path} is gone.", remedy="Do not move the input while a job runs; put it back or run again."
        ) from exc
    except OSError as exc:
        if exc.errno is None:
            raise
        raise InputUnreadable(
            f"Cannot read {file.path}: {exc.strerror or exc}.", remedy="Check its permissions and the disk it lies on."
        ) from exc


def pinned(file: InputFile, rows: Iterator[Rows]) -> Iterator[Rows]:
    """Hand on `rows`, checking the file before the first and, after its last byte, before the last of them."""
    check_pinned(file)
    waiting: Rows | None = None
    for item in rows:
        if waiting is not None:
            yield waiting
        waiting = item
    check_pinned(file)
    if waiting is not None:
        yield waiting
