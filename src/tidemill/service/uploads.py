"""Files that were sent to the service, to be named in a job's input as `upload:ID`.

Where they lie says `service.uploadfiles`; those that come in several requests are in `service.resumable`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Container, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from tidemill.domain.access import Principal
from tidemill.domain.errors import InputUnreadable, InvalidSpec, NotFound, TooLarge, UnknownFormat
from tidemill.domain.ids import new_id
from tidemill.durable.files import DurableFile, make_folder, remove_tree, translated
from tidemill.durable.locks import FileLock, is_locked
from tidemill.service import resumable, uploadfiles
from tidemill.service.context import Context
from tidemill.service.uploadfiles import INCOMING, LOCK, described, facts_of, ids_in, tenant_folder, tenant_folders
from tidemill.wire.api import UploadOut, UploadPage, UploadPreview

UPLOAD = uploadfiles.UPLOAD
ABANDONED_SECONDS = 60.0
"""What nobody holds on its way in is younger than this if its process is just about to."""
QUOTA_STEP_BYTES = 64 << 20
"""A file of unknown length takes so much more of its tenant's quota each time that it has used up what it took."""
MAX_ROWS = 1_000
READ_SECONDS = 30.0
READ_MEMORY_BYTES = 2 << 30


class Receiving:
    """A file that comes in pieces, from one thread after another. `close` it; without `finish` before
    nothing stays of it."""

    def __init__(
        self,
        context: Context,
        who: Principal,
        name: str,
        *,
        expected_bytes: int | None = None,
        expected_sha256: str | None = None,
    ) -> None:
        """Raises InvalidSpec for a name or checksum that is none, TooLarge, OutputUnwritable."""
        self._context, self._who = context, who
        self._name = uploadfiles.checked_name(name)
        self._expected_bytes, self._expected_sha256 = expected_bytes, expected_sha256
        self._size = 0
        uploadfiles.check_size(context, self._name, expected_bytes or 0)
        self.id = new_id("upload")
        self._folder = tenant_folder(context, who.tenant) / INCOMING / self.id
        with translated(self._folder):
            make_folder(self._folder)
            self._lock = FileLock(self._folder / LOCK)
            self._lock.try_lock()
        self._room = -1
        """Bytes that the tenant's quota has for it; -1: nobody was asked yet."""
        self._file: DurableFile | None = None
        try:
            self._make_room(expected_bytes or 0)
            self._file = DurableFile(self._folder / self._name)
        except BaseException:
            remove_tree(self._folder)
            self._lock.unlock()
            raise

    def write(self, piece: bytes) -> None:
        """The next bytes. Raises TooLarge, OutputUnwritable."""
        assert self._file is not None, "it is finished"
        self._size += len(piece)
        uploadfiles.check_size(self._context, self._name, self._size)
        self._make_room(self._size)
        with translated(self._file.path):
            self._file.write(piece)

    def finish(self) -> UploadOut:
        """All bytes are there: durable and visible when it returns. Raises InvalidSpec if they are not those
        that were announced."""
        assert self._file is not None, "it is finished"
        if self._expected_bytes is not None and self._size != self._expected_bytes:
            raise InvalidSpec(
                f"{self._expected_bytes:,} bytes were announced, {self._size:,} arrived.", remedy="Send it again."
            )
        sha256 = self._file.commit()
        if self._expected_sha256 is not None and sha256 != self._expected_sha256:
            raise InvalidSpec(
                f"The bytes that arrived have the sha256 {sha256}, not {self._expected_sha256}.",
                remedy="Send it again; something on the way changed it.",
            )
        facts = uploadfiles.publish(
            self._folder, self._lock, name=self._name, size_bytes=self._size, sha256=sha256, by=self._who.name
        )
        self._file = None
        return described(self._context, self.id, facts)

    def close(self) -> None:
        """Remove what was not finished. Safe to repeat."""
        if self._file is not None:
            self._file.discard()
            self._file = None
            remove_tree(self._folder)
        self._lock.unlock()

    def _make_room(self, size: int) -> None:
        """Raises TooLarge if the tenant's quota has no room for a file of that size."""
        if self._context.policy.upload_quota_bytes is None or size <= self._room:
            return
        # Of a file that does not say how long it is, more is asked for at a time: counting takes a while.
        room = size if self._expected_bytes is not None else size + QUOTA_STEP_BYTES
        for wanted in (room, size):
            try:
                uploadfiles.announce(self._context, self._folder, {"name": self._name, "length": wanted})
            except TooLarge:
                if wanted == size:
                    raise
            else:
                self._room = wanted
                return


def path_of(context: Context, who: Principal, upload_id: str) -> Path:
    """Where the file lies. Raises NotFound, also for another tenant's."""
    folder = _folder(context, who, upload_id)
    return folder / str(facts_of(folder)["name"])


def get(context: Context, who: Principal, upload_id: str) -> UploadOut:
    """What is known of an upload. Raises NotFound."""
    return described(context, upload_id, facts_of(_folder(context, who, upload_id)))


def list_uploads(context: Context, who: Principal, *, limit: int = 100, before: str | None = None) -> UploadPage:
    """Newest first; `before` is an upload's id to go on from."""
    tenant = tenant_folder(context, who.tenant)
    ids = sorted((name for name in ids_in(tenant) if before is None or name < before), reverse=True)
    found = []
    for name in ids:
        # One that is removed meanwhile is none.
        with suppress(NotFound):
            found.append(described(context, name, facts_of(tenant / name)))
        if len(found) > limit:
            break
    return UploadPage(items=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


def preview(context: Context, who: Principal, upload_id: str, rows: int = 10) -> UploadPreview:
    """Format, columns and first rows, read by a child within bounds; of text only the beginning is read.

    Raises NotFound, UnknownFormat, InputUnreadable, ChildDied.
    """
    path = path_of(context, who, upload_id)
    with tempfile.TemporaryDirectory(prefix="tidemill-") as spool:
        try:
            seen = context.executor.call(
                context.tasks.look,
                {"path": str(path), "rows": rows, "spool": spool},
                preload=context.compute.preload,
                timeout_seconds=READ_SECONDS,
                memory_bytes=READ_MEMORY_BYTES,
            )
        except (InputUnreadable, UnknownFormat) as exc:
            # Where the service keeps it is not the caller's business.
            message = exc.message.replace(str(path), path.name).replace(f"{spool}{os.sep}", "")
            raise type(exc)(message, remedy=exc.remedy) from exc
    return UploadPreview.model_validate(seen)


def remove(context: Context, who: Principal, upload_id: str) -> None:
    """Delete an upload, also one that is not whole yet. A job that still reads it fails with `input_changed`.

    Raises NotFound, UploadBusy.
    """
    try:
        folder = _folder(context, who, upload_id)
    except NotFound:
        resumable.remove(context, who, upload_id)
    else:
        uploadfiles.take_away(folder, folder.parent)


def sweep(context: Context, now: datetime, limit: int, *, in_use: Container[str] = ()) -> list[str]:
    """Delete at most `limit` uploads whose time is over, whole or not, and what broke off on its way in; their ids.

    `in_use` are absolute paths of files that jobs still have to read: those stay.
    """
    oldest = now - timedelta(days=context.policy.upload_days)
    gone: list[str] = []
    for folder, created_at in _every(context):
        if len(gone) >= limit:
            break
        if created_at < oldest and not _is_used(folder, in_use):
            uploadfiles.take_away(folder, folder.parent)
            gone.append(folder.name)
    gone += _sweep_incoming(context, now, limit - len(gone))
    return gone + resumable.sweep(context, now, limit - len(gone))


def _every(context: Context) -> Iterator[tuple[Path, datetime]]:
    for tenant in tenant_folders(context):
        for name in sorted(ids_in(tenant)):
            with suppress(NotFound):
                yield tenant / name, datetime.fromisoformat(facts_of(tenant / name)["created_at"])


def _is_used(folder: Path, in_use: Container[str]) -> bool:
    with suppress(NotFound):
        return str(folder / facts_of(folder)["name"]) in in_use
    return False


def _is_abandoned(folder: Path, now: datetime) -> bool:
    try:
        age_seconds = now.timestamp() - folder.stat().st_mtime
    except FileNotFoundError:
        return False
    return age_seconds > ABANDONED_SECONDS and not is_locked(folder / LOCK)


def _sweep_incoming(context: Context, now: datetime, limit: int) -> list[str]:
    gone: list[str] = []
    for tenant in tenant_folders(context):
        for name in sorted(ids_in(tenant / INCOMING)):
            folder = tenant / INCOMING / name
            if len(gone) < limit and _is_abandoned(folder, now):
                remove_tree(folder)
                gone.append(name)
    return gone


def _folder(context: Context, who: Principal, upload_id: str) -> Path:
    folder = tenant_folder(context, who.tenant) / upload_id
    if not uploadfiles.is_id(upload_id):
        raise uploadfiles.no_upload(upload_id)
    if not folder.is_dir():
        resumable.complete_if_whole(context, who, upload_id)
        if not folder.is_dir():
            raise uploadfiles.no_upload(upload_id)
    return folder
