"""The input is pinned: a file that is not the one of the plan fails the job."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tidemill.domain.errors import InputChanged, InputUnreadable
from tidemill.domain.plan import InputFile
from tidemill.ports.source import Rows


def check_pinned(file: InputFile) -> None:
    """Compare size and modification time with the plan's. Raises InputChanged or InputUnreadable."""
    with readable(file):
        found = os.stat(file.path)
    if (found.st_size, found.st_mtime_ns) != (file.size_bytes, file.mtime_ns):
        raise InputChanged(
            f"{file.path} changed after the job was planned: {file.size_bytes} bytes were planned, "
            f"{found.st_size} are there now, or its modification time differs.",
            remedy="Do not write into the input while a job runs; run again to score the new content.",
        )


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
