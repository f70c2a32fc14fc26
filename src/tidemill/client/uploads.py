"""Sending files: one streamed PUT each, hashed on the way and compared with what arrived."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from tidemill.client.connection import Call, Connection, M
from tidemill.domain.errors import Damaged, InputChanged, InputUnreadable
from tidemill.wire.api import UploadOut

BLOCK_BYTES = 1 << 20

Moved = Callable[[int, int | None], None]
"""Called with bytes done and, if known, bytes in all."""


class Sending:
    """The bytes of one file, read anew for each try; `sha256` is of the last one."""

    def __init__(self, path: Path, moved: Moved | None = None) -> None:
        self.path = path
        self.moved = moved
        self.sha256 = hashlib.sha256()
        try:
            self.size_bytes = os.stat(path).st_size
        except OSError as exc:
            raise _unreadable(path, exc) from exc

    def content(self) -> Iterator[bytes]:
        """Blocks of the file. Raises InputChanged if it is longer or shorter than it was."""
        self.sha256 = hashlib.sha256()
        sent = 0
        try:
            with self.path.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    sent += len(block)
                    self._check(sent, over=False)
                    self.sha256.update(block)
                    yield block
                    if self.moved:
                        self.moved(sent, self.size_bytes)
        except OSError as exc:
            raise _unreadable(self.path, exc) from exc
        self._check(sent, over=True)

    def _check(self, sent: int, *, over: bool) -> None:
        if sent > self.size_bytes or (over and sent < self.size_bytes):
            raise InputChanged(f"{self.path} changed while it was sent.", remedy="Send it when nobody writes to it.")

    def put(self, connection: Connection, kind: type[M], call: Call) -> M:
        """Send it as the body of `call`."""
        headers = {
            **call.headers,
            "Content-Length": str(self.size_bytes),
            "Content-Type": "application/octet-stream",
        }
        return connection.ask(kind, replace(call, headers=headers, content=self.content))


def upload(connection: Connection, path: Path, *, moved: Moved | None = None) -> UploadOut:
    """Send one file. Raises Damaged if other bytes arrived, InputUnreadable, InputChanged."""
    sending = Sending(path, moved)
    got = sending.put(connection, UploadOut, Call(method="PUT", path=f"/uploads/{quote(path.name, safe='')}"))
    if (got.size_bytes, got.sha256) != (sending.size_bytes, sending.sha256.hexdigest()):
        raise Damaged(
            f"{path} arrived as other bytes ({got.size_bytes:,} of {sending.size_bytes:,}).",
            remedy="Send it again; something between here and the service changes what it carries.",
        )
    return got


def _unreadable(path: Path, exc: OSError) -> InputUnreadable:
    return InputUnreadable(
        f"Cannot read {path}: {exc.strerror or exc}.", remedy="Check that it is there and may be read."
    )
