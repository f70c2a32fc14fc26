"""Files of this machine into its own store of uploads, so that what was interrupted goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tidemill.domain.access import Principal
from tidemill.domain.errors import InputChanged, InputUnreadable, InvalidSpec
from tidemill.service import resumable, uploads
from tidemill.service.appending import Appending
from tidemill.service.context import Context
from tidemill.service.unfinished import Progress
from tidemill.wire.api import UploadOut

BLOCK_BYTES = 1 << 20


def add(
    context: Context,
    who: Principal,
    path: Path,
    *,
    resume: str | None,
    begun: Callable[[str], None] | None,
    moved: Callable[[int, int | None], None] | None,
) -> UploadOut:
    """Copy one file, or go on with it. Raises as `client.uploads.Uploads.add` does."""
    try:
        size = os.stat(path).st_size
        seen = resumable.create(context, who, path.name, size) if resume is None else _found(context, who, resume, path)
        if begun:
            begun(seen.id)
        if seen.offset < size:
            _copy(context, who, path, seen, moved)
        made = uploads.get(context, who, seen.id)
        if resume is not None:
            _check(context, who, path, made)
    except OSError as exc:
        raise InputUnreadable(
            f"Cannot read {path}: {exc.strerror or exc}.", remedy="Check that it is there and may be read."
        ) from exc
    return made


def _found(context: Context, who: Principal, upload_id: str, path: Path) -> Progress:
    seen = resumable.look(context, who, upload_id)
    size = os.stat(path).st_size
    if seen.length != size:
        raise InvalidSpec(
            f"{path} has {size:,} bytes, but the upload {upload_id} was begun with {seen.length:,}.",
            remedy="Send it as a new upload; it is another file, or it has changed.",
        )
    return seen


def _copy(
    context: Context,
    who: Principal,
    path: Path,
    seen: Progress,
    moved: Callable[[int, int | None], None] | None,
) -> None:
    with closing(Appending(context, who, seen.id, offset=seen.offset)) as appending, path.open("rb") as file:
        file.seek(seen.offset)
        while block := file.read(BLOCK_BYTES):
            appending.write(block)
            if moved:
                moved(file.tell(), seen.length)
        if appending.finish().offset < seen.length:
            raise InputChanged(f"{path} changed while it was sent.", remedy="Send it when nobody writes to it.")


def _check(context: Context, who: Principal, path: Path, made: UploadOut) -> None:
    """Of one that went on: nobody has seen its first bytes this time."""
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() == made.sha256:
            return
    uploads.remove(context, who, made.id)
    raise InputChanged(
        f"{path} is not the file that the upload {made.id} was begun with.", remedy="Send it as a new upload."
    )
