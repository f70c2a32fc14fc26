"""Text that cannot be split is unpacked, and brought to UTF-8, into a folder where `read` can seek."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import get_ident
from typing import IO, Literal, cast

import pyarrow as pa

from tidemill.domain.errors import InputUnreadable, InvalidSpec
from tidemill.domain.plan import InputFile
from tidemill.durable.files import fsync_file, make_folder, translated
from tidemill.sources.pinned import check_pinned, opened, readable

Compression = Literal["gzip", "zstd"]

HEAD_BYTES = 1 << 16
DEFAULT_MAX_SPOOL_BYTES = 1 << 38
SPARED_BYTES = 1 << 30
_COPY_BYTES = 1 << 20
_MAGIC: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_NATIVE = ("utf-8", "ascii", "utf-8-sig")
_INVALID = "tidemill_invalid"


def _mark_invalid(error: UnicodeError) -> tuple[str, int]:
    """Put a lone surrogate where text cannot be decoded: it becomes a byte that is no UTF-8, so that
    only the row it stands in is refused."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udcff", error.end


codecs.register_error(_INVALID, _mark_invalid)


def compression_of(head: bytes) -> Compression | None:
    """The compression of a file that begins with `head`, by its magic bytes."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def read_head(file: InputFile, size: int = HEAD_BYTES) -> bytes:
    """The first `size` bytes of the file's content, decompressed. Raises InputUnreadable."""
    with opened(file) as raw:
        head = raw.read(size)
    if compression_of(head) is None:
        return head
    with _unpacked(file, head) as stream:
        found = b""
        while piece := _read(file, stream, size - len(found)):
            found += piece
        return found


@contextmanager
def plain_text(file: InputFile, spool: Path | None, encoding: str, max_spool_bytes: int) -> Iterator[IO[bytes]]:
    """The file's text as plain UTF-8, open: the file itself or a copy in `spool`, made if it is missing.

    Bytes that are not valid in a foreign `encoding` stay invalid in the copy. Raises InputUnreadable for a
    damaged stream or one beyond the bound, InvalidSpec for an unknown encoding.
    """
    codec = _codec(encoding)
    if codec in _NATIVE:
        codec = None
    with opened(file) as raw:
        head = raw.read(4)
        if compression_of(head) is None and codec is None:
            raw.seek(0)
            yield raw
            return
    if spool is None:
        raise InputUnreadable(
            f"{file.path} is compressed or not UTF-8, and there is no folder to convert it into.",
            remedy="Decompress the file and save it as UTF-8.",
        )
    target = spool / _spool_name(file, codec)
    if not target.exists():
        _fill(file, head, codec, target, max_spool_bytes)
    with readable(file), target.open("rb") as text:
        yield text


def _codec(encoding: str) -> str | None:
    try:
        return codecs.lookup(encoding).name
    except LookupError as exc:
        raise InvalidSpec(
            f"Encoding {encoding!r} is not known.", remedy='Use a name such as "utf-8", "latin-1", "cp1252", "utf-16".'
        ) from exc


def _spool_name(file: InputFile, codec: str | None) -> str:
    identity = "\0".join((file.path, str(file.size_bytes), str(file.mtime_ns), codec or ""))
    return f"{hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()}.text"


def _fill(file: InputFile, head: bytes, codec: str | None, target: Path, max_spool_bytes: int) -> None:
    check_pinned(file)
    scratch = target.with_name(f".{target.name}.{os.getpid()}-{get_ident()}.tmp")
    with translated(target.parent):
        make_folder(target.parent)
        bound = min(max_spool_bytes, shutil.disk_usage(target.parent).free - SPARED_BYTES)
    try:
        with _unpacked(file, head) as stream, translated(scratch), scratch.open("wb") as out:
            _copy(file, stream, out, codec, bound)
        check_pinned(file)
        with translated(scratch):
            # Offsets of the plan point into this file, so a power cut must not leave a shorter one under its name.
            fsync_file(scratch)
            os.rename(scratch, target)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise


def _copy(file: InputFile, stream: IO[bytes], out: IO[bytes], codec: str | None, bound: int) -> None:
    decoder = codecs.getincrementaldecoder(codec)(_INVALID) if codec else None
    written = 0
    while True:
        data = _read(file, stream, _COPY_BYTES)
        ended = not data
        if decoder:
            data = decoder.decode(data, ended).encode("utf-8", "surrogateescape")
        written += len(data)
        if written > bound:
            raise InputUnreadable(
                f"{file.path} holds more than {max(bound, 0)} bytes of text, the bound for its decompressed copy.",
                remedy="Free some space, raise the input option max_spool_bytes, or decompress the file yourself.",
            )
        out.write(data)
        if ended:
            return


def _read(file: InputFile, stream: IO[bytes], size: int) -> bytes:
    try:
        return stream.read(size)
    except (EOFError, zlib.error, OSError) as exc:
        raise InputUnreadable(
            f"{file.path} cannot be decompressed: it is damaged or cut short ({exc}).",
            remedy="Copy or write the file again, then run again.",
        ) from exc


@contextmanager
def _unpacked(file: InputFile, head: bytes) -> Iterator[IO[bytes]]:
    kind = compression_of(head)
    with opened(file) as raw:
        if kind == "gzip":
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
        elif kind == "zstd":
            yield cast("IO[bytes]", pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"))
        else:
            yield raw
