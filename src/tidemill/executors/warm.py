"""Idle scorers that keep their models for later jobs, within a bound of memory and time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tidemill.executors.children import Child, current_folder, import_path
from tidemill.ports.executor import ScorerSpec

logger = logging.getLogger(__name__)

IDLE_SECONDS = 900.0
REST_SECONDS = 30.0
"""A scorer that has not let go of its job after so long is ended."""

MEASURE_SECONDS = 0.25
"""How often those are looked at that have not yet said how much memory they hold."""


@dataclass(kw_only=True)
class _Idle:
    key: tuple[Any, ...]
    child: Child
    since: float
    memory_bytes: int | None = None
    """What it said it holds; None until it has let go of its job."""
    odd: bool = False
    """Whether it said what nobody says who rests."""

    def lives(self) -> bool:
        """Hear it: whether it is there and can be trusted."""
        for message in self.child.hear():
            if message.get("op") == "rested" and isinstance(message.get("memory_bytes"), int):
                self.memory_bytes = message["memory_bytes"]
            else:
                logger.info("an idle scorer said %s", str(message)[:200])
                self.odd = True
        return not self.odd and self.child.death() is None


class WarmScorers:
    """Scorers without a job. Thread-safe; one thread of its own ends those that are too many or too old.

    They hold at most `max_bytes` together, but for the moment that it takes each to say how much it
    holds; the one whose job ended longest ago goes first.
    """

    def __init__(
        self,
        max_bytes: int,
        idle_seconds: float = IDLE_SECONDS,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._changed = threading.Condition()
        self._idle: list[_Idle] = []
        """The one that was used last comes last."""
        self._closed = False
        self._keeper: threading.Thread | None = None

    @property
    def held(self) -> list[tuple[int, int | None]]:
        """(pid, bytes of memory if they are known) of each, the longest idle first."""
        with self._changed:
            return [(idle.child.pid or 0, idle.memory_bytes) for idle in self._idle]

    def wants(self, spec: ScorerSpec) -> bool:
        """Whether a scorer of this spec may be kept at all."""
        return self._max_bytes > 0 and spec.warm_key is not None and not self._closed

    def keep(self, spec: ScorerSpec, child: Child) -> None:
        """Take a scorer that is ready and has nothing in hand; it is ours now."""
        child.post({"op": "rest"})
        with self._changed:
            closed = self._closed
            if not closed:
                self._idle.append(_Idle(key=_key(spec), child=child, since=self._clock()))
                self._start_keeper()
                self._changed.notify()
        if closed:
            child.close()

    def take(self, spec: ScorerSpec, count: int) -> list[Child]:
        """Give at most so many scorers away that have what this spec wants, the last used first."""
        if spec.warm_key is None:
            return []
        key, found = _key(spec), list[_Idle]()
        with self._changed:
            for idle in reversed(self._idle):
                if idle.key == key and len(found) < count and idle.lives():
                    found.append(idle)
            self._idle = [idle for idle in self._idle if idle not in found]
        for idle in found:
            idle.child.log.clear()
        return [idle.child for idle in found]

    def clear(self) -> None:
        """End every scorer."""
        with self._changed:
            ended, self._idle = self._idle, []
        _end(ended)

    def close(self) -> None:
        """`clear`, and keep nothing any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self.clear()
        if self._keeper is not None:
            self._keeper.join()

    def _start_keeper(self) -> None:
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._keep_house, name="warm scorers", daemon=True)
            self._keeper.start()

    def _keep_house(self) -> None:
        while not self._closed:
            with self._changed:
                ended = self._sort_out(self._clock())
                if not ended and not self._closed:
                    self._changed.wait(self._pause(self._clock()))
            _end(ended)

    def _sort_out(self, now: float) -> list[_Idle]:
        """Hear them all; the ones that must go."""
        ended = [idle for idle in self._idle if not idle.lives() or now >= self._ends_at(idle)]
        kept = [idle for idle in self._idle if idle not in ended]
        held = sum(idle.memory_bytes or 0 for idle in kept)
        while held > self._max_bytes:
            ended.append(kept.pop(0))
            held -= ended[-1].memory_bytes or 0
        self._idle = kept
        return ended

    def _ends_at(self, idle: _Idle) -> float:
        return idle.since + (REST_SECONDS if idle.memory_bytes is None else self._idle_seconds)

    def _pause(self, now: float) -> float | None:
        if any(idle.memory_bytes is None for idle in self._idle):
            return MEASURE_SECONDS
        return max(0.0, min(self._ends_at(idle) for idle in self._idle) - now) if self._idle else None


def _key(spec: ScorerSpec) -> tuple[Any, ...]:
    """All that decides what a scorer has loaded and how."""
    place = (current_folder(), *import_path())
    return (spec.python, spec.entry, spec.preload, spec.memory_bytes, spec.warm_key, place)


def _end(ended: list[_Idle]) -> None:
    for idle in ended:
        idle.child.kill()
    for idle in ended:
        idle.child.close()
