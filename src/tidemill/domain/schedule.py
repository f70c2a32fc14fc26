"""Schedules: what becomes of due times that passed, and what two jobs at once may do.

Pure: moments are given, never read from a clock. All moments are aware; due times are whole seconds, UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from tidemill.domain.access import DEFAULT_TENANT
from tidemill.domain.job import JobState
from tidemill.domain.trigger import Trigger

ON_TIME = timedelta(seconds=60)
"""A due time that passed no longer ago is on time, whatever the catch-up policy says: a server was restarted."""
PUT_BACK = timedelta(seconds=5)
"""A clock that is behind by more was put back; by less, it is another server's look that came first."""
CATCH_UP_MOST = 1000
"""So many due times are caught up with after a pause of the service, the newest."""
MOST_WAITING = 100
"""So many firings of one schedule wait for the job before theirs."""


class CatchUp(StrEnum):
    """Which due times fire that passed while no server was there."""

    SKIP = "skip"
    LAST = "last"
    ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Passed:
    """What to do about due times that have passed."""

    fire: tuple[datetime, ...]
    """Ascending."""
    next_due: datetime | None
    """The first one after now."""

    def after(self, index: int) -> datetime | None:
        """What is due next once `fire[index]` has fired."""
        return self.fire[index + 1] if index + 1 < len(self.fire) else self.next_due


def passed(trigger: Trigger, next_due: datetime, now: datetime, catch_up: CatchUp) -> Passed:
    """Of the due times in [next_due, now] those that fire by the policy.

    Whatever passed within `ON_TIME` fires. Of older ones `skip` fires none, `last` the newest if no later one
    fires, `all` each, at most `CATCH_UP_MOST` in all.
    """
    times = trigger.newest(next_due, now, CATCH_UP_MOST)
    match catch_up:
        case CatchUp.ALL:
            fire = times
        case CatchUp.SKIP:
            fire = _on_time(times, now)
        case CatchUp.LAST:
            fire = _on_time(times, now) or times[-1:]
    return Passed(fire=fire, next_due=trigger.next_after(now))


def _on_time(times: Sequence[datetime], now: datetime) -> tuple[datetime, ...]:
    return tuple(due for due in times if is_on_time(due, now))


def is_on_time(due: datetime, now: datetime) -> bool:
    """Whether a due time passed so short ago that nobody calls it late."""
    return now - due <= ON_TIME


# Jobs at once


class Overlap(StrEnum):
    """What a due time does while the schedule's job before is not done."""

    SKIP = "skip"
    QUEUE = "queue"
    CANCEL = "cancel"
    """Cancel the job that runs."""


class FiringState(StrEnum):
    """What became of one due time."""

    WAITING = "waiting"
    """For the end of the job before."""
    STARTED = "started"
    """It has a job."""
    SKIPPED = "skipped"
    """By the overlap policy."""
    REFUSED = "refused"
    """The job could not be submitted: the model is gone, the key revoked, ..."""


class Origin(StrEnum):
    """Why something fired."""

    DUE = "due"
    LATE = "late"
    """Caught up with."""
    RUN = "run"
    """Somebody asked for it now."""
    BACKFILL = "backfill"


@dataclass(frozen=True, kw_only=True)
class Firing:
    """What became of one due time of one schedule. There is at most one for each."""

    schedule_id: str
    due: datetime
    state: FiringState
    origin: Origin
    job_id: str | None = None
    job_state: JobState | None = None
    """Of the job, kept after the job itself was forgotten."""
    reason: dict[str, Any] | None = None
    """Why it was skipped, refused or waits: {"code", "message", "remedy"}."""
    fired_at: datetime
    request_key: str | None = None
    """The idempotency key of the request that asked for it."""

    @property
    def is_active(self) -> bool:
        """Whether it has a job that is not over. A paused job is not over: it keeps its output."""
        return self.state is FiringState.STARTED and self.job_state not in OVER

    @property
    def message(self) -> str:
        """Why it has no job, for people; empty if it has one."""
        return str(self.reason["message"]) if self.reason else ""

    @property
    def is_backfill(self) -> bool:
        """Back-filled dates wait for each other, and due times for each other: two lines."""
        return self.origin is Origin.BACKFILL


OVER = frozenset({JobState.SUCCEEDED, JobState.SUCCEEDED_WITH_REJECTIONS, JobState.FAILED, JobState.CANCELLED})
"""States of a job after which the schedule's next one may start."""
DONE = frozenset({JobState.SUCCEEDED, JobState.SUCCEEDED_WITH_REJECTIONS})

DateState = Literal["done", "failed", "missing", "waiting", "running"]


def date_state(firing: Firing | None) -> DateState:
    """How a due time stands, for whoever back-fills: one that was skipped is missing, one that was refused failed."""
    if firing is None or firing.state is FiringState.SKIPPED:
        return "missing"
    if firing.state is FiringState.WAITING:
        return "waiting"
    if firing.job_state in DONE:
        return "done"
    return "running" if firing.is_active else "failed"


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """What a due time does about those before it."""

    state: FiringState
    """STARTED, WAITING or SKIPPED."""
    cancel: tuple[str, ...] = ()
    """Jobs to cancel first."""
    replace: tuple[Firing, ...] = ()
    """Those that waited and are skipped now."""
    message: str = ""
    """Why it is not STARTED."""


def meet(overlap: Overlap, unfinished: Sequence[Firing]) -> Meeting:
    """What a due time does while these firings of the same line are active or waiting."""
    active = [firing for firing in unfinished if firing.is_active]
    waiting = [firing for firing in unfinished if firing.state is FiringState.WAITING]
    if not unfinished:
        return Meeting(state=FiringState.STARTED)
    behind = " and ".join(
        [f"{firing.job_id} is {str(firing.job_state).replace('_', ' ')}" for firing in active]
        or [f"{len(waiting)} due times wait"]
    )
    match overlap:
        case Overlap.SKIP:
            return Meeting(state=FiringState.SKIPPED, message=f"{behind}.")
        case Overlap.QUEUE if len(waiting) >= MOST_WAITING:
            return Meeting(
                state=FiringState.SKIPPED, message=f"{behind}, and {len(waiting)} due times wait for it already."
            )
        case Overlap.QUEUE:
            return Meeting(state=FiringState.WAITING, message=f"{behind}.")
        case Overlap.CANCEL:
            return Meeting(
                state=FiringState.WAITING,
                cancel=tuple(firing.job_id for firing in active if firing.job_id is not None),
                replace=tuple(waiting),
                message=f"{behind}, and is cancelled.",
            )


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A saved job spec with a trigger and policies."""

    id: str
    tenant: str = DEFAULT_TENANT
    name: str
    """Unique in its tenant."""
    spec: dict[str, Any]
    """As `wire.spec.JobSpec` dumps it, templates and all."""
    trigger: Trigger
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.LAST
    paused: bool = False
    key_id: str | None
    """The key whose rights its jobs have; None for the person at the service's machine."""
    created_by: str
    """That key's or person's name."""
    created_at: datetime
    next_due: datetime | None
    """The due time to look at next; None if nothing is due ever again."""
    checked_at: datetime
    """When `next_due` was worked out. Later than now: the clock was put back."""
