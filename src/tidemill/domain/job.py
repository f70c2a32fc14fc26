"""What a job is, and the one table of its states."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from tidemill.domain.access import DEFAULT_TENANT
from tidemill.domain.admission import Needs, Reason
from tidemill.domain.model import Pin


class JobState(StrEnum):
    """Where a job stands; `TRANSITIONS` says where it can go."""

    QUEUED = "queued"
    PLANNING = "planning"
    RUNNING = "running"
    COMMITTING = "committing"
    SUCCEEDED = "succeeded"
    SUCCEEDED_WITH_REJECTIONS = "succeeded_with_rejections"
    PAUSED = "paused"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Want(StrEnum):
    """What people wish of a job; level-triggered, apart from its state."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


_S = JobState
TRANSITIONS = MappingProxyType(
    {
        _S.QUEUED: frozenset({_S.PLANNING, _S.RUNNING, _S.COMMITTING, _S.PAUSED, _S.CANCELLED}),
        _S.PLANNING: frozenset({_S.QUEUED, _S.RUNNING, _S.PAUSED, _S.FAILED, _S.CANCELLED}),
        _S.RUNNING: frozenset({_S.QUEUED, _S.COMMITTING, _S.PAUSED, _S.FAILED, _S.CANCELLED}),
        _S.COMMITTING: frozenset({_S.SUCCEEDED, _S.SUCCEEDED_WITH_REJECTIONS, _S.FAILED}),
        _S.PAUSED: frozenset({_S.QUEUED, _S.CANCELLED}),
        _S.FAILED: frozenset({_S.QUEUED, _S.CANCELLED}),
        _S.SUCCEEDED: frozenset(),
        _S.SUCCEEDED_WITH_REJECTIONS: frozenset(),
        _S.CANCELLED: frozenset(),
    }
)
"""Which state may follow which. A claim takes `queued` back to where the job had got to; a worker that
ends hands its jobs back to `queued`."""

LEASED = frozenset({_S.PLANNING, _S.RUNNING, _S.COMMITTING})
"""States in which one worker holds the job; only the holder may change it."""

FINISHED = frozenset({_S.SUCCEEDED, _S.SUCCEEDED_WITH_REJECTIONS})
"""States in which the output is published."""

ENDED = FINISHED | {_S.CANCELLED}
"""States that nothing follows."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to change one job. `epoch` is the fencing token, `token` tells two claims apart."""

    job_id: str
    epoch: int
    token: str


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Rows of a job; of a finished one `total == predicted + rejected`."""

    total: int = 0
    predicted: int = 0
    rejected: int = 0

    @property
    def remaining(self) -> int:
        return self.total - self.predicted - self.rejected


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """What is stored of a job when it is submitted."""

    id: str
    name: str
    spec: dict[str, Any]
    """The whole spec as `wire.spec.JobSpec` dumps it."""
    spec_digest: str
    """sha256 of the canonical spec: what the result depends on, nothing else."""
    model_digest: str
    output: str
    """Absolute output path: the identity of a foreground job."""
    staging: str
    """Absolute path of the job's staging folder."""
    foreground: bool = False
    priority: int = 0
    tenant: str = DEFAULT_TENANT
    owner: str = ""
    """The key that submitted it, or the person: whose share of the machines it takes."""
    model: Pin | None = None
    """The pinned model; every job that a service runs has one."""
    needs: Needs = field(default_factory=Needs)
    parent_id: str | None = None
    """The job whose rejected rows it scores again, or that it was cloned from."""
    managed: bool = False
    """Whether the service chose the output and may delete it when its time is over."""
    series: str | None = None
    """The series that it holds from now until it has ended."""


@dataclass(frozen=True, kw_only=True)
class Idempotency:
    """A promise to the caller: the same key gives the same job. Keys of tenants are apart."""

    key: str
    request_digest: str
    """sha256 of everything the request said; with another one the key is refused."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Why a queued job is not running yet, and how many start before it (`place` counts from 1)."""

    place: int
    reason: Reason
    detail: str
    """One sentence for people, with the figures."""


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """A change of a job's state. Numbers grow over all jobs."""

    number: int
    job_id: str
    at: datetime
    state: JobState


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which jobs to list; every condition must hold."""

    tenant: str | None = None
    states: tuple[JobState, ...] = ()
    name: str | None = None
    owner: str | None = None
    model: str | None = None
    """The name of a registered model."""
    parent_id: str | None = None
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run as the store knows it. Times are aware UTC."""

    id: str
    name: str
    state: JobState
    want: Want
    spec: dict[str, Any]
    spec_digest: str
    model_digest: str
    output: str
    staging: str
    foreground: bool
    priority: int
    epoch: int
    crashes: int
    """Scorer or worker deaths since the last committed chunk."""
    worker_id: str | None
    """Who holds the lease, if anybody."""
    counts: Counts
    chunks_total: int
    chunks_done: int
    plan: dict[str, Any] | None
    """`domain.plan.PlanSummary` as JSON, once the job is planned."""
    error: dict[str, Any] | None
    """`TidemillError.to_json` of the last failure."""
    usage: dict[str, Any]
    """Sums over committed chunks: `domain.receipt.Usage` as JSON."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    labels: dict[str, str] = field(default_factory=dict)
    """Of the spec, until somebody replaced them."""
    tenant: str = DEFAULT_TENANT
    owner: str = ""
    model: Pin | None = None
    needs: Needs = field(default_factory=Needs)
    parent_id: str | None = None
    managed: bool = False

    @property
    def planned(self) -> bool:
        return self.plan is not None


def can_follow(before: JobState, after: JobState) -> bool:
    """Whether `after` may follow `before`."""
    return after in TRANSITIONS[before]
