"""Remembering: the queue, the ledger, models, keys, workers, and what people did.

The status of a leased job is changed only by the holder of (epoch, token); every such write says
`_if_current` in its name, returns whether it happened, and changes nothing if not. Short transactions;
no I/O or user code inside them. Members are thread-safe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tidemill.domain.job import JobFilter
from tidemill.domain.receipt import NO_USAGE, Usage

if TYPE_CHECKING:
    from tidemill.domain.access import ApiKey, AuditEntry
    from tidemill.domain.admission import Needs
    from tidemill.domain.cost import UsageBy, UsageSum
    from tidemill.domain.job import Idempotency, Job, JobEvent, JobState, Lease, NewJob, Waiting, Want
    from tidemill.domain.login import Session
    from tidemill.domain.model import ModelVersion
    from tidemill.domain.plan import InputFile, PlanSummary
    from tidemill.domain.receipt import Receipt
    from tidemill.domain.schedule import Firing, Schedule
    from tidemill.domain.series import Series
    from tidemill.domain.trigger import Trigger
    from tidemill.ports.outbox import Outbox, WebhookStore

EVERY_JOB = JobFilter()
MOST_SESSIONS = 20
"""Of one person at once: more browsers than somebody has, and few enough to list."""


class JobQueue(ABC):
    """Jobs, and who may change them."""

    @abstractmethod
    def submit(self, job: NewJob, idempotency: Idempotency | None = None) -> tuple[Job, bool]:
        """Store a queued job; (job, whether it is new). Durable when it returns.

        With a key that came before: the job of then, not new. Raises KeyReused if that was another request, and
        SeriesBusy, as `SeriesStore.hold_if_current` does, for a job of a series.
        """

    @abstractmethod
    def submit_claimed(self, job: NewJob, worker_id: str) -> tuple[Job, Lease]:
        """Store a job that this worker already holds (state planning, epoch 1). Raises SeriesBusy."""

    @abstractmethod
    def claim_next(self, worker_id: str, *, free: Needs, host: Needs) -> tuple[Job, Lease] | None:
        """Take the best job: expired leases first, then the queued one that `domain.admission.choose` names.

        `free` is what the worker's host has left of all that it has, `host`; a taken-over job must fit, too.
        epoch + 1, a new token, a lease by the database's clock. Foreground jobs are left alone. A worker
        whose lock file is free is dead: its leases count as expired. A claimed job takes the state it had
        got to: planning without a plan, committing with a stored manifest, else running. Claims are
        serialised, so no limit is passed.
        """

    @abstractmethod
    def claim(self, job_id: str, worker_id: str) -> tuple[Job, Lease] | None:
        """Take this very job, foreground or not, if it is queued, paused, failed or its lease is over;
        None if somebody live holds it. Crashes and the last error are forgotten. Raises NotFound."""

    @abstractmethod
    def renew_if_current(self, leases: Sequence[Lease], worker_id: str) -> dict[str, Want]:
        """Extend leases; those still held come back with what people want of the job."""

    @abstractmethod
    def is_current(self, lease: Lease) -> bool:
        """Whether this lease still holds its job (an expired one that nobody took does)."""

    @abstractmethod
    def end_if_current(self, lease: Lease, state: JobState, error: dict[str, Any] | None = None) -> bool:
        """Leave a leased state for succeeded, succeeded_with_rejections, paused, failed or cancelled.

        The files of a job that holds a series are recorded in the transaction in which it succeeds.
        """

    @abstractmethod
    def hand_over_if_current(self, lease: Lease) -> bool:
        """planning or running -> queued, at once claimable by others; no crash is counted, wishes stay."""

    @abstractmethod
    def count_crash_if_current(self, lease: Lease) -> int | None:
        """Add one to the crashes since the last committed chunk and return them; None if stale."""

    @abstractmethod
    def wish(self, job_id: str, want: Want) -> Job:
        """Set what people want. Unleased jobs change at once (pause, cancel; run re-queues a paused or
        failed one); leased ones when their holder sees it. Raises NotFound."""

    @abstractmethod
    def get(self, job_id: str) -> Job:
        """Raises NotFound. A unique prefix or suffix of at least 6 characters will do."""

    @abstractmethod
    def find_by_output(self, output: str) -> Job | None:
        """The newest job for this absolute output, if any."""

    @abstractmethod
    def model_digests_in_use(self, digests: Collection[str]) -> set[str]:
        """Of these digests of models, those that some stored job scored with or will."""

    @abstractmethod
    def list(self, wanted: JobFilter = EVERY_JOB, *, limit: int = 50, before: str | None = None) -> list[Job]:
        """Newest first; `before` is a job id to go on from. Raises NotFound for an unknown one."""

    @abstractmethod
    def set_labels(self, job_id: str, labels: dict[str, str]) -> None:
        """Replace a job's labels."""


class JobHistory(ABC):
    """Looking at many jobs, and at what became of one; and forgetting old ones."""

    @abstractmethod
    def waiting(self, job_ids: Sequence[str]) -> dict[str, Waiting]:
        """Place and reason of those that are queued."""

    @abstractmethod
    def events(self, job_id: str, *, after: int = 0, limit: int = 1000) -> list[JobEvent]:
        """Changes of state, oldest first."""

    @abstractmethod
    def counts_by_state(self, tenant: str | None = None) -> dict[JobState, int]:
        """How many jobs stand where; states without any are left out."""

    @abstractmethod
    def oldest_queued_seconds(self) -> float:
        """How long the oldest queued job waits; 0 if none does."""

    @abstractmethod
    def usage(
        self, by: UsageBy, *, tenant: str | None = None, since: datetime | None = None, limit: int = 100
    ) -> list[UsageSum]:
        """What jobs submitted at that moment or later used, summed by their model or owner; most CPU time first."""

    @abstractmethod
    def totals(self) -> UsageSum:
        """What all jobs that are remembered used; of nothing in particular."""

    @abstractmethod
    def ended_before(self, moment: datetime, *, limit: int) -> list[Job]:
        """Background and foreground jobs that ended (or failed, or were paused) before then, oldest first."""

    @abstractmethod
    def forget_if_ended(self, job_id: str, *, limit: int = 1000) -> bool:
        """Delete a job in a state that nothing holds, at most `limit` rows in this call: True when all is
        gone, False when more is left. What is held or queued stays, and the answer is True."""


class Ledger(ABC):
    """What has been committed of each job. Only committed chunks have rows."""

    @abstractmethod
    def record_plan_if_current(self, lease: Lease, plan: PlanSummary, used: Usage = NO_USAGE) -> bool:
        """planning -> running with the frozen plan, and what making it used. Refuses (False) if there is a plan
        already."""

    @abstractmethod
    def commit_chunks_if_current(self, lease: Lease, receipts: Sequence[Receipt]) -> bool:
        """One conditional UPDATE of the job plus inserts of finished chunks, in one transaction.

        Durable when it returns True. False: stale, nothing was written. Resets the crash count.
        """

    @abstractmethod
    def committed_chunks(self, job_id: str) -> Iterator[tuple[int, int]]:
        """Committed chunk numbers as ascending, disjoint ranges [first, last + 1)."""

    @abstractmethod
    def receipts(self, job_id: str) -> Iterator[Receipt]:
        """Receipts of committed chunks, ascending, streamed."""

    @abstractmethod
    def begin_commit_if_current(
        self, lease: Lease, manifest: dict[str, Any], journal: dict[str, Any], used: Usage = NO_USAGE
    ) -> bool:
        """running -> committing, with the manifest and the sink's journal stored first, and what putting the
        result together used."""

    @abstractmethod
    def find_manifest(self, job_id: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """(manifest, journal) that `begin_commit_if_current` stored, or None."""


class SeriesStore(ABC):
    """Which files were scored by the jobs of a series that succeeded. Everything is of one tenant.

    A job holds its series from its submission to its end, so no two jobs plan the same files. It says which files
    it will score while it is planned; they count once it succeeds, and never if it does not.
    """

    @abstractmethod
    def hold_if_current(self, lease: Lease, name: str) -> int | None:
        """Make this job, which is to be planned, the holder of the series if it is not, and forget what holders
        before it said and did not do. The job's number in the series, from 1; None if the lease is stale.

        A holder that ended or failed gives way. Raises SeriesBusy, naming the holder, for any other.
        """

    @abstractmethod
    def is_held(self, job_id: str, name: str) -> bool:
        """Whether the job still holds the series: one that failed may have given way."""

    @abstractmethod
    def add_if_current(self, lease: Lease, name: str, files: Sequence[InputFile]) -> bool:
        """Files that the holder will score; False if the lease is stale or another job holds the series. Safe
        to repeat."""

    @abstractmethod
    def files(
        self, tenant: str, name: str, *, number: int | None = None, below: str = "/", after: str = ""
    ) -> Iterator[InputFile]:
        """Files that count, by the bytes of their paths, streamed; one that changed and was scored again comes
        once for each content. With `number` only those of that job of the series; only that file and those in that
        folder `below`; only paths greater than `after`. Of a series that is not there: none."""

    @abstractmethod
    def get(self, tenant: str, name: str) -> Series:
        """Raises NotFound."""

    @abstractmethod
    def list(self, tenant: str, *, limit: int = 100, after: str | None = None) -> list[Series]:
        """By name."""

    @abstractmethod
    def forget(self, tenant: str, name: str, *, below: str, limit: int = 10_000) -> int:
        """Of files that count, forget at most so many: that file and those in that folder. How many entries it
        was; fewer than `limit` means that no more is left. Raises NotFound for an unknown series."""


class TrustStore(ABC):
    """Digests of models that a person allowed to run code."""

    @abstractmethod
    def trust(self, digest: str, name: str, by: str) -> None:
        """Remember it, who and when. Safe to repeat."""

    @abstractmethod
    def is_trusted(self, digest: str) -> bool:
        """Whether somebody trusted this digest."""


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """What a worker says of itself."""

    id: str
    host: str
    pid: int
    version: str
    """Of Tidemill."""
    capacity: Needs
    free: Needs
    draining: bool = False


@dataclass(frozen=True, kw_only=True)
class LiveWorker:
    """A worker as others see it."""

    facts: WorkerFacts
    started_at: datetime
    seen_at: datetime


class WorkerStore(ABC):
    """Workers that live: by a lock file each on one machine, by their heartbeat on several."""

    @abstractmethod
    def register(self, worker_id: str) -> str:
        """Lock this worker's file and return its absolute path. Held until the process ends."""

    @abstractmethod
    def is_alive(self, worker_id: str) -> bool:
        """Whether that worker's lock is held; where locks cannot be seen (several machines), True: there
        only the end of a lease says that it is dead."""

    @abstractmethod
    def announce(self, facts: WorkerFacts) -> None:
        """Say that this worker takes jobs; with each heartbeat. Upserts."""

    @abstractmethod
    def withdraw(self, worker_id: str) -> None:
        """It takes no jobs any more. Safe to repeat."""

    @abstractmethod
    def list_live(self) -> list[LiveWorker]:
        """Workers that announced themselves within a lease's time, by id; long dead ones are removed."""


class ModelStore(ABC):
    """Versions of models, and aliases that move. Everything is of one tenant."""

    @abstractmethod
    def add_version(self, version: ModelVersion) -> ModelVersion:
        """Store it with the next number of its name (`version.version` is ignored). Durable when it
        returns. The digest that the newest version has already is not stored twice: that one comes back."""

    @abstractmethod
    def get(self, tenant: str, name: str, which: str) -> ModelVersion:
        """By number, by alias or "latest". Raises NotFound, with "did you mean"."""

    @abstractmethod
    def list_names(self, tenant: str, *, limit: int = 100, after: str | None = None) -> list[ModelVersion]:
        """The newest version of each name, by name."""

    @abstractmethod
    def list_versions(
        self, tenant: str, name: str, *, limit: int = 100, before: int | None = None
    ) -> list[ModelVersion]:
        """Newest first. Raises NotFound for an unknown name."""

    @abstractmethod
    def move_alias(self, tenant: str, name: str, alias: str, version: int | None) -> int | None:
        """Point it at a version, or remove it (None); returns where it pointed before. Raises NotFound."""

    @abstractmethod
    def set_signature(self, tenant: str, name: str, version: int, signature: dict[str, Any]) -> None:
        """What was learned of the model after its digest was trusted."""

    @abstractmethod
    def limit_running(self, tenant: str, name: str, most: int | None) -> None:
        """How many jobs of this model may run at once; None: as many as fit. Raises NotFound."""

    @abstractmethod
    def running_limit(self, tenant: str, name: str) -> int | None:
        """What `limit_running` set."""

    @abstractmethod
    def paths_in_use(self) -> Iterator[str]:
        """Every version's path: what else lies in the models' folder was never finished."""

    @abstractmethod
    def requirements_in_use(self) -> set[str]:
        """Every text of requirements that some version's own environment is made from."""


class KeyStore(ABC):
    """API keys, by the SHA-256 of their secret."""

    @abstractmethod
    def add(self, key: ApiKey, secret_sha256: str) -> None:
        """Durable when it returns."""

    @abstractmethod
    def find(self, key_id: str) -> tuple[ApiKey, str] | None:
        """The key and its secret's SHA-256, revoked or not."""

    @abstractmethod
    def list(self, tenant: str | None = None) -> list[ApiKey]:
        """Oldest first, with those that were revoked."""

    @abstractmethod
    def revoke(self, key_id: str, tenant: str | None = None) -> ApiKey:
        """From now on it opens nothing. Safe to repeat. Raises NotFound, also for another tenant's."""

    @abstractmethod
    def touch(self, key_id: str) -> None:
        """It was used now. Kept to the minute at most, so that reading does not become writing."""

    @abstractmethod
    def any(self) -> bool:
        """Whether a key was ever made: from then on nobody is let in without one."""


class SessionStore(ABC):
    """Browsers in which somebody logged in, by the SHA-256 of their secret. What is over is not there any more."""

    @abstractmethod
    def add(self, session: Session, secret_sha256: str) -> None:
        """Durable when it returns. Deletes those that are over, and of this person's all but the newest
        `MOST_SESSIONS`."""

    @abstractmethod
    def find(self, session_id: str) -> tuple[Session, str] | None:
        """The session and its secret's SHA-256, unless it is over by the database's clock."""

    @abstractmethod
    def list(self) -> list[Session]:
        """Newest first."""

    @abstractmethod
    def end(self, session_id: str) -> bool:
        """From now on it opens nothing; whether it did until now."""


class AuditLog(ABC):
    """What people did. Entries are only added, until their retention is over."""

    @abstractmethod
    def record(self, entry: AuditEntry) -> None:
        """Add it; inside `Store.transaction` together with what it tells of."""

    @abstractmethod
    def list(self, tenant: str | None = None, *, limit: int = 100, before: int | None = None) -> list[AuditEntry]:
        """Newest first; `before` is an entry's number."""

    @abstractmethod
    def forget_before(self, moment: datetime, *, limit: int) -> int:
        """Delete at most so many entries older than that; how many it was."""


class ScheduleStore(ABC):
    """Schedules, and which due time of each comes next."""

    @abstractmethod
    def now(self) -> datetime:
        """By the database's clock, which is one for all servers."""

    @abstractmethod
    def add(self, schedule: Schedule, idempotency: Idempotency | None = None) -> tuple[Schedule, bool]:
        """Store it; (schedule, whether it is new). Durable when it returns.

        With a key that came before: the schedule of then, not new. Raises KeyReused if that was another request,
        Refused if the tenant has a schedule of that name.
        """

    @abstractmethod
    def get(self, tenant: str, which: str) -> Schedule:
        """By id or by name. Raises NotFound, also for another tenant's, with "did you mean"."""

    @abstractmethod
    def remove(self, schedule_id: str) -> None:
        """Forget it and its firings; their jobs stay. Safe to repeat."""

    @abstractmethod
    def list_due(self, now: datetime, *, limit: int) -> list[Schedule]:
        """Those that run and whose `next_due` has come, or that were looked at later than `now`, by more than
        `domain.schedule.PUT_BACK`: oldest due first."""

    @abstractmethod
    def find_and_hold(self, schedule_id: str) -> Schedule | None:
        """Read it anew; inside `Store.transaction` nobody changes it or its firings before the end of that."""

    @abstractmethod
    def move_on(
        self, schedule_id: str, next_due: datetime | None, *, checked_at: datetime, trigger: Trigger | None = None
    ) -> None:
        """Set what is due next, by which time that was worked out, and what the trigger remembers now."""

    @abstractmethod
    def set_paused(self, schedule_id: str, paused: bool) -> None:
        """Whether it fires by itself."""

    @abstractmethod
    def list(self, tenant: str, *, limit: int = 100, after: str | None = None) -> list[Schedule]:
        """By name; `after` is a name to go on from."""


class FiringStore(ABC):
    """What became of due times. (schedule, due time) is the key: each fires at most once."""

    @abstractmethod
    def record_if_new(self, firing: Firing) -> bool:
        """Add it; False, and nothing is changed, if that due time has a firing."""

    @abstractmethod
    def replace_if_over(self, firing: Firing) -> bool:
        """Put it in the place of one that is neither active nor waiting."""

    @abstractmethod
    def settle_if_waiting(self, firing: Firing) -> bool:
        """Put it in the place of one that waits."""

    @abstractmethod
    def find(self, schedule_id: str, due: datetime) -> Firing | None:
        """The firing of that due time."""

    @abstractmethod
    def find_by_request(self, schedule_id: str, request_key: str) -> Firing | None:
        """The firing that this idempotency key asked for."""

    @abstractmethod
    def unfinished(self, schedule_id: str, *, backfill: bool) -> list[Firing]:
        """Those that are active or waiting, of the one line or the other; oldest due first."""

    @abstractmethod
    def ready(self, *, limit: int) -> list[tuple[Schedule, Firing]]:
        """The first waiting one of each line in which no job is active, of schedules that are not paused."""

    @abstractmethod
    def between(self, schedule_id: str, first: datetime, last: datetime) -> list[Firing]:
        """Those due in [first, last], oldest first."""

    @abstractmethod
    def forget_before(self, moment: datetime, *, limit: int) -> int:
        """Delete at most so many that are not active or waiting and were due before then; how many it was."""

    @abstractmethod
    def list(self, schedule_id: str, *, limit: int = 50, before: datetime | None = None) -> list[Firing]:
        """Latest due first; `before` is a due time to go on from."""


class Watch(ABC):
    """Waking up when something was written."""

    @abstractmethod
    def wait(self, timeout_seconds: float) -> bool:
        """Sleep until somebody wrote since the last call (True) or the time is over (False). Another
        process's writes may take 250 ms to be seen. May wake up for nothing. For one thread."""

    @abstractmethod
    def close(self) -> None:
        """Wake whoever waits, and give the connection back. Safe to call from another thread."""


class Store(ABC):
    """One store: its aggregates."""

    url: str
    """Names the store for people and in claims; without password."""
    lease_seconds: float
    heartbeat_seconds: float
    jobs: JobQueue
    history: JobHistory
    ledger: Ledger
    series: SeriesStore
    trust: TrustStore
    workers: WorkerStore
    models: ModelStore
    keys: KeyStore
    sessions: SessionStore
    audit: AuditLog
    webhooks: WebhookStore
    outbox: Outbox
    schedules: ScheduleStore
    firings: FiringStore

    @abstractmethod
    def transaction(self) -> AbstractContextManager[None]:
        """Everything that this thread writes inside the block becomes durable together or not at all."""

    @abstractmethod
    def watch(self) -> Watch:
        """A new watch; close it."""

    @abstractmethod
    def check(self) -> dict[str, Any]:
        """Whether it answers and is sound: {"url", "schema", "newest_schema"}. Raises StoreUnusable."""

    @abstractmethod
    def back_up(self, target: str) -> None:
        """Write a consistent copy of a SQLite store to a new file while others go on. Raises Refused where
        the database has tools of its own for that (Postgres: pg_dump), naming them."""

    @abstractmethod
    def close(self) -> None:
        """Give connections back."""
