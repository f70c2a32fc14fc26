"""Schedules: when a job is due, what becomes of due times that passed, and what two jobs at once may do.

Pure: moments are given, never read from a clock. All moments are aware; due times are whole seconds, UTC.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from tidemill.domain.access import DEFAULT_TENANT
from tidemill.domain.errors import InvalidSpec
from tidemill.domain.job import JobState

ON_TIME = timedelta(seconds=60)
"""A due time that passed no longer ago is on time, whatever the catch-up policy says: a server was restarted."""
PUT_BACK = timedelta(seconds=5)
"""A clock that is behind by more was put back; by less, it is another server's look that came first."""
CATCH_UP_MOST = 1000
"""So many due times are caught up with after a pause of the service, the newest."""
MOST_WAITING = 100
"""So many firings of one schedule wait for the job before theirs."""
LONGEST_INTERVAL = timedelta(days=366)

_SHOWN_TWICE = timedelta(hours=3)
"""No zone puts its clocks back farther (Antarctica/Troll: 2 hours)."""
_DAY = timedelta(days=1)
"""No zone changes its clocks twice in that time."""
_MINUTE = timedelta(minutes=1)
_CRON_FIELDS = 5


class Trigger(ABC):
    """What makes a job due. A closed set: `trigger_of` reads what `to_json` wrote.

    Every trigger has due times. One that waits for something else to happen looks for it at these; then a firing's
    key is still (schedule, due time), and servers that look at once fire once.
    """

    kind: ClassVar[str]

    @abstractmethod
    def next_after(self, moment: datetime) -> datetime | None:
        """The first due time later than `moment`; None if there is none any more."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """As plain data with its "kind"."""

    @abstractmethod
    def describe(self) -> str:
        """In words, for people."""

    @property
    def timezone(self) -> str:
        """The zone in which people read its due times."""
        return "UTC"

    def due_times(self, after: datetime) -> Iterator[datetime]:
        """Later than `after`, ascending."""
        moment = self.next_after(after)
        while moment is not None:
            yield moment
            moment = self.next_after(moment)

    def newest(self, first: datetime, until: datetime, most: int) -> tuple[datetime, ...]:
        """The newest due times in [first, until], at most so many, ascending.

        Looks back from `until` step by step, so it is quick also when `first` was years ago.
        """
        span = timedelta(hours=1)
        while True:
            start = max(first, until - span)
            found = []
            for due in self.due_times(start - timedelta(microseconds=1)):
                if due > until:
                    break
                found.append(due)
            if start == first or len(found) >= most:
                return tuple(found[-most:])
            span *= 4


@dataclass(frozen=True, kw_only=True)
class Cron(Trigger):
    """Five fields - minute, hour, day of month, month, day of week - against the clocks of a time zone.

    Where clocks are changed, it goes as with Debian's cron. If neither minute nor hour begins with `*`, the job is
    meant for a time of the day: once for each, a time that is left out at the first minute that exists, one that
    comes twice at the first. Otherwise it is meant for every so often: whenever clocks show a time that matches,
    twice if they show it twice, never if they do not.
    """

    kind: ClassVar[str] = "cron"
    expression: str
    zone: str = "UTC"

    def __post_init__(self) -> None:
        """Raises InvalidSpec."""
        check_zone(self.zone)
        if len(self.expression.split()) != _CRON_FIELDS:
            raise InvalidSpec(
                f"{self.expression!r} is no cron expression: it has {len(self.expression.split())} fields, not five.",
                remedy='Give minute, hour, day of month, month and day of week: "0 2 * * *" is daily at 02:00.',
            )
        try:
            self._wall_after(datetime(2000, 1, 1))
        except (CronSimError, StopIteration) as exc:
            raise InvalidSpec(
                f"{self.expression!r} is no cron expression that ever comes: {exc or 'no such day'}.",
                remedy="Fields are minute 0-59, hour 0-23, day of month 1-31, month 1-12, day of week 0-7 or SUN-SAT.",
            ) from exc

    @property
    def timezone(self) -> str:
        return self.zone

    def next_after(self, moment: datetime) -> datetime | None:
        after = moment.astimezone(UTC)
        try:
            return self._daily_after(after) if self._is_time_of_day else self._often_after(after)
        except (StopIteration, OverflowError):
            return None

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "cron": self.expression, "timezone": self.zone}

    def describe(self) -> str:
        return f"cron {self.expression}, {self.zone}"

    @property
    def _is_time_of_day(self) -> bool:
        minute, hour = self.expression.split()[:2]
        return not (minute.startswith("*") or hour.startswith("*"))

    def _daily_after(self, after: datetime) -> datetime:
        wall = self._wall(after) - _SHOWN_TWICE
        while True:
            wall = self._wall_after(wall)
            due = self._first_shown(wall)
            if due > after:
                return due

    def _often_after(self, after: datetime) -> datetime:
        wall = self._wall(after)
        if self._offset(after) != self._offset(after + _DAY):
            change = self._change(after, after + _DAY)
            due = (self._wall_after(wall) - self._offset(after)).replace(tzinfo=UTC)
            if due < change:
                return due
            wall = self._wall(change) - _MINUTE
            return (self._wall_after(wall) - self._offset(change)).replace(tzinfo=UTC)
        while True:
            wall = self._wall_after(wall)
            if self._is_shown(wall):
                first = self._shown(wall, fold=0)
                return first if first > after else self._shown(wall, fold=1)

    def _wall_after(self, wall: datetime) -> datetime:
        """The next time of a clock that is never changed. That part alone is cronsim's: its own way with zones
        misses times where clocks are changed by half an hour."""
        return next(CronSim(self.expression, wall))

    def _wall(self, moment: datetime) -> datetime:
        return moment.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None, fold=0)

    def _offset(self, moment: datetime) -> timedelta:
        offset = moment.astimezone(ZoneInfo(self.zone)).utcoffset()
        assert offset is not None
        return offset

    def _is_shown(self, wall: datetime) -> bool:
        return self._wall(self._shown(wall, fold=0)) == wall

    def _shown(self, wall: datetime, *, fold: int) -> datetime:
        """When clocks show this time, the first or the second time that they do."""
        return wall.replace(tzinfo=ZoneInfo(self.zone), fold=fold).astimezone(UTC)

    def _first_shown(self, wall: datetime) -> datetime:
        """When clocks show this time, or the first minute after it that they show."""
        while not self._is_shown(wall):
            wall += _MINUTE
        return self._shown(wall, fold=0)

    def _change(self, before: datetime, after: datetime) -> datetime:
        """The moment between the two at which clocks are changed, to the second."""
        while after - before > timedelta(seconds=1):
            middle = before + (after - before) / 2
            if self._offset(middle) == self._offset(before):
                before = middle
            else:
                after = middle
        return after.replace(microsecond=0)


@dataclass(frozen=True, kw_only=True)
class Interval(Trigger):
    """Every so many seconds from a moment on, whatever clocks on walls show."""

    kind: ClassVar[str] = "interval"
    every_seconds: int
    start: datetime
    """The first due time is this moment and one interval."""
    zone: str = "UTC"
    """Only for people and in templates."""

    def __post_init__(self) -> None:
        """Raises InvalidSpec."""
        check_zone(self.zone)
        if not 1 <= self.every_seconds <= LONGEST_INTERVAL.total_seconds():
            raise InvalidSpec(
                f"An interval of {self.every_seconds} seconds cannot be kept.",
                remedy=f"Give one between 1 second and {LONGEST_INTERVAL.days} days.",
            )

    @property
    def timezone(self) -> str:
        return self.zone

    def next_after(self, moment: datetime) -> datetime | None:
        every = timedelta(seconds=self.every_seconds)
        try:
            return self.start + max((moment - self.start) // every + 1, 1) * every
        except OverflowError:
            return None

    def to_json(self) -> dict[str, Any]:
        start = self.start.isoformat()
        return {"kind": self.kind, "every_seconds": self.every_seconds, "start": start, "timezone": self.zone}

    def describe(self) -> str:
        for unit, seconds in (("day", 86400), ("hour", 3600), ("minute", 60)):
            if self.every_seconds % seconds == 0:
                number = self.every_seconds // seconds
                return f"every {unit}" if number == 1 else f"every {number:,} {unit}s"
        return f"every {self.every_seconds:,} seconds" if self.every_seconds != 1 else "every second"


def trigger_of(data: dict[str, Any]) -> Trigger:
    """The trigger that `to_json` wrote."""
    match data["kind"]:
        case Cron.kind:
            return Cron(expression=data["cron"], zone=data["timezone"])
        case Interval.kind:
            start = datetime.fromisoformat(data["start"])
            return Interval(every_seconds=data["every_seconds"], start=start, zone=data["timezone"])
        case kind:
            raise ValueError(f"no trigger is called {kind!r}")


def check_zone(name: str) -> None:
    """Raise InvalidSpec if no time zone has this name."""
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError) as exc:
        raise InvalidSpec(
            f"There is no time zone {name!r}.", remedy="Give a name of the IANA database: Europe/Berlin, UTC, ..."
        ) from exc


# Due times that passed


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
