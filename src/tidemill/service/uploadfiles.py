"""Where files lie that were sent to the service, and how much of its quota a tenant has taken.

    <uploads>/<tenant>/.incoming/<id>/<name>     a PUT on its way in, beside a lock that its process holds
    <uploads>/<tenant>/.unfinished/<id>/<name>   comes in several requests: see `service.unfinished`
    <uploads>/<tenant>/<id>/<name>               whole and durable, beside .upload.json; never changed

A folder gets its last name by one rename of synced bytes, so what has such a name is whole. A folder on its
way says in .announced.json how many bytes it may come to.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tidemill.domain.errors import InvalidSpec, NotFound, TooLarge, UploadBusy
from tidemill.domain.model import check_name
from tidemill.durable.files import fsync_folder, make_folder, remove_file, remove_tree, translated, write_file
from tidemill.durable.locks import FileLock
from tidemill.service.context import Context
from tidemill.wire.api import UploadOut

UPLOAD = "upload:"
INCOMING = ".incoming"
UNFINISHED = ".unfinished"
FACTS = ".upload.json"
ANNOUNCED = ".announced.json"
LOCK = ".lock"
MAX_NAME_BYTES = 200

_QUOTA_LOCK = ".quota.lock"
_COUNTING_SECONDS = 30.0
_POLL_SECONDS = 0.01
_ID = re.compile(r"upload_[0-9a-z]{16}")
_UNSAFE = re.compile(r"[/\\\x00-\x1f\x7f]")


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


def check_size(context: Context, name: str, size_bytes: int) -> None:
    """Raises TooLarge for a file above the bound of one upload."""
    most = context.policy.max_upload_bytes
    if size_bytes > most:
        raise TooLarge(
            f"{name} is larger than {most:,} bytes.",
            remedy="Send it in several files, or ask the operator to raise max_upload_bytes.",
        )


def is_id(text: str) -> bool:
    """Whether an upload can have this id."""
    return _ID.fullmatch(text) is not None


def tenant_folder(context: Context, tenant: str) -> Path:
    """Where a tenant's uploads lie; it may not be there yet."""
    return context.places.uploads.absolute() / check_name(tenant, "a tenant")


def tenant_folders(context: Context) -> list[Path]:
    """Of every tenant that has sent something."""
    try:
        return sorted(path for path in context.places.uploads.absolute().iterdir() if path.is_dir())
    except FileNotFoundError:
        return []


def ids_in(folder: Path) -> list[str]:
    """Ids of the uploads whose folders lie there, in no order."""
    try:
        return [name for name in os.listdir(folder) if is_id(name)]
    except FileNotFoundError:
        return []


def no_upload(upload_id: str) -> NotFound:
    """The error for an id that names nothing of the caller's."""
    return NotFound(
        f"There is no upload {upload_id[:100]!r}.",
        remedy="Send the file with `tidemill uploads add FILE`; uploads are kept for a time only.",
    )


def facts_of(folder: Path) -> dict[str, Any]:
    """What is known of a whole upload. Raises NotFound."""
    facts = _read(folder / FACTS)
    if facts is None:
        raise no_upload(folder.name)
    return facts


def announced_of(folder: Path) -> dict[str, Any] | None:
    """What an upload on its way said of itself; "length" is in bytes. None if it is not there."""
    return _read(folder / ANNOUNCED)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        facts: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return facts


def described(context: Context, upload_id: str, facts: Mapping[str, Any]) -> UploadOut:
    """A whole upload as callers are told of it."""
    kept = timedelta(days=context.policy.upload_days)
    return UploadOut(
        id=upload_id,
        name=facts["name"],
        size_bytes=facts["size_bytes"],
        sha256=facts["sha256"],
        expires_at=datetime.fromisoformat(facts["created_at"]) + kept,
        input=f"{UPLOAD}{upload_id}",
    )


def publish(
    folder: Path, lock: FileLock, *, name: str, size_bytes: int, sha256: str, by: str, metadata: str = ""
) -> dict[str, Any]:
    """Make an upload on its way a whole one, in one durable step, and free its lock; its facts.

    The file must be synced. Raises OutputUnwritable; then nothing has changed.
    """
    facts = {
        "name": name,
        "size_bytes": size_bytes,
        "sha256": sha256,
        "created_at": datetime.now(UTC).isoformat(),
        "by": by,
        "metadata": metadata,
    }
    target = folder.parent.parent / folder.name
    with translated(target):
        write_file(folder / FACTS, json.dumps(facts).encode())
        os.rename(folder, target)
        fsync_folder(target.parent)
    for each in (LOCK, ANNOUNCED):
        # Nobody looks for them here: should they stay they do no harm.
        with suppress(OSError):
            remove_file(target / each)
    lock.unlock()
    return facts


def take_away(folder: Path, tenant: Path) -> None:
    """Remove an upload's folder: out of sight by one rename, then gone. Raises OutputUnwritable."""
    aside = tenant / INCOMING / folder.name
    with translated(folder):
        make_folder(aside.parent)
        with suppress(FileNotFoundError):
            os.rename(folder, aside)
            fsync_folder(folder.parent)
        remove_tree(aside)


def announce(context: Context, folder: Path, facts: Mapping[str, Any]) -> None:
    """Say how large the upload in this folder may become, if its tenant's quota has room for facts["length"] bytes.

    Whoever announces counts under a lock, so two that fit alone but not together never both get in.
    Raises TooLarge, UploadBusy (somebody counts without end), OutputUnwritable.
    """
    said = json.dumps(dict(facts)).encode()
    quota = context.policy.upload_quota_bytes
    if quota is None:
        with translated(folder):
            write_file(folder / ANNOUNCED, said)
        return
    tenant = folder.parent.parent
    with _counting(tenant):
        taken = sum(size for name, size in _taken(tenant).items() if name != folder.name)
        if taken + facts["length"] > quota:
            raise TooLarge(
                f"{facts['name']} with {facts['length']:,} bytes does not fit: of your quota of {quota:,} bytes"
                f" uploads take {taken:,} already, unfinished ones among them.",
                remedy="Remove uploads that no job needs (`tidemill uploads list`, `tidemill uploads remove ID`), or"
                " ask the operator to raise upload_quota_bytes.",
            )
        with translated(folder):
            write_file(folder / ANNOUNCED, said)


def _taken(tenant: Path) -> dict[str, int]:
    """Bytes of each upload by its id: of whole ones what they have, of the others what they announced."""
    # Those on their way first: one that becomes whole meanwhile is seen at least once.
    taken = {
        name: int(announced["length"])
        for way in (INCOMING, UNFINISHED)
        for name in ids_in(tenant / way)
        if (announced := announced_of(tenant / way / name)) is not None
    }
    for name in ids_in(tenant):
        with suppress(NotFound):
            taken[name] = int(facts_of(tenant / name)["size_bytes"])
    return taken


@contextmanager
def _counting(tenant: Path) -> Iterator[None]:
    lock = FileLock(tenant / _QUOTA_LOCK)
    deadline = time.monotonic() + _COUNTING_SECONDS
    with translated(lock.path):
        while not lock.try_lock():
            if time.monotonic() > deadline:
                raise UploadBusy("Somebody else is counting the uploads of this tenant.", remedy="Send it again later.")
            time.sleep(_POLL_SECONDS)
    with lock:
        yield
