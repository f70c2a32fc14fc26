"""Schedules: add, look, pause, run now, back-fill."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from fastapi import Header, Path, Query
from starlette.responses import Response

from tidemill.api.access import door, needs
from tidemill.api.dependencies import PREFIX, Here, Limit, Who
from tidemill.api.errors import problems
from tidemill.api.routes.jobs import IdempotencyKey
from tidemill.domain.access import Action
from tidemill.service import schedules
from tidemill.wire.api import NAME, Moment
from tidemill.wire.schedules import (
    AddSchedule,
    BackfillOut,
    BackfillRequest,
    DueTimes,
    FiringOut,
    FiringPage,
    ScheduleOut,
    SchedulePage,
)

router = door("/schedules", "schedules")

MOST_PREVIEWED = 100

Which = Annotated[str, Path(pattern=NAME, description="A schedule's id or name.")]
ADDED: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "The schedule.",
        "headers": {"Location": {"description": "Where it is found.", "schema": {"type": "string"}}},
    }
}
SEEN: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The schedule.",
        "headers": {"ETag": {"description": "Changes with the schedule.", "schema": {"type": "string"}}},
    },
    304: {"description": "It is as it was when If-None-Match was its ETag."},
}


@router.post("", status_code=201, responses={**ADDED, **problems(404, 409)})
@needs(Action.RUN_JOBS)
def add_schedule(
    response: Response, context: Here, who: Who, wanted: AddSchedule, idempotency_key: IdempotencyKey = None
) -> ScheduleOut:
    """Add a schedule. Its jobs have the rights of the key that adds it, as long as that is valid."""
    added, _ = schedules.add(context, who, wanted, idempotency_key=idempotency_key)
    response.headers["Location"] = f"{PREFIX}/schedules/{added.id}"
    return schedules.describe(context, added)


@router.get("")
@needs(Action.SEE)
def list_schedules(
    context: Here,
    who: Who,
    limit: Limit = 100,
    after: Annotated[str | None, Query(pattern=NAME, description="`next` of the page before.")] = None,
) -> SchedulePage:
    """Schedules of the caller's tenant, by name."""
    return schedules.list_schedules(context, who, limit=limit, after=after)


@router.get("/{schedule}", response_model=ScheduleOut, responses={**SEEN, **problems(404)})
@needs(Action.SEE)
def get_schedule(
    context: Here, who: Who, schedule: Which, if_none_match: Annotated[str | None, Header(max_length=1000)] = None
) -> Response:
    """All about one schedule."""
    told = schedules.describe(context, schedules.get(context, who, schedule)).model_dump_json()
    etag = f'W/"{hashlib.sha256(told.encode()).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if if_none_match is not None and etag in [each.strip() for each in if_none_match.split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(told, media_type="application/json", headers=headers)


@router.delete("/{schedule}", status_code=204, responses=problems(404))
@needs(Action.RUN_JOBS)
def remove_schedule(context: Here, who: Who, schedule: Which) -> None:
    """Forget a schedule and what it fired; jobs that it started go on."""
    schedules.remove(context, who, schedule)


@router.post("/{schedule}/pause", responses=problems(404))
@needs(Action.RUN_JOBS)
def pause_schedule(context: Here, who: Who, schedule: Which) -> ScheduleOut:
    """Fire nothing by itself from now on; jobs that it started go on."""
    return schedules.describe(context, schedules.pause(context, who, schedule))


@router.post("/{schedule}/resume", responses=problems(404))
@needs(Action.RUN_JOBS)
def resume_schedule(context: Here, who: Who, schedule: Which) -> ScheduleOut:
    """Fire again. What was due while it was paused is not caught up with."""
    return schedules.describe(context, schedules.resume(context, who, schedule))


@router.post("/{schedule}/run", status_code=202, responses=problems(404, 409))
@needs(Action.RUN_JOBS)
def run_schedule(context: Here, who: Who, schedule: Which, idempotency_key: IdempotencyKey = None) -> FiringOut:
    """Fire now, also while it is paused; the due time is this moment."""
    fired = schedules.run(context, who, schedule, idempotency_key=idempotency_key)
    return schedules.describe_firing(schedules.get(context, who, schedule), fired)


@router.get("/{schedule}/next", responses=problems(404))
@needs(Action.SEE)
def get_next_due_times(
    context: Here,
    who: Who,
    schedule: Which,
    count: Annotated[int, Query(ge=1, le=MOST_PREVIEWED, description="How many.")] = schedules.PREVIEWED,
) -> DueTimes:
    """Due times to come, with the paths of their jobs."""
    return schedules.next_due_times(context, who, schedule, count)


@router.get("/{schedule}/firings", responses=problems(404))
@needs(Action.SEE)
def list_firings(
    context: Here,
    who: Who,
    schedule: Which,
    limit: Limit = 50,
    before: Annotated[Moment | None, Query(description="`next` of the page before.")] = None,
) -> FiringPage:
    """What became of due times, the latest first."""
    return schedules.firings(context, who, schedule, limit=limit, before=before)


@router.post("/{schedule}/backfill", status_code=202, responses=problems(404))
@needs(Action.RUN_JOBS)
def backfill_schedule(context: Here, who: Who, schedule: Which, wanted: BackfillRequest) -> BackfillOut:
    """Start due times of the past, one after the other; by default those without a result. Safe to repeat."""
    return schedules.backfill(context, who, schedule, wanted)
