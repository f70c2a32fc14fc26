"""What CSV and JSON Lines share: values as text, rows joined in Arrow, one compressed stream per file."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, ClassVar, Protocol, cast

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.domain.errors import OutputUnwritable
from tidemill.durable.files import DurableFile
from tidemill.encoders.part import FileWriter, check_options
from tidemill.ports.encoder import Encoder, Written

TEXT = pa.large_string()
COMPRESSIONS = {"gzip": ".gz", "zstd": ".zst"}
REMEDY = "Use Parquet, or --keep without it."
ROWS_AT_ONCE = 8_192

_BLOCK_BYTES = 1 << 20
_SECONDS_OF = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_FIRST_SECOND = -62_135_596_800
_LAST_SECOND = 253_402_300_799
"""Years 1 to 9999: what ISO 8601 writes with four digits."""


class Stream(Protocol):
    """Bytes on their way into a file."""

    def write(self, data: memoryview, /) -> object: ...

    def end(self) -> None: ...


class _Plain:
    def __init__(self, file: DurableFile) -> None:
        self._file = file

    def write(self, data: memoryview, /) -> None:
        self._file.write(data)

    def end(self) -> None:
        pass


class _Blocks:
    """Hands on blocks of one size, so that compressed bytes do not depend on how rows arrived."""

    def __init__(self, file: DurableFile) -> None:
        self._file = file
        self._held = bytearray()

    def write(self, data: memoryview, /) -> None:
        self._held += data
        if len(self._held) >= _BLOCK_BYTES:
            whole = len(self._held) // _BLOCK_BYTES * _BLOCK_BYTES
            for start in range(0, whole, _BLOCK_BYTES):
                self._compress(bytes(self._held[start : start + _BLOCK_BYTES]))
            del self._held[:whole]

    def end(self) -> None:
        self._compress(bytes(self._held))
        self._held.clear()

    def _compress(self, block: bytes) -> None:
        raise NotImplementedError


class _Gzip(_Blocks):
    def __init__(self, file: DurableFile) -> None:
        super().__init__(file)
        # zlib's own gzip header carries no time and no name.
        self._gzip = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)

    def _compress(self, block: bytes) -> None:
        self._file.write(self._gzip.compress(block))

    def end(self) -> None:
        super().end()
        self._file.write(self._gzip.flush())


class _Zstd(_Blocks):
    """One frame: some readers stop after the first of several."""

    def __init__(self, file: DurableFile) -> None:
        super().__init__(file)
        self._zstd = pa.CompressedOutputStream(pa.PythonFile(_Open(file), "w"), "zstd")

    def _compress(self, block: bytes) -> None:
        self._zstd.write(block)

    def end(self) -> None:
        super().end()
        self._zstd.close()


class _Open:
    """The file for a library that closes what it was given: `commit` must still find it open."""

    closed = False

    def __init__(self, file: DurableFile) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


_STREAMS: dict[str | None, type[_Plain | _Gzip | _Zstd]] = {None: _Plain, "none": _Plain, "gzip": _Gzip, "zstd": _Zstd}


class TextEncoder(Encoder):
    """A format of lines. Option: `compression` (none, gzip or zstd)."""

    known_options: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        check_options(self.name, self.options, {"compression": tuple(_STREAMS), **self.known_options})

    @property
    def compression(self) -> str | None:
        found: str | None = self.options.get("compression")
        return None if found == "none" else found

    @property
    def file_suffix(self) -> str:
        return self.suffix + COMPRESSIONS.get(self.compression or "", "")

    def read(self, path: Path) -> Iterator[bytes]:
        """The decompressed content of a part, in blocks."""
        with pa.OSFile(str(path)) as raw:
            if self.compression is None:
                yield from _blocks(raw)
            else:
                with pa.CompressedInputStream(raw, self.compression) as stream:
                    yield from _blocks(stream)


def _blocks(stream: pa.NativeFile) -> Iterator[bytes]:
    while block := cast("IO[bytes]", stream).read(_BLOCK_BYTES):
        yield block


class TextWriter(FileWriter):
    """Writes rows as lines. Members fill in `_lines`."""

    def __init__(self, path: Path, schema: pa.Schema, compression: str | None) -> None:
        super().__init__(path, schema)
        self._compression = compression

    def _begin(self) -> None:
        self._stream = _STREAMS[self._compression](self._file)

    def copy(self, data: bytes, rows: int) -> None:
        """Append text that is in the format already, in which so many rows end."""
        with self._poisoning():
            self._stream.write(memoryview(data))
            self._rows += rows

    @abstractmethod
    def _lines(self, batch: pa.RecordBatch) -> pa.LargeStringArray:
        """Each row as text with its line end; no nulls."""

    def _append(self, batch: pa.RecordBatch) -> None:
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            self._stream.write(joined_bytes(self._lines(batch.slice(start, ROWS_AT_ONCE))))

    def _end(self) -> None:
        self._stream.end()


def write_text(writer: TextWriter, texts: Iterator[tuple[bytes, int]]) -> Written:
    """Copy text that is in the format already, each piece with the number of rows that end in it."""
    try:
        for text, rows in texts:
            writer.copy(text, rows)
        return writer.close()
    except BaseException:
        writer.abort()
        raise


def joined_bytes(array: pa.LargeStringArray) -> memoryview:
    """All values of an array without nulls, one after the other, without copying them."""
    if not len(array):
        return memoryview(b"")
    _, offsets, data = array.buffers()
    ends = memoryview(offsets).cast("B").cast("q")
    first, last = ends[array.offset], ends[array.offset + len(array)]
    return memoryview(data).cast("B")[first:last] if data is not None else memoryview(b"")


def decoded(array: pa.Array) -> pa.Array:
    """Dictionary values and extension storage as plain arrays."""
    if isinstance(array, pa.ExtensionArray):
        return decoded(array.storage)
    if pa.types.is_dictionary(array.type):
        return decoded(array.cast(array.type.value_type))
    return array


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of `decoded`."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    return plain_type(kind.value_type) if pa.types.is_dictionary(kind) else kind


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_time(kind: pa.DataType) -> bool:
    """Dates, times and timestamps: what is written in ISO 8601."""
    return bool(pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind))


def is_scalar(kind: pa.DataType) -> bool:
    """Whether `scalar_text` writes it, or it is text."""
    return (
        pa.types.is_null(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or is_time(kind)
        or is_text(kind)
    )


def scalar_text(name: str, array: pa.Array) -> pa.LargeStringArray:
    """Numbers, booleans, decimals and times as text that reads back equal; nulls stay null.

    Floats are the shortest text that gives the same bits and always have a point or an exponent;
    infinities and NaN are "inf", "-inf" and "nan".
    """
    kind = array.type
    if pa.types.is_floating(kind):
        return _float_text(array)
    if pa.types.is_decimal(kind):
        return _decimal_text(array)
    if pa.types.is_timestamp(kind):
        return _timestamp_text(name, array)
    if pa.types.is_date(kind):
        days = array.cast(pa.date32())
        _check_years(name, days.cast(pa.int32()).cast(pa.int64()), 86_400, 1)
        return days.cast(TEXT)
    return array.cast(TEXT)


def _float_text(array: pa.Array) -> pa.LargeStringArray:
    wide = array.cast(pa.float32()) if pa.types.is_float16(array.type) else array
    text = wide.cast(TEXT)
    whole = pc.match_substring_regex(text, r"^-?[0-9]+$")
    return pc.if_else(whole, pc.binary_join_element_wise(text, pa.scalar("", TEXT), pa.scalar(".0", TEXT)), text)


def _decimal_text(array: pa.Array) -> pa.LargeStringArray:
    text = array.cast(TEXT)
    if not pc.any(pc.match_substring(text, "E")).as_py():
        return text
    return pa.array([None if each is None else f"{Decimal(each):f}" for each in text.to_pylist()], TEXT)


def _timestamp_text(name: str, array: pa.Array) -> pa.LargeStringArray:
    kind = array.type
    _check_years(name, array.cast(pa.int64()), 1, _SECONDS_OF[kind.unit])
    # A zone is written as UTC: the instant is exact and no database of zones is needed.
    known = array.cast(pa.timestamp(kind.unit, "UTC")) if kind.tz else array
    return pc.replace_substring(known.cast(TEXT), " ", "T", max_replacements=1)


def _check_years(name: str, numbers: pa.Array, seconds: int, per_second: int) -> None:
    least, most = pc.min_max(numbers).as_py().values()
    if least is None:
        return
    if least * seconds < _FIRST_SECOND * per_second or most * seconds >= (_LAST_SECOND + 1) * per_second:
        raise OutputUnwritable(f"Column {name!r} holds a date outside the years 1 to 9999.", remedy=REMEDY)
