"""Jobs of one's tenant: look at them, and say what one wants of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from tidemill.domain.access import Principal
from tidemill.domain.errors import NotFound, WrongState
from tidemill.domain.job import ENDED, FINISHED, Job, JobFilter, JobState, Want
from tidemill.ports.store import EVERY_JOB
from tidemill.service import audit
from tidemill.service.context import Context
from tidemill.wire.spec import JobSpec

Jobs = list[Job]
_S = JobState

_PAUSABLE = frozenset({_S.QUEUED, _S.PLANNING, _S.RUNNING, _S.PAUSED})
_RESUMABLE = frozenset({_S.PAUSED, _S.FAILED, _S.QUEUED, _S.PLANNING, _S.RUNNING})
_CANCELLABLE = _PAUSABLE | {_S.FAILED, _S.CANCELLED}


def get(context: Context, who: Principal, job_id: str) -> Job:
    """The job with this id, or whose id ends so. Raises NotFound, also for another tenant's."""
    try:
        job = context.store.jobs.get(job_id)
    except NotFound:
        job = None
    if job is None or job.tenant != who.tenant:
        raise NotFound(f"There is no job {job_id}.", remedy="See yours with: tidemill jobs list")
    return job


def list(
    context: Context, who: Principal, wanted: JobFilter = EVERY_JOB, *, limit: int = 50, before: str | None = None
) -> Jobs:
    """Newest first, of the caller's tenant only; `before` is a job id to go on from. Raises NotFound."""
    if before is not None:
        before = get(context, who, before).id
    return context.store.jobs.list(replace(wanted, tenant=who.tenant), limit=limit, before=before)


def cancel(context: Context, who: Principal, job_id: str) -> Job:
    """End a job and remove everything it left; a live holder does it within a heartbeat. Safe to repeat.

    Raises NotFound, WrongState for one that has finished or is publishing.
    """
    job = get(context, who, job_id)
    _must_be(job, _CANCELLABLE, "cancelled")
    if job.state is _S.CANCELLED:
        return job
    with context.store.transaction():
        audit.record(context, who, "job.cancel", job.id, name=job.name, state=job.state.value)
        job = context.store.jobs.wish(job.id, Want.CANCEL)
    _must_be(job, _CANCELLABLE, "cancelled")
    if job.state is _S.CANCELLED:
        context.open_sink(JobSpec.model_validate(job.spec)).discard(job.id)
    return job


def pause(context: Context, who: Principal, job_id: str) -> Job:
    """Stop a job after what is in flight and keep what is done. Safe to repeat. Raises WrongState."""
    job = get(context, who, job_id)
    _must_be(job, _PAUSABLE, "paused")
    return job if job.state is _S.PAUSED else context.store.jobs.wish(job.id, Want.PAUSE)


def resume(context: Context, who: Principal, job_id: str) -> Job:
    """Go on with a paused or failed job from its last committed chunk. Safe to repeat. Raises WrongState."""
    job = get(context, who, job_id)
    _must_be(job, _RESUMABLE, "resumed")
    if job.foreground:
        raise WrongState(
            f"{job.id} was started by `tidemill run` and belongs to that command line.",
            remedy=f"Go on with it there by: tidemill resume {job.id}",
        )
    return context.store.jobs.wish(job.id, Want.RUN)


def _must_be(job: Job, allowed: Collection[JobState], done: str) -> None:
    if job.state in allowed:
        return
    said = job.state.value.replace("_", " ")
    if job.state in FINISHED:
        remedy = "Its result is published; run it again with: tidemill jobs clone"
    elif job.state in ENDED:
        remedy = "It has ended for good; run it again with: tidemill jobs clone"
    else:
        remedy = "It is publishing its result; wait for it."
    raise WrongState(f"{job.id} is {said} and cannot be {done}.", remedy=remedy)
