"""`tidemill serve`: an ASGI app and a pool of jobs in one process, until somebody ends it."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIGINT, SIGTERM, signal
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tidemill.domain.errors import Refused
from tidemill.service import keys
from tidemill.service.context import Context

MAX_HEAD_BYTES = 64 << 10
_BACKLOG = 512
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Where and how to serve, and what to do beside it."""

    host: str
    port: int
    """0 takes a free one."""
    grace_seconds: float
    """How long requests in flight may take at the end, and what is done beside them."""
    ready: Callable[[str], None]
    """Called with the URL once requests are answered."""
    leaving: Callable[[], None]
    """Called in a thread when the end begins; requests are answered until it returns, or somebody hurries."""


def check_reach(context: Context, host: str) -> None:
    """Refuse to listen to other machines while nobody needs a key."""
    if not keys.is_loopback(host) and context.policy.logins is None and not context.store.keys.any():
        raise Refused(
            f"Without an API key everybody who reaches {host} could use this service.",
            remedy="Make the first key with: tidemill keys add NAME --role admin; or listen on 127.0.0.1.",
        )


def serve(app: Any, serving: Serving) -> None:
    """Answer requests until SIGTERM or Ctrl-C; a second one ends at once. Raises Refused for a taken port."""
    with _listening(serving.host, serving.port) as listener:
        config = uvicorn.Config(
            app,
            http=_BoundedHttp,
            loop="uvloop",
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            # Whoever forwards requests would be taken for a client on this machine otherwise.
            proxy_headers=False,
            server_header=False,
        )
        _Server(config, serving, _url(listener)).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Says when it is ready, answers while the work beside it ends, and returns after a signal."""

    def __init__(self, config: uvicorn.Config, serving: Serving, url: str) -> None:
        super().__init__(config)
        self._serving, self._url = serving, url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            # What is here now stays: looking for garbage in it would hold up a request by 50 ms now and then.
            gc.collect()
            gc.freeze()
            self._serving.ready(self._url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        leaving = threading.Thread(target=self._serving.leaving, name="leaving", daemon=True)
        began = time.monotonic()
        leaving.start()
        while leaving.is_alive() and not self.force_exit:
            await asyncio.sleep(_LOOK_SECONDS)
        left = self._serving.grace_seconds - (time.monotonic() - began)
        self.config.timeout_graceful_shutdown = max(1, round(left))
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal(number, self.handle_exit) for number in (SIGINT, SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


class _BoundedHttp(HttpToolsProtocol):
    """A connection whose request's head has a bound: it comes before any key was checked."""

    _head_bytes = 0
    _in_head = True

    def data_received(self, data: bytes) -> None:
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self.transport.close()
            return
        self._head_bytes += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as exc:
        raise Refused(
            f"Port {port} of {host} cannot be listened on: {exc.strerror}.",
            remedy="End what listens there, or choose another port with --port.",
        ) from exc
    with listener:
        yield listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
