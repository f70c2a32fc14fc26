"""The scheduler of one server: looks every second at what is due. Any number of them may look at one store."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from tidemill.domain.errors import StoreUnusable
from tidemill.domain.schedule import Schedule
from tidemill.service import firing
from tidemill.service.context import Context

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
PAGE = 100
"""So many schedules are looked at before the scheduler asks again what is due."""

LOOKS_AT_ONCE = 4
"""So many inputs are listed at once."""

Clock = Callable[[], datetime]
Act = Callable[..., int]
"""(schedule, use case, its arguments) -> how many firings were dealt with."""


def tick(context: Context, now: datetime, act: Act | None = None) -> int:
    """Fire what is due and start what waited; how many firings were dealt with. Raises StoreUnusable.

    `act` does it for one schedule, by default here and now.
    """
    act = act or _alone
    due = context.store.schedules.list_due(now, limit=PAGE)
    # Servers that look at the same moment should not all begin with the same schedule.
    random.shuffle(due)
    handled = sum(act(schedule, firing.fire_due, context, schedule, now) for schedule in due)
    for schedule, waiting in context.store.firings.ready(limit=PAGE):
        handled += act(schedule, firing.start_waiting, context, schedule, waiting, now)
    return handled


def _alone(schedule: Schedule, act: Callable[..., int], *arguments: object) -> int:
    """One schedule's defect is its own."""
    try:
        return int(act(*arguments))
    except StoreUnusable:
        raise
    except Exception:
        log.exception("the schedule %s could not be looked at; it is tried again", schedule.id)
        return 0


class _Apart:
    """Acts in threads of their own for schedules that list their input first, so that no other waits for that."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKS_AT_ONCE, thread_name_prefix="look")
        self._under_way: set[str] = set()
        self._guard = threading.Lock()

    def __call__(self, schedule: Schedule, act: Act, *arguments: object) -> int:
        if schedule.spec["input"].get("series") is None:
            return _alone(schedule, act, *arguments)
        with self._guard:
            if schedule.id not in self._under_way and len(self._under_way) < LOOKS_AT_ONCE:
                self._under_way.add(schedule.id)
                self._threads.submit(self._act, schedule, act, *arguments)
        return 0

    def close(self) -> None:
        """Begin nothing more. What is listed now ends with the children."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _act(self, schedule: Schedule, act: Act, *arguments: object) -> None:
        try:
            _alone(schedule, act, *arguments)
        except StoreUnusable as exc:
            log.debug("the schedule %s waits for the store: %s", schedule.id, exc)
        finally:
            with self._guard:
                self._under_way.discard(schedule.id)


class Scheduler:
    """Ticks in a thread of its own until it is stopped."""

    def __init__(self, context: Context, *, clock: Clock | None = None, tick_seconds: float = TICK_SECONDS) -> None:
        self._context, self._tick_seconds = context, tick_seconds
        self._clock = clock or context.store.schedules.now
        self._stopped = threading.Event()
        self._apart = _Apart()
        self._away = False
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self, seconds: float | None = None) -> None:
        """Fire nothing more; waits so long for the firing that is under way. Safe to repeat."""
        self._stopped.set()
        self._apart.close()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopped.is_set():
            if not self._tick():
                self._stopped.wait(self._tick_seconds)

    def _tick(self) -> bool:
        """Whether there may be more to do at once."""
        try:
            handled = tick(self._context, self._clock(), self._apart)
        except StoreUnusable as exc:
            if not self._away:
                log.warning("no schedule fires while the store does not answer: %s", exc)
            self._away = True
            return False
        except Exception:
            log.exception("looking at schedules failed; it is tried again")
            return False
        if self._away:
            log.info("the store answers again; schedules fire")
        self._away = False
        return handled > 0
