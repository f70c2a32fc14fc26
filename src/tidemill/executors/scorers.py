"""Sets of scorers on this machine.

Messages of a scorer. To it: {"op": "run", "run"} with `ChunkRun.to_json`; {"op": "stop"}; {"op": "rest"} when
its job is done and it is kept, then {"op": "job", "job"} with that of the next spec. From it: {"op": "ready"}
when it has loaded what a job needs; {"op": "rested", "memory_bytes"} when it has let go of a job, with what it
holds now; {"op": "step", "attempt", "stage", "row_start", "row_stop", "segment"} before each step of a careful
run; {"op": "progress", "attempt", "rows", "rejected", "busy_seconds"}; {"op": "done", "attempt", "receipt"};
{"op": "failed", "attempt", "error"}; {"op": "alive"} now and then while the model still answers. Any message counts
as a sign of life.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from tidemill.domain.errors import ChildDied, ModelUnusable, TidemillError, from_json
from tidemill.domain.receipt import Receipt
from tidemill.executors.channel import Message
from tidemill.executors.child import RUN_SCORER
from tidemill.executors.children import Brood, Child, Zygote, wait_for
from tidemill.executors.death import MEMORY_REMEDY, Death, out_of_memory
from tidemill.executors.log import quote
from tidemill.executors.warm import WarmScorers
from tidemill.ports.executor import (
    ChunkRun,
    Done,
    Event,
    Failed,
    Progress,
    ScorerLost,
    ScorerSet,
    ScorerSpec,
    Step,
)

logger = logging.getLogger(__name__)

RUNS_PER_SCORER = 2
"""One that is worked on and one ahead, so that a scorer never waits for the worker."""

STOP_SECONDS = 5.0

FRUITLESS_DEATHS = 3
"""After so many deaths in a row with no run in hand a scorer is not replaced; the job fails when it was
the last, or when none has started yet."""

OUTSIDE_DEATHS = 10
"""The same, when somebody else kills it."""


class _Scorer:
    """One scorer's child, and what is known of it."""

    def __init__(
        self, child: Child, spec: ScorerSpec, *, heard_at: float, fruitless: int = 0, kept: bool = False
    ) -> None:
        self.child, self.spec = child, spec
        self.kept = kept
        """Whether it served another job before."""
        self.runs: dict[str, ChunkRun] = {}
        self.ready = False
        self.heard_at = heard_at
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

    def give(self, run: ChunkRun, now: float) -> None:
        if not self.runs:
            self.heard_at = now
        self.runs[run.attempt] = run
        self.child.post({"op": "run", "run": run.to_json()})

    def condemn(self, kind: str, cause: str) -> None:
        """Kill it; its end comes later and is told with this cause."""
        if self.verdict is None:
            self.verdict = Death(kind=kind, cause=cause)
        self.child.kill()


class LocalScorerSet(ScorerSet):
    """Scorers of one brood: forked from a zygote, or kept by `warm` when another job had done with them."""

    def __init__(
        self,
        zygote: Zygote,
        brood: Brood,
        warm: WarmScorers,
        spec: ScorerSpec,
        *,
        stall_seconds: float,
        start_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._zygote = zygote
        self._brood = brood
        self._warm = warm
        self._spec = spec
        self.stall_seconds = stall_seconds
        self._start_seconds = start_seconds
        self._clock = clock
        self._spotless = True
        """Whether nothing happened in this set that makes its scorers doubtful for another job."""
        self._scorers: list[_Scorer] = []
        self._waiting: deque[ChunkRun] = deque()
        self._events: list[Event] = []
        self._failure: TidemillError | None = None
        self._started = False

    def grow(self, spec: ScorerSpec, scorers: int) -> None:
        """Take over what fits, have the other scorers forked."""
        taken = [_Scorer(child, spec, heard_at=self._clock(), kept=True) for child in self._warm.take(spec, scorers)]
        self._scorers += taken
        for scorer in taken:
            self._take_over(scorer)
        for _ in range(scorers - len(taken)):
            self._scorers.append(self._fork(spec, 0))

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
        deadline = self._clock() + timeout_seconds
        while True:
            self._look()
            if self._events:
                events, self._events = self._events, []
                return events
            if self._failure is not None:
                raise self._failure
            now = self._clock()
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
            self._spotless = False
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
        scorers = [scorer for scorer in scorers if not self._keep(scorer)]
        # One that still loads never had anything in hand, and loading can take long: it is not waited for.
        stopping = [scorer.child for scorer in scorers if scorer.ready]
        for child in stopping:
            child.post({"op": "stop"})
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and not all(_has_ended(child) for child in stopping):
            wait_for(stopping, deadline - time.monotonic())
        _close_all(scorers)

    def _keep(self, scorer: _Scorer) -> bool:
        """Leave a scorer to later jobs if nothing speaks against it."""
        if not (self._spotless and scorer.ready) or scorer.doomed or scorer.runs or not self._warm.wants(scorer.spec):
            return False
        self._brood.release(scorer.child)
        self._warm.keep(scorer.spec, scorer.child)
        return True

    def _fork(self, spec: ScorerSpec, fruitless: int) -> _Scorer:
        child = self._brood.bear(
            lambda: self._zygote.fork(RUN_SCORER, preload=spec.preload, memory_bytes=spec.memory_bytes)
        )
        child.post({"entry": spec.entry, "job": dict(spec.job)})
        return _Scorer(child, spec, heard_at=self._clock(), fruitless=fruitless)

    def _take_over(self, scorer: _Scorer) -> None:
        self._brood.bear(lambda: scorer.child)
        scorer.child.post({"op": "job", "job": dict(scorer.spec.job)})

    def _look(self) -> None:
        now = self._clock()
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
            scorer.heard_at = self._clock()
            try:
                self._take(scorer, message)
            except (KeyError, TypeError, ValueError, AttributeError) as exc:
                scorer.condemn("died", f"killed because its message was not understood ({exc!r})")

    def _take(self, scorer: _Scorer, message: Message) -> None:
        match message.get("op"):
            case "ready":
                scorer.ready = self._started = True
                if scorer.kept:
                    # What it printed until now can be of its former job, which may be somebody else's.
                    scorer.child.log.clear()
            case "rested" | "alive":
                pass
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
        self._spotless &= not isinstance(event, Failed)
        self._events.append(event)

    def _take_farewell(self, scorer: _Scorer, message: Message) -> None:
        if "memory" in message:
            scorer.verdict = Death(kind="memory", cause=out_of_memory(scorer.spec.memory_bytes))
        elif "error" in message:
            error = from_json(message["error"])
            scorer.verdict = Death(kind="died", cause=error.message)
            if message["expected"] and not scorer.ready and not scorer.kept:
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
        self._spotless = False
        verdict = scorer.verdict or death
        log = death.log or scorer.child.log.text()
        logger.info("scorer %s lost: %s; it printed: %s", scorer.child.pid, verdict.cause, log)
        if scorer.runs:
            runs = tuple(scorer.runs.values())
            self._events.append(
                ScorerLost(runs=runs, kind=verdict.kind, cause=verdict.cause, step=scorer.step, log=log)
            )
            scorer.fruitless = 0
        elif not death.orphan and (scorer.ready or not scorer.kept):
            # One that could not be handed over proves nothing: a fresh one is asked.
            scorer.fruitless += 1
        refused = scorer.refusal is not None
        if not refused and scorer.fruitless < (OUTSIDE_DEATHS if verdict.outside else FRUITLESS_DEATHS):
            return
        # Where one scorer fits into memory and two do not, one has to do: one of those that were leased.
        added = scorer.spec is not self._spec
        scorer.retired = len(self._scorers) > 1 and (added or (self._started and not refused))
        if not scorer.retired:
            self._failure = scorer.refusal or _unusable(scorer, verdict, log)

    def _replace(self, lost: _Scorer) -> None:
        place = self._scorers.index(lost)
        del self._scorers[place]
        if self._failure is None and not lost.retired:
            try:
                self._scorers.insert(place, self._fork(lost.spec, lost.fruitless))
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
            self._spotless &= not self._waiting[0].alone
            best.give(self._waiting.popleft(), self._clock())


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
