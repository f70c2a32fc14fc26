"""Waking up when something was written: by this process at once, by others as fast as the database tells."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from tidemill.domain.errors import TidemillError
from tidemill.ports.store import Watch

_RETRY_SECONDS = 0.5


class Ears(ABC):
    """A connection of its own that notices what other processes write. For one thread, but for `interrupt`."""

    @abstractmethod
    def wait(self) -> bool:
        """Block until something may have been written (True) or `interrupt` was called (False).

        Raises TidemillError when the connection broke.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Make `wait` return, now or the next time."""

    @abstractmethod
    def close(self) -> None:
        """Give the connection back."""


class Changes:
    """Counts what was written. One thread listens for all watches, and only while there is one."""

    def __init__(self, listen: Callable[[], Ears]) -> None:
        self._listen = listen
        self._changed = threading.Condition()
        self._count = 0
        self._watches: set[SqlWatch] = set()
        self._listener: _Listener | None = None

    def tell(self) -> None:
        """Something was written."""
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def watch(self) -> SqlWatch:
        """A new watch, which sees writes from now on."""
        with self._changed:
            watch = SqlWatch(self, self._count)
            self._watches.add(watch)
            if self._listener is None:
                self._listener = _Listener(self._listen, self.tell)
                self._listener.start()
        return watch

    def wait(self, watch: SqlWatch, seconds: float) -> bool:
        """Block until the count differs from what the watch has seen, or the time or the watch is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._count != watch.seen or watch not in self._watches, seconds)
            woken = watch in self._watches and self._count != watch.seen
            watch.seen = self._count
            return woken

    def leave(self, watch: SqlWatch) -> None:
        """The watch is over. Safe to repeat."""
        with self._changed:
            self._watches.discard(watch)
            listener = None if self._watches else self._listener
            if listener is not None:
                self._listener = None
            self._changed.notify_all()
        if listener is not None:
            listener.stop()

    def close(self) -> None:
        """End every watch."""
        for watch in list(self._watches):
            self.leave(watch)


class SqlWatch(Watch):
    """A count that was seen, against the count that is."""

    def __init__(self, changes: Changes, seen: int) -> None:
        self._changes = changes
        self.seen = seen

    def wait(self, timeout_seconds: float) -> bool:
        return self._changes.wait(self, timeout_seconds)

    def close(self) -> None:
        self._changes.leave(self)


class _Listener(threading.Thread):
    """Tells what it hears. After a broken connection it tells once for whatever it may have missed."""

    def __init__(self, listen: Callable[[], Ears], tell: Callable[[], None]) -> None:
        super().__init__(name="store-listener", daemon=True)
        self._listen, self._tell = listen, tell
        self._stopped = threading.Event()
        self._guard = threading.Lock()
        self._ears: Ears | None = None

    def run(self) -> None:
        while not self._stopped.is_set():
            started = time.monotonic()
            try:
                self._hear()
            except TidemillError:
                self._stopped.wait(max(0.0, _RETRY_SECONDS - (time.monotonic() - started)))

    def stop(self) -> None:
        """End the thread; its connection is given back when this returns, unless it is still being made."""
        self._stopped.set()
        with self._guard:
            if self._ears is not None:
                self._ears.interrupt()
        if threading.current_thread() is not self:
            self.join(timeout=5)

    def _hear(self) -> None:
        ears = self._listen()
        with self._guard:
            self._ears = ears
        try:
            self._tell()
            while not self._stopped.is_set() and ears.wait():
                self._tell()
        finally:
            with self._guard:
                self._ears = None
            ears.close()
