"""Framed JSON messages over a Unix socket pair: four bytes of length, then a JSON object.

`Channel` is the end of a child: it blocks. `Link` is the end of a process that must never wait for one
peer: it buffers what cannot be sent yet and returns what is there.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from tidemill.domain.errors import TooLarge

MAX_BYTES = 16 * 2**20
READ_BYTES = 64 * 2**10
MAX_FDS = 8

_LENGTH = struct.Struct(">I")

Message = dict[str, Any]


class ChannelClosed(Exception):
    """The other end is closed."""


class ChannelBroken(Exception):
    """What came is no message; nothing after it can be understood."""


def encode(message: Mapping[str, Any]) -> bytes:
    """One frame. Raises TooLarge, and TypeError for what JSON cannot hold."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_BYTES:
        raise TooLarge(
            f"A message between processes has {len(body):,} bytes; at most {MAX_BYTES:,} are allowed.",
            remedy="Pass a path instead of the data itself.",
        )
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Takes bytes as they come; whole messages collect in `messages`."""

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Raises ChannelBroken at the first thing that is no message; those before it are kept."""
        self._data += data
        start = 0
        try:
            while len(self._data) - start >= _LENGTH.size:
                (size,) = _LENGTH.unpack_from(self._data, start)
                if size > MAX_BYTES:
                    raise ChannelBroken(f"a frame of {size:,} bytes")
                stop = start + _LENGTH.size + size
                if len(self._data) < stop:
                    break
                self.messages.append(_decode(bytes(self._data[start + _LENGTH.size : stop])))
                start = stop
        finally:
            del self._data[:start]


def _decode(body: bytes) -> Message:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise ChannelBroken(f"{body[:40]!r} is not JSON") from exc
    if not isinstance(message, dict):
        raise ChannelBroken(f"{body[:40]!r} is not a JSON object")
    return message


class Channel:
    """A child's end. `send` may be called from several threads, `receive` from one at a time."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._decoder = Decoder()
        self._sending = threading.Lock()

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message; waits while the other side does not read. Raises ChannelClosed."""
        data = encode(message)
        with self._sending:
            try:
                self._sock.sendall(data)
            except OSError as exc:
                raise ChannelClosed from exc

    def receive(self) -> Message | None:
        """Wait for the next message; None when the other side has closed. Raises ChannelBroken."""
        while not self._decoder.messages:
            try:
                data = self._sock.recv(READ_BYTES)
            except ConnectionError:
                return None
            if not data:
                return None
            self._decoder.feed(data)
        return self._decoder.messages.popleft()

    def close(self) -> None:
        self._sock.close()


class Link:
    """An end that never waits. Not thread-safe.

    `closed` says that nothing more will come; `broken` why what came cannot be understood (then it is
    closed too); `mute` that nothing more can be sent. Descriptors that came along wait in `fds` in the
    order in which they were sent.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.closed = False
        self.broken: str | None = None
        self.mute = False
        self.fds: deque[int] = deque()
        self._sock = sock
        self._decoder = Decoder()
        self._unsent: deque[tuple[memoryview, Sequence[int]]] = deque()

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def pending(self) -> bool:
        """Whether something waits until the other side reads."""
        return bool(self._unsent)

    def post(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Queue one message; `fds` must stay open until it is sent. Call `flush` to send."""
        self._unsent.append((memoryview(encode(message)), fds))

    def flush(self) -> None:
        """Send what can be sent now; all is dropped when nobody is there to read it."""
        try:
            while self._unsent:
                data, fds = self._unsent[0]
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
                sent = self._sock.sendmsg([data], rights)
                self._unsent.popleft()
                if sent < len(data):
                    self._unsent.appendleft((data[sent:], ()))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.mute = True
            self._unsent.clear()

    def receive(self, max_bytes: int | None = 2**20) -> list[Message]:
        """What has come by now; `max_bytes` (roughly) bounds one call, None reads to the end."""
        count = 0
        while not self.closed and (max_bytes is None or count < max_bytes):
            data = self._read()
            if data is None:
                break
            count += len(data)
            try:
                self._decoder.feed(data)
            except ChannelBroken as exc:
                self.broken = str(exc)
                self.closed = True
        messages = list(self._decoder.messages)
        self._decoder.messages.clear()
        return messages

    def _read(self) -> bytes | None:
        """Some bytes, or None if there are none now or never again."""
        try:
            data, ancillary, _, _ = self._sock.recvmsg(READ_BYTES, socket.CMSG_SPACE(MAX_FDS * array("i").itemsize))
        except (BlockingIOError, InterruptedError):
            return None
        except ConnectionError:
            self.closed = True
            return None
        for level, kind, rights in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._adopt(rights)
        if not data:
            self.closed = True
            return None
        return data

    def _adopt(self, rights: bytes) -> None:
        fds = array("i")
        fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
        for fd in fds:
            os.set_inheritable(fd, False)
        self.fds.extend(fds)

    def shut_down(self) -> None:
        """Let the other side see the end; from any thread."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end and every descriptor that nobody has taken."""
        self.closed = True
        while self.fds:
            os.close(self.fds.popleft())
        self._unsent.clear()
        self._sock.close()
