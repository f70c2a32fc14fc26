"""Standard input as an input of jobs: kept as a file whose name is its content.

    <stdin>/<sha256>/stdin     whole and durable; its modification time is always the same

So the same bytes, piped again, are the same snapshot: a job that was killed goes on, a finished one is up to date.
"""

from __future__ import annotations

import os
from collections.abc import Container
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from tidemill.domain.ids import new_id
from tidemill.durable.files import DurableFile, fsync_folder, make_folder, remove_tree, translated
from tidemill.service.context import Context

STDIN = "-"
"""How an input is called that is piped in."""

_NAME = "stdin"
_INCOMING = ".incoming-"
_PIECE_BYTES = 1 << 20


def spooled(context: Context, stream: IO[bytes]) -> Path:
    """Read the stream to its end; the file that holds it. Raises OutputUnwritable."""
    folder = context.places.stdin.absolute()
    incoming = folder / f"{_INCOMING}{new_id('stdin')}"
    with translated(incoming):
        make_folder(incoming)
    file = DurableFile(incoming / _NAME)
    try:
        while piece := stream.read(_PIECE_BYTES):
            with translated(file.path):
                file.write(piece)
        target = folder / file.commit()
        with translated(target):
            os.utime(incoming / _NAME, ns=(0, 0))
            if not (target / _NAME).exists():
                os.rename(incoming, target)
                fsync_folder(folder)
            os.utime(target)
    finally:
        file.discard()
        remove_tree(incoming)
    return target / _NAME


def sweep(context: Context, now: datetime, limit: int, *, in_use: Container[str] = ()) -> int:
    """Delete at most `limit` that were not piped in for as long as uploads are kept, and what broke off; how many.

    `in_use` are absolute paths of files that jobs still have to read: those stay.
    """
    oldest, gone = now - timedelta(days=context.policy.upload_days), 0
    try:
        folders = sorted(context.places.stdin.absolute().iterdir())
    except FileNotFoundError:
        return 0
    for folder in folders:
        old = datetime.fromtimestamp(folder.stat().st_mtime, UTC) < oldest
        if gone < limit and old and str(folder / _NAME) not in in_use:
            remove_tree(folder)
            gone += 1
    return gone
