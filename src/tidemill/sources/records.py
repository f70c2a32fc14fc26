"""Where the records of a text file end, found the same way by the scan and by every later reading.

A cut depends only on where a record starts, never on where buffers happen to end: so any record
border that the scan noted is a place to start reading at.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from tidemill.kernels.delimited import Delimited
from tidemill.kernels.library import NotCompilable

MAX_RECORD_BYTES = 64 << 20
CHUNK_BYTES = 1 << 22
RAW_BYTES = 4096

Offsets = np.ndarray[Any, np.dtype[np.int64]]

_LF, _CR = 10, 13
_NONE: Offsets = np.empty(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Whole records that lie at [offset, offset + length) of the text, and at the beginning of `buffer`.

    If `broken` says why, the piece is one record that cannot be read and `buffer` only its beginning.
    """

    offset: int
    length: int
    buffer: bytes
    records: int
    broken: str | None = None

    @property
    def data(self) -> bytes:
        """What of the buffer is the piece's: copied, if not all of it is."""
        return self.buffer if len(self.buffer) <= self.length else self.buffer[: self.length]


class Grammar(ABC):
    """What ends a record."""

    @abstractmethod
    def cut(self, data: bytes, final: bool) -> tuple[int, int]:
        """(bytes, records) of the whole records at the beginning of `data`, which starts with a record.

        `final` says that nothing follows: then the last record needs no line end.
        """

    @abstractmethod
    def line_end(self, data: bytes, start: int, final: bool) -> int:
        """The offset behind the line end at or after `start`, or -1 if it is not in `data`."""

    @abstractmethod
    def records(self, data: bytes) -> list[bytes]:
        """The records of a piece without their line ends."""

    broken: str
    """What is wrong with a record that never ends."""


def pieces(
    file: IO[bytes], start: int, stop: int, grammar: Grammar, chunk_bytes: int, max_record_bytes: int
) -> Iterator[Piece]:
    """Cut [start, stop) of a seekable file, `start` being a record's, into pieces of about `chunk_bytes`.

    A record without an end, or one above `max_record_bytes`, is a broken piece of one line; what
    follows that line is read as if the line were not there.
    """
    offset, want = start, chunk_bytes
    while True:
        # One byte more than a record may have, since a carriage return ends a record only with its follower known.
        size = min(want, max_record_bytes + 1, stop - offset)
        # What the last piece left is read again: it is less than a record, and joining it would copy everything.
        file.seek(offset)
        data = file.read(size) if size > 0 else b""
        end = offset + len(data)
        final = end >= stop or len(data) < size
        length, records = _within(grammar, data, final, max_record_bytes)
        if length:
            yield Piece(offset=offset, length=length, buffer=data, records=records)
            offset, want = offset + length, chunk_bytes
        elif not final and len(data) <= max_record_bytes:
            want = 2 * len(data)
        elif data:
            length = _skip_line(file, data, offset, stop, grammar)
            raw = data[: min(length, RAW_BYTES)].rstrip(b"\r\n")
            yield Piece(offset=offset, length=length, buffer=raw, records=1, broken=grammar.broken)
            offset, want = offset + length, chunk_bytes
        if final and offset >= end:
            return


def _within(grammar: Grammar, data: bytes, final: bool, max_record_bytes: int) -> tuple[int, int]:
    """`cut`, but a record of the full length or more is none, however the buffers fell."""
    length, records = grammar.cut(data, final)
    if length >= max_record_bytes and records == 1:
        blank = _blank_lines(data[:length])
        if len(data[blank:length].rstrip(b"\r\n")) >= max_record_bytes:
            return blank, 0
    return length, records


def _blank_lines(data: bytes) -> int:
    """How many bytes of lines without a record come before the record that `data` holds."""
    record = data.lstrip()
    before = len(data) - len(record) if record else 0
    return max(data.rfind(b"\n", 0, before), data.rfind(b"\r", 0, before)) + 1


def _skip_line(file: IO[bytes], data: bytes, offset: int, stop: int, grammar: Grammar) -> int:
    """The length of the line that `data` begins with, which may go on far behind it in the file."""
    known = 0
    while True:
        final = offset + known + len(data) >= stop
        end = grammar.line_end(data, 0, final)
        if end >= 0:
            return known + end
        if final:
            return known + len(data)
        # The last byte is looked at again, for it may be the first half of a line end.
        known += len(data) - 1
        file.seek(offset + known)
        data = file.read(min(CHUNK_BYTES, stop - offset - known))
        if len(data) <= 1:
            return known + len(data)


class LineGrammar(Grammar):
    """A record is a line that holds more than white space, ended by a line feed."""

    broken = "The line is too long to be read."

    def cut(self, data: bytes, final: bool) -> tuple[int, int]:
        length = len(data) if final else data.rfind(b"\n") + 1
        view = np.frombuffer(data, np.uint8, length)
        starts = np.concatenate((np.zeros(1, np.int64), np.flatnonzero(view == _LF) + 1))
        starts = starts[starts < length]
        suspicious = starts[view[starts] <= 32]
        blank = sum(1 for start in suspicious.tolist() if not data[start : self.line_end(data, start, True)].strip())
        return length, len(starts) - blank

    def line_end(self, data: bytes, start: int, final: bool) -> int:
        end = data.find(b"\n", start) + 1
        return end or (len(data) if final else -1)

    def records(self, data: bytes) -> list[bytes]:
        return [line for line in data.split(b"\n") if line.strip()]


class CsvGrammar(Grammar):
    """A record ends at a line end (LF, CRLF or CR) outside quotes.

    A quote opens only at the beginning of a field and closes at the next quote that is not doubled;
    elsewhere it is a character like any other. An empty line is no record unless `keep_empty`.
    """

    broken = "A quote is never closed, or the record is too long to be read."

    def __init__(self, delimiter: str, quote: str, keep_empty: bool) -> None:
        self.delimiter, self.quote, self.keep_empty = delimiter.encode(), quote.encode(), keep_empty
        self.kernel: Delimited | None = None
        with suppress(NotCompilable):
            self.kernel = Delimited(self.delimiter, self.quote, keep_empty=keep_empty)
        self._is_border = np.zeros(256, bool)
        self._is_border[[ord(delimiter), _LF, _CR, *self.quote]] = True
        separator, mark = re.escape(self.delimiter), re.escape(self.quote)
        plain = rb"[^" + separator + rb"\r\n]*+"
        field = plain
        if quote:
            inside = rb"[^" + mark + rb"]*+"
            quoted = mark + inside + rb"(?:" + mark + mark + inside + rb")*+" + mark + plain
            field = rb"(?:" + quoted + rb"|(?!" + mark + rb")" + plain + rb")"
        record = field + rb"(?:" + separator + field + rb")*+"
        self._field = re.compile(field)
        self._record = re.compile(record + rb"(?:\r\n|\r|\n)")
        self._last_record = re.compile(record + rb"(?:\r\n|\r|\n|\Z)")

    def cut(self, data: bytes, final: bool) -> tuple[int, int]:
        if self.kernel is not None:
            return self.kernel.cut(data, final)
        if (not self.quote or self.quote not in data) and (found := self._cut_plain(data, final)) is not None:
            return found
        ends = self.ends(data, final)
        if not len(ends):
            return 0, 0
        records = len(ends)
        if not self.keep_empty and (ends[0] <= 2 or bool((np.diff(ends) <= 2).any())):
            records = int(np.count_nonzero(self._content_lengths(data, ends)))
        return int(ends[-1]), records

    def _cut_plain(self, data: bytes, final: bool) -> tuple[int, int] | None:
        """`cut` of data without quotes, by counting alone; None if a closer look is needed."""
        length = data.rfind(b"\n") + 1
        feeds = np.frombuffer(data, np.uint8, length) == _LF
        last = feeds
        if b"\r" in data:
            returns = np.frombuffer(data, np.uint8, length) == _CR
            if data.find(b"\r", length) >= 0 or not np.array_equal(returns[:-1], feeds[1:]) or data.startswith(b"\n"):
                return None
            last = returns
        if not self.keep_empty and length and (last[0] or bool((last[1:] & feeds[:-1]).any())):
            return None
        records = int(np.count_nonzero(feeds))
        return (len(data), records + 1) if final and length < len(data) else (length, records)

    def ends(self, data: bytes, final: bool) -> Offsets:
        """The offsets behind the line ends of all whole records, empty ones included."""
        if not data:
            return _NONE
        view = np.frombuffer(data, np.uint8)
        quotes = np.flatnonzero(view == self.quote[0]) if self.quote else _NONE
        if len(quotes) and self._stray(view, quotes):
            return self._ends_by_grammar(data, final)
        ends = _line_ends(data, view, final)
        if len(quotes):
            ends = ends[(np.searchsorted(quotes, ends) & 1) == 0]
        open_at_end = len(quotes) & 1
        if final and not open_at_end and (not len(ends) or ends[-1] < len(data)):
            ends = np.append(ends, len(data))
        return ends

    def _stray(self, view: np.ndarray[Any, Any], quotes: Offsets) -> bool:
        """Whether counting quotes is not enough: one opens inside a field or closes before its end."""
        opening, closing = quotes[::2], quotes[1::2]
        before = view[opening[1:] - 1] if opening[0] == 0 else view[opening - 1]
        after = view[closing[closing < len(view) - 1] + 1]
        return not (self._is_border[before].all() and self._is_border[after].all())

    def _ends_by_grammar(self, data: bytes, final: bool) -> Offsets:
        match = (self._last_record if final else self._record).match
        stop = len(data) if final or not data.endswith(b"\r") else len(data) - 1
        ends: list[int] = []
        position = 0
        while position < stop and (found := match(data, position, stop)):
            position = found.end()
            ends.append(position)
        return np.array(ends, np.int64)

    def _content_lengths(self, data: bytes, ends: Offsets) -> Offsets:
        """How many bytes each record has without its line end."""
        view = np.frombuffer(data, np.uint8)
        starts = np.concatenate((np.zeros(1, np.int64), ends[:-1]))
        last = view[ends - 1]
        feed = last == _LF
        both = feed & (ends - starts >= 2) & (view[np.maximum(ends - 2, 0)] == _CR)
        lengths: Offsets = ends - starts - (feed | (last == _CR)) - both
        return lengths

    def line_end(self, data: bytes, start: int, final: bool) -> int:
        found = _LINE_END.search(data, start)
        if found is None:
            return len(data) if final else -1
        if not final and found.end() == len(data) and data.endswith(b"\r"):
            return -1
        return found.end()

    def records(self, data: bytes) -> list[bytes]:
        ends = self.ends(data, True)
        stops = np.concatenate((np.zeros(1, np.int64), ends[:-1])) + self._content_lengths(data, ends)
        starts = [0, *ends[:-1].tolist()]
        return [
            data[start:stop]
            for start, stop in zip(starts, stops.tolist(), strict=True)
            if stop > start or self.keep_empty
        ]

    def fields(self, record: bytes) -> list[bytes]:
        """The values of a record: quotes removed, doubled ones single."""
        values = []
        position = 0
        while True:
            found = self._field.match(record, position)
            if found is None:
                break
            values.append(self._value(found.group()))
            position = found.end() + 1
            if found.end() >= len(record):
                break
        return values

    def _value(self, field: bytes) -> bytes:
        if not self.quote or not field.startswith(self.quote):
            return field
        mark = re.escape(self.quote)
        closing = re.compile(mark + rb"((?:[^" + mark + rb"]|" + mark + mark + rb")*+)" + mark).match(field)
        if closing is None:
            return field
        return closing.group(1).replace(self.quote * 2, self.quote) + field[closing.end() :]


_LINE_END = re.compile(rb"\r\n|\r|\n")


def _line_ends(data: bytes, view: np.ndarray[Any, Any], final: bool) -> Offsets:
    ends = np.flatnonzero(view == _LF) + 1
    if b"\r" not in data:
        return ends
    returns = np.flatnonzero(view == _CR)
    if not final and len(returns) and returns[-1] == len(data) - 1:
        returns = returns[:-1]
    lone = returns[view[np.minimum(returns + 1, len(data) - 1)] != _LF] + 1
    return np.sort(np.concatenate((ends, lone))) if len(lone) else ends
