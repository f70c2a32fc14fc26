"""All jobs, newest first, by state."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from starlette.responses import Response, StreamingResponse

from tidemill.domain.errors import InvalidSpec
from tidemill.domain.job import Job, JobFilter, JobState
from tidemill.service import control, overview, status
from tidemill.ui.page import Page, Pulse, Visit
from tidemill.ui.rendering import HEADERS
from tidemill.wire.api import JobSummary, WorkerOut

JOBS_ON_A_PAGE = 50
MAX_STREAM_SECONDS = 900.0
"""Then the browser comes again by itself, and its key is checked again."""

_AGE_SECONDS = 15.0
"""After so long a list looks old without any news: it says how long ago things were."""
_RETRY_MS = 2000


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the list."""

    job: JobSummary
    model: str
    """Short enough for a column: a path's last piece."""
    owner: str
    rows_per_second: float | None
    eta_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class StateFilter:
    state: JobState
    number: int


@dataclass(frozen=True, kw_only=True)
class Workers:
    """All live workers in one line."""

    live: int
    draining: int
    cpus: int
    free_cpus: int


def show(visit: Visit) -> Response:
    return visit.answer("jobs.html", here="jobs", **_values(visit))


def live(visit: Visit) -> Response:
    return visit.answer("jobs_live.html", **_values(visit))


def events(visit: Visit) -> Response:
    """Server-sent events that say only that something may have changed: the page asks for the rest."""
    visit.site.pulse.check_room()
    return StreamingResponse(
        _news(visit.site.pulse), media_type="text/event-stream", headers={**HEADERS, "X-Accel-Buffering": "no"}
    )


async def _news(pulse: Pulse) -> AsyncIterator[bytes]:
    stop = time.monotonic() + MAX_STREAM_SECONDS
    with pulse.listen() as ear:
        yield f"retry: {_RETRY_MS}\n\n".encode()
        while await ear.wait(_AGE_SECONDS) and time.monotonic() < stop:
            yield b"event: changed\ndata: {}\n\n"


def _values(visit: Visit) -> dict[str, object]:
    state, before = _state(visit), visit.request.query_params.get("before")
    wanted = JobFilter(tenant=visit.who.tenant, states=(state,) if state else ())
    found = control.list(visit.context, visit.who, wanted, limit=JOBS_ON_A_PAGE + 1, before=before)
    page, more = found[:JOBS_ON_A_PAGE], len(found) > JOBS_ON_A_PAGE
    glance = overview.info(visit.context, visit.who)
    chosen = {"state": state.value} if state else {}
    here = {**chosen, **({"before": before} if before else {})}
    return {
        "jobs": _rows(visit, page),
        "state": state,
        "filters": [StateFilter(state=each, number=glance.jobs.get(each.value, 0)) for each in JobState],
        "total": sum(glance.jobs.values()),
        "workers": _together(glance.workers),
        "newest": before is None,
        "newest_url": _url("/", chosen),
        "older": _url("/", {**chosen, "before": page[-1].id}) if more else None,
        "live_url": _url("/live", here),
        "json_url": _url("/api/v1/jobs", here),
        "line": f"tidemill --server {visit.base_url} jobs list" + (f" --state {state.value}" if state else ""),
        "base_url": visit.base_url,
    }


def _state(visit: Visit) -> JobState | None:
    asked = visit.request.query_params.get("state")
    if not asked:
        return None
    try:
        return JobState(asked)
    except ValueError:
        raise InvalidSpec(f"{asked!r} is no state of a job.", remedy=f"There are {', '.join(JobState)}.") from None


def _rows(visit: Visit, jobs: Sequence[Job]) -> list[Row]:
    now = datetime.now(UTC)
    summaries = status.summary(visit.context, jobs)
    names = visit.owner_names()
    return [_row(job, summary, names(job.owner), now) for job, summary in zip(jobs, summaries, strict=True)]


def _row(job: Job, summary: JobSummary, owner: str, now: datetime) -> Row:
    pace = _rows_per_second(job, now)
    return Row(
        job=summary,
        model=summary.model.rstrip("/").rsplit("/", 1)[-1],
        owner=owner,
        rows_per_second=pace,
        eta_seconds=job.counts.remaining / pace if pace else None,
    )


def _rows_per_second(job: Job, now: datetime) -> float | None:
    """Since the job was first started: a list is not the place to look into each job's events."""
    done = job.counts.predicted + job.counts.rejected
    if job.state is not JobState.RUNNING or job.started_at is None or not done:
        return None
    return done / max((now - job.started_at).total_seconds(), 0.001)


def _together(workers: Sequence[WorkerOut]) -> Workers:
    taking = [worker for worker in workers if not worker.draining]
    return Workers(
        live=len(workers),
        draining=len(workers) - len(taking),
        cpus=sum(worker.cpus for worker in taking),
        free_cpus=sum(worker.free_cpus for worker in taking),
    )


def _url(path: str, query: dict[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


PAGES = (
    Page(path="/", show=show),
    Page(path="/live", show=live),
    Page(path="/live/events", show=events),
)
