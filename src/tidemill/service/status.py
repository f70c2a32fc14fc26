"""How a job stands, for people and programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from tidemill.domain.access import Principal
from tidemill.domain.cost import RateCard
from tidemill.domain.job import FINISHED, Counts, Job, JobEvent, JobState, Waiting
from tidemill.domain.receipt import Usage
from tidemill.service import control, jobs, submission
from tidemill.service.context import Context
from tidemill.wire import api

ROOT = "/api/v1/jobs"
MOST_REJECTIONS = 20
MOST_EVENTS = 1000


def status(context: Context, job: Job) -> api.JobStatus:
    """All about one job. Asks the store for its events, its place in the queue and its rejected rows."""
    history = context.store.history.events(job.id, limit=MOST_EVENTS)
    waiting = context.store.history.waiting([job.id]) if job.state is JobState.QUEUED else {}
    return _told(context, job, history, waiting)


def accepted(context: Context, job: Job) -> api.JobStatus:
    """What to say of a job that was just stored, without asking the store again: not its place in the queue."""
    entered = JobEvent(number=0, job_id=job.id, at=job.created_at, state=job.state)
    return _told(context, job, [entered], {})


def _told(context: Context, job: Job, history: Sequence[JobEvent], waiting: Mapping[str, Waiting]) -> api.JobStatus:
    rate = rows_per_second(job.counts, history, datetime.now(UTC))
    moving = progress(job, rate)
    return api.JobStatus(
        id=job.id,
        name=job.name,
        state=job.state.value,
        want=job.want.value,
        tenant=job.tenant,
        owner=job.owner,
        priority=job.priority,
        parent_id=job.parent_id,
        model=_pin(job),
        spec=submission.asked_spec(context, job),
        output=None if job.managed else job.output,
        counts=moving.counts,
        chunks_total=job.chunks_total,
        chunks_done=job.chunks_done,
        percent=moving.percent,
        rows_per_second=moving.rows_per_second,
        eta_seconds=moving.eta_seconds,
        queue=_place(waiting, job),
        timestamps={"created": job.created_at, **{event.state.value: event.at for event in history}},
        error=None if job.error is None else api.JobError.model_validate(job.error),
        rejections=_rejections(context, job),
        usage=usage_report(context, job),
        labels=job.labels,
        worker=job.worker_id,
        expires_at=_expires_at(context, job),
        links=_links(job),
    )


def summary(context: Context, listed: Sequence[Job]) -> list[api.JobSummary]:
    """The jobs as a list shows them, with one question to the store for all that wait."""
    queued = [job.id for job in listed if job.state is JobState.QUEUED]
    waiting = context.store.history.waiting(queued) if queued else {}
    return [
        api.JobSummary(
            id=job.id,
            name=job.name,
            state=job.state.value,
            owner=job.owner,
            model=job.model.reference if job.model else str(job.spec["model"]),
            counts=_counts(job.counts),
            percent=percent(job),
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            queue=_place(waiting, job),
            labels=job.labels,
        )
        for job in listed
    ]


def events(context: Context, who: Principal, job_id: str, after: int = 0) -> list[JobEvent]:
    """Changes of state with higher numbers than `after`, oldest first, at most 1,000. Raises NotFound."""
    return context.store.history.events(control.get(context, who, job_id).id, after=after, limit=MOST_EVENTS)


def usage_report(context: Context, job: Job) -> api.UsageReport:
    """What a job has used so far, and its price if the service has a rate card."""
    return priced(context.rates, Usage(**job.usage))


def priced(rates: RateCard | None, used: Usage, *, jobs: int = 1) -> api.UsageReport:
    """What so many jobs have used, and what they cost by that rate card."""
    return api.UsageReport(
        cpu_seconds=used.cpu_seconds,
        cpu_by_stage=api.CpuByStage(
            plan=used.plan_cpu_seconds,
            read=used.read_cpu_seconds,
            model=used.model_cpu_seconds,
            write=used.write_cpu_seconds,
            assemble=used.assemble_cpu_seconds,
        ),
        read_seconds=used.read_seconds,
        model_seconds=used.model_seconds,
        write_seconds=used.write_seconds,
        peak_memory_bytes=used.peak_memory_bytes,
        input_bytes=used.input_bytes,
        output_bytes=used.output_bytes,
        kernel_rows=used.kernel_rows,
        cost=None if rates is None else api.Cost(amount=round(rates.cost(used, jobs), 6), currency=rates.currency),
    )


def percent(job: Job) -> float:
    """Committed rows of planned ones, 0 to 100; below 100 until the result is published."""
    if job.state in FINISHED:
        return 100.0
    counts = job.counts
    share = 100 * (counts.predicted + counts.rejected) / counts.total if counts.total else 0.0
    return min(round(share, 2), 99.99)


def rows_per_second(counts: Counts, history: Sequence[JobEvent], now: datetime) -> float | None:
    """Committed rows by the time in the state running; None before the first rows."""
    done = counts.predicted + counts.rejected
    seconds = 0.0
    for event, after in zip(history, [*history[1:], None], strict=True):
        if event.state is JobState.RUNNING:
            seconds += ((after.at if after else now) - event.at).total_seconds()
    return round(done / seconds, 2) if done and seconds > 0 else None


def progress(job: Job, rate: float | None) -> api.JobProgressOut:
    """What moves while a job runs; `rate` in rows a second."""
    running = job.state is JobState.RUNNING
    return api.JobProgressOut(
        state=job.state.value,
        counts=_counts(job.counts),
        percent=percent(job),
        rows_per_second=rate,
        eta_seconds=round(job.counts.remaining / rate, 1) if rate and running else None,
    )


def _counts(counts: Counts) -> api.RowCounts:
    return api.RowCounts(
        total=counts.total, predicted=counts.predicted, rejected=counts.rejected, remaining=counts.remaining
    )


def _pin(job: Job) -> api.ModelPin | None:
    if job.model is None:
        return None
    return api.ModelPin(reference=job.model.reference, digest=job.model.digest, flavor=job.model.flavor)


def _place(waiting: Mapping[str, Waiting], job: Job) -> api.QueuePlace | None:
    found = waiting.get(job.id)
    return None if found is None else api.QueuePlace(place=found.place, reason=found.reason.value, detail=found.detail)


def _rejections(context: Context, job: Job) -> list[api.Rejection]:
    if not job.counts.rejected:
        return []
    return [api.Rejection.model_validate(row) for row in jobs.rejections(context, job, MOST_REJECTIONS)]


def _expires_at(context: Context, job: Job) -> datetime | None:
    if not job.managed or job.state not in FINISHED or job.finished_at is None:
        return None
    return job.finished_at + timedelta(days=context.policy.result_days)


def _links(job: Job) -> dict[str, str]:
    here = f"{ROOT}/{job.id}"
    links = {"self": here, "events": f"{here}/events", "logs": f"{here}/logs"}
    if job.state in FINISHED:
        links |= {"result": f"{here}/result", "download": f"{here}/result/download"}
        if job.counts.rejected:
            links["rejected"] = f"{here}/result/rejected"
    return links
