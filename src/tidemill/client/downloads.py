"""Fetching a result: streamed, taken up again where it broke off, and checked before it gets its name."""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx2

from tidemill.client.connection import Call, Connection
from tidemill.client.uploads import Moved
from tidemill.domain.errors import Damaged, OutputBusy, OutputExists, OutputUnwritable, ServiceUnreachable

STUCK_TRIES = 5
"""How often a download may break off without a byte of progress before it is given up."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A file that arrived whole."""

    path: Path
    size_bytes: int
    sha256: str
    etag: str | None


def fetch(
    connection: Connection, address: str, path: Path, *, overwrite: bool = False, moved: Moved | None = None
) -> Fetched:
    """Download to `path`, which gets its name only when every byte is there and durable.

    What an earlier call left unfinished (`.NAME.part` beside it) is gone on with by Range, if the service
    still has the same file. Raises OutputExists, OutputBusy, OutputUnwritable, ServiceUnreachable.
    """
    if not overwrite and os.path.lexists(path):
        raise _exists(path)
    scratch = path.with_name(f".{path.name}.part")
    with _writable(path), scratch.open("a+b") as file:
        _hold(file, path)
        transfer = _Transfer(connection, address, file, scratch.with_name(f".{path.name}.part.json"), moved)
        transfer.run()
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if transfer.sha256 not in (None, sha256):
            scratch.unlink()
            raise Damaged(
                f"{path} arrived with other bytes than the service sent (sha256 {sha256[:12]}).",
                remedy="Download it again; something between here and the service changes what it carries.",
            )
        _give_name(scratch, path, overwrite=overwrite)
        transfer.note.unlink(missing_ok=True)
    return Fetched(path=path, size_bytes=transfer.done, sha256=sha256, etag=transfer.etag)


class _Transfer:
    """One file on its way into `file`; `note` remembers which version of it that is."""

    def __init__(self, connection: Connection, address: str, file: BinaryIO, note: Path, moved: Moved | None) -> None:
        self.connection, self.address, self.file, self.note, self.moved = connection, address, file, note, moved
        self.etag = self._noted()
        self.sha256: str | None = None
        """Of the whole file, where the service says it."""
        self.done = os.fstat(file.fileno()).st_size if self.etag else 0

    def run(self) -> None:
        """Until every byte is there."""
        stuck = 0
        while True:
            before = self.done
            try:
                self._go_on()
            except ServiceUnreachable:
                stuck = stuck + 1 if self.done <= before else 0
                if stuck >= STUCK_TRIES or not self.etag:
                    raise
                self.connection.pause(stuck + 1)
            else:
                return

    def _go_on(self) -> None:
        # From the last byte that is there: asking for what is behind the end would be refused.
        start = max(0, self.done - 1)
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if start and self.etag:
            headers |= {"Range": f"bytes={start}-", "If-Range": self.etag}
        with self.connection.stream(Call(method="GET", path=self.address, headers=headers)) as response:
            total = self._begin(response, start)
            for block in response.iter_raw():
                self.file.write(block)
                self.done += len(block)
                if self.moved:
                    self.moved(self.done, total)
        if total is not None and self.done != total:
            raise ServiceUnreachable(
                f"The download broke off after {self.done:,} of {total:,} bytes.",
                remedy="Say the same again: it goes on where it broke off.",
            )

    def _begin(self, response: httpx2.Response, start: int) -> int | None:
        """Put the file where the answer begins; the size of the whole, if the answer says it."""
        if response.status_code == 206:
            first, total = _content_range(response)
            if first != start:
                raise Damaged(
                    f"The service sent byte {first:,} of the result where byte {start:,} was asked for.",
                    remedy="Download it again to another name.",
                )
        else:
            start, total = 0, _length(response)
            self.etag = _strong(response.headers.get("ETag"))
            self.note.write_text(json.dumps({"etag": self.etag}), encoding="utf-8")
        self.sha256 = _sha256(response.headers.get("Repr-Digest", ""))
        self.file.truncate(start)
        self.done = start
        return total

    def _noted(self) -> str | None:
        try:
            etag = json.loads(self.note.read_text(encoding="utf-8"))["etag"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return _strong(etag)


def _strong(etag: object) -> str | None:
    """A weak tag (W/"...") does not promise the same bytes, so nothing can be gone on with by it."""
    return etag if isinstance(etag, str) and etag.startswith('"') else None


def _sha256(text: str) -> str | None:
    """Hex of `sha-256=:BASE64:` in a Repr-Digest header."""
    found = re.search(r"(?:^|[,\s])sha-256=:([A-Za-z0-9+/=]+):", text)
    return base64.b64decode(found[1]).hex() if found else None


def _content_range(response: httpx2.Response) -> tuple[int, int | None]:
    """(first byte, size of the whole) of "bytes 10-99/100"."""
    text = response.headers.get("Content-Range", "")
    span, _, total = text.removeprefix("bytes ").partition("/")
    first = span.partition("-")[0]
    return (int(first) if first.isdecimal() else -1, int(total) if total.isdecimal() else None)


def _length(response: httpx2.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _hold(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputBusy(f"{path} is being downloaded by another process.", remedy="Wait for it.") from None


def _give_name(scratch: Path, path: Path, *, overwrite: bool) -> None:
    """One step for readers; without `overwrite` never over something that came in between."""
    if overwrite:
        os.replace(scratch, path)
    else:
        try:
            os.link(scratch, path)
        except FileExistsError:
            raise _exists(path) from None
        except OSError as exc:
            if exc.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                raise
            os.rename(scratch, path)  # A file system without hard links.
        else:
            os.unlink(scratch)
    _fsync_folder(path.parent)


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _exists(path: Path) -> OutputExists:
    return OutputExists(f"{path} is there already.", remedy="Choose another name, or ask for it to be overwritten.")


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise OutputUnwritable(
            f"Cannot write {path}: {exc.strerror or exc}.", remedy="Check the folder, its rights and its free space."
        ) from exc
