"""Files that were sent to the service, to be named in a job's input as `upload:ID`.

    <uploads>/<tenant>/.incoming/<id>/<name>   on its way in, beside a lock that its process holds
    <uploads>/<tenant>/<id>/<name>             whole and durable, beside .upload.json; never changed

A folder gets its last name by one rename of synced bytes, so what has such a name is whole.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tidemill.domain.access import Principal
from tidemill.domain.errors import InvalidSpec, NotFound, TooLarge
from tidemill.domain.ids import new_id
from tidemill.domain.model import check_name
from tidemill.durable.files import DurableFile, fsync_folder, make_folder, remove_tree, translated, write_file
from tidemill.durable.locks import FileLock, is_locked
from tidemill.service.context import Context
from tidemill.wire.api import UploadOut, UploadPage

UPLOAD = "upload:"
MAX_NAME_BYTES = 200
ABANDONED_SECONDS = 60.0
"""What nobody holds on its way in is younger than this if its process is just about to."""

_INCOMING = ".incoming"
_FACTS = ".upload.json"
_LOCK = ".lock"
_ID = re.compile(r"upload_[0-9a-z]{16}")
_UNSAFE = re.compile(r"[/\\\x00-\x1f\x7f]")


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
        self._name = checked_name(name)
        self._expected_bytes, self._expected_sha256 = expected_bytes, expected_sha256
        self._size = 0
        self._check_size(expected_bytes or 0)
        self.id = new_id("upload")
        self._tenant = _tenant(context, who.tenant)
        self._folder = self._tenant / _INCOMING / self.id
        with translated(self._folder):
            make_folder(self._folder)
            self._lock = FileLock(self._folder / _LOCK)
            self._lock.try_lock()
        self._file: DurableFile | None = DurableFile(self._folder / self._name)

    def write(self, piece: bytes) -> None:
        """The next bytes. Raises TooLarge, OutputUnwritable."""
        assert self._file is not None, "it is finished"
        self._size += len(piece)
        self._check_size(self._size)
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
        facts = {
            "name": self._name,
            "size_bytes": self._size,
            "sha256": sha256,
            "created_at": datetime.now(UTC).isoformat(),
            "by": self._who.name,
        }
        target = self._tenant / self.id
        with translated(target):
            write_file(self._folder / _FACTS, json.dumps(facts).encode())
            self._lock.unlock(unlink=True)
            fsync_folder(self._folder)
            os.rename(self._folder, target)
            fsync_folder(self._tenant)
        self._file = None
        return _described(self._context, self.id, facts)

    def close(self) -> None:
        """Remove what was not finished. Safe to repeat."""
        if self._file is not None:
            self._file.discard()
            self._file = None
            remove_tree(self._folder)
        self._lock.unlock()

    def _check_size(self, size: int) -> None:
        most = self._context.policy.max_upload_bytes
        if size > most:
            raise TooLarge(
                f"{self._name} is larger than {most:,} bytes.",
                remedy="Send it in several files, or ask the operator to raise max_upload_bytes.",
            )


def checked_name(name: str) -> str:
    """The name again. Raises InvalidSpec for one that is no plain file name."""
    long = len(name.encode(errors="replace")) > MAX_NAME_BYTES
    if not name or long or name.startswith(".") or _UNSAFE.search(name) or not _is_utf8(name):
        raise InvalidSpec(
            f"{name[:100]!r} cannot be the name of an upload.",
            remedy="Give a plain file name such as customers.csv: no folders, no leading dot, at most"
            f" {MAX_NAME_BYTES} bytes.",
        )
    return name


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def path_of(context: Context, who: Principal, upload_id: str) -> Path:
    """Where the file lies. Raises NotFound, also for another tenant's."""
    folder = _folder(context, who, upload_id)
    return folder / str(_facts(folder)["name"])


def get(context: Context, who: Principal, upload_id: str) -> UploadOut:
    """What is known of an upload. Raises NotFound."""
    return _described(context, upload_id, _facts(_folder(context, who, upload_id)))


def list_uploads(context: Context, who: Principal, *, limit: int = 100, before: str | None = None) -> UploadPage:
    """Newest first; `before` is an upload's id to go on from."""
    tenant = _tenant(context, who.tenant)
    ids = sorted((name for name in _names(tenant) if before is None or name < before), reverse=True)
    found = []
    for name in ids:
        # One that is removed meanwhile is none.
        with suppress(NotFound):
            found.append(_described(context, name, _facts(tenant / name)))
        if len(found) > limit:
            break
    return UploadPage(items=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


def remove(context: Context, who: Principal, upload_id: str) -> None:
    """Delete an upload. A job that still reads it fails with `input_changed`. Raises NotFound."""
    _remove(_folder(context, who, upload_id))


def sweep(context: Context, now: datetime, limit: int, *, in_use: Container[str] = ()) -> list[str]:
    """Delete at most `limit` uploads whose time is over, and what broke off on its way in; their ids.

    `in_use` are absolute paths of files that jobs still have to read: those stay.
    """
    oldest = now - timedelta(days=context.policy.upload_days)
    gone: list[str] = []
    for folder, created_at in _every(context):
        if len(gone) >= limit:
            break
        if created_at < oldest and not _is_used(folder, in_use):
            _remove(folder)
            gone.append(folder.name)
    return gone + _sweep_incoming(context, now, limit - len(gone))


def _every(context: Context) -> Iterator[tuple[Path, datetime]]:
    for tenant in _tenants(context):
        for name in sorted(_names(tenant)):
            with suppress(NotFound):
                yield tenant / name, datetime.fromisoformat(_facts(tenant / name)["created_at"])


def _is_used(folder: Path, in_use: Container[str]) -> bool:
    with suppress(NotFound):
        return str(folder / _facts(folder)["name"]) in in_use
    return False


def _is_abandoned(folder: Path, now: datetime) -> bool:
    try:
        age_seconds = now.timestamp() - folder.stat().st_mtime
    except FileNotFoundError:
        return False
    return age_seconds > ABANDONED_SECONDS and not is_locked(folder / _LOCK)


def _sweep_incoming(context: Context, now: datetime, limit: int) -> list[str]:
    gone: list[str] = []
    for tenant in _tenants(context):
        for name in sorted(_names(tenant / _INCOMING)):
            folder = tenant / _INCOMING / name
            if len(gone) < limit and _is_abandoned(folder, now):
                remove_tree(folder)
                gone.append(name)
    return gone


def _tenant(context: Context, tenant: str) -> Path:
    return context.places.uploads.absolute() / check_name(tenant, "a tenant")


def _tenants(context: Context) -> list[Path]:
    try:
        return sorted(path for path in context.places.uploads.absolute().iterdir() if path.is_dir())
    except FileNotFoundError:
        return []


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if _ID.fullmatch(name)]
    except FileNotFoundError:
        return []


def _folder(context: Context, who: Principal, upload_id: str) -> Path:
    folder = _tenant(context, who.tenant) / upload_id
    if not _ID.fullmatch(upload_id) or not folder.is_dir():
        raise _no_upload(upload_id)
    return folder


def _no_upload(upload_id: str) -> NotFound:
    return NotFound(
        f"There is no upload {upload_id[:100]!r}.",
        remedy="Send the file by PUT /api/v1/uploads/NAME; uploads are kept for a time only.",
    )


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((folder / _FACTS).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise _no_upload(folder.name) from None
    return facts


def _described(context: Context, upload_id: str, facts: dict[str, Any]) -> UploadOut:
    kept = timedelta(days=context.policy.upload_days)
    return UploadOut(
        id=upload_id,
        name=facts["name"],
        size_bytes=facts["size_bytes"],
        sha256=facts["sha256"],
        expires_at=datetime.fromisoformat(facts["created_at"]) + kept,
        input=f"{UPLOAD}{upload_id}",
    )


def _remove(folder: Path) -> None:
    """Out of sight by one rename, then gone."""
    aside = folder.parent / _INCOMING / folder.name
    with translated(folder):
        make_folder(aside.parent)
        with suppress(FileNotFoundError):
            os.rename(folder, aside)
            fsync_folder(folder.parent)
        remove_tree(aside)
