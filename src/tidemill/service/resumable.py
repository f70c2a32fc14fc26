"""Uploads that come in several requests: whatever breaks off, the next request goes on from there.

    <uploads>/<tenant>/.unfinished/<id>/<name>            the bytes so far
                                       .announced.json    name, length, who
                                       .lock              held by the one request that writes
                                       .wanted            another request asks that one to let go
                                       .unverified        bytes from this offset on wait for their checksum
    <uploads>/<tenant>/.expired/<id>                      it was there, and its time is over

The size of the file is the only truth of how far it is; .unverified only makes it smaller. No count is kept
beside it that a crash could leave wrong. When the last byte is there the file becomes an upload like one that
came by PUT: by whoever sees it first, should the process die that wrote that byte.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tidemill.domain.access import Principal
from tidemill.domain.errors import ChecksumMismatch, Expired, NotFound, OffsetMismatch, TooLarge, UploadBusy
from tidemill.domain.ids import new_id
from tidemill.durable.files import (
    fsync_file,
    fsync_folder,
    make_folder,
    remove_file,
    remove_tree,
    translated,
    write_file,
)
from tidemill.durable.locks import FileLock, is_locked
from tidemill.service import uploadfiles
from tidemill.service.context import Context
from tidemill.service.uploadfiles import LOCK, UNFINISHED, announced_of
from tidemill.wire.api import UnfinishedOut

ALGORITHMS = ("sha256", "sha1")
"""Of checksums of what one request brings: against faults on the way, the better one first."""
WAIT_SECONDS = 5.0
"""How long a request waits for the one before it to let go."""
POLL_SECONDS = 0.05
NAMELESS_SECONDS = 60.0
"""A folder without an announcement is younger than this if its process is just about to write one."""

_EXPIRED = ".expired"
_WANTED = ".wanted"
_UNVERIFIED = ".unverified"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far an upload is."""

    id: str
    name: str
    offset: int
    """Bytes that are there and are kept."""
    length: int
    metadata: str
    """As it was sent when the upload was created."""
    expires_at: datetime | None
    """None once it is whole: then it is kept as other uploads are."""


@dataclass(frozen=True, kw_only=True)
class Checksum:
    """What the bytes of one request must hash to."""

    algorithm: str
    """One of ALGORITHMS."""
    digest: bytes


@dataclass(frozen=True, kw_only=True)
class _Unfinished:
    """One that is there."""

    folder: Path
    announced: dict[str, Any]

    @property
    def path(self) -> Path:
        return self.folder / str(self.announced["name"])

    @property
    def length(self) -> int:
        return int(self.announced["length"])

    @property
    def offset(self) -> int:
        size = self.path.stat().st_size
        with suppress(FileNotFoundError):
            size = min(size, int((self.folder / _UNVERIFIED).read_text()))
        return size

    def expires_at(self, context: Context) -> datetime:
        """So long after its last byte came."""
        last = datetime.fromtimestamp(self.path.stat().st_mtime, UTC)
        return last + timedelta(days=context.policy.unfinished_upload_days)

    def progress(self, context: Context) -> Progress:
        return Progress(
            id=self.folder.name,
            name=self.announced["name"],
            offset=self.offset,
            length=self.length,
            metadata=self.announced["metadata"],
            expires_at=self.expires_at(context),
        )


def create(context: Context, who: Principal, name: str, length: int, *, metadata: str = "") -> Progress:
    """A new upload of so many bytes, none of which is there yet. Durable when it returns.

    Raises InvalidSpec for a name that is none, TooLarge (also for what the tenant's quota has no room for),
    OutputUnwritable.
    """
    uploadfiles.checked_name(name)
    uploadfiles.check_size(context, name, length)
    upload_id = new_id("upload")
    folder = uploadfiles.tenant_folder(context, who.tenant) / UNFINISHED / upload_id
    announced = {
        "name": name,
        "length": length,
        "metadata": metadata,
        "by": who.name,
        "created_at": datetime.now(UTC).isoformat(),
    }
    try:
        with translated(folder):
            make_folder(folder)
            (folder / name).touch(exist_ok=False)
        uploadfiles.announce(context, folder, announced)
    except BaseException:
        remove_tree(folder)
        raise
    found = _Unfinished(folder=folder, announced=announced)
    if length == 0:
        _complete(found, _taken(found))
        return _whole(context, who, upload_id)
    return found.progress(context)


def look(context: Context, who: Principal, upload_id: str) -> Progress:
    """How far it is. Whoever asks will go on from there: a request that still writes is made to let go first.

    Clients ask after their connection broke, when the server may not know of that yet and would write what is
    on its way of the old one. Raises NotFound, Expired, UploadBusy.
    """
    while True:
        found = _find(context, who, upload_id)
        if isinstance(found, Progress):
            return found
        with suppress(FileNotFoundError):  # It became whole, or was removed, between two looks.
            lock = _taken(found)
            with lock:
                if found.offset < found.length:
                    return found.progress(context)
                _complete(found, lock)


class Appending:
    """The bytes that one request brings, from one thread after another. `close` it; what came without `finish`
    before is kept, but not if it should have been checked."""

    def __init__(
        self, context: Context, who: Principal, upload_id: str, *, offset: int, checksum: Checksum | None = None
    ) -> None:
        """Raises NotFound, Expired, UploadBusy, OffsetMismatch, OutputUnwritable."""
        self._context, self._who, self.id = context, who, upload_id
        self._checksum = checksum
        self._lock: FileLock | None = None
        self._fd = -1
        found = _locked(context, who, upload_id)
        if isinstance(found, Progress):
            self._found, self._length, here = None, found.length, found.offset
        else:
            self._found, self._lock = found
            self._length, here = self._found.length, self._found.offset
        try:
            _check_offset(upload_id, offset, here)
            self._start = self._position = offset
            self._open()
        except BaseException:
            self._let_go()
            raise
        self._sums = [hashlib.new(checksum.algorithm)] if checksum else []
        self._whole = hashlib.sha256() if offset == 0 else None
        """Of a file that comes in one request; others are read again when they are whole."""

    def _open(self) -> None:
        if self._found is None:
            return
        with translated(self._found.path):
            self._fd = os.open(self._found.path, os.O_WRONLY | os.O_CLOEXEC)
            if (self._found.folder / _UNVERIFIED).exists():
                self._drop()
            if self._checksum:
                write_file(self._found.folder / _UNVERIFIED, str(self._start).encode())

    def check(self) -> None:
        """Raises UploadBusy if another request wants to go on with this upload."""
        if self._found is not None and (self._found.folder / _WANTED).exists():
            raise UploadBusy(
                "Another request goes on with this upload, so this one stops.",
                remedy="Ask for the offset by HEAD, and go on from there.",
            )

    def write(self, piece: bytes) -> None:
        """The next bytes. Raises TooLarge (beyond the announced length), UploadBusy, OutputUnwritable."""
        self.check()
        if self._position + len(piece) > self._length:
            raise TooLarge(
                f"More bytes come than the {self._length:,} that were announced.",
                remedy="Send the file that was announced; if it has grown, begin a new upload.",
            )
        if not piece:
            return
        assert self._found is not None
        with translated(self._found.path):
            left = memoryview(piece)
            while left:
                written = os.pwrite(self._fd, left, self._position)
                self._position += written
                left = left[written:]
        for each in (*self._sums, self._whole):
            if each is not None:
                each.update(piece)

    def finish(self) -> Progress:
        """All bytes of this request are there: durable when it returns, and with the last one the upload is whole.

        Raises ChecksumMismatch: then nothing is kept of this request. OutputUnwritable.
        """
        if self._found is None:
            return _whole(self._context, self._who, self.id)
        if self._checksum and not hmac.compare_digest(self._sums[0].digest(), self._checksum.digest):
            raise ChecksumMismatch(
                f"The bytes from {self._start:,} on do not have the {self._checksum.algorithm} that came with them.",
                remedy="Send them again; something on the way changed them.",
            )
        with translated(self._found.path):
            self._sync()
            if self._checksum:
                self._forget_mark()
            self._close_fd()
        if self._position < self._length:
            return self._found.progress(self._context)
        assert self._lock is not None
        _complete(self._found, self._lock, self._whole.hexdigest() if self._whole else None)
        return _whole(self._context, self._who, self.id)

    def _sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError:
            # What was not written is lost, whatever a later sync says: only the bytes before are sure.
            self._drop()
            raise

    def close(self) -> None:
        """Let the next request in. Safe to repeat."""
        try:
            if self._fd >= 0 and self._found is not None:
                with translated(self._found.path):
                    if self._checksum:
                        self._drop()
                    else:
                        self._sync()
        finally:
            self._let_go()

    def _drop(self) -> None:
        """Remove what lies behind the offset at which this request began."""
        assert self._found is not None
        os.ftruncate(self._fd, self._start)
        os.fdatasync(self._fd)
        self._forget_mark()

    def _forget_mark(self) -> None:
        """What lies in the file counts: should the mark come back after a power cut, bytes would be missing."""
        assert self._found is not None
        remove_file(self._found.folder / _UNVERIFIED)
        fsync_folder(self._found.folder)

    def _let_go(self) -> None:
        self._close_fd()
        if self._lock is not None:
            self._lock.unlock()

    def _close_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def remove(context: Context, who: Principal, upload_id: str) -> None:
    """Delete an upload that is not whole yet; a request that writes it is made to let go.

    Raises NotFound, Expired, UploadBusy.
    """
    with suppress(FileNotFoundError):
        found = _find(context, who, upload_id)
        if isinstance(found, _Unfinished):
            with _taken(found):
                uploadfiles.take_away(found.folder, found.folder.parent.parent)
            return
    raise uploadfiles.no_upload(upload_id)


def list_unfinished(context: Context, who: Principal, *, limit: int = 100) -> list[UnfinishedOut]:
    """Uploads of the caller's tenant that are not whole yet, newest first. Nobody who writes is disturbed."""
    folder = uploadfiles.tenant_folder(context, who.tenant) / UNFINISHED
    found = []
    for name in sorted(uploadfiles.ids_in(folder), reverse=True):
        with suppress(NotFound, FileNotFoundError):
            each = _find(context, who, name)
            if isinstance(each, _Unfinished):
                seen = each.progress(context)
                found.append(
                    UnfinishedOut(
                        id=seen.id, name=seen.name, offset=seen.offset, length=seen.length, expires_at=seen.expires_at
                    )
                )
        if len(found) >= limit:
            break
    return found


def complete_if_whole(context: Context, who: Principal, upload_id: str) -> None:
    """Do what a process left undone that died between the last byte and the end. Raises UploadBusy."""
    with suppress(NotFound, FileNotFoundError):
        found = _find(context, who, upload_id)
        if isinstance(found, _Unfinished) and found.offset == found.length:
            look(context, who, upload_id)


def sweep(context: Context, now: datetime, limit: int) -> list[str]:
    """Remove at most `limit` unfinished uploads whose time is over; their ids. Those that are whole become uploads."""
    gone: list[str] = []
    for tenant in uploadfiles.tenant_folders(context):
        for name in sorted(uploadfiles.ids_in(tenant / UNFINISHED)):
            if len(gone) < limit and _sweep(context, tenant, name, now):
                gone.append(name)
        _forget_expired(context, tenant, now)
    return gone


def _sweep(context: Context, tenant: Path, name: str, now: datetime) -> bool:
    """Whether it was removed."""
    folder = tenant / UNFINISHED / name
    with suppress(FileNotFoundError), FileLock(folder / LOCK) as lock:
        if not lock.try_lock():
            return False
        announced = announced_of(folder)
        if announced is None:
            if now.timestamp() - folder.stat().st_mtime < NAMELESS_SECONDS:
                return False
            uploadfiles.take_away(folder, tenant)
            return True
        found = _Unfinished(folder=folder, announced=announced)
        if found.offset == found.length:
            _complete(found, lock)
        elif found.expires_at(context) <= now:
            _remember_expired(tenant, name, now)
            uploadfiles.take_away(folder, tenant)
            return True
    return False


def _remember_expired(tenant: Path, name: str, now: datetime) -> None:
    mark = tenant / _EXPIRED / name
    with translated(mark):
        make_folder(mark.parent)
        mark.touch()
        os.utime(mark, (now.timestamp(), now.timestamp()))


def _forget_expired(context: Context, tenant: Path, now: datetime) -> None:
    """After the time that a whole upload is kept nobody asks any more."""
    oldest = (now - timedelta(days=context.policy.upload_days)).timestamp()
    for name in uploadfiles.ids_in(tenant / _EXPIRED):
        mark = tenant / _EXPIRED / name
        with suppress(FileNotFoundError):
            if mark.stat().st_mtime < oldest:
                remove_file(mark)


def _find(context: Context, who: Principal, upload_id: str) -> Progress | _Unfinished:
    """A whole one as Progress. Raises NotFound, also for another tenant's, and Expired."""
    tenant = uploadfiles.tenant_folder(context, who.tenant)
    if not uploadfiles.is_id(upload_id):
        raise uploadfiles.no_upload(upload_id)
    folder = tenant / UNFINISHED / upload_id
    announced = announced_of(folder)
    if announced is None:
        if (tenant / _EXPIRED / upload_id).exists():
            raise _expired(context, upload_id)
        return _whole(context, who, upload_id)
    found = _Unfinished(folder=folder, announced=announced)
    over = found.expires_at(context) <= datetime.now(UTC) and found.offset < found.length
    if over and not is_locked(folder / LOCK):
        raise _expired(context, upload_id)
    return found


def _whole(context: Context, who: Principal, upload_id: str) -> Progress:
    facts = uploadfiles.facts_of(uploadfiles.tenant_folder(context, who.tenant) / upload_id)
    size = facts["size_bytes"]
    return Progress(
        id=upload_id, name=facts["name"], offset=size, length=size, metadata=facts.get("metadata", ""), expires_at=None
    )


def _expired(context: Context, upload_id: str) -> Expired:
    days = context.policy.unfinished_upload_days
    return Expired(
        f"The upload {upload_id} was not finished within {days:g} days after its last byte.",
        remedy="Begin a new one; the operator can raise unfinished_upload_days.",
    )


def _locked(context: Context, who: Principal, upload_id: str) -> Progress | tuple[_Unfinished, FileLock]:
    """It and its lock. Raises as `look`."""
    while True:
        found = _find(context, who, upload_id)
        if isinstance(found, Progress):
            return found
        with suppress(FileNotFoundError):
            return found, _taken(found)


def _taken(found: _Unfinished) -> FileLock:
    """Its lock. Whoever holds it is asked to let go. Raises UploadBusy, FileNotFoundError if it went away."""
    lock = FileLock(found.folder / LOCK)
    deadline = time.monotonic() + WAIT_SECONDS
    while not lock.try_lock():
        if time.monotonic() > deadline:
            raise UploadBusy(
                f"Another request still works on the upload {found.folder.name}.",
                remedy="Ask for its offset by HEAD in a moment, and go on from there.",
            )
        (found.folder / _WANTED).touch()
        time.sleep(POLL_SECONDS)
    remove_file(found.folder / _WANTED)
    return lock


def _check_offset(upload_id: str, given: int, here: int) -> None:
    if given != here:
        raise OffsetMismatch(
            f"The upload {upload_id} has {here:,} bytes, so it does not go on at {given:,}.",
            remedy="Ask for the offset by HEAD, and go on from there.",
        )


def _complete(found: _Unfinished, lock: FileLock, sha256: str | None = None) -> None:
    """All bytes are there: an upload like any other from now on. Frees the lock."""
    with translated(found.path):
        fsync_file(found.path)
        if sha256 is None:
            with found.path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        remove_file(found.folder / _WANTED)
    uploadfiles.publish(
        found.folder,
        lock,
        name=found.path.name,
        size_bytes=found.length,
        sha256=sha256,
        by=found.announced["by"],
        metadata=found.announced["metadata"],
    )
