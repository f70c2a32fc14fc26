"""Uploads that come in several requests: whatever breaks off, the next request goes on from there.

How they lie on the disk says `service.unfinished`; their bytes come by `service.appending`.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from tidemill.domain.access import Principal
from tidemill.domain.errors import NotFound
from tidemill.domain.ids import new_id
from tidemill.durable.files import make_folder, remove_tree, translated
from tidemill.durable.locks import FileLock
from tidemill.service import unfinished, uploadfiles
from tidemill.service.context import Context
from tidemill.service.unfinished import Progress, Unfinished
from tidemill.service.uploadfiles import LOCK, UNFINISHED, announced_of
from tidemill.wire.api import UnfinishedOut

NAMELESS_SECONDS = 60.0
"""A folder without an announcement is younger than this if its process is just about to write one."""


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
    found = Unfinished(folder=folder, announced=announced)
    if length == 0:
        unfinished.complete(found, unfinished.taken(found))
        return unfinished.whole(context, who, upload_id)
    return found.progress(context)


def look(context: Context, who: Principal, upload_id: str) -> Progress:
    """How far it is. Whoever asks will go on from there: a request that still writes is made to let go first.

    Clients ask after their connection broke, when the server may not know of that yet and would write what is
    on its way of the old one. Raises NotFound, Expired, UploadBusy.
    """
    while True:
        found = unfinished.find(context, who, upload_id)
        if isinstance(found, Progress):
            return found
        with suppress(FileNotFoundError):  # It became whole, or was removed, between two looks.
            lock = unfinished.taken(found)
            with lock:
                if found.offset < found.length:
                    return found.progress(context)
                unfinished.complete(found, lock)


def remove(context: Context, who: Principal, upload_id: str) -> None:
    """Delete an upload that is not whole yet; a request that writes it is made to let go.

    Raises NotFound, Expired, UploadBusy.
    """
    with suppress(FileNotFoundError):
        found = unfinished.find(context, who, upload_id)
        if isinstance(found, Unfinished):
            with unfinished.taken(found):
                uploadfiles.take_away(found.folder, found.folder.parent.parent)
            return
    raise uploadfiles.no_upload(upload_id)


def list_unfinished(context: Context, who: Principal, *, limit: int = 100) -> list[UnfinishedOut]:
    """Uploads of the caller's tenant that are not whole yet, newest first. Nobody who writes is disturbed."""
    folder = uploadfiles.tenant_folder(context, who.tenant) / UNFINISHED
    found = []
    for name in sorted(uploadfiles.ids_in(folder), reverse=True):
        with suppress(NotFound, FileNotFoundError):
            each = unfinished.find(context, who, name)
            if isinstance(each, Unfinished):
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
        found = unfinished.find(context, who, upload_id)
        if isinstance(found, Unfinished) and found.offset == found.length:
            look(context, who, upload_id)


def sweep(context: Context, now: datetime, limit: int) -> list[str]:
    """Remove at most `limit` unfinished uploads whose time is over; their ids. Those that are whole become uploads."""
    gone: list[str] = []
    for tenant in uploadfiles.tenant_folders(context):
        for name in sorted(uploadfiles.ids_in(tenant / UNFINISHED)):
            if len(gone) < limit and _sweep(context, tenant, name, now):
                gone.append(name)
        unfinished.forget_expired(context, tenant, now)
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
        found = Unfinished(folder=folder, announced=announced)
        if found.offset == found.length:
            unfinished.complete(found, lock)
        elif found.expires_at(context) <= now:
            unfinished.remember_expired(tenant, name, now)
            uploadfiles.take_away(folder, tenant)
            return True
    return False
