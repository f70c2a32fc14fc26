"""The worker: drives one job from a claim to its end. Parses no data, loads no model.

    output -> plan -> score chunk by chunk, commit each -> assemble -> manifest into the store -> publish -> done

Every step looks first at what a dead worker left, so starting and going on are the same way. So is
what comes after a store that did not answer for a while.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidemill.domain.confines import Confines
from tidemill.domain.errors import (
    ChildDied,
    CountsDiffer,
    InputChanged,
    InvalidSpec,
    JobFailed,
    LeaseLost,
    ModelUnusable,
    NotAllowed,
    NotFound,
    RuntimeExceeded,
    Stopped,
    StoreUnavailable,
    TidemillError,
    TooManyCrashes,
    UpgradeRefused,
)
from tidemill.domain.job import LEASED, Job, JobState, Lease, Want
from tidemill.domain.plan import PlanSummary
from tidemill.domain.receipt import NO_USAGE, Part, PartKind, Receipt, Usage
from tidemill.durable.files import translated
from tidemill.engine import deaths
from tidemill.engine.drain import Drain
from tidemill.engine.heartbeat import LONGEST_PAUSE_SECONDS, Heartbeat
from tidemill.engine.held import Held
from tidemill.engine.layout import Compute, Host, Layout, Shown
from tidemill.engine.manifest import build_manifest
from tidemill.engine.modelkey import model_key
from tidemill.engine.recall import Recall, info_key, shown_key
from tidemill.engine.recording import Recording
from tidemill.engine.scoring import Leave, Scoring, ScoringLimits
from tidemill.engine.tuning import Tuning
from tidemill.ports.executor import Executor, ScorerLost, ScorerSpec
from tidemill.ports.observer import JobProgress, Observer
from tidemill.ports.sink import Sink, StagedFile
from tidemill.ports.store import Store
from tidemill.wire.spec import JobSpec

log = logging.getLogger(__name__)

MAX_DEATHS = 10
"""So many workers must die with a job, without a chunk committed in between, before the job is blamed."""
DEATHS_SECONDS = 600.0
"""And over so long a time: whoever kills workers (a spot market, a bad hour) hits innocent jobs, again and again."""

ACCELERATED_ROWS = 100_000
"""In smaller jobs, to check a kernel costs more than it saves."""
CHECK_SECONDS = 120.0

_EPOCH = re.compile(r"\.e(\d+)-\d+\.")


@dataclass(frozen=True, kw_only=True)
class Entries:
    """Entry points of children, as "module:function"; executors import them, the worker never does."""

    identify: str
    environment: str
    versions: str
    plan: str
    accelerate: str
    assemble: str
    scorer: str


@dataclass(kw_only=True)
class Worker:
    """Runs one job after another that it holds a lease of. A process may have several."""

    id: str
    store: Store
    executor: Executor
    open_sink: Callable[[JobSpec], Sink]
    entries: Entries
    compute: Compute
    environments: Path
    """Where environments of models are kept."""
    kernels: Path
    """Where compiled kernels are."""
    observers: Sequence[Observer] = ()
    take_output: Callable[[Job, Sink, Callable[[], None]], None] = lambda job, sink, check: None
    """Makes the output this job's, before anything is done. Its last argument asks the store whether the job
    is still held and raises LeaseLost. Not needed by whoever took the output before the lease."""
    confines: Confines | None = None
    """Where the job may read and write. None: anywhere."""
    jobs_running: Callable[[], int] | None = None
    """How many jobs share the host now. None: this one has it for itself."""
    gpus: tuple[str, ...] | None = None
    """Names of the GPUs that scorers may use. None: whatever this process sees."""
    recall: Recall = field(default_factory=Recall)
    """Workers of one process share it."""
    stop_softly: threading.Event = field(default_factory=threading.Event)
    """Set it to finish what is in flight, keep it, and pause."""
    drain: Drain = field(default_factory=Drain)
    """Begin it to hand the job over."""
    allow_upgrade: bool = False
    identified: Mapping[str, Any] | None = None
    """What `models.identify` said of the job's model just now. None: it is asked."""

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
        ended = self._look(job.id)
        self.tell(lambda observer: observer.job_ended(ended))
        return ended

    def tell(self, call: Callable[[Observer], None]) -> None:
        """Call every observer; one that raises is logged and changes nothing."""
        for observer in self.observers:
            try:
                call(observer)
            except Exception:
                log.exception("an observer failed")

    def _look(self, job_id: str) -> Job:
        """The job as stored; a store that does not answer gets a lease's time."""
        stop = time.monotonic() + self.store.lease_seconds
        while True:
            try:
                return self.store.jobs.get(job_id)
            except StoreUnavailable:
                if time.monotonic() > stop:
                    raise
            time.sleep(LONGEST_PAUSE_SECONDS / 4)


class _Run:
    """One claim of one job."""

    sink: Sink
    recording: Recording

    def __init__(self, worker: Worker, job: Job, lease: Lease, beat: Heartbeat) -> None:
        self.worker, self.job, self.lease, self.beat = worker, job, lease, beat
        self.store, self.executor = worker.store, worker.executor
        self.held = Held(store=worker.store, lease=lease, beat=beat)
        self.started = time.monotonic()
        self.model: dict[str, Any] = {}
        self.environment: dict[str, Any] | None = None
        self.opened = False
        """Whether its spec could be read."""
        self.left = False
        """Whether the job has left this worker's hands."""

    def go(self) -> None:
        """The whole way; once more, from wherever the job stands then, when the store was away."""
        self.spec = JobSpec.model_validate(self.job.spec)
        self.sink = self.worker.open_sink(self.spec)
        self.recording = Recording(self.held, self.job, self.spec)
        self.opened = True
        self.worker.tell(lambda observer: observer.job_started(self.job, self.job.chunks_done))
        self._count_death()
        while True:
            try:
                self._go()
                return
            except StoreUnavailable as exc:
                log.warning("%s waits for the store: %s", self.job.id, exc)
            if self.left:
                return
            self.beat.pause(LONGEST_PAUSE_SECONDS / 4)
            self._refresh()
            if self.job.state not in LEASED:
                raise LeaseLost()

    def _go(self) -> None:
        self._check_output_place()
        self.worker.take_output(self.job, self.sink, self._ask_current)
        if self.job.state is not JobState.COMMITTING:
            self.model = self._model()
            self.environment = self._environment()
            plan = self._plan()
            if not self._score(plan):
                return
            self._begin_commit(plan)
        self._publish()

    def _check_output_place(self) -> None:
        """Where the output's path leads may have changed since the job was submitted."""
        confines = self.worker.confines
        if confines is not None and not confines.hold_output(os.path.realpath(self.job.output)):
            raise NotAllowed(
                f"The output {self.job.output} leads to where a job that came with an API key may not write.",
                remedy="Name its folder in the setting data_roots of every worker, or choose another output.",
            )

    def _count_death(self) -> None:
        """Whoever held the job before and did not leave it is dead; was it the job that killed it?"""
        if self.job.foreground or self.lease.epoch == 1 or deaths.was_left(self.job.staging, self.lease.epoch - 1):
            return
        count = self.held.count_crash()
        seconds = deaths.seconds_since_first(self.job.staging, count)
        if count < MAX_DEATHS or seconds < DEATHS_SECONDS or self.job.state is JobState.COMMITTING:
            return
        raise TooManyCrashes(
            f"{count} workers died, one after the other, while they ran {self.job.id}, and no chunk of it was"
            f" committed in all the {seconds / 60:.0f} minutes.",
            remedy="See the workers' logs and the kernel's (out of memory?); then resume the job.",
        )

    def _model(self) -> dict[str, Any]:
        pin = self.job.model
        if pin is None:
            model = self._identify() if self.worker.identified is None else dict(self.worker.identified)
        else:
            names = ("path", "digest", "flavor", "carries_code", "preload", "size_bytes")
            model = {name: getattr(pin, name) for name in names}
        kernels, trusted = os.path.abspath(self.worker.kernels), self.store.trust.is_trusted(model["digest"])
        return {**model, "trusted": trusted, "kernels": kernels}

    def _identify(self) -> dict[str, Any]:
        model = self.executor.call(
            self.worker.entries.identify,
            {"path": self.spec.model, "flavor": self.spec.flavor},
            should_stop=self._should_stop,
        )
        if model["digest"] != self.job.model_digest:
            raise ModelUnusable(
                f"The model {self.spec.model} is not the one this job was submitted with.",
                remedy="Put the old file back to go on, or start over with --restart.",
            )
        return model

    def _environment(self) -> dict[str, Any] | None:
        """The model's own Python, made if it is not there yet: {"python", "digest", "lock"}."""
        wanted = None if self.job.model is None else self.job.model.environment
        if wanted is None:
            return None
        return self.executor.call(
            self.worker.entries.environment,
            {**wanted.to_json(), "folder": str(self.worker.environments)},
            should_stop=self._should_stop,
        )

    @property
    def _python(self) -> str | None:
        return None if self.environment is None else self.environment["python"]

    def _plan(self) -> PlanSummary:
        if self.job.plan is not None:
            plan = PlanSummary.from_json(self.job.plan)
            self._check_libraries(plan)
            self.recording.check(plan)
            return plan
        parent = self._parent_manifest()
        chosen = self.recording.begin(parent)
        request = {
            "brief": self.spec.brief().to_json(),
            "staging": self.job.staging,
            "epoch": self.lease.epoch,
            "model": self.model,
            "info": self.worker.recall.infos.get(info_key(self.model, self.environment, self.spec)),
            "parent": parent,
            "confines": None if self.worker.confines is None else self.worker.confines.to_json(),
            **chosen,
        }
        answer = self.executor.call(
            self.worker.entries.plan,
            request,
            python=self._python,
            preload=self._preload(),
            on_progress=self._planning,
            should_stop=self._should_stop,
        )
        self.recording.end()
        plan, seconds = self._accelerated(PlanSummary.from_json(answer["plan"]))
        seconds += answer["cpu_seconds"]
        used = Usage(cpu_seconds=seconds, plan_cpu_seconds=seconds)
        self.held.write(
            lambda: self.store.ledger.record_plan_if_current(self.lease, plan, used), lambda job: job.plan is not None
        )
        self._refresh()
        self.worker.tell(lambda observer: observer.job_planned(self.job))
        return plan

    def _accelerated(self, plan: PlanSummary) -> tuple[PlanSummary, float]:
        """The plan with what predicts, and the CPU seconds that it took to find out."""
        wanted = self.spec.compute.accelerate
        if wanted == "off" or (wanted == "auto" and (plan.model.kernel is None or plan.rows < ACCELERATED_ROWS)):
            return plan, 0.0
        try:
            answer = self.executor.call(
                self.worker.entries.accelerate,
                {"staging": self.job.staging, "plan_digest": plan.digest, "model": self.model},
                python=self._python,
                preload=self._preload(),
                should_stop=self._should_stop,
                timeout_seconds=CHECK_SECONDS,
            )
        except ChildDied as exc:
            # On sampled rows the model ends its process, or its call. Those rows are for quarantine to find.
            answer = {"acceleration": {"kernel": None, "why_not": f"the check did not end: {exc}"}, "cpu_seconds": 0.0}
        decided, libraries = answer["acceleration"], dict(plan.libraries)
        if (kernel := decided["kernel"]) is not None:
            libraries[kernel["distribution"]] = kernel["version"]
        elif wanted == "strict":
            raise InvalidSpec(
                f"The model cannot be accelerated: {decided['why_not']}.", remedy="Leave --accelerate strict out."
            )
        plan = replace(plan, acceleration=decided, libraries=tuple(sorted(libraries.items())))
        return plan, float(answer["cpu_seconds"])

    def _planning(self, seen: Mapping[str, Any]) -> None:
        if "info" in seen:
            self.worker.recall.infos.put(info_key(self.model, self.environment, self.spec), seen["info"])
        if "scores" in seen:
            self.recording.add(seen["scores"])
            return
        self._progress(JobProgress(stage="planning", files=int(seen.get("files", 0))))

    def _parent_manifest(self) -> dict[str, Any] | None:
        """Of the job whose rejected rows this one scores again."""
        parent_id = self.spec.input.rejected_of
        stored = None if parent_id is None else self.store.ledger.find_manifest(parent_id)
        if parent_id is not None and stored is None:
            raise NotFound(f"There is no finished job {parent_id} whose rejected rows could be scored.")
        return None if stored is None else stored[0]

    def _check_libraries(self, plan: PlanSummary) -> None:
        now = self.executor.call(
            self.worker.entries.versions,
            dict(plan.libraries),
            python=self._python,
            preload=self._preload(),
            should_stop=self._should_stop,
        )
        changed = [f"{name} {was} -> {now.get(name)}" for name, was in plan.libraries if now.get(name) != was]
        if changed and not self.worker.allow_upgrade:
            raise UpgradeRefused(
                f"Since this job was planned, libraries changed: {', '.join(changed)}.",
                remedy="Install the old versions to go on, or say --allow-upgrade, or start over with --restart.",
            )

    def _preload(self) -> tuple[str, ...]:
        return (*self.worker.compute.preload, *self.model.get("preload", ()))

    def _score(self, plan: PlanSummary) -> bool:
        """Score what is not committed yet. False if the job was left instead."""
        self.sink.sweep(self.job.id, self._is_kept())
        running = self.worker.jobs_running
        tuning = Tuning(
            host=Host(compute=self.worker.compute, jobs_running=None if running is None else running()),
            plan=plan,
            asked=self.spec.compute,
            needs=self.job.needs,
            recent=self.worker.recall.shown,
            key=shown_key(self.model, plan, self._python, self.worker.gpus),
        )
        layout = tuning.lay_out(int(self.model["size_bytes"]))

        def more(shown: Shown) -> tuple[ScorerSpec, int] | None:
            added = tuning.more(shown)
            return None if added is None else (self._scorer(plan, added), added.scorers)

        scoring = Scoring(
            job=self.job,
            plan=plan,
            lease=self.lease,
            beat=self.beat,
            store=self.store,
            executor=self.executor,
            spec=self._scorer(plan, layout),
            scorers=layout.scorers,
            limits=ScoringLimits(
                max_rejected=self.spec.limits.max_rejected(plan.rows), stall_seconds=self.worker.compute.stall_seconds
            ),
            stop=self._stop_reason,
            on_progress=self._progress,
            on_commit=self._committed,
            on_lost=self._scorer_lost,
            more=more,
        )
        why = scoring.run()
        self._refresh()
        if why is not None:
            self._leave(why)
            return False
        return True

    def _scorer(self, plan: PlanSummary, layout: Layout) -> ScorerSpec:
        job = {
            "staging": self.job.staging,
            "plan_digest": plan.digest,
            "acceleration": plan.acceleration,
            "model": self.model,
            "threads": layout.threads,
            "max_rejected": self.spec.limits.max_rejected(plan.rows),
            "gpus": self.worker.gpus,
        }
        return ScorerSpec(
            entry=self.worker.entries.scorer,
            job=job,
            python=self._python,
            preload=self._preload(),
            memory_bytes=layout.memory_bytes,
            warm_key=model_key(self.model, plan, layout.threads, self.worker.gpus),
        )

    def _is_kept(self) -> Callable[[str], bool]:
        """Whether a part stays: committed ones, and those of this epoch and later ones, in case this worker is
        the one that has lost the job. Attempt names are unique, so (chunk, attempt) decides."""
        receipts = self.store.ledger.receipts(self.job.id)
        ledger = {f"{receipt.chunk:07d}.{receipt.attempt}" for receipt in receipts}

        def is_kept(name: str) -> bool:
            epoch = _EPOCH.search(name)
            if epoch is not None and int(epoch[1]) >= self.lease.epoch:
                return True
            return ".".join(Path(name).name.split(".")[:2]) in ledger

        return is_kept

    def _begin_commit(self, plan: PlanSummary) -> None:
        counts = self.job.counts
        if self.job.chunks_done != plan.chunks or counts.predicted + counts.rejected != plan.rows:
            raise CountsDiffer(
                f"{plan.rows:,} rows in {plan.chunks:,} chunks were planned, but {counts.predicted:,} predicted and"
                f" {counts.rejected:,} rejected rows in {self.job.chunks_done:,} chunks were committed.",
                remedy="This is a defect of Tidemill: please report it. Nothing was published.",
            )
        self.recording.check(plan)
        self._progress(JobProgress(stage="assembling", total=plan.rows, predicted=counts.predicted))
        files, used = self._assemble(plan)
        earlier = self.sink.look().manifest if self.spec.output and self.spec.output.mode == "append" else None
        manifest = build_manifest(
            self.job, plan, self.model, files, datetime.now(UTC), earlier=earlier, environment=self.environment
        )
        journal = self.sink.journal(self.job.id)
        self.held.write(
            lambda: self.store.ledger.begin_commit_if_current(self.lease, manifest, journal, used),
            lambda job: job.state is JobState.COMMITTING,
        )

    def _assemble(self, plan: PlanSummary) -> tuple[list[StagedFile], Usage]:
        if not plan.output_options.get("single_file"):
            return self.sink.assemble(self.job.id, self._parts()), NO_USAGE
        listing = Path(self.job.staging) / "out" / f"parts-{self.lease.epoch}.jsonl"
        with translated(listing), listing.open("w") as file:
            file.writelines(json.dumps([part.kind, part.name]) + "\n" for _, part in self._parts())
        made = self.executor.call(
            self.worker.entries.assemble,
            {
                "staging": self.job.staging,
                "epoch": self.lease.epoch,
                "plan_digest": plan.digest,
                "parts": str(listing),
            },
            preload=self.worker.compute.preload,
            should_stop=self._should_stop,
        )
        listing.unlink()
        used = Usage(cpu_seconds=made["cpu_seconds"], assemble_cpu_seconds=made["cpu_seconds"])
        return self.sink.assemble(self.job.id, ((0, Part(**part)) for part in made["parts"])), used

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
        self._end(JobState.SUCCEEDED_WITH_REJECTIONS if rejected else JobState.SUCCEEDED)
        self.sink.finish(self.job.id)

    def end_badly(self, exc: TidemillError) -> None:
        """Store how the job failed. What can be resumed keeps its staging, the rest leaves nothing."""
        if isinstance(exc, Stopped):
            self._leave(self._why_stopped())
            return
        if self.left:
            log.warning("clearing up after %s: %s", self.job.id, exc)
            return
        if not self.opened:
            self._end(JobState.FAILED, exc.to_json())
            return
        state = self.held.look().state
        published = self.sink.published(self.job.id) if state is JobState.COMMITTING else None
        if published is not None:
            # Is it there for good? Publishing once more syncs it, and raises if it still cannot.
            log.warning("publishing %s raised after all was published: %s", self.job.id, exc)
            self._publish()
            return
        self._end(JobState.FAILED, exc.to_json())
        if is_final(exc, planned=self.job.plan is not None):
            self._discard(JobState.FAILED)

    def _leave(self, why: Leave) -> None:
        match why:
            case Leave.CANCEL:
                self._end(JobState.CANCELLED)
                self.sink.discard(self.job.id)
            case Leave.PAUSE:
                self._end(JobState.PAUSED)
                self._cancel_if_wished_meanwhile()
            case Leave.HAND_OVER | Leave.HAND_OVER_NOW:
                deaths.note_left(self.job.staging, self.lease.epoch)
                self.held.write(
                    lambda: self.store.jobs.hand_over_if_current(self.lease), lambda job: job.state is JobState.QUEUED
                )
                self.left = True

    def _cancel_if_wished_meanwhile(self) -> None:
        """A wish that came after the last heartbeat was not seen, and nobody holds the job now to see it."""
        if self.store.jobs.get(self.job.id).want is not Want.CANCEL:
            return
        if self.store.jobs.wish(self.job.id, Want.CANCEL).state is JobState.CANCELLED:
            self.sink.discard(self.job.id)

    def _discard(self, state: JobState) -> None:
        """Remove all of a job that ended so, unless somebody has resumed it meanwhile."""
        try:
            now = self.store.jobs.get(self.job.id)
            if now.state is state and now.epoch == self.lease.epoch:
                self.sink.discard(self.job.id)
        except TidemillError as exc:
            log.warning("clearing up after %s: %s", self.job.id, exc)

    def _why_stopped(self) -> Leave:
        if self.beat.want is Want.CANCEL:
            return Leave.CANCEL
        handed = self.worker.drain.begun and self.beat.want is Want.RUN
        return Leave.HAND_OVER if handed else Leave.PAUSE

    def _stop_reason(self) -> Leave | None:
        """Why the job must be left now, if it must. Raises LeaseLost, RuntimeExceeded."""
        self.check()
        limit = self.spec.limits.runtime_seconds()
        if limit is not None and time.monotonic() - self.started > limit:
            raise RuntimeExceeded(
                f"The job ran longer than its limit of {self.spec.limits.runtime}.",
                remedy="What was committed is kept: the same command with a higher limit goes on.",
            )
        if self.beat.want is not Want.RUN:
            return Leave.CANCEL if self.beat.want is Want.CANCEL else Leave.PAUSE
        if self.worker.drain.begun:
            return Leave.HAND_OVER_NOW if self.worker.drain.over else Leave.HAND_OVER
        return Leave.PAUSE if self.worker.stop_softly.is_set() else None

    def _should_stop(self) -> bool:
        return self._stop_reason() is not None

    def check(self) -> None:
        """Raises LeaseLost if the job is no longer this worker's, or the worker was told to let go of it."""
        self.beat.check()
        if self.worker.drain.abandoned:
            raise LeaseLost(f"This worker was told to stop at once; another one takes over {self.job.id}.")

    def _ask_current(self) -> None:
        """The same, by the store's word."""
        self.check()
        self.held.ask_current()

    def _progress(self, progress: JobProgress) -> None:
        self.worker.tell(lambda observer: observer.job_progress(self.job, progress))

    def _committed(self, receipts: Sequence[Receipt]) -> None:
        for receipt in receipts:
            self.worker.tell(lambda observer, r=receipt: observer.chunk_committed(self.job, r))  # type: ignore[misc]

    def _scorer_lost(self, lost: ScorerLost) -> None:
        self.worker.tell(lambda observer: observer.scorer_lost(self.job, lost.cause, lost.log))

    def _refresh(self) -> None:
        self.job = self.held.look()

    def _end(self, state: JobState, error: dict[str, Any] | None = None) -> None:
        if state in (JobState.PAUSED, JobState.FAILED):
            deaths.note_left(self.job.staging, self.lease.epoch)
        self.held.write(
            lambda: self.store.jobs.end_if_current(self.lease, state, error), lambda job: job.state is state
        )
        self.left = True


def is_final(exc: TidemillError, *, planned: bool) -> bool:
    """Whether a job that failed so keeps nothing: another run starts anew. A planned job may have
    committed chunks, which no refusal (an upgrade, a missing extra, a full store) throws away; one
    without a plan has nothing that is worth keeping."""
    return isinstance(exc, InputChanged) or not planned
