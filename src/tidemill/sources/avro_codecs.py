"""What the blocks of an Avro file are compressed with, undone within a bound."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Mapping

import pyarrow as pa

from tidemill.sources.blocks import Undecodable


class TooLong(Exception):
    """The block holds more bytes than the bound."""


def unpacked(codec: str, data: bytes, max_bytes: int) -> bytes:
    """The block's own bytes. Raises Undecodable, TooLong."""
    try:
        plain = CODECS[codec](data, max_bytes)
    except (zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, pa.ArrowException) as exc:
        raise Undecodable(f"it is not whole ({exc})") from exc
    if len(plain) > max_bytes:
        raise TooLong
    return plain


def _deflate(data: bytes, max_bytes: int) -> bytes:
    return zlib.decompressobj(-15).decompress(data, max_bytes + 1)


def _snappy(data: bytes, max_bytes: int) -> bytes:
    """Behind the block stands a checksum, and at its beginning its length."""
    length = shift = 0
    for byte in data[:5]:
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if length > max_bytes:
        raise TooLong
    plain: bytes = pa.decompress(data[:-4], decompressed_size=length, codec="snappy", asbytes=True)
    if zlib.crc32(plain) != int.from_bytes(data[-4:], "big"):
        raise Undecodable("its checksum is another one")
    return plain


def _zstandard(data: bytes, max_bytes: int) -> bytes:
    with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
        plain: bytes = stream.read(max_bytes + 1)
    return plain


CODECS: Mapping[str, Callable[[bytes, int], bytes]] = {
    "null": lambda data, _: data,
    "deflate": _deflate,
    "snappy": _snappy,
    "bzip2": lambda data, max_bytes: bz2.BZ2Decompressor().decompress(data, max_bytes + 1),
    "xz": lambda data, max_bytes: lzma.LZMADecompressor().decompress(data, max_bytes + 1),
    "zstandard": _zstandard,
}
