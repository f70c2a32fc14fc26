"""Unfinished uploads on the disk: how far they are, whose turn it is, and how they become whole.

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
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tidemill.domain.access import Principal
from tidemill.domain.errors import Expired, UploadBusy
from tidemill.durable.files import fsync_file, make_folder, remove_file, translated
from tidemill.durable.locks import FileLock, is_locked
from tidemill.service import uploadfiles
from tidemill.service.context import Context
from tidemill.service.uploadfiles import LOCK, UNFINISHED, announced_of

WAIT_SECONDS = 5.0
"""How long a request waits for the one before it to let go."""
POLL_SECONDS = 0.05
UNVERIFIED = ".unverified"
WANTED = ".wanted"

_EXPIRED = ".expired"


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
class Unfinished:
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
            size = min(size, int((self.folder / UNVERIFIED).read_text()))
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


def find(context: Context, who: Principal, upload_id: str) -> Progress | Unfinished:
    """A whole one as Progress. Raises NotFound, also for another tenant's, and Expired."""
    tenant = uploadfiles.tenant_folder(context, who.tenant)
    if not uploadfiles.is_id(upload_id):
        raise uploadfiles.no_upload(upload_id)
    folder = tenant / UNFINISHED / upload_id
    announced = announced_of(folder)
    if announced is None:
        if (tenant / _EXPIRED / upload_id).exists():
            raise _expired(context, upload_id)
        return whole(context, who, upload_id)
    found = Unfinished(folder=folder, announced=announced)
    over = found.expires_at(context) <= datetime.now(UTC) and found.offset < found.length
    if over and not is_locked(folder / LOCK):
        raise _expired(context, upload_id)
    return found


def whole(context: Context, who: Principal, upload_id: str) -> Progress:
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


def taken(found: Unfinished) -> FileLock:
    """Its lock. Whoever holds it is asked to let go. Raises UploadBusy, FileNotFoundError if it went away."""
    lock = FileLock(found.folder / LOCK)
    deadline = time.monotonic() + WAIT_SECONDS
    while not lock.try_lock():
        if time.monotonic() > deadline:
            raise UploadBusy(
                f"Another request still works on the upload {found.folder.name}.",
                remedy="Ask for its offset by HEAD in a moment, and go on from there.",
            )
        (found.folder / WANTED).touch()
        time.sleep(POLL_SECONDS)
    remove_file(found.folder / WANTED)
    return lock


def complete(found: Unfinished, lock: FileLock, sha256: str | None = None) -> None:
    """All bytes are there: an upload like any other from now on. Frees the lock."""
    with translated(found.path):
        fsync_file(found.path)
        if sha256 is None:
            with found.path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        remove_file(found.folder / WANTED)
    uploadfiles.publish(
        found.folder,
        lock,
        name=found.path.name,
        size_bytes=found.length,
        sha256=sha256,
        by=found.announced["by"],
        metadata=found.announced["metadata"],
    )


def remember_expired(tenant: Path, name: str, now: datetime) -> None:
    mark = tenant / _EXPIRED / name
    with translated(mark):
        make_folder(mark.parent)
        mark.touch()
        os.utime(mark, (now.timestamp(), now.timestamp()))


def forget_expired(context: Context, tenant: Path, now: datetime) -> None:
    """After the time that a whole upload is kept nobody asks any more."""
    oldest = (now - timedelta(days=context.policy.upload_days)).timestamp()
    for name in uploadfiles.ids_in(tenant / _EXPIRED):
        mark = tenant / _EXPIRED / name
        with suppress(FileNotFoundError):
            if mark.stat().st_mtime < oldest:
                remove_file(mark)
