"""Waking many waiting requests by one watch of the store."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tidemill.domain.errors import StoreUnusable, TooManyRequests
from tidemill.ports.store import Store, Watch

log = logging.getLogger(__name__)

MAX_LISTENERS = 500
"""Requests that wait for news at once; each takes a few kilobytes and no thread."""

_LOOK_SECONDS = 1.0
_CALM_SECONDS = 0.05
_RETRY_SECONDS = 1.0
_JOIN_SECONDS = 5.0


class Pulse:
    """Tells requests of one event loop that something was written to the store.

    One thread watches, while anybody listens. It may wake them for nothing, at most 20 times a second.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._beats = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self._listeners = 0
        self._wanted = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: Watch | None = None

    @contextmanager
    def listen(self) -> Iterator[Listener]:
        """Hear of every write from here on; only in the event loop. Raises TooManyRequests."""
        self.check_room()
        self._listeners += 1
        self._start()
        try:
            yield Listener(self)
        finally:
            self._listeners -= 1
            if self._listeners == 0:
                self._wanted.clear()

    def check_room(self) -> None:
        """Raises TooManyRequests if no more can listen."""
        if self._listeners >= MAX_LISTENERS:
            raise TooManyRequests(
                f"{MAX_LISTENERS:,} requests wait for news already.", remedy="Close event streams that nobody reads."
            )

    def close(self) -> None:
        """End every wait for good. From any thread; safe to repeat."""
        if self.closed:
            return
        self._closed.set()
        self._wanted.set()
        if self._watch is not None:
            self._watch.close()
        self._tell()
        if self._thread is not None:
            self._thread.join(_JOIN_SECONDS)

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    @property
    def beats(self) -> int:
        """How often something was written, as far as it was seen."""
        return self._beats

    async def after(self, beat: int, timeout_seconds: float) -> None:
        """Return once there were more beats than that, the time is over or the pulse is closed."""
        if self._beats > beat or self.closed:
            return
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(news)
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(news, timeout_seconds)
        finally:
            self._waiting.discard(news)

    def _start(self) -> None:
        self._wanted.set()
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._run, name="tidemill-pulse", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self.closed:
            try:
                self._watch_store()
            except StoreUnusable as exc:
                log.warning("the store cannot be watched: %s", exc)
                self._closed.wait(_RETRY_SECONDS)
                self._tell()  # Whoever waits finds out by asking.

    def _watch_store(self) -> None:
        self._watch = watch = self._store.watch()
        try:
            while not self.closed:
                self._wanted.wait()
                if watch.wait(_LOOK_SECONDS):
                    self._tell()
                    self._closed.wait(_CALM_SECONDS)
        finally:
            watch.close()

    def _tell(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # The loop has ended, and with it whoever waited.
                self._loop.call_soon_threadsafe(self._beat)

    def _beat(self) -> None:
        self._beats += 1
        for news in self._waiting:
            if not news.done():
                news.set_result(None)


class Listener:
    """One request's ear: what was written while it looked at the store is not missed."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self._heard = pulse.beats

    async def wait(self, timeout_seconds: float) -> bool:
        """Until something was written since the last call or the time is over; False: the service ends."""
        await self._pulse.after(self._heard, timeout_seconds)
        self._heard = self._pulse.beats
        return not self._pulse.closed
