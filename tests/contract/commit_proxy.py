"""A TCP proxy in front of a Postgres socket that loses the answer to a COMMIT, or the COMMIT itself."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

_COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
_ROLLBACK = b"Q\x00\x00\x00\x0dROLLBACK\x00"
_RESET = struct.pack("ii", 1, 0)


class Fault(Enum):
    """What happens to the next COMMIT."""

    ANSWER_LOST = "the server commits, nobody hears it"
    REQUEST_LOST = "the server never hears of it"
    REQUEST_LATE = "the connection breaks, and later the server commits all the same"
    REQUEST_STUCK = "the connection breaks, and the server notices only later"


class CommitProxy:
    """Forwards connections to a socket. `fault` is for one COMMIT; `closed` refuses new connections.

    With `choose` each COMMIT has the fault that it answers for all bytes of the transaction.
    """

    def __init__(self, target: Path, choose: Callable[[bytes], Fault | None] | None = None) -> None:
        self.target, self.choose = target, choose
        self.fault: Fault | None = None
        self.closed = False
        self.faults = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._guard = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, url: str) -> str:
        """The URL of a database behind the socket, through here."""
        user_and_database = url.split("?")[0].removeprefix("postgresql://")
        user, _, database = user_and_database.partition("@/")
        port = self._listener.getsockname()[1]
        return f"postgresql://{user}@127.0.0.1:{port}/{database}?sslmode=disable&gssencmode=disable"

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.closed:
                _reset(client)
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self.target))
            for pump in (self._up, self._down):
                threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        said = b""
        with suppress(OSError):
            while data := client.recv(65_536):
                said += data
                fault = self._take(said) if _COMMIT in data else None
                if _COMMIT in data or _ROLLBACK in data:
                    said = b""
                if fault is None:
                    server.sendall(data)
                    continue
                # From here on nothing comes down: the other pump sees that the client is gone.
                _reset(client)
                if fault is Fault.REQUEST_LATE:
                    time.sleep(0.4)
                if fault in (Fault.ANSWER_LOST, Fault.REQUEST_LATE):
                    server.sendall(data)
                    time.sleep(0.1)
                if fault is Fault.REQUEST_STUCK:
                    time.sleep(0.4)
                break
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65_536):
                with suppress(OSError):
                    client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        client.close()
        server.close()

    def _take(self, said: bytes) -> Fault | None:
        with self._guard:
            fault, self.fault = self.choose(said) if self.choose else self.fault, None
            self.faults += fault is not None
            return fault


@contextmanager
def proxied(target: Path, choose: Callable[[bytes], Fault | None] | None = None) -> Iterator[CommitProxy]:
    """A proxy that ends with the block."""
    proxy = CommitProxy(target, choose)
    try:
        yield proxy
    finally:
        proxy.close()


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.shutdown(socket.SHUT_RD)
    connection.close()
