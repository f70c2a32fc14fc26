"""`tidemill jobs ...`: what ran here, how it stands, end one."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from tidemill.bootstrap.wiring import opened
from tidemill.cli.output import data, people, print_error, print_json, print_rejections, print_table
from tidemill.cli.summary import counts_text, job_json
from tidemill.domain.errors import from_json
from tidemill.domain.job import Job, JobState, Want
from tidemill.service import jobs

app = typer.Typer(help="Jobs of this store: list, show, cancel.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(help="Job id, or the end of one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_jobs(
    state: Annotated[list[JobState] | None, typer.Option(help="Only jobs in this state; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 20,
    json: Json = False,
) -> None:
    """List jobs, newest first.

    tidemill jobs list --state failed
    """
    with opened(children=False) as context:
        found = context.store.jobs.list(states=state or (), limit=limit)
    if json:
        print_json([job_json(job) for job in found])
        return
    if not found:
        people.print("no jobs yet")
        return
    rows = [
        (job.id, job.name, job.state.value, f"{job.counts.predicted + job.counts.rejected:,}", f"{job.counts.total:,}",
         f"{job.counts.rejected:,}", job.created_at.astimezone().strftime("%Y-%m-%d %H:%M"), job.output)
        for job in found
    ]  # fmt: skip
    columns = ["job", "name", "state", "done", "rows", "rejected", "created", "output"]
    print_table(columns, rows, right=["done", "rows", "rejected"])


@app.command()
def show(job: JobId, json: Json = False) -> None:
    """Show one job: state, counts, what failed, how to go on."""
    with opened(children=False) as context:
        found = context.store.jobs.get(job)
        rejections = jobs.rejections(context, found)
    if json:
        print_json({**job_json(found), "rejections": rejections})
        return
    _print_job(found)
    print_rejections(rejections, most=20)


def _print_job(job: Job) -> None:
    lines = {
        "job": job.id,
        "name": job.name,
        "state": job.state.value + ("" if job.want is Want.RUN else f" (asked to {job.want.value})"),
        "model": f"{job.spec['model']}, sha256 {job.model_digest[:12]}",
        "input": ", ".join(job.spec["input"]["path"]),
        "output": job.output,
        "chunks": f"{job.chunks_done:,} of {job.chunks_total:,}",
        "rows": counts_text(vars(job.counts)) if job.state.value.startswith("succeeded") else
        f"{job.counts.predicted + job.counts.rejected:,} of {job.counts.total:,}, {job.counts.rejected:,} rejected",
        "created": job.created_at.astimezone().isoformat(timespec="seconds"),
        "finished": job.finished_at.astimezone().isoformat(timespec="seconds") if job.finished_at else "-",
    }  # fmt: skip
    if job.state in (JobState.PAUSED, JobState.FAILED):
        lines["staging"] = job.staging
        lines["go on"] = f"tidemill resume {job.id}"
    for key, value in lines.items():
        data.print(f"[bold]{key:9}[/]{escape(value)}")
    if job.error:
        print_error(from_json(job.error))


@app.command()
def cancel(job: JobId, json: Json = False) -> None:
    """End a job and remove everything it left. Published outputs are never touched."""
    with opened(children=False) as context:
        found = jobs.cancel(context, job)
    if json:
        print_json(job_json(found))
    elif found.state is JobState.CANCELLED:
        people.print(f"[bold]cancelled[/] {found.id}: nothing is left of it")
    elif found.state in (JobState.SUCCEEDED, JobState.SUCCEEDED_WITH_REJECTIONS):
        people.print(f"{found.id} has finished already; its output stays")
    else:
        people.print(f"{found.id} is {found.state.value}: its worker will end it within seconds")
