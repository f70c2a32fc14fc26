"""Scoring a job's chunks: dispatch, commit, quarantine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from tidemill.domain.errors import (
    CountsDiffer,
    LeaseLost,
    StoreUnusable,
    TidemillError,
    TooManyCrashes,
    TooManyRejected,
    from_json,
)
from tidemill.domain.job import Job, Lease
from tidemill.domain.plan import PlanSummary
from tidemill.domain.receipt import Receipt
from tidemill.engine.heartbeat import Heartbeat
from tidemill.engine.layout import Shown, probe_bytes
from tidemill.engine.quarantine import Quarantine
from tidemill.ports.executor import ChunkRun, Done, Event, Executor, Failed, Progress, ScorerLost, ScorerSet, ScorerSpec
from tidemill.ports.observer import JobProgress
from tidemill.ports.store import Store

log = logging.getLogger(__name__)

COMMIT_RECEIPTS = 200
COMMIT_SECONDS = 0.2
POLL_SECONDS = 0.2
QUARANTINE_SECONDS = 5.0
PATIENCE = 20
"""A call that takes so many times as long as expected hangs."""
MAX_CRASHES = 3


class Leave(Enum):
    """Why a job is left before its end."""

    PAUSE = auto()
    CANCEL = auto()
    HAND_OVER = auto()
    """This worker ends: another one goes on."""
    HAND_OVER_NOW = auto()
    """The same, and its time is over."""

    @property
    def at_once(self) -> bool:
        """Whether what is in flight is dropped instead of finished."""
        return self in (Leave.CANCEL, Leave.HAND_OVER_NOW)


@dataclass(frozen=True, kw_only=True)
class ScoringLimits:
    """What scoring may not pass."""

    max_rejected: int
    stall_seconds: float


@dataclass(kw_only=True)
class Scoring:
    """One worker's go at the chunks that are not committed yet."""

    job: Job
    plan: PlanSummary
    lease: Lease
    beat: Heartbeat
    store: Store
    executor: Executor
    spec: ScorerSpec
    scorers: int
    limits: ScoringLimits
    stop: Callable[[], Leave | None]
    on_progress: Callable[[JobProgress], None]
    on_commit: Callable[[Sequence[Receipt]], None]
    on_lost: Callable[[ScorerLost], None]
    more: Callable[[Shown], tuple[ScorerSpec, int] | None]
    """Asked before the first chunk and after each one of a single scorer: of which spec, and how many more, there
    are to be."""
    _crashes: int = 0
    """Deaths of scorers that nothing explains, since this worker's last commit."""
    _attempts: int = 0
    _ready: list[Receipt] = field(default_factory=list)
    _ready_since: float = 0.0
    _in_flight: dict[str, Progress | ChunkRun] = field(default_factory=dict)
    _predicted: int = 0
    _rejected: int = 0
    _seconds_per_row: float = 0.0
    _busy: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "model": 0.0, "write": 0.0})
    _peak_bytes: int = 0
    """The most memory that a scorer took which finished its chunk."""
    _shown: Shown = field(init=False)
    """By a single scorer."""
    _alone: ScorerSet | None = None
    _alone_is_small: bool = False
    _quarantined: ChunkRun | None = None

    def run(self) -> Leave | None:
        """Score and commit every chunk that is left. None when all are committed, else why it stopped
        (what was in flight is finished and kept, unless the reason is one to leave at once).

        Raises JobFailed kinds, LeaseLost, StoreUnavailable.
        """
        self._predicted, self._rejected = self.job.counts.predicted, self.job.counts.rejected
        self._shown = Shown(rows_left=self._rows_left())
        self._quarantine = Quarantine(self.plan.batch_rows, self._next_attempt)
        chunks = self._uncommitted()
        following = next(chunks, None)
        if following is None:
            return None
        scorers = self.executor.lease(self.spec, self.scorers, stall_seconds=self.limits.stall_seconds)
        why: Leave | None = None
        finished = False
        try:
            self._grow(scorers, None)
            while following is not None or self._in_flight or self._ready or self._quarantine:
                why = self.stop() or why
                if why is not None and why.at_once:
                    return why
                while why is None and following is not None and scorers.free > 0:
                    self._submit(scorers, ChunkRun(chunk=following, attempt=self._next_attempt()))
                    following = next(chunks, None)
                for event in scorers.poll(POLL_SECONDS if self._in_flight else 0.0):
                    self._handle(event, scorers)
                self._work_quarantine(start=why is None)
                self._commit_if_due()
                self._tell()
                if why is not None and not self._in_flight and not self._ready and self._quarantined is None:
                    return why
            finished = True
            return None
        finally:
            self._commit_quietly()
            if finished:
                scorers.release()
            else:
                scorers.kill()
            self._kill_alone()

    def _uncommitted(self) -> Iterator[int]:
        start = 0
        for first, stop in self.store.ledger.committed_chunks(self.job.id):
            yield from range(start, first)
            start = stop
        yield from range(start, self.plan.chunks)

    def _next_attempt(self) -> str:
        self._attempts += 1
        return f"e{self.lease.epoch}-{self._attempts}"

    def _submit(self, scorers: ScorerSet, run: ChunkRun) -> None:
        self._in_flight[run.attempt] = run
        scorers.submit(run)

    def _handle(self, event: Event, scorers: ScorerSet) -> None:
        if isinstance(event, Done):
            self._done(event)
            self._grow(scorers, event.receipt)
        elif isinstance(event, Progress):
            if event.run.attempt in self._in_flight:
                self._in_flight[event.run.attempt] = event
                self._learn(event, scorers)
        elif isinstance(event, Failed):
            raise from_json(dict(event.error))
        else:
            self.on_lost(event)
            for run in event.runs:
                self._in_flight.pop(run.attempt, None)
                self._quarantine.add(run.chunk)

    def _done(self, event: Done) -> None:
        self._in_flight.pop(event.run.attempt, None)
        if event.receipt is not None:
            if not self._ready:
                self._ready_since = time.monotonic()
            self._ready.append(event.receipt)
            self._peak_bytes = max(self._peak_bytes, event.receipt.usage.peak_memory_bytes)
            for stage in self._busy:
                self._busy[stage] += getattr(event.receipt.usage, f"{stage}_seconds")
            self._expect(event.receipt.usage.model_seconds, event.receipt.rows)

    def _rows_left(self) -> int:
        return self.plan.rows - self._predicted - self._rejected - sum(each.rows for each in self._ready)

    def _grow(self, scorers: ScorerSet, done: Receipt | None) -> None:
        """Have more scorers if a single one is known to be too few, now that it has done this chunk."""
        if self.scorers != 1:
            return
        if done is not None:
            self._shown = self._shown.after(done.rows, done.usage, self._rows_left())
        found = self.more(self._shown)
        if found is not None:
            spec, more = found
            scorers.grow(spec, more)
            self.scorers += more

    def _learn(self, event: Progress, scorers: ScorerSet) -> None:
        self._expect(event.busy_seconds.get("model", 0.0), event.rows)
        scorers.stall_seconds = max(self.limits.stall_seconds, self._patience())

    def _expect(self, model_seconds: float, rows: int) -> None:
        if rows:
            self._seconds_per_row = max(self._seconds_per_row * 0.9, model_seconds / rows)

    def _patience(self) -> float:
        return PATIENCE * self._seconds_per_row * self.plan.batch_rows

    def _work_quarantine(self, *, start: bool) -> None:
        """Take one step with the chunks under suspicion; the others go on meanwhile."""
        if self._quarantined is None:
            if not self._quarantine or not start:
                return
            self._lease_alone(small=self._quarantine.small)
            assert self._alone is not None
            self._alone.stall_seconds = self._quarantine_stall()
            self._quarantined = self._quarantine.next_run()
            self._alone.submit(self._quarantined)
        for event in self._poll_alone():
            self._handle_alone(event)

    def _lease_alone(self, *, small: bool) -> None:
        """Have one careful scorer, within the bound of memory that the next run is to have."""
        if self._alone is not None and self._alone_is_small == small:
            return
        self._kill_alone()
        bound = probe_bytes(self.spec.memory_bytes, self._peak_bytes) if small else self.spec.memory_bytes
        spec = replace(self.spec, warm_key=None, job={**self.spec.job, "threads": 1}, memory_bytes=bound)
        self._alone = self.executor.lease(spec, 1, stall_seconds=self._quarantine_stall())
        self._alone_is_small = small

    def _kill_alone(self) -> None:
        if self._alone is not None:
            self._alone.kill()
        self._alone = None

    def _poll_alone(self) -> Sequence[Event]:
        assert self._alone is not None
        try:
            return self._alone.poll(0.0 if self._in_flight else POLL_SECONDS)
        except TidemillError:
            if not self._alone_is_small:
                raise
            # Perhaps it cannot start only because its model does not fit into so little.
            self._quarantine.small_is_too_small()
            self._quarantined = None
            self._kill_alone()
            return []

    def _quarantine_stall(self) -> float:
        return max(min(QUARANTINE_SECONDS, self.limits.stall_seconds), self._patience())

    def _handle_alone(self, event: Event) -> None:
        run = self._quarantined
        if run is None or isinstance(event, Progress):
            return
        if isinstance(event, Done):
            self._quarantined = None
            if self._quarantine.came_through(run):
                self._done(event)
        elif isinstance(event, Failed):
            raise from_json(dict(event.error))
        elif event.runs:
            self.on_lost(event)
            self._quarantined = None
            self._count_unexplained(event)
            self._quarantine.died(event, run)

    def _count_unexplained(self, lost: ScorerLost) -> None:
        if lost.step is not None and lost.step.stage in ("model", "read"):
            return
        if self.beat.while_ours(lambda: self.store.jobs.count_crash_if_current(self.lease)) is None:
            raise LeaseLost()
        self._crashes += 1
        if self._crashes > MAX_CRASHES:
            raise TooManyCrashes(
                f"Scorers died {self._crashes} times without finishing a chunk: {lost.cause}.",
                remedy="Run the same command again to go on; see the model's own output for the cause.",
            )

    def _commit_if_due(self) -> None:
        if not self._ready:
            return
        waited = time.monotonic() - self._ready_since
        if self._in_flight and waited < COMMIT_SECONDS and len(self._ready) < COMMIT_RECEIPTS:
            return
        self._commit()
        if self._rejected > self.limits.max_rejected:
            receipts = self.store.ledger.receipts(self.job.id)
            first = next((f" The first: {row}" for receipt in receipts for row in receipt.rejections), "")
            raise TooManyRejected(
                f"{self._rejected:,} rows were rejected; the limit is {self.limits.max_rejected:,}.{first}",
                remedy="Mend the input or the model; the same command with a higher --max-rejected goes on.",
            )

    def _commit(self) -> None:
        receipts, self._ready = self._ready, []
        tries = 0

        def commit() -> bool:
            nonlocal tries
            tries += 1
            # The answer to an earlier try may have been lost on the way.
            if tries > 1 and self._is_committed(receipts[0].chunk):
                return self.store.jobs.is_current(self.lease)
            return self.store.ledger.commit_chunks_if_current(self.lease, receipts)

        if not self.beat.while_ours(commit):
            raise LeaseLost()
        self._crashes = 0
        self._predicted += sum(receipt.predicted for receipt in receipts)
        self._rejected += sum(receipt.rejected for receipt in receipts)
        self.on_commit(receipts)

    def _is_committed(self, chunk: int) -> bool:
        """Whether a chunk that this worker found open has been committed: by it, if it still holds the job.
        Commits are atomic, so this one chunk tells for all that were committed with it."""
        return any(first <= chunk < stop for first, stop in self.store.ledger.committed_chunks(self.job.id))

    def _commit_quietly(self) -> None:
        """Keep what is finished when something else goes wrong; a lost lease keeps nothing."""
        if self._ready:
            receipts, self._ready = self._ready, []
            try:
                self.store.ledger.commit_chunks_if_current(self.lease, receipts)
            except (StoreUnusable, CountsDiffer) as exc:
                log.warning("%s: what was finished last could not be kept: %s", self.job.id, exc)

    def _tell(self) -> None:
        running = [seen for seen in self._in_flight.values() if isinstance(seen, Progress)]
        rejected = sum(seen.rejected for seen in running) + sum(receipt.rejected for receipt in self._ready)
        rows = sum(seen.rows for seen in running) + sum(receipt.rows for receipt in self._ready)
        self.on_progress(
            JobProgress(
                stage="running",
                total=self.plan.rows,
                predicted=self._predicted + rows - rejected,
                rejected=self._rejected + rejected,
                busy_seconds=self._busy_now(running),
                note="looking for the row that kills the scorer" if self._quarantine else None,
            )
        )

    def _busy_now(self, running: Sequence[Progress]) -> Mapping[str, float]:
        return {
            stage: seconds + sum(float(seen.busy_seconds.get(stage, 0.0)) for seen in running)
            for stage, seconds in self._busy.items()
        }
