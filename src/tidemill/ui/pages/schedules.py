"""Schedules: all of them, and one with its due times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from starlette.responses import RedirectResponse, Response

from tidemill.domain.access import Action, Principal
from tidemill.service import schedules
from tidemill.service.context import Context
from tidemill.ui.page import Page, Visit
from tidemill.wire.schedules import ScheduleOut
from tidemill.wire.spec import JobSpec

SCHEDULES_ON_A_PAGE = 100
FIRINGS_ON_A_PAGE = 50
PREVIEWED = 5


@dataclass(frozen=True, kw_only=True)
class Verb:
    """Something to do to a schedule, and the words that ask whether it is meant."""

    name: str
    label: str
    question: str
    do: Callable[[Context, Principal, str], Any]
    when_paused: bool | None = None
    """None: always."""


VERBS = (
    Verb(
        name="run",
        label="Run now",
        question="A job starts at once, unless one that is not over is in its way. The due time is this moment.",
        do=schedules.run,
    ),
    Verb(
        name="pause",
        label="Pause",
        question="Nothing fires by itself until it is resumed. Jobs that it started go on.",
        do=schedules.pause,
        when_paused=False,
    ),
    Verb(
        name="resume",
        label="Resume",
        question="It fires again from now on. What was due meanwhile is not caught up with.",
        do=schedules.resume,
        when_paused=True,
    ),
)


def show_all(visit: Visit) -> Response:
    after = visit.request.query_params.get("after")
    page = schedules.list_schedules(visit.context, visit.who, limit=SCHEDULES_ON_A_PAGE, after=after)
    query = f"?{urlencode({'after': after})}" if after else ""
    return visit.answer(
        "schedules.html",
        here="schedules",
        schedules=page.items,
        first=after is None,
        following=f"/schedules?{urlencode({'after': page.next})}" if page.next else None,
        line=f"tidemill --server {visit.base_url} schedules list",
        json_url=f"/api/v1/schedules{query}",
        base_url=visit.base_url,
    )


def show_one(visit: Visit) -> Response:
    found = schedules.get(visit.context, visit.who, visit.request.path_params["schedule"])
    told = schedules.describe(visit.context, found)
    return visit.answer(
        "schedule.html",
        here="schedules",
        schedule=told,
        verbs=_verbs_of(told),
        firings=schedules.firings(visit.context, visit.who, found.id, limit=FIRINGS_ON_A_PAGE).items,
        coming=schedules.next_due_times(visit.context, visit.who, found.id, PREVIEWED).items,
        spec=JobSpec.model_validate(told.spec).model_dump(mode="json", exclude_defaults=True),
        line=f"tidemill --server {visit.base_url} schedules show {told.name}",
        json_url=f"/api/v1/schedules/{told.id}",
    )


def _verbs_of(schedule: ScheduleOut) -> list[Verb]:
    return [verb for verb in VERBS if verb.when_paused in (None, schedule.paused)]


def _press(verb: Verb) -> Callable[[Visit], Response]:
    def show(visit: Visit) -> Response:
        which = visit.request.path_params["schedule"]
        verb.do(visit.context, visit.who, which)
        return RedirectResponse(f"/schedules/{quote(which, safe='')}", status_code=303)

    return show


PAGES = (
    Page(path="/schedules", show=show_all),
    Page(path="/schedules/{schedule}", show=show_one),
    *(
        Page(path=f"/schedules/{{schedule}}/{verb.name}", show=_press(verb), needs=Action.RUN_JOBS, method="POST")
        for verb in VERBS
    ),
)
