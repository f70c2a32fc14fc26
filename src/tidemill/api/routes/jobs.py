"""Jobs: submit, look, stop, go on, again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import Header, Query
from starlette.requests import Request
from starlette.responses import Response

from tidemill.api.access import door, needs
from tidemill.api.dependencies import PREFIX, Here, JobId, Limit, Who
from tidemill.api.errors import problems
from tidemill.api.pulse import Pulse
from tidemill.domain.access import Action, Principal
from tidemill.domain.job import ENDED, Job, JobFilter, JobState
from tidemill.service import control, joblog, status, submission
from tidemill.service.context import Context
from tidemill.wire.api import CloneRequest, JobPage, JobStatus, LogLines, RetryRequest, State, SubmitJob

router = door("/jobs", "jobs")

MAX_WAIT_SECONDS = 60.0
AT_REST = ENDED | {JobState.FAILED, JobState.PAUSED}
"""States that nothing leaves by itself."""

_CHANGING = {"rows_per_second", "eta_seconds", "queue"}
"""What moves without anything having happened to the job."""

NO_ZERO = r"^[^\x00]*$"
LABEL = r"^[^:\x00]{1,200}:[^\x00]{0,500}$"
CREATED: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "The job is stored and will be run.",
        "headers": {"Location": {"description": "Where it is found.", "schema": {"type": "string"}}},
    }
}
SEEN: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The job.",
        "headers": {"ETag": {"description": "Changes with the job.", "schema": {"type": "string"}}},
    },
    304: {"description": "It is as it was when If-None-Match was its ETag."},
}

IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[!-~]{1,200}$",
        description="The same key with the same request makes one job; with another it is refused.",
    ),
]


@router.post("", status_code=202, responses={**CREATED, **problems(404, 409)})
@needs(Action.RUN_JOBS)
def submit_job(
    response: Response, context: Here, who: Who, spec: SubmitJob, idempotency_key: IdempotencyKey = None
) -> JobStatus:
    """Submit a job. It is durable when this answers; GET it for its place in the queue."""
    job, is_new = submission.submit(context, who, spec, idempotency_key=idempotency_key)
    return _created(response, context, job, is_new=is_new)


@router.get("", responses=problems(404))
@needs(Action.SEE)
def list_jobs(
    context: Here,
    who: Who,
    state: Annotated[Sequence[State], Query(max_length=9, description="Any of these.")] = (),
    name: Annotated[str | None, Query(max_length=500, pattern=NO_ZERO)] = None,
    owner: Annotated[str | None, Query(max_length=200, pattern=NO_ZERO, description="A key's id.")] = None,
    model: Annotated[str | None, Query(max_length=100, pattern=NO_ZERO, description="A registered name.")] = None,
    parent: Annotated[str | None, Query(pattern=r"^[0-9a-z_]{6,40}$", description="A job's id.")] = None,
    label: Annotated[
        Sequence[Annotated[str, Query(pattern=LABEL)]],
        Query(max_length=20, description="KEY:VALUE; all must be there."),
    ] = (),
    limit: Limit = 50,
    before: Annotated[str | None, Query(pattern=r"^[0-9a-z_]{6,40}$", description="`next` of the page before.")] = None,
) -> JobPage:
    """Jobs of the caller's tenant, newest first."""
    wanted = JobFilter(
        states=tuple(JobState(each) for each in state),
        name=name,
        owner=owner,
        model=model,
        parent_id=parent,
        labels=tuple((key, value) for key, _, value in (each.partition(":") for each in label)),
    )
    found = control.list(context, who, wanted, limit=limit + 1, before=before)
    following = found[limit - 1].id if len(found) > limit else None
    return JobPage(items=status.summary(context, found[:limit]), next=following)


@router.get("/{job_id}", response_model=JobStatus, responses={**SEEN, **problems(404)})
@needs(Action.SEE)
async def get_job(
    request: Request,
    context: Here,
    who: Who,
    job_id: JobId,
    wait: Annotated[
        float,
        Query(ge=0, le=MAX_WAIT_SECONDS, description="Answer when the job is at rest, or after so many seconds."),
    ] = 0,
    if_none_match: Annotated[str | None, Header(max_length=1000)] = None,
) -> Response:
    """All about one job."""
    told, etag = await _when_at_rest(request.app.state.pulse, context, who, job_id, wait)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if if_none_match is not None and etag in [each.strip() for each in if_none_match.split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(told.model_dump_json(), media_type="application/json", headers=headers)


@router.post("/{job_id}/cancel", responses=problems(404, 409))
@needs(Action.RUN_JOBS)
def cancel_job(context: Here, who: Who, job_id: JobId) -> JobStatus:
    """End a job and remove what it left; a running one ends within a few seconds."""
    return status.status(context, control.cancel(context, who, job_id))


@router.post("/{job_id}/pause", responses=problems(404, 409))
@needs(Action.RUN_JOBS)
def pause_job(context: Here, who: Who, job_id: JobId) -> JobStatus:
    """Stop a job and keep what it has done."""
    return status.status(context, control.pause(context, who, job_id))


@router.post("/{job_id}/resume", responses=problems(404, 409))
@needs(Action.RUN_JOBS)
def resume_job(context: Here, who: Who, job_id: JobId) -> JobStatus:
    """Go on with a paused or failed job from its last committed chunk."""
    return status.status(context, control.resume(context, who, job_id))


@router.post("/{job_id}/retry", status_code=202, responses={**CREATED, **problems(404, 409)})
@needs(Action.RUN_JOBS)
def retry_job(
    response: Response,
    context: Here,
    who: Who,
    job_id: JobId,
    request: RetryRequest | None = None,
    idempotency_key: IdempotencyKey = None,
) -> JobStatus:
    """A new job over the rows that a finished one rejected."""
    output = request.output if request is not None else None
    job, is_new = submission.retry(context, who, job_id, output=output, idempotency_key=idempotency_key)
    return _created(response, context, job, is_new=is_new)


@router.post("/{job_id}/clone", status_code=202, responses={**CREATED, **problems(404, 409)})
@needs(Action.RUN_JOBS)
def clone_job(
    response: Response,
    context: Here,
    who: Who,
    job_id: JobId,
    request: CloneRequest | None = None,
    idempotency_key: IdempotencyKey = None,
) -> JobStatus:
    """A new job like this one, with changes. Without an `output` among them the service keeps the result."""
    changes = request.changes if request is not None else {}
    job, is_new = submission.clone(context, who, job_id, changes, idempotency_key=idempotency_key)
    return _created(response, context, job, is_new=is_new)


@router.get("/{job_id}/logs", responses=problems(404))
@needs(Action.SEE)
def get_job_logs(
    context: Here,
    who: Who,
    job_id: JobId,
    lines: Annotated[int, Query(ge=1, le=10_000, description="How many of the newest.")] = 200,
) -> LogLines:
    """What the job's children printed and its worker noted, newest last."""
    return joblog.tail(context, who, job_id, lines)


def _created(response: Response, context: Context, job: Job, *, is_new: bool) -> JobStatus:
    response.headers["Location"] = f"{PREFIX}/jobs/{job.id}"
    return status.accepted(context, job) if is_new else status.status(context, job)


async def _when_at_rest(
    pulse: Pulse, context: Context, who: Principal, job_id: str, seconds: float
) -> tuple[JobStatus, str]:
    """The job and its ETag: now, or as soon as it is at rest, or when the time is over."""
    if seconds > 0:
        stop = time.monotonic() + seconds
        with pulse.listen() as news:
            while (left := stop - time.monotonic()) > 0:
                job = await run_sync(control.get, context, who, job_id)
                if job.state in AT_REST or not await news.wait(min(left, 1.0)):
                    break
    return await run_sync(_look, context, who, job_id)


def _look(context: Context, who: Principal, job_id: str) -> tuple[JobStatus, str]:
    told = status.status(context, control.get(context, who, job_id))
    facts = told.model_dump_json(exclude=_CHANGING)
    place = told.queue.reason if told.queue else ""
    return told, f'W/"{hashlib.sha256(f"{facts}{place}".encode()).hexdigest()[:32]}"'
