"""Request and response types of schedules, as those of `wire.api`."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from tidemill.wire.api import Moment, Name, Request, Response, State, Text
from tidemill.wire.spec import DURATION, JobSpec

OverlapName = Literal["skip", "queue", "cancel"]
CatchUpName = Literal["skip", "last", "all"]
FiringStateName = Literal["waiting", "started", "skipped", "refused"]
OriginName = Literal["due", "late", "run", "backfill"]
DateStateName = Literal["done", "failed", "missing", "waiting", "running"]


_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_EARLIEST_YEAR = 1900


def _day(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not _DAY.fullmatch(value) or (day := date.fromisoformat(value)).year < _EARLIEST_YEAR:
        raise ValueError("it is not a day such as 2026-11-26")
    return day


Day = Annotated[date, BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
"""A day of the schedule's time zone: "2026-11-26"."""


class CronTrigger(Request):
    """Times of clocks."""

    kind: Literal["cron"]
    cron: Annotated[Text, Field(min_length=9, max_length=200)]
    """Minute, hour, day of month, month, day of week."""
    timezone: Annotated[Text, Field(min_length=1, max_length=100)] = "UTC"
    """A name of the IANA database: "Europe/Berlin"."""


class IntervalTrigger(Request):
    """Every so often."""

    kind: Literal["interval"]
    every: Annotated[str, Field(pattern=DURATION)]
    """For example "6h", "90m"; whole seconds."""
    start: Moment | None = None
    """One interval before the first due time; by default now."""
    timezone: Annotated[Text, Field(min_length=1, max_length=100)] = "UTC"
    """Whose clocks templates mean."""


TimerSpec = Annotated[CronTrigger | IntervalTrigger, Field(discriminator="kind")]
EVERY_MINUTE = IntervalTrigger(kind="interval", every="1m")


class NewFilesTrigger(Request):
    """Files that no job of the schedule's series has scored: by default the series is named like the schedule, and
    files that were written to within the last minute wait for the next look."""

    kind: Literal["new_files"]
    look: TimerSpec = EVERY_MINUTE
    """When to look for them."""


class AliasMovedTrigger(Request):
    """The model's alias points at another version than the last time."""

    kind: Literal["alias_moved"]
    look: TimerSpec = EVERY_MINUTE
    """When to look where it points."""


TriggerSpec = Annotated[
    CronTrigger | IntervalTrigger | NewFilesTrigger | AliasMovedTrigger, Field(discriminator="kind")
]


class AddSchedule(Request):
    """A job spec that is submitted again and again. Its name, paths and labels may hold templates."""

    name: Name
    spec: JobSpec
    trigger: TriggerSpec
    overlap: OverlapName = "skip"
    """What a due time does while the job before is not over."""
    catch_up: CatchUpName = "last"
    """Which due times fire that passed while no server was there."""
    paused: bool = False


class Reason(Response):
    """Why a firing has no job."""

    code: str
    message: str
    remedy: str | None = None


class FiringOut(Response):
    """What became of one due time."""

    due: datetime
    local: str
    """The same as clocks of the schedule's time zone show it."""
    state: FiringStateName
    origin: OriginName
    job_id: str | None
    job_state: State | None
    """Kept after the job itself was forgotten."""
    reason: Reason | None
    fired_at: datetime


class FiringPage(Response):
    items: list[FiringOut]
    next: str | None
    """`before` of the next page; None on the last."""


class ScheduleOut(Response):
    id: str
    name: str
    spec: dict[str, Any]
    """With its templates."""
    trigger: dict[str, Any]
    trigger_text: str
    timezone: str
    overlap: OverlapName
    catch_up: CatchUpName
    paused: bool
    key_id: str | None
    """Of the key whose rights its jobs have; None: of the person at the service's machine."""
    created_by: str
    created_at: datetime
    next_due: datetime | None
    """None while it is paused, or if nothing is due any more."""
    next_local: str | None
    last: FiringOut | None
    """The firing with the latest due time."""
    warnings: list[str]


class SchedulePage(Response):
    items: list[ScheduleOut]
    next: str | None
    """`after` of the next page; None on the last."""


class DueTime(Response):
    """A due time to come, and what its job would read and write."""

    due: datetime
    local: str
    input: list[str]
    output: str | None
    """None: the service keeps the result."""


class DueTimes(Response):
    items: list[DueTime]
    warnings: list[str]


class BackfillRequest(Request):
    """Due times of the past that shall be scored now, one after the other."""

    first: Day
    last: Day
    states: list[Literal["missing", "failed", "done"]] = Field(default=["missing", "failed"], max_length=3)
    """Which of them to start."""
    dry_run: bool = False
    """Only look."""


class DateOut(Response):
    """How one due time stands."""

    due: datetime
    local: str
    state: DateStateName
    """Before this request."""
    job_id: str | None
    message: str
    """Why it has no result, if that is known."""
    starts: bool
    """Whether it is started now, or would be."""


class BackfillOut(Response):
    items: list[DateOut]
    """Oldest first."""
    started: int
    paused: bool
    """Whether the schedule is paused: then they start when it is resumed."""
