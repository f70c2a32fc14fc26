"""One job, live."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from tidemill.domain.access import Action
from tidemill.domain.errors import TidemillError
from tidemill.domain.job import ENDED, FINISHED, LEASED, JobState
from tidemill.service import control, joblog, results, status, webhooks
from tidemill.ui.page import Page, Visit
from tidemill.ui.pages.actions import buttons_of
from tidemill.ui.rendering import HEADERS, STATE_WORDS
from tidemill.wire.api import JobStatus
from tidemill.wire.spec import JobSpec

LOG_LINES = 200


@dataclass(frozen=True, kw_only=True)
class Step:
    """A state that the job was in, and how long; of the present one until now, unless the work is over."""

    state: str
    word: str
    at: datetime
    lasted: float | None


@dataclass(frozen=True, kw_only=True)
class Downloads:
    """Addresses by format, or why there are none."""

    predictions: dict[str, str]
    rejected: dict[str, str]
    retries: tuple[str, ...] = ()
    """Jobs whose rows are among them, beside the job's own."""
    problem: TidemillError | None = None


def show(visit: Visit) -> Response:
    return visit.answer("job.html", here="job", **_values(visit))


def live(visit: Visit) -> Response:
    values = _values(visit)
    if _pace(JobState(values["job"].state)) != _pace(_seen(visit)):
        # What the whole page shows has changed, not only its figures; and how often it asks.
        return Response(status_code=204, headers={**HEADERS, "HX-Refresh": "true"})
    return visit.answer("job_live.html", **values)


def _seen(visit: Visit) -> JobState | None:
    seen = visit.request.query_params.get("seen", "")
    return JobState(seen) if seen in set(JobState) else None


def _pace(state: JobState | None) -> int | None:
    """How many seconds a page without the event stream waits before it asks again; None: nothing will change."""
    if state is None or state in ENDED:
        return None
    if state in LEASED:
        return 1
    return 2 if state is JobState.QUEUED else 5


def _values(visit: Visit) -> dict[str, Any]:
    job = control.get(visit.context, visit.who, visit.request.path_params["job_id"])
    seen = status.status(visit.context, job)
    now = datetime.now(UTC)
    return {
        "job": seen,
        "owner": visit.owner_names()(seen.owner),
        "pace": _pace(job.state),
        "moving": job.state in LEASED or job.state is JobState.QUEUED,
        "finished": job.state in FINISHED,
        "buttons": buttons_of(seen),
        "steps": _steps(seen, now),
        "took": _took(seen),
        "downloads": _downloads(visit, job.id) if job.state in FINISHED else None,
        "told": webhooks.of_job(visit.context, job) if visit.who.may(Action.MANAGE_WEBHOOKS) else [],
        "log": joblog.tail(visit.context, visit.who, job.id, LOG_LINES),
        "spec": JobSpec.model_validate(seen.spec).model_dump(mode="json", exclude_defaults=True),
        "base_url": visit.base_url,
    }


def _steps(job: JobStatus, now: datetime) -> list[Step]:
    entered = sorted((at, state) for state, at in job.timestamps.items() if state != "created")
    moments = [at for at, _ in entered]
    until: list[datetime | None] = [*moments[1:], None if JobState(job.state) in ENDED | {JobState.FAILED} else now]
    return [
        Step(
            state=state,
            word=STATE_WORDS[JobState(state)],
            at=at,
            lasted=None if end is None else (end - at).total_seconds(),
        )
        for (at, state), end in zip(entered, until, strict=True)
    ]


def _took(job: JobStatus) -> float | None:
    """From the first work to the end, pauses included."""
    began = [at for state, at in job.timestamps.items() if state in LEASED]
    ended = job.timestamps.get(job.state)
    return (ended - min(began)).total_seconds() if began and ended else None


def _downloads(visit: Visit, job_id: str) -> Downloads:
    try:
        info = results.info(visit.context, visit.who, job_id)
    except TidemillError as exc:
        # Its time was over, or somebody moved it away. The rest of the page is as good as before.
        return Downloads(predictions={}, rejected={}, problem=exc)
    shown = tuple(retry["job_id"] for retry in info.manifest.get("retries", ()) if retry["shown"])
    return Downloads(predictions=info.downloads, rejected=info.rejected_downloads, retries=shown)


PAGES = (Page(path="/jobs/{job_id}", show=show), Page(path="/jobs/{job_id}/live", show=live))
