"""Children on this machine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from tidemill.domain.errors import ChildDied, Stopped, from_json
from tidemill.executors.channel import Message
from tidemill.executors.child import RUN_TASK
from tidemill.executors.children import Brood, Child, Zygote, wait_for
from tidemill.executors.death import MEMORY_REMEDY, Death, out_of_memory
from tidemill.executors.log import quote
from tidemill.executors.scorers import LocalScorerSet
from tidemill.executors.starter import Starter
from tidemill.executors.warm import IDLE_SECONDS, WarmScorers
from tidemill.ports.executor import Executor, ScorerSpec

logger = logging.getLogger(__name__)

ASK_SECONDS = 0.2
"""How often `should_stop` is asked."""

START_SECONDS = 120.0
"""How long importing and loading may take before a child counts as hung."""


class Nursery:
    """What an executor and its sessions share: a zygote for each interpreter, and idle scorers. Thread-safe."""

    def __init__(
        self,
        preload: tuple[str, ...],
        *,
        start_seconds: float,
        warm_bytes: int,
        idle_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self.start_seconds = start_seconds
        self.clock = clock
        self.warm = WarmScorers(warm_bytes, idle_seconds, clock=clock)
        self._preload = preload
        self._idle_seconds = idle_seconds
        self._starter = Starter()
        self._lock = threading.Lock()
        self._zygotes: dict[str | None, Zygote] = {}
        self._closed = False

    def zygote(self, python: str | None = None) -> Zygote:
        """The zygote of an interpreter, started at first need. Raises ChildDied, EnvironmentUnusable."""
        with self._lock:
            if self._closed:
                raise ChildDied("The executor is closed.", remedy="Make a new one.")
            self._end_idle(python)
            if python not in self._zygotes:
                self._zygotes[python] = Zygote(self._starter, self._preload, python, clock=self.clock)
            zygote = self._zygotes[python]
            zygote.touch()
            return zygote

    def _end_idle(self, wanted: str | None) -> None:
        """Bound how many zygotes of other interpreters there are: those that nobody uses go."""
        for python, zygote in list(self._zygotes.items()):
            if python not in (None, wanted) and zygote.close_if_idle(self._idle_seconds):
                del self._zygotes[python]

    def kill(self) -> None:
        """Kill every zygote and every child, idle scorers too; from any thread."""
        with self._lock:
            zygotes = list(self._zygotes.values())
        for zygote in zygotes:
            zygote.kill()
        self.warm.clear()

    def close(self) -> None:
        """End all."""
        with self._lock:
            closed, self._closed = self._closed, True
        if closed:
            return
        self.warm.close()
        for zygote in self._zygotes.values():
            zygote.close()
        self._starter.end()


class LocalSession(Executor):
    """The children of one job, forked from the zygotes of a `LocalExecutor`."""

    name: ClassVar[str] = "local"

    def __init__(self, nursery: Nursery, brood: Brood) -> None:
        self._nursery = nursery
        self._brood = brood

    def call(
        self,
        entry: str,
        request: Mapping[str, Any],
        *,
        python: str | None = None,
        preload: tuple[str, ...] = (),
        on_progress: Callable[[Mapping[str, Any]], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        timeout_seconds: float | None = None,
        memory_bytes: int | None = None,
    ) -> dict[str, Any]:
        while True:
            zygote = self._nursery.zygote(python)
            child = self._brood.bear(
                lambda zygote=zygote: zygote.fork(RUN_TASK, preload=preload, memory_bytes=memory_bytes)  # type: ignore[misc]
            )
            try:
                child.post({"entry": entry, "request": dict(request)})
                task = _Task(entry, child, on_progress, should_stop, memory_bytes, self._nursery.clock)
                answer = task.wait(zygote, self._nursery.start_seconds, timeout_seconds)
            finally:
                child.close()
            if answer is not None:
                zygote.thrive()
                return answer

    def preload(self, modules: tuple[str, ...]) -> None:
        self._nursery.zygote().preload(modules)

    def lease(self, spec: ScorerSpec, scorers: int, *, stall_seconds: float) -> LocalScorerSet:
        leased = LocalScorerSet(
            self._nursery.zygote(spec.python),
            self._brood,
            self._nursery.warm,
            spec,
            stall_seconds=stall_seconds,
            start_seconds=self._nursery.start_seconds,
            clock=self._nursery.clock,
        )
        try:
            leased.grow(spec, scorers)
        except BaseException:
            leased.kill()
            raise
        return leased

    def session(self, name: str) -> LocalSession:
        return LocalSession(self._nursery, Brood(name, self._brood))

    def kill(self) -> None:
        self._brood.kill()

    def close(self) -> None:
        self._brood.close()


class LocalExecutor(LocalSession):
    """Children forked from zygotes, one for each interpreter. That of this one starts at once and imports
    `preload` meanwhile; with `eager` False it starts with the first child, for commands that may need none.

    Scorers whose set was released are kept for later leases while they hold at most `warm_bytes` and for
    at most `idle_seconds`; by default none is. Zygotes of other interpreters that nobody uses for so long
    are ended, too. The kernel kills all children when this process ends, however it does.
    """

    def __init__(
        self,
        *,
        preload: Iterable[str] = (),
        start_seconds: float = START_SECONDS,
        eager: bool = True,
        warm_bytes: int = 0,
        idle_seconds: float = IDLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        nursery = Nursery(
            tuple(preload),
            start_seconds=start_seconds,
            warm_bytes=warm_bytes,
            idle_seconds=idle_seconds,
            clock=clock,
        )
        super().__init__(nursery, Brood("this executor"))
        if eager:
            nursery.zygote()

    def kill(self) -> None:
        self._nursery.kill()

    def close(self) -> None:
        self._nursery.close()


class _Task:
    """One call and its child."""

    def __init__(
        self,
        entry: str,
        child: Child,
        on_progress: Callable[[Mapping[str, Any]], None] | None,
        should_stop: Callable[[], bool] | None,
        memory_bytes: int | None,
        clock: Callable[[], float],
    ) -> None:
        self._entry = entry
        self._child = child
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._memory_bytes = memory_bytes
        self._clock = clock
        self._ask_at = 0.0

    def wait(self, zygote: Zygote, start_seconds: float, timeout_seconds: float | None) -> dict[str, Any] | None:
        """The answer; None if the zygote died before it could fork the child, which then did nothing."""
        while True:
            for message in self._child.hear():
                answer = self._take(message)
                if answer is not None:
                    return answer
            death = self._child.death()
            if death is not None:
                if death.orphan and self._child.pid is None and not self._child.struck:
                    return None
                raise self._died(death)
            self._ask()
            self._check_time(zygote, start_seconds, timeout_seconds)
            wait_for([self._child], ASK_SECONDS)

    def _take(self, message: Message) -> dict[str, Any] | None:
        if "result" in message:
            result: dict[str, Any] = message["result"]
            return result
        if "progress" in message and self._on_progress is not None:
            self._on_progress(message["progress"])
        if "memory" in message:
            raise self._died(Death(kind="memory", cause=out_of_memory(self._memory_bytes), log=message["memory"]))
        if "error" in message:
            error = from_json(message["error"])
            if not message["expected"]:
                error.add_note(f"{self._entry}{quote(self._child.log.text())}")
            raise error
        return None

    def _ask(self) -> None:
        now = self._clock()
        if self._should_stop is not None and now >= self._ask_at:
            self._ask_at = now + ASK_SECONDS
            if self._should_stop():
                raise Stopped

    def _check_time(self, zygote: Zygote, start_seconds: float, timeout_seconds: float | None) -> None:
        now = self._clock()
        if self._child.born_at is None:
            if now - self._child.forked_at > start_seconds:
                zygote.kill_hung()
        elif timeout_seconds is not None and now - self._child.born_at > timeout_seconds:
            cause = f"killed because it took longer than {timeout_seconds:g} s"
            raise self._died(Death(kind="hung", cause=cause, log=self._child.log.text()))

    def _died(self, death: Death) -> ChildDied:
        remedy = MEMORY_REMEDY if death.kind == "memory" else None
        return ChildDied(
            f"The child process of {self._entry} was lost: {death.cause}.{quote(death.log)}", remedy=remedy
        )
