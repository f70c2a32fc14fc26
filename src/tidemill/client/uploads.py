"""Sending files, hashed on the way and compared with what arrived: small ones by PUT, others so that they can go on."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from tidemill.client.connection import ANSWER_SECONDS, Call, Connection, M
from tidemill.domain.errors import (
    Damaged,
    Expired,
    InputChanged,
    InputUnreadable,
    InvalidSpec,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    OffsetMismatch,
    ServiceUnreachable,
    StoreUnavailable,
    TidemillError,
    TooManyRequests,
    UploadBusy,
)
from tidemill.wire.api import UnfinishedList, UnfinishedOut, UploadOut, UploadPage, UploadPreview

BLOCK_BYTES = 1 << 20
RESUMABLE_BYTES = 32 << 20
"""From this size on it is worth a few requests more that a file can go on where it broke off."""
CHECKED_BYTES_PER_SECOND = 50e6
"""So fast a service reads a file again, at least, before it says that it is whole."""

AGAIN = (ServiceUnreachable, StoreUnavailable, TooManyRequests, UploadBusy, OffsetMismatch)
"""What the next try may not meet."""

_TUS = {"Tus-Resumable": "1.0.0"}
_OF_HEAD: Mapping[int, tuple[type[TidemillError], str]] = MappingProxyType(
    {
        401: (NotAuthenticated, "needs an API key"),
        403: (NotAllowed, "is not for a key with this role"),
        404: (NotFound, "is not there"),
        410: (Expired, "was not finished in time"),
        423: (UploadBusy, "is worked on by another request"),
    }
)
"""Answers without a body: what they say of the upload."""

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

    def content(self, start: int = 0) -> Iterator[bytes]:
        """Blocks of the file from `start` on; those before only count in `sha256`, which may take a while.

        Raises InputUnreadable; the blocks InputChanged if it is longer or shorter than it was.
        """
        self.sha256 = hashlib.sha256()
        try:
            with self.path.open("rb") as file:
                while block := file.read(min(BLOCK_BYTES, start - file.tell())):
                    self.sha256.update(block)
        except OSError as exc:
            raise _unreadable(self.path, exc) from exc
        return self._rest(start)

    def _rest(self, sent: int) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                file.seek(sent)
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
    """Send one file by one PUT. Raises Damaged if other bytes arrived, InputUnreadable, InputChanged."""
    sending = Sending(path, moved)
    got = sending.put(connection, UploadOut, Call(method="PUT", path=f"/uploads/{quote(path.name, safe='')}"))
    _check(sending, got)
    return got


class Uploads:
    """`client.uploads`: files that were sent, and those on their way."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(
        self,
        path: str | os.PathLike[str],
        *,
        resume: str | None = None,
        begun: Callable[[str], None] | None = None,
        moved: Moved | None = None,
    ) -> UploadOut:
        """Send one file so that it goes on where it broke off, also after the service was restarted.

        `resume` is the id of an unfinished upload of this very file to go on with; `begun` is told the id as
        soon as there is one. The file is compared by its SHA-256 in the end.
        Raises Damaged if other bytes arrived, Expired, InputChanged, InputUnreadable, InvalidSpec, NotFound,
        TooLarge; ServiceUnreachable if nothing more went through for the connection's patience.
        """
        return _Resumable(self._connection, Sending(Path(path), moved)).send(resume, begun)

    def list(self) -> Iterator[UploadOut]:
        """Whole ones, newest first."""
        before = None
        while True:
            query = {"limit": 100, "before": before}
            page = self._connection.ask(UploadPage, Call(method="GET", path="/uploads", query=query))
            yield from page.items
            if page.next is None:
                return
            before = page.next

    def unfinished(self) -> tuple[UnfinishedOut, ...]:
        """Those whose bytes are not all there, newest first, at most 500."""
        call = Call(method="GET", path="/tus", query={"limit": 500})
        return tuple(self._connection.ask(UnfinishedList, call).items)

    def get(self, upload_id: str) -> UploadOut:
        """A whole one. Raises NotFound."""
        return self._connection.ask(UploadOut, Call(method="GET", path=_place(upload_id)))

    def preview(self, upload_id: str, rows: int = 10) -> UploadPreview:
        """Its format, columns and first rows. Raises NotFound, UnknownFormat, InputUnreadable."""
        call = Call(method="GET", path=f"{_place(upload_id)}/preview", query={"rows": rows})
        return self._connection.ask(UploadPreview, call)

    def remove(self, upload_id: str) -> None:
        """Delete it, whole or not. A job that still reads it fails. Raises NotFound."""
        self._connection.tell(Call(method="DELETE", path=_place(upload_id)))


class _Resumable:
    """One file on its way by tus 1.0.0."""

    def __init__(self, connection: Connection, sending: Sending) -> None:
        self._connection, self._sending = connection, sending

    def send(self, resume: str | None, begun: Callable[[str], None] | None) -> UploadOut:
        upload_id = resume if resume is not None else self._create()
        if begun:
            begun(upload_id)
        here = self._offset(upload_id) if resume is not None else 0
        if here < self._sending.size_bytes:
            self._bring(upload_id, here)
        else:
            self._sending.content(here)  # Only to know what they hash to.
        got = self._connection.ask(UploadOut, Call(method="GET", path=_place(upload_id)))
        try:
            _check(self._sending, got)
        except Damaged:
            self._connection.tell(Call(method="DELETE", path=_place(upload_id)))
            raise
        return got

    def _create(self) -> str:
        name = base64.b64encode(self._sending.path.name.encode(errors="surrogateescape")).decode()
        headers = {
            **_TUS,
            "Upload-Length": str(self._sending.size_bytes),
            "Upload-Metadata": f"filename {name}",
        }
        with self._connection.stream(Call(method="POST", path="/tus", headers=headers)) as response:
            return str(response.headers["Location"].rpartition("/")[2])

    def _bring(self, upload_id: str, start: int) -> None:
        """All bytes from `start` on. Gives up when none went through for the connection's patience."""
        here: int | None = start
        known, failures, since = start, 0, time.monotonic()
        while here != self._sending.size_bytes:
            try:
                here = self._offset(upload_id) if here is None else self._patch(upload_id, here)
            except AGAIN:
                failures += 1
                if time.monotonic() - since > self._connection.patience_seconds:
                    raise
                here = None
                self._connection.pause(failures)
            else:
                if here > known:
                    known, failures, since = here, 0, time.monotonic()

    def _offset(self, upload_id: str) -> int:
        """How many bytes are there. Raises InvalidSpec if the upload is of a file of another length."""
        call = Call(method="HEAD", path=f"/tus/{quote(upload_id, safe='')}", headers=_TUS, accept=frozenset(_OF_HEAD))
        with self._connection.stream(call) as response:
            if response.status_code in _OF_HEAD:
                kind, words = _OF_HEAD[response.status_code]
                raise kind(
                    f"The upload {upload_id} {words}.",
                    remedy="`tidemill uploads list` shows what is there to go on with.",
                )
            length, offset = (int(response.headers[name]) for name in ("Upload-Length", "Upload-Offset"))
        if length != self._sending.size_bytes:
            raise InvalidSpec(
                f"{self._sending.path} has {self._sending.size_bytes:,} bytes, but the upload {upload_id} was begun"
                f" with {length:,}.",
                remedy="Send it as a new upload; it is another file, or it has changed.",
            )
        return offset

    def _patch(self, upload_id: str, offset: int) -> int:
        left = self._sending.size_bytes - offset
        content = self._sending.content(offset)
        call = Call(
            method="PATCH",
            path=f"/tus/{quote(upload_id, safe='')}",
            headers={
                **_TUS,
                "Upload-Offset": str(offset),
                "Content-Length": str(left),
                "Content-Type": "application/offset+octet-stream",
            },
            content=lambda: content,
            read_seconds=ANSWER_SECONDS + self._sending.size_bytes / CHECKED_BYTES_PER_SECOND,
        )
        with self._connection.stream(call) as response:
            return int(response.headers["Upload-Offset"])


def _place(upload_id: str) -> str:
    return f"/uploads/{quote(upload_id, safe='')}"


def _check(sending: Sending, got: UploadOut) -> None:
    if (got.size_bytes, got.sha256) != (sending.size_bytes, sending.sha256.hexdigest()):
        raise Damaged(
            f"{sending.path} arrived as other bytes ({got.size_bytes:,} of {sending.size_bytes:,}).",
            remedy="Send it again; something between here and the service changes what it carries.",
        )


def _unreadable(path: Path, exc: OSError) -> InputUnreadable:
    return InputUnreadable(
        f"Cannot read {path}: {exc.strerror or exc}.", remedy="Check that it is there and may be read."
    )
