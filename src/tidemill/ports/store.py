"""Remembering: the queue and the ledger.

The status of a leased job is changed only by the holder of (epoch, token); every such write says
`_if_current` in its name, returns whether it happened, and changes nothing if not. Short transactions;
no I/O or user code inside them. Members are thread-safe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from tidemill.domain.job import Job, JobState, Lease, NewJob, Want
from tidemill.domain.plan import PlanSummary
from tidemill.domain.receipt import Receipt


class JobQueue(ABC):
    """Jobs, and who may change them."""

    @abstractmethod
    def submit(self, job: NewJob) -> Job:
        """Store a queued job. Durable when it returns."""

    @abstractmethod
    def submit_claimed(self, job: NewJob, worker_id: str) -> tuple[Job, Lease]:
        """Store a job that this worker already holds (state planning, epoch 1)."""

    @abstractmethod
    def claim_next(self, worker_id: str) -> tuple[Job, Lease] | None:
        """Take the best job: expired leases first, then queued ones by priority and age.

        epoch + 1, a new token, a lease by the database's clock. Foreground jobs are left alone. A
        worker whose lock file is free is dead: its leases count as expired. A claimed job takes the
        state it had got to: planning without a plan, committing with a stored manifest, else running.
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
        """Leave a leased state for succeeded, succeeded_with_rejections, paused, failed or cancelled."""

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
    def list(self, *, states: Sequence[JobState] = (), limit: int = 50, before: str | None = None) -> list[Job]:
        """Newest first; `before` is a job id to go on from."""

    @abstractmethod
    def set_labels(self, job_id: str, labels: dict[str, str]) -> None:
        """Replace a job's labels."""


class Ledger(ABC):
    """What has been committed of each job. Only committed chunks have rows."""

    @abstractmethod
    def record_plan_if_current(self, lease: Lease, plan: PlanSummary) -> bool:
        """planning -> running with the frozen plan. Refuses (False) if there is a plan already."""

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
    def begin_commit_if_current(self, lease: Lease, manifest: dict[str, Any], journal: dict[str, Any]) -> bool:
        """running -> committing, with the manifest and the sink's journal stored first."""

    @abstractmethod
    def find_manifest(self, job_id: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """(manifest, journal) that `begin_commit_if_current` stored, or None."""


class TrustStore(ABC):
    """Digests of models that a person allowed to run code."""

    @abstractmethod
    def trust(self, digest: str, name: str, by: str) -> None:
        """Remember it, who and when. Safe to repeat."""

    @abstractmethod
    def is_trusted(self, digest: str) -> bool:
        """Whether somebody trusted this digest."""


class WorkerStore(ABC):
    """Workers that live, by a lock file each."""

    @abstractmethod
    def register(self, worker_id: str) -> str:
        """Lock this worker's file and return its absolute path. Held until the process ends."""

    @abstractmethod
    def is_alive(self, worker_id: str) -> bool:
        """Whether that worker's lock is held."""


class Store(ABC):
    """One store: its aggregates."""

    url: str
    """Names the store for people and in claims."""
    lease_seconds: float
    heartbeat_seconds: float
    jobs: JobQueue
    ledger: Ledger
    trust: TrustStore
    workers: WorkerStore

    @abstractmethod
    def close(self) -> None:
        """Give connections back."""
