"""The worker: drives one job from a claim to its end. Parses no data, loads no model.

    plan -> score chunk by chunk, commit each -> assemble -> manifest into the store -> publish -> done

Every step looks first at what a dead worker left, so starting and going on are the same way.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidemill.domain.errors import (
    CountsDiffer,
    InputChanged,
    JobFailed,
    LeaseLost,
    ModelUnusable,
    RuntimeExceeded,
    Stopped,
    TidemillError,
    UpgradeRefused,
)
from tidemill.domain.job import ENDED, Job, JobState, Lease, Want
from tidemill.domain.plan import PlanSummary
from tidemill.domain.receipt import Part, PartKind
from tidemill.durable.files import translated
from tidemill.engine.heartbeat import Heartbeat
from tidemill.engine.manifest import build_manifest
from tidemill.engine.scoring import Scoring, ScoringLimits
from tidemill.ports.executor import Executor, ScorerSpec
from tidemill.ports.observer import JobProgress, Observer
from tidemill.ports.sink import Sink, StagedFile
from tidemill.ports.store import Store
from tidemill.wire.spec import JobSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Entries:
    """Entry points of children, as "module:function"; executors import them, the worker never does."""

    identify: str
    versions: str
    plan: str
    assemble: str
    scorer: str


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What this host gives to a job."""

    cores: int
    memory_bytes: int
    stall_seconds: float
    preload: tuple[str, ...]


@dataclass(kw_only=True)
class Worker:
    """Runs jobs it holds a lease of, one at a time."""

    id: str
    store: Store
    executor: Executor
    open_sink: Callable[[JobSpec], Sink]
    entries: Entries
    compute: Compute
    observers: Sequence[Observer] = ()
    stop_softly: threading.Event = field(default_factory=threading.Event)
    """Set it to finish what is in flight, keep it, and pause."""
    allow_upgrade: bool = False

    def run(self, job: Job, lease: Lease) -> Job:
        """Drive the job until it leaves this worker's hands; returns it as stored.

        Raises LeaseLost if somebody else holds it now. Everything else that goes wrong ends in the
        job's state and error.
        """
        with Heartbeat(self.store, lease, self.id, self.executor.kill) as beat:
            run = _Run(self, job, lease, beat)
            try:
                run.go()
            except LeaseLost:
                raise
            except TidemillError as exc:
                run.end_badly(exc)
            except BaseException as exc:
                run.end_badly(
                    Stopped() if isinstance(exc, KeyboardInterrupt) else JobFailed(f"{type(exc).__name__}: {exc}")
                )
                raise
        ended = self.store.jobs.get(job.id)
        self.tell(lambda observer: observer.job_ended(ended))
        return ended

    def tell(self, call: Callable[[Observer], None]) -> None:
        """Call every observer; one that raises is logged and changes nothing."""
        for observer in self.observers:
            try:
                call(observer)
            except Exception:
                log.exception("an observer failed")


class _Run:
    """One claim of one job."""

    def __init__(self, worker: Worker, job: Job, lease: Lease, beat: Heartbeat) -> None:
        self.worker, self.job, self.lease, self.beat = worker, job, lease, beat
        self.store, self.executor = worker.store, worker.executor
        self.spec = JobSpec.model_validate(job.spec)
        self.sink = worker.open_sink(self.spec)
        self.started = time.monotonic()
        self.model: dict[str, Any] = {}

    def go(self) -> None:
        """The whole way, from wherever the job stands."""
        resumed = self.job.chunks_done
        self.worker.tell(lambda observer: observer.job_started(self.job, resumed))
        if self.job.state is not JobState.COMMITTING:
            self.model = self._model()
            plan = self._plan()
            if not self._score(plan):
                return
            self._begin_commit(plan)
        self._publish()

    def _model(self) -> dict[str, Any]:
        model = self.executor.call(
            self.worker.entries.identify,
            {"path": self.spec.model, "flavor": self.spec.flavor},
            preload=self.worker.compute.preload,
            should_stop=self._should_stop,
        )
        if model["digest"] != self.job.model_digest:
            raise ModelUnusable(
                f"The model {self.spec.model} is not the one this job was submitted with.",
                remedy="Put the old file back to go on, or start over with --restart.",
            )
        return {**model, "trusted": self.store.trust.is_trusted(model["digest"])}

    def _plan(self) -> PlanSummary:
        if self.job.plan is not None:
            plan = PlanSummary.from_json(self.job.plan)
            self._check_libraries(plan)
            return plan
        request = {"spec": self.job.spec, "staging": self.job.staging, "model": self.model}
        answer = self.executor.call(
            self.worker.entries.plan,
            request,
            preload=self._preload(),
            on_progress=lambda seen: self._progress(JobProgress(stage="planning", files=int(seen.get("files", 0)))),
            should_stop=self._should_stop,
        )
        plan = PlanSummary.from_json(answer)
        self._must(self.store.ledger.record_plan_if_current(self.lease, plan))
        self.job = self.store.jobs.get(self.job.id)
        return plan

    def _check_libraries(self, plan: PlanSummary) -> None:
        now = self.executor.call(self.worker.entries.versions, dict(plan.libraries), preload=self._preload())
        changed = [f"{name} {was} -> {now.get(name)}" for name, was in plan.libraries if now.get(name) != was]
        if changed and not self.worker.allow_upgrade:
            raise UpgradeRefused(
                f"Since this job was planned, libraries changed: {', '.join(changed)}.",
                remedy="Install the old versions to go on, or say --allow-upgrade, or start over with --restart.",
            )

    def _preload(self) -> tuple[str, ...]:
        return (*self.worker.compute.preload, *self.model.get("preload", ()))

    def _score(self, plan: PlanSummary) -> bool:
        """Score what is not committed yet. False if the job was paused or cancelled instead."""
        self.sink.sweep(self.job.id, self._committed_names())
        scorers, threads = self._layout(plan)
        spec = ScorerSpec(
            entry=self.worker.entries.scorer,
            job={
                "staging": self.job.staging,
                "plan_digest": plan.digest,
                "model": self.model,
                "threads": threads,
                "max_rejected": self.spec.limits.max_rejected(plan.rows),
            },
            preload=self._preload(),
            memory_bytes=self._memory_bytes(scorers),
        )
        limits = ScoringLimits(
            max_rejected=self.spec.limits.max_rejected(plan.rows), stall_seconds=self.worker.compute.stall_seconds
        )
        scoring = Scoring(
            job=self.job,
            plan=plan,
            lease=self.lease,
            store=self.store,
            executor=self.executor,
            spec=spec,
            scorers=scorers,
            limits=limits,
            stop=self._stop_reason,
            on_progress=self._progress,
            on_commit=self._committed,
        )
        why = scoring.run()
        self.job = self.store.jobs.get(self.job.id)
        if why is not None:
            self._leave(why)
            return False
        return True

    def _committed_names(self) -> Callable[[str], bool]:
        """Whether a part is a committed one. Attempt names are unique, so (chunk, attempt) decides."""
        ledger = {f"{receipt.chunk:07d}.{receipt.attempt}" for receipt in self.store.ledger.receipts(self.job.id)}
        return lambda name: ".".join(Path(name).name.split(".")[:2]) in ledger

    def _layout(self, plan: PlanSummary) -> tuple[int, int]:
        """(scorers, threads in each). Libraries that free the GIL: one process with a thread per core."""
        asked = self.spec.compute.scorers
        if asked != "auto":
            return min(asked, max(plan.chunks, 1)), 1
        if plan.model.layout == "threads":
            return 1, self.worker.compute.cores
        return max(1, min(self.worker.compute.cores, plan.chunks)), 1

    def _memory_bytes(self, scorers: int) -> int:
        asked = self.spec.compute.memory_per_scorer
        return asked if asked != "auto" else self.worker.compute.memory_bytes // (scorers + 1)

    def _begin_commit(self, plan: PlanSummary) -> None:
        counts = self.job.counts
        if self.job.chunks_done != plan.chunks or counts.predicted + counts.rejected != plan.rows:
            raise CountsDiffer(
                f"{plan.rows:,} rows in {plan.chunks:,} chunks were planned, but {counts.predicted:,} predicted and"
                f" {counts.rejected:,} rejected rows in {self.job.chunks_done:,} chunks were committed.",
                remedy="This is a defect of Tidemill: please report it. Nothing was published.",
            )
        self._progress(JobProgress(stage="assembling", total=plan.rows, predicted=counts.predicted))
        files = self._assemble(plan)
        earlier = self.sink.look().manifest if self.spec.output and self.spec.output.mode == "append" else None
        manifest = build_manifest(self.job, plan, self.model, files, datetime.now(UTC), earlier)
        journal = self.sink.journal(self.job.id)
        self._must(self.store.ledger.begin_commit_if_current(self.lease, manifest, journal))

    def _assemble(self, plan: PlanSummary) -> list[StagedFile]:
        if not plan.output_options.get("single_file"):
            return self.sink.assemble(self.job.id, self._parts())
        listing = Path(self.job.staging) / "out" / "parts.jsonl"
        with translated(listing), listing.open("w") as file:
            file.writelines(json.dumps([part.kind, part.name]) + "\n" for _, part in self._parts())
        made = self.executor.call(
            self.worker.entries.assemble,
            {"staging": self.job.staging, "plan_digest": plan.digest, "parts": str(listing)},
            preload=self.worker.compute.preload,
            should_stop=self._should_stop,
        )
        listing.unlink()
        return self.sink.assemble(self.job.id, ((0, Part(**part)) for part in made["parts"]))

    def _parts(self) -> Iterator[tuple[int, Part]]:
        kinds: tuple[PartKind, ...] = ("predictions", "rejected")
        for kind in kinds:
            for receipt in self.store.ledger.receipts(self.job.id):
                yield from ((receipt.chunk, part) for part in receipt.parts if part.kind == kind)

    def _publish(self) -> None:
        self._progress(JobProgress(stage="committing", total=self.job.counts.total))
        stored = self.store.ledger.find_manifest(self.job.id)
        assert stored is not None, "a job is committing only with a manifest in the store"
        manifest, journal = stored
        self.sink.publish(self.job.id, manifest, journal, lambda: self.store.jobs.is_current(self.lease))
        self._succeed(manifest)

    def _succeed(self, manifest: Mapping[str, Any]) -> None:
        rejected = manifest["counts"]["rejected"]
        state = JobState.SUCCEEDED_WITH_REJECTIONS if rejected else JobState.SUCCEEDED
        self._must(self.store.jobs.end_if_current(self.lease, state))
        self.sink.finish(self.job.id)

    def end_badly(self, exc: TidemillError) -> None:
        """Store how the job failed. What can be resumed keeps its staging, the rest leaves nothing."""
        if isinstance(exc, Stopped):
            self._leave(Want.CANCEL if self.beat.want is Want.CANCEL else Want.PAUSE)
            return
        state = self.store.jobs.get(self.job.id).state
        if state in ENDED:
            log.warning("clearing up after %s: %s", self.job.id, exc)
            return
        published = self.sink.published(self.job.id) if state is JobState.COMMITTING else None
        if published is not None:
            log.warning("publishing %s raised after all was published: %s", self.job.id, exc)
            self._succeed(published)
            return
        self._must(self.store.jobs.end_if_current(self.lease, JobState.FAILED, exc.to_json()))
        if is_final(exc, planned=self.job.plan is not None):
            self.sink.discard(self.job.id)

    def _leave(self, why: Want) -> None:
        if why is Want.CANCEL:
            self._must(self.store.jobs.end_if_current(self.lease, JobState.CANCELLED))
            self.sink.discard(self.job.id)
        else:
            self._must(self.store.jobs.end_if_current(self.lease, JobState.PAUSED))
            self._cancel_if_wished_meanwhile()

    def _cancel_if_wished_meanwhile(self) -> None:
        """A wish that came after the last heartbeat was not seen, and nobody holds the job now to see it."""
        if self.store.jobs.get(self.job.id).want is not Want.CANCEL:
            return
        if self.store.jobs.wish(self.job.id, Want.CANCEL).state is JobState.CANCELLED:
            self.sink.discard(self.job.id)

    def _stop_reason(self) -> Want | None:
        """Why the job must be left now, if it must. Raises LeaseLost, RuntimeExceeded."""
        self.beat.check()
        limit = self.spec.limits.runtime_seconds()
        if limit is not None and time.monotonic() - self.started > limit:
            raise RuntimeExceeded(
                f"The job ran longer than its limit of {self.spec.limits.runtime}.",
                remedy="What was committed is kept: the same command with a higher limit goes on.",
            )
        if self.beat.want is not Want.RUN:
            return self.beat.want
        return Want.PAUSE if self.worker.stop_softly.is_set() else None

    def _should_stop(self) -> bool:
        return self._stop_reason() is not None

    def _progress(self, progress: JobProgress) -> None:
        self.worker.tell(lambda observer: observer.job_progress(self.job, progress))

    def _committed(self, receipts: Sequence[Any]) -> None:
        for receipt in receipts:
            self.worker.tell(lambda observer, r=receipt: observer.chunk_committed(self.job, r))  # type: ignore[misc]

    def _must(self, happened: bool) -> None:
        if not happened:
            raise LeaseLost()


def is_final(exc: TidemillError, *, planned: bool) -> bool:
    """Whether a job that failed so keeps nothing: another run starts anew. A planned job may have
    committed chunks, which no refusal (an upgrade, a missing extra, a full store) throws away; one
    without a plan has nothing that is worth keeping."""
    return isinstance(exc, InputChanged) or not planned
