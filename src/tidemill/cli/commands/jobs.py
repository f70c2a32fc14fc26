"""`tidemill jobs ...`: what ran or waits, how it stands, steer it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
import yaml
from rich.markup import escape

from tidemill.cli.backend import Backend, chosen
from tidemill.cli.options import Json, Server
from tidemill.cli.output import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_REJECTIONS,
    bytes_text,
    cost_text,
    counts_text,
    data,
    exit_code,
    people,
    print_error,
    print_line,
    print_models,
    print_rejections,
    print_table,
    seconds_text,
    time_text,
)
from tidemill.cli.progress import ProgressView, waiting_text
from tidemill.cli.submitting import print_submitted
from tidemill.domain.errors import InvalidSpec, from_json
from tidemill.domain.job import FINISHED, JobFilter, JobState
from tidemill.wire.api import JobStatus, JobSummary, UsageReport

app = typer.Typer(
    help="Jobs here or on a service: list, show, wait, cancel, pause, resume, retry.", no_args_is_help=True
)

JobId = Annotated[str, typer.Argument(help="Job id, or the end of one.")]

LIST_COLUMNS = ("job", "name", "state", "done", "rows", "rejected", "created", "waits")


@app.command("list")
def list_jobs(
    state: Annotated[list[JobState] | None, typer.Option(help="Only jobs in this state; may be repeated.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of this name.")] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs of this registered model.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Only jobs with this label; may be repeated.", metavar="K=V")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 20,
    server: Server = None,
    json: Json = False,
) -> None:
    """List jobs, newest first.

    tidemill jobs list --state failed
    """
    wanted = JobFilter(states=tuple(state or ()), name=name, model=model, labels=tuple(_labels(label or [])))
    with chosen(server) as backend:
        found = backend.jobs_list(wanted, limit=limit)
    if json:
        print_models(found)
    elif not found:
        people.print("no jobs yet" if wanted == JobFilter() else "no such jobs")
    else:
        print_table(LIST_COLUMNS, [_row(job) for job in found], right=["done", "rows", "rejected"])


def _labels(texts: list[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InvalidSpec(f"{text!r} is no label.", remedy="Write it as NAME=VALUE.")
        yield key, value


def _row(job: JobSummary) -> tuple[str, ...]:
    counts = job.counts
    return (
        job.id,
        job.name,
        job.state,
        f"{counts.predicted + counts.rejected:,}",
        f"{counts.total:,}",
        f"{counts.rejected:,}",
        time_text(job.created_at),
        waiting_text(job.queue) if job.queue else "",
    )


@app.command()
def show(job: JobId, server: Server = None, json: Json = False) -> None:
    """Show one job: state, why it waits, counts, usage, what failed, how to go on."""
    with chosen(server) as backend:
        found = backend.jobs_show(job)
        if json:
            print_models(found)
            return
        _print_job(backend, found)


def _print_job(backend: Backend, job: JobStatus) -> None:
    for key, value in _facts(backend, job):
        data.print(f"[bold]{key:9}[/]{escape(value)}")
    if job.error:
        print_error(from_json(job.error.model_dump()))
    print_rejections([row.model_dump() for row in job.rejections], most=20)


def _facts(backend: Backend, job: JobStatus) -> Iterator[tuple[str, str]]:
    spec = job.spec
    yield "job", job.id
    yield "name", job.name
    yield "state", job.state + ("" if job.want == "run" else f" (asked to {job.want})")
    if job.queue:
        yield "waits", waiting_text(job.queue)
    yield "model", _model_text(job)
    yield "input", ", ".join(spec["input"]["path"])
    yield "output", job.output or f"kept by the service{_until(job)}"
    if job.parent_id:
        yield "parent", job.parent_id
    if job.labels:
        yield "labels", ", ".join(f"{key}={value}" for key, value in job.labels.items())
    yield "chunks", f"{job.chunks_done:,} of {job.chunks_total:,}"
    yield "rows", _rows_text(job)
    yield "used", _used_text(job)
    yield "times", _times_text(job)
    yield from _next_steps(backend, job)


def _model_text(job: JobStatus) -> str:
    if job.model is None:
        return str(job.spec["model"])
    return f"{job.model.reference}, {job.model.flavor}, sha256 {job.model.digest[:12]}"


def _until(job: JobStatus) -> str:
    return f" until {job.expires_at.astimezone().isoformat(timespec='minutes')}" if job.expires_at else ""


def _rows_text(job: JobStatus) -> str:
    counts = job.counts
    if JobState(job.state) in FINISHED:
        return counts_text(counts.model_dump())
    text = f"{counts.predicted + counts.rejected:,} of {counts.total:,}, {counts.rejected:,} rejected"
    if job.rows_per_second:
        text += f", {job.rows_per_second:,.0f} rows/s"
    if job.eta_seconds is not None:
        text += f", {seconds_text(job.eta_seconds)} left"
    return text


def _used_text(job: JobStatus) -> str:
    used = job.usage
    words = [
        cpu_text(used),
        f"{bytes_text(used.peak_memory_bytes)} peak",
        f"{bytes_text(used.input_bytes)} in, {bytes_text(used.output_bytes)} out",
    ]
    if used.cost is not None:
        words.append(f"cost {cost_text(used.cost.model_dump())}")
    return ", ".join(words)


def cpu_text(used: UsageReport) -> str:
    """ "12.3 s CPU (planning 0.2, reading 1.0, model 10.1, writing 0.9)", without stages that there were none of."""
    cpu = used.cpu_by_stage
    stages = {
        "planning": cpu.plan, "reading": cpu.read, "model": cpu.model, "writing": cpu.write, "assembling": cpu.assemble
    }  # fmt: skip
    listed = ", ".join(f"{name} {seconds:,.1f}" for name, seconds in stages.items() if seconds > 0)
    return f"{used.cpu_seconds:,.1f} s CPU" + (f" ({listed})" if listed else "")


def _times_text(job: JobStatus) -> str:
    """When it was created, and how long after that it entered each state last."""
    created = job.timestamps["created"]
    after = sorted((at, state) for state, at in job.timestamps.items() if state != "created")
    words = [f"{created.astimezone().isoformat(timespec='seconds')} created"]
    words += [f"+{seconds_text((at - created).total_seconds())} {state.replace('_', ' ')}" for at, state in after]
    return ", ".join(words)


def _next_steps(backend: Backend, job: JobStatus) -> Iterator[tuple[str, str]]:
    server = f" --server {backend.where}" if backend.where is not None else ""
    state = JobState(job.state)
    if state in (JobState.PAUSED, JobState.FAILED):
        if backend.where is None:
            yield "go on", f"tidemill resume {job.id}"
        if backend.where is not None or "queued" in job.timestamps:
            # What `tidemill run` started was never queued, and no worker may take it.
            yield ("go on" if backend.where is not None else "queue it"), f"tidemill jobs resume {job.id}{server}"
    elif state in FINISHED and job.output is None:
        yield "fetch", f"tidemill results download {job.id} -o scores.parquet{server}"
    if state is JobState.SUCCEEDED_WITH_REJECTIONS:
        yield "again", f"tidemill jobs retry {job.id}{server}"


@app.command()
def cancel(job: JobId, server: Server = None, json: Json = False) -> None:
    """End a job and remove everything it left. Published outputs are never touched."""
    with chosen(server) as backend:
        found = backend.jobs_cancel(job)
    if json:
        print_models(found)
    elif found.state == "cancelled":
        people.print(f"[bold]cancelled[/] {found.id}: nothing is left of it")
    elif JobState(found.state) in FINISHED:
        people.print(f"{found.id} has finished already; its output stays")
    else:
        people.print(f"{found.id} is {found.state}: its worker will end it within seconds")


@app.command()
def pause(job: JobId, server: Server = None, json: Json = False) -> None:
    """Stop a job after what is in flight; what is done is kept."""
    with chosen(server) as backend:
        found = backend.jobs_pause(job)
    if json:
        print_models(found)
    elif found.state == "paused":
        people.print(f"[bold]paused[/] {found.id}: go on with it by `tidemill jobs resume {found.id}`")
    else:
        people.print(f"{found.id} is {found.state}: its worker will pause it within seconds")


@app.command()
def resume(job: JobId, server: Server = None, json: Json = False) -> None:
    """Queue a paused or failed job again; a worker goes on from its last finished chunk.

    `tidemill resume JOB` goes on with it in this terminal instead.
    """
    with chosen(server) as backend:
        found = backend.jobs_resume(job)
        print_submitted(backend, found, as_json=json)


@app.command()
def retry(job: JobId, server: Server = None, json: Json = False) -> None:
    """Score the rejected rows of a finished job again, as a new job. Its result then shows the union."""
    with chosen(server) as backend:
        print_submitted(backend, backend.jobs_retry(job), as_json=json)


@app.command()
def clone(
    job: JobId,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="A word of the spec and its new value; may be repeated.", metavar="WORD=VALUE"),
    ] = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Run a job again as a new one, with changes.

    tidemill jobs clone job_1jk9w3x2tq8m4c0z --set model=churn@7 --set predict.threshold=0.3
    """
    with chosen(server) as backend:
        print_submitted(backend, backend.jobs_clone(job, changes_of(change or [])), as_json=json)


def changes_of(texts: list[str]) -> dict[str, Any]:
    """ "predict.threshold=0.3" as {"predict": {"threshold": 0.3}}; an empty value or null removes the word."""
    changes: dict[str, Any] = {}
    for text in texts:
        word, equals, value = text.partition("=")
        if not equals or not word:
            raise InvalidSpec(f"{text!r} is no change.", remedy="Write it as WORD=VALUE, for example keep=none.")
        *above, last = word.split(".")
        inner = changes
        for part in above:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise InvalidSpec(f"{part!r} is changed twice.", remedy="Say each word once.")
        try:
            inner[last] = yaml.safe_load(value)
        except yaml.YAMLError as exc:
            raise InvalidSpec(f"{value!r} cannot be read.", remedy="Write a list as [a, b].") from exc
    return changes


@app.command()
def wait(
    job: JobId,
    timeout: Annotated[float | None, typer.Option(help="Seconds; by default as long as it takes.")] = None,
    allow_rejected: Annotated[
        bool, typer.Option("--allow-rejected", help="Exit with 0 even if rows were rejected.")
    ] = False,
    server: Server = None,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Wait until a job ends, and show how far it is. The exit code is that of `tidemill run`.

    tidemill jobs wait job_1jk9w3x2tq8m4c0z --timeout 600
    """
    with chosen(server) as backend:
        with ProgressView(quiet=quiet or json) as view:
            found = backend.jobs_wait(job, timeout_seconds=timeout, tell=view.status)
        code = print_ended(backend, found, as_json=json, allow_rejected=allow_rejected)
    raise typer.Exit(code)


def print_ended(backend: Backend, job: JobStatus, *, as_json: bool, allow_rejected: bool) -> int:
    """Say how a job ended that ran elsewhere; returns the exit code."""
    state = JobState(job.state)
    if as_json:
        print_models(job)
    else:
        colour = "green" if state in FINISHED else "yellow"
        people.print(f"[bold {colour}]{job.state.replace('_', ' ')}[/] {job.id}: {_rows_text(job)}")
        if job.error:
            print_error(from_json(job.error.model_dump()))
        print_rejections([row.model_dump() for row in job.rejections])
        for key, value in _next_steps(backend, job):
            people.print(f"  [dim]{key}:[/] {escape(value)}")
    if state in FINISHED:
        return EXIT_REJECTIONS if job.counts.rejected and not allow_rejected else EXIT_DONE
    if state is JobState.FAILED and job.error:
        return exit_code(from_json(job.error.model_dump()))
    return EXIT_INTERRUPTED if state is JobState.PAUSED else EXIT_FAILED


@app.command()
def logs(
    job: JobId,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=10_000, help="How many of the newest.")] = 200,
    server: Server = None,
    json: Json = False,
) -> None:
    """Print what a job's children said and its worker noted, newest last."""
    with chosen(server) as backend:
        found = backend.jobs_logs(job, lines=lines)
    if json:
        print_models(found)
        return
    if found.truncated:
        people.print(f"[dim]only the newest {len(found.lines):,} lines[/]")
    for line in found.lines:
        print_line(line)
