"""Children on this machine.

Messages of a scorer. To it: {"op": "run", "run"} with `ChunkRun.to_json`, {"op": "stop"}. From it:
{"op": "ready"}; {"op": "step", "attempt", "stage", "row_start", "row_stop", "segment"} before each step of a
careful run; {"op": "progress", "attempt", "rows", "rejected", "busy_seconds"}; {"op": "done", "attempt",
"receipt"}; {"op": "failed", "attempt", "error"}. Any message counts as a sign of life.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from tidemill.domain.errors import ChildDied, ModelUnusable, Stopped, TidemillError, from_json
from tidemill.domain.receipt import Receipt
from tidemill.executors.channel import Message
from tidemill.executors.child import RUN_SCORER, RUN_TASK
from tidemill.executors.children import Child, Zygote, wait_for
from tidemill.executors.death import Death, out_of_memory
from tidemill.executors.log import quote
from tidemill.ports.executor import (
    ChunkRun,
    Done,
    Event,
    Executor,
    Failed,
    Progress,
    ScorerLost,
    ScorerSet,
    ScorerSpec,
    Step,
)

logger = logging.getLogger(__name__)

ASK_SECONDS = 0.2
"""How often `should_stop` is asked."""

RUNS_PER_SCORER = 2
"""One that is worked on and one ahead, so that a scorer never waits for the worker."""

START_SECONDS = 120.0
"""How long importing and loading may take before a child counts as hung."""

STOP_SECONDS = 5.0

FRUITLESS_DEATHS = 3
"""After so many deaths in a row with no run in hand a scorer is not replaced; the job fails when it was
the last, or when none has started yet."""

OUTSIDE_DEATHS = 10
"""The same, when somebody else kills it."""

MEMORY_REMEDY = "Give it more memory or less to do at a time (fewer scorers, fewer rows per chunk)."


class LocalExecutor(Executor):
    """Children forked from one zygote, which starts at once and imports `preload` meanwhile; one that is
    not `eager` starts it with the first child, for commands that may need none.

    Construct it in a thread that lives as long as the executor is used, usually the main thread: when
    that thread ends the kernel kills every child. `call` is thread-safe; a set belongs to one thread.
    """

    name: ClassVar[str] = "local"

    def __init__(
        self, *, preload: Iterable[str] = (), start_seconds: float = START_SECONDS, eager: bool = True
    ) -> None:
        self._preload = tuple(preload)
        self._start_seconds = start_seconds
        self._started: Zygote | None = Zygote(self._preload) if eager else None

    @property
    def _zygote(self) -> Zygote:
        if self._started is None:
            self._started = Zygote(self._preload)
        return self._started

    def call(
        self,
        entry: str,
        request: Mapping[str, Any],
        *,
        preload: tuple[str, ...] = (),
        on_progress: Callable[[Mapping[str, Any]], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        timeout_seconds: float | None = None,
        memory_bytes: int | None = None,
    ) -> dict[str, Any]:
        while True:
            child = self._zygote.fork(RUN_TASK, preload=preload, memory_bytes=memory_bytes)
            try:
                child.post({"entry": entry, "request": dict(request)})
                task = _Task(entry, child, on_progress, should_stop, memory_bytes)
                answer = task.wait(self._zygote, self._start_seconds, timeout_seconds)
            finally:
                child.close()
            if answer is not None:
                self._zygote.thrive()
                return answer

    def lease(self, spec: ScorerSpec, scorers: int, *, stall_seconds: float) -> LocalScorerSet:
        leased = LocalScorerSet(self._zygote, spec, stall_seconds=stall_seconds, start_seconds=self._start_seconds)
        try:
            leased.start(scorers)
        except BaseException:
            leased.kill()
            raise
        return leased

    def kill(self) -> None:
        if self._started is not None:
            self._started.kill()

    def close(self) -> None:
        if self._started is not None:
            self._started.close()


class _Task:
    """One call and its child."""

    def __init__(
        self,
        entry: str,
        child: Child,
        on_progress: Callable[[Mapping[str, Any]], None] | None,
        should_stop: Callable[[], bool] | None,
        memory_bytes: int | None,
    ) -> None:
        self._entry = entry
        self._child = child
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._memory_bytes = memory_bytes
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
                if death.orphan and self._child.pid is None:
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
        now = time.monotonic()
        if self._should_stop is not None and now >= self._ask_at:
            self._ask_at = now + ASK_SECONDS
            if self._should_stop():
                raise Stopped

    def _check_time(self, zygote: Zygote, start_seconds: float, timeout_seconds: float | None) -> None:
        now = time.monotonic()
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


class _Scorer:
    """One scorer's child, and what is known of it."""

    def __init__(self, child: Child, fruitless: int) -> None:
        self.child = child
        self.runs: dict[str, ChunkRun] = {}
        self.ready = False
        self.heard_at = time.monotonic()
        self.step: Step | None = None
        self.verdict: Death | None = None
        """Why it was killed by us, or what it said before it ended."""
        self.refusal: TidemillError | None = None
        """What its entry point raised before it was ready: another try would end the same way."""
        self.fruitless = fruitless
        """Deaths in a row of this and its forerunners with nothing in hand."""
        self.retired = False
        """Not to be replaced."""

    @property
    def doomed(self) -> bool:
        return self.verdict is not None

    def has_room(self, run: ChunkRun) -> bool:
        alone = run.alone or any(other.alone for other in self.runs.values())
        return self.ready and not self.doomed and len(self.runs) < (1 if alone else RUNS_PER_SCORER)

    @property
    def room(self) -> int:
        if self.doomed or any(run.alone for run in self.runs.values()):
            return 0
        return RUNS_PER_SCORER - len(self.runs)

    def give(self, run: ChunkRun) -> None:
        if not self.runs:
            self.heard_at = time.monotonic()
        self.runs[run.attempt] = run
        self.child.post({"op": "run", "run": run.to_json()})

    def condemn(self, kind: str, cause: str) -> None:
        """Kill it; its end comes later and is told with this cause."""
        if self.verdict is None:
            self.verdict = Death(kind=kind, cause=cause)
        self.child.kill()


class LocalScorerSet(ScorerSet):
    """Scorers forked from the executor's zygote."""

    def __init__(self, zygote: Zygote, spec: ScorerSpec, *, stall_seconds: float, start_seconds: float) -> None:
        self._zygote = zygote
        self._spec = spec
        self.stall_seconds = stall_seconds
        self._start_seconds = start_seconds
        self._scorers: list[_Scorer] = []
        self._waiting: deque[ChunkRun] = deque()
        self._events: list[Event] = []
        self._failure: TidemillError | None = None
        self._started = False

    def start(self, scorers: int) -> None:
        """Have the first scorers forked."""
        for _ in range(scorers):
            self._scorers.append(self._fork(0))

    def submit(self, run: ChunkRun) -> None:
        self._waiting.append(run)
        self._dispatch()

    @property
    def free(self) -> int:
        if self._failure is not None or any(run.alone for run in self._waiting):
            return 0
        return max(0, sum(scorer.room for scorer in self._scorers) - len(self._waiting))

    @property
    def pids(self) -> list[int]:
        """The scorers that are forked now."""
        return [scorer.child.pid for scorer in self._scorers if scorer.child.pid is not None]

    def poll(self, timeout_seconds: float) -> Sequence[Event]:
        deadline = time.monotonic() + timeout_seconds
        while True:
            self._look()
            if self._events:
                events, self._events = self._events, []
                return events
            if self._failure is not None:
                raise self._failure
            now = time.monotonic()
            if now >= deadline:
                return []
            wait_for((scorer.child for scorer in self._scorers), min(deadline, self._next_look(now)) - now)

    def cancel(self, attempt: str) -> None:
        for run in self._waiting:
            if run.attempt == attempt:
                self._waiting.remove(run)
                return
        for scorer in self._scorers:
            if attempt in scorer.runs:
                self._cancel_running(scorer, attempt)
                return

    def _cancel_running(self, scorer: _Scorer, attempt: str) -> None:
        self._listen(scorer)
        if scorer.runs.pop(attempt, None) is not None:
            # As with an orphan, the scorer is not to blame.
            self._lose(scorer, Death(kind="died", cause="cancelled with its neighbour", orphan=True))
            self._replace(scorer)

    def kill(self) -> None:
        scorers, self._scorers = self._scorers, []
        self._waiting.clear()
        self._events.clear()
        for scorer in scorers:
            scorer.child.kill()
        _close_all(scorers)

    def release(self) -> None:
        scorers, self._scorers = self._scorers, []
        deadline = time.monotonic() + STOP_SECONDS
        for scorer in scorers:
            scorer.child.post({"op": "stop"})
        while time.monotonic() < deadline and not all(_has_ended(scorer.child) for scorer in scorers):
            wait_for((scorer.child for scorer in scorers), deadline - time.monotonic())
        _close_all(scorers)

    def _fork(self, fruitless: int) -> _Scorer:
        spec = self._spec
        child = self._zygote.fork(RUN_SCORER, preload=spec.preload, memory_bytes=spec.memory_bytes)
        child.post({"entry": spec.entry, "job": dict(spec.job)})
        return _Scorer(child, fruitless)

    def _look(self) -> None:
        now = time.monotonic()
        for scorer in list(self._scorers):
            self._listen(scorer)
            death = scorer.child.death()
            if death is not None:
                self._lose(scorer, death)
                self._replace(scorer)
            else:
                self._check_stall(scorer, now)
        self._dispatch()

    def _listen(self, scorer: _Scorer) -> None:
        for message in scorer.child.hear():
            scorer.heard_at = time.monotonic()
            try:
                self._take(scorer, message)
            except (KeyError, TypeError, ValueError, AttributeError) as exc:
                scorer.condemn("died", f"killed because its message was not understood ({exc!r})")

    def _take(self, scorer: _Scorer, message: Message) -> None:
        match message.get("op"):
            case "ready":
                scorer.ready = self._started = True
            case "step":
                rows = {name: int(message[name]) for name in ("row_start", "row_stop", "segment")}
                scorer.step = Step(stage=message["stage"], **rows)
            case "progress" | "done" | "failed":
                self._take_news(scorer, message)
            case _:
                self._take_farewell(scorer, message)

    def _take_news(self, scorer: _Scorer, message: Message) -> None:
        run = scorer.runs.get(message["attempt"])
        if run is None:
            return
        event = _read_event(run, message)
        if not isinstance(event, Progress):
            del scorer.runs[run.attempt]
            scorer.step = None
            scorer.fruitless = 0
        if isinstance(event, Done):
            self._zygote.thrive()
        self._events.append(event)

    def _take_farewell(self, scorer: _Scorer, message: Message) -> None:
        if "memory" in message:
            scorer.verdict = Death(kind="memory", cause=out_of_memory(self._spec.memory_bytes))
        elif "error" in message:
            error = from_json(message["error"])
            scorer.verdict = Death(kind="died", cause=error.message)
            if message["expected"] and not scorer.ready:
                scorer.refusal = error
        else:
            raise ValueError(str(message)[:100])

    def _check_stall(self, scorer: _Scorer, now: float) -> None:
        if now < self._stalled_at(scorer) or scorer.doomed:
            return
        if scorer.ready:
            scorer.condemn("hung", f"no progress for {self.stall_seconds:g} s")
        elif scorer.child.pid is not None:
            scorer.condemn("hung", f"not ready after {self._start_seconds:g} s")
        else:
            # It is not forked yet: the zygote hangs in an import.
            scorer.heard_at = now
            self._zygote.kill_hung()

    def _stalled_at(self, scorer: _Scorer) -> float:
        """When this scorer counts as hung if nothing is heard of it."""
        if scorer.doomed or (scorer.ready and not scorer.runs):
            return float("inf")
        since = max(scorer.heard_at, scorer.child.born_at or 0.0)
        return since + (self.stall_seconds if scorer.ready else self._start_seconds)

    def _next_look(self, now: float) -> float:
        """Wake up for a stall, and once a second for children that went silent without an end."""
        return min([now + 1.0, *(self._stalled_at(scorer) for scorer in self._scorers)])

    def _lose(self, scorer: _Scorer, death: Death) -> None:
        """Close a dead scorer, or one that must die now, and tell which runs went with it."""
        scorer.child.close()
        verdict = scorer.verdict or death
        log = death.log or scorer.child.log.text()
        logger.info("scorer %s lost: %s; it printed: %s", scorer.child.pid, verdict.cause, log)
        if scorer.runs:
            runs = tuple(scorer.runs.values())
            self._events.append(
                ScorerLost(runs=runs, kind=verdict.kind, cause=verdict.cause, step=scorer.step, log=log)
            )
            scorer.fruitless = 0
        elif not death.orphan:
            scorer.fruitless += 1
        if scorer.refusal is not None:
            self._failure = scorer.refusal
        elif scorer.fruitless >= (OUTSIDE_DEATHS if verdict.outside else FRUITLESS_DEATHS):
            # Where one scorer fits into memory and two do not, one has to do.
            scorer.retired = self._started and len(self._scorers) > 1
            if not scorer.retired:
                self._failure = _unusable(scorer, verdict, log)

    def _replace(self, lost: _Scorer) -> None:
        place = self._scorers.index(lost)
        del self._scorers[place]
        if self._failure is None and not lost.retired:
            try:
                self._scorers.insert(place, self._fork(lost.fruitless))
            except TidemillError as exc:
                self._failure = exc

    def _dispatch(self) -> None:
        while self._waiting:
            fitting = [scorer for scorer in self._scorers if scorer.has_room(self._waiting[0])]
            best = min(fitting, key=lambda scorer: len(scorer.runs), default=None)
            if best is None:
                return
            starting = sum(not scorer.ready and not scorer.doomed for scorer in self._scorers)
            if best.runs and len(self._waiting) <= starting:
                # A scorer that is about to be ready can begin with it; here it would only lie in wait.
                return
            best.give(self._waiting.popleft())


def _read_event(run: ChunkRun, message: Message) -> Done | Progress | Failed:
    match message["op"]:
        case "done":
            receipt = message["receipt"]
            return Done(run=run, receipt=None if receipt is None else Receipt.from_json(receipt))
        case "failed":
            return Failed(run=run, error=message["error"])
        case _:
            busy = {str(stage): float(seconds) for stage, seconds in message["busy_seconds"].items()}
            return Progress(run=run, rows=int(message["rows"]), rejected=int(message["rejected"]), busy_seconds=busy)


def _unusable(scorer: _Scorer, verdict: Death, log: str) -> ModelUnusable:
    remedy = MEMORY_REMEDY if verdict.kind == "memory" else "Load the model in a fresh Python to see why it dies."
    state = "with nothing to do" if scorer.ready else "before they could start"
    return ModelUnusable(f"Scorers died {scorer.fruitless} times {state}: {verdict.cause}.{quote(log)}", remedy=remedy)


def _has_ended(child: Child) -> bool:
    child.hear()
    return child.death() is not None


def _close_all(scorers: Iterable[_Scorer]) -> None:
    """Close every one, also when one of them does not end; then raise what it raised."""
    failure: ChildDied | None = None
    for scorer in scorers:
        try:
            scorer.child.close()
        except ChildDied as exc:
            failure = exc
    if failure is not None:
        raise failure
