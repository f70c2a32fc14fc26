"""The bytes that one request brings to an unfinished upload."""

from __future__ import annotations

import hashlib
import hmac
import os
from contextlib import suppress
from dataclasses import dataclass

from tidemill.domain.access import Principal
from tidemill.domain.errors import ChecksumMismatch, OffsetMismatch, TooLarge, UploadBusy
from tidemill.durable.files import fsync_folder, remove_file, translated, write_file
from tidemill.durable.locks import FileLock
from tidemill.service import unfinished
from tidemill.service.context import Context
from tidemill.service.unfinished import UNVERIFIED, WANTED, Progress, Unfinished

ALGORITHMS = ("sha256", "sha1")
"""Of checksums of what one request brings: against faults on the way, the better one first."""


@dataclass(frozen=True, kw_only=True)
class Checksum:
    """What the bytes of one request must hash to."""

    algorithm: str
    """One of ALGORITHMS."""
    digest: bytes


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
            if (self._found.folder / UNVERIFIED).exists():
                self._drop()
            if self._checksum:
                write_file(self._found.folder / UNVERIFIED, str(self._start).encode())

    def check(self) -> None:
        """Raises UploadBusy if another request wants to go on with this upload."""
        if self._found is not None and (self._found.folder / WANTED).exists():
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
            return unfinished.whole(self._context, self._who, self.id)
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
        unfinished.complete(self._found, self._lock, self._whole.hexdigest() if self._whole else None)
        return unfinished.whole(self._context, self._who, self.id)

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
        remove_file(self._found.folder / UNVERIFIED)
        fsync_folder(self._found.folder)

    def _let_go(self) -> None:
        self._close_fd()
        if self._lock is not None:
            self._lock.unlock()

    def _close_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _check_offset(upload_id: str, given: int, here: int) -> None:
    if given != here:
        raise OffsetMismatch(
            f"The upload {upload_id} has {here:,} bytes, so it does not go on at {given:,}.",
            remedy="Ask for the offset by HEAD, and go on from there.",
        )


def _locked(context: Context, who: Principal, upload_id: str) -> Progress | tuple[Unfinished, FileLock]:
    """It and its lock. Raises as `look`."""
    while True:
        found = unfinished.find(context, who, upload_id)
        if isinstance(found, Progress):
            return found
        with suppress(FileNotFoundError):
            return found, unfinished.taken(found)
