"""Receivers on threads of this machine: good ones, broken ones, and ones that mean harm."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from standardwebhooks import Webhook

MOST_SECONDS = 30.0
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> dict[str, Any]:
        """What it says, if it was signed with that secret. Raises WebhookVerificationError."""
        told = Webhook(secret).verify(self.body, self.headers)
        assert isinstance(told, dict)
        return told


Answer = Callable[[BaseHTTPRequestHandler, int], None]
"""Gets the handler and how many requests came before."""


@dataclass
class Receiver:
    """What came, and the address for more."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    sent_bytes: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    """Set at the end: whoever dawdles stops."""

    @property
    def ids(self) -> list[str]:
        return [request.id for request in self.requests]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def wait(self, count: int = 1) -> list[Request]:
        """The requests, once there are so many."""
        return until(lambda: self.requests if len(self.requests) >= count else None)


def until(ask: Callable[[], T | None]) -> T:
    """What it answers as soon as that is something."""
    stop = time.monotonic() + MOST_SECONDS
    while True:
        found = ask()
        if found:
            return found
        assert time.monotonic() < stop, "it did not come to that"
        time.sleep(0.02)


@contextmanager
def receiving(answer: Answer | None = None, *, port: int = 0, certificate: Path | None = None) -> Iterator[Receiver]:
    """A receiver that answers so; 204 by default. With a certificate it speaks TLS."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            before = len(receiver.requests)
            receiver.requests.append(Request(path=self.path, headers=headers, body=body))
            with suppress(OSError):
                (answer or status(204))(self, before)

        def log_message(self, *words: object) -> None: ...

    Handler.receiver = receiver  # type: ignore[attr-defined]
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        thread.join(10)
        server.server_close()


def status(*codes: int, **headers: str) -> Answer:
    """Answers with these, one after another, the last one for ever."""

    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        handler.send_response(codes[min(before, len(codes) - 1)])
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def silent(handler: BaseHTTPRequestHandler, before: int) -> None:
    """Takes the request and never answers."""
    _receiver(handler).released.wait(MOST_SECONDS)


def dripping(handler: BaseHTTPRequestHandler, before: int) -> None:
    """Sends a head that never ends, a few bytes at a time: it is never silent for long."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not _receiver(handler).released.wait(0.05):
        handler.wfile.write(b"X-A: b\r\n")
        handler.wfile.flush()


def enormous(handler: BaseHTTPRequestHandler, before: int) -> None:
    """Answers 10 GB, as long as somebody takes them."""
    receiver, block = _receiver(handler), b"x" * 65_536
    handler.send_response(200)
    handler.send_header("Content-Length", str(10 * 10**9))
    handler.end_headers()
    while not receiver.released.is_set():
        handler.wfile.write(block)
        receiver.sent_bytes += len(block)


def _receiver(handler: BaseHTTPRequestHandler) -> Receiver:
    found = handler.receiver  # type: ignore[attr-defined]
    assert isinstance(found, Receiver)
    return found


def certificate_of(name: str, folder: Path) -> Path:
    """A file with a certificate that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    whose = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(whose)
        .issuer_name(whose)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(secret + made.public_bytes(Encoding.PEM))
    return path


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
