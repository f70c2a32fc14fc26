"""What a run says when it ends, and what a preview shows."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape

from tidemill.cli.output import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_REJECTIONS,
    bytes_text,
    counted,
    exit_code,
    people,
    print_error,
    print_json,
    print_rejections,
    print_table,
    seconds_text,
)
from tidemill.domain.errors import from_json
from tidemill.domain.job import Job, JobState
from tidemill.service import jobs
from tidemill.service.context import Context
from tidemill.wire.spec import JobSpec

READERS = {
    "parquet": (
        'pandas.read_parquet("{path}")',
        'polars.read_parquet("{path}")',
        "duckdb.sql(\"from '{glob}'\")",
    ),
    "csv": ('pandas.read_csv("{path}")', 'polars.read_csv("{path}")', "duckdb.sql(\"from '{glob}'\")"),
    "jsonl": (
        'pandas.read_json("{path}", lines=True)',
        'polars.read_ndjson("{path}")',
        "duckdb.sql(\"from '{glob}'\")",
    ),
    "arrow": (
        'pandas.read_feather("{path}")',
        'polars.read_ipc("{path}")',
        'pyarrow.ipc.open_file("{path}").read_all()',
    ),
}


def print_outcome(
    context: Context, spec: JobSpec, outcome: jobs.Outcome, *, as_json: bool, allow_rejected: bool
) -> int:
    """Say how a run ended; returns the exit code."""
    manifest = outcome.manifest
    if as_json:
        print_json(_outcome_json(context, outcome))
    elif manifest is not None:
        _print_summary(context, outcome, manifest)
    else:
        assert outcome.job is not None
        _print_unfinished(context, outcome.job)
    if outcome.up_to_date:
        return EXIT_DONE
    if manifest is not None:
        return EXIT_REJECTIONS if manifest["counts"]["rejected"] and not allow_rejected else EXIT_DONE
    assert outcome.job is not None
    if outcome.job.state is JobState.FAILED and outcome.job.error:
        return exit_code(from_json(outcome.job.error))
    return EXIT_INTERRUPTED if outcome.job.state is JobState.PAUSED else EXIT_FAILED


def _outcome_json(context: Context, outcome: jobs.Outcome) -> dict[str, Any]:
    job = outcome.job
    answer: dict[str, Any] = {
        "up_to_date": outcome.up_to_date,
        "resumed_chunks": outcome.resumed_chunks,
        "seconds": round(outcome.seconds, 3),
        "job": None if job is None else job_json(job),
        "manifest": None,
    }
    if outcome.manifest is not None:
        answer["manifest"] = {key: value for key, value in outcome.manifest.items() if key not in ("files", "spec")}
    if job is not None:
        answer["rejections"] = jobs.rejections(context, job)
    return answer


def job_json(job: Job) -> dict[str, Any]:
    """A job as `--json` prints it."""
    return {
        "id": job.id,
        "name": job.name,
        "state": job.state.value,
        "want": job.want.value,
        "output": job.output,
        "counts": {**vars(job.counts), "remaining": job.counts.remaining},
        "chunks": {"total": job.chunks_total, "done": job.chunks_done},
        "model_digest": job.model_digest,
        "error": job.error,
        "usage": job.usage,
        "created_at": job.created_at.isoformat(),
        "started_at": job.started_at and job.started_at.isoformat(),
        "finished_at": job.finished_at and job.finished_at.isoformat(),
        "spec": job.spec,
    }


def counts_text(counts: Mapping[str, int]) -> str:
    """The line that reconciles: "336,776 = 336,102 predicted + 674 rejected"."""
    return f"{counts['total']:,} = {counts['predicted']:,} predicted + {counts['rejected']:,} rejected"


def _print_summary(context: Context, outcome: jobs.Outcome, manifest: Mapping[str, Any]) -> None:
    counts = manifest["counts"]
    path = _short(manifest["output"])
    if outcome.up_to_date:
        people.print(f"[bold green]up to date[/] {escape(path)}: this very job finished {manifest['committed_at']}")
        people.print(f"  {counts_text(counts)}")
        return
    people.print(f"[bold green]done[/] {escape(path)}")
    people.print(f"  rows       {counts_text(counts)}")
    people.print(f"  took       {_took(outcome, manifest)}")
    people.print(f"  columns    {escape(_few([column['name'] for column in manifest['schema']]))}")
    for note in (outcome.job.plan or {}).get("warnings", ()) if outcome.job else ():
        people.print(f"  [yellow]note[/]       {escape(note)}")
    if counts["rejected"]:
        folder = next(file["name"] for file in manifest["files"] if file["kind"] == "rejected")
        people.print(f"[yellow]rejected[/] rows and why: {escape(_short(_top(manifest['output'], folder)))}")
        if outcome.job is not None:
            print_rejections(jobs.rejections(context, outcome.job))
    people.print("[dim]read it:[/]")
    for line in READERS[manifest["format"]]:
        people.print(f"  {escape(line.format(path=path, glob=_glob(manifest, path)))}")


def _few(names: Sequence[str]) -> str:
    """Names of columns, the middle left out if they are many: what the model wrote comes last."""
    if len(names) <= 12:
        return ", ".join(names)
    return ", ".join([*names[:6], f"({len(names) - 11:,} more)", *names[-5:]])


def _top(output: str, name: str) -> str:
    return os.path.join(os.path.dirname(output), name.split("/")[0])


def _took(outcome: jobs.Outcome, manifest: Mapping[str, Any]) -> str:
    usage = manifest["usage"]
    words = [seconds_text(outcome.seconds)]
    if manifest["counts"]["total"] >= 1_000 and not outcome.resumed_chunks:
        words.append(f"{manifest['counts']['total'] / outcome.seconds:,.0f} rows/s")
    words.append(f"{usage.get('cpu_seconds', 0.0):,.1f} s CPU in scorers")
    words.append(f"{bytes_text(usage.get('peak_memory_bytes', 0))} peak in a scorer")
    return ", ".join(words)


def _glob(manifest: Mapping[str, Any], path: str) -> str:
    single = manifest["files"][0]["name"].count("/") == 0
    ending = "".join(os.path.basename(manifest["files"][0]["name"]).partition(".")[1:])
    return path if single else f"{path}/*{ending}"


def _short(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _print_unfinished(context: Context, job: Job) -> None:
    if job.error and job.state is JobState.FAILED:
        print_error(from_json(job.error))
        print_rejections(jobs.rejections(context, job))
    done = job.counts.predicted + job.counts.rejected
    if job.state is JobState.PAUSED:
        people.print(
            f"[bold]paused[/] {done:,} of {job.counts.total:,} rows are done and kept; nothing is published yet"
        )
    if job.state in (JobState.PAUSED, JobState.FAILED) and os.path.isdir(job.staging):
        people.print(f"  go on: the same command, or [bold]tidemill resume {job.id}[/]")
        people.print(f"  drop it: [bold]tidemill jobs cancel {job.id}[/]")
    if job.state is JobState.CANCELLED:
        people.print("[bold]cancelled[/] nothing is left of it")


def print_preview(answer: Mapping[str, Any], spec: JobSpec, command: str, *, as_json: bool) -> None:
    """Show what a run would do, and the line to run."""
    if as_json:
        print_json(answer)
        return
    model = answer["model"]
    task = "" if model["task"] == "other" else f" {model['task']}"
    kind = f"{model['flavor']}{task}, sha256 {answer['digest'][:12]}"
    people.print(f"[bold]model[/]    {escape(_short(answer['path']))}: {kind}")
    people.print(
        f"[bold]input[/]    {counted(answer['files'], answer['source'] + ' file')}, {bytes_text(answer['bytes'])};"
        f" {answer['rows_in_first_file']:,} rows in {escape(_short(answer['first_file']))}"
    )
    people.print(f"[bold]match[/]    {counted(len(answer['features']), 'column')} for the model, all there")
    for note in model["notes"]:
        people.print(f"[yellow]note[/]     {escape(note)}")
    if answer["rejected"]:
        people.print(f"[yellow]{answer['rejected']:,} of the first rows would be rejected:[/]")
        for message in answer["rejections"]:
            people.print(f"  {escape(message)}")
    if answer["rows"]:
        names = list(answer["rows"][0])
        shown = [*names[:4], *names[max(4, len(names) - 3) :]]
        people.print("[bold]first predictions[/]")
        print_table(shown, [[row[name] for name in shown] for row in answer["rows"]])
    people.print(f"[bold]estimate[/] {_estimate(answer)}")
    if spec.output is None:
        people.print(f"[bold]run it[/]   {escape(command)} -o {shlex.quote('scores/')}")


def _estimate(answer: Mapping[str, Any]) -> str:
    rows = answer["rows_in_first_file"] * answer["bytes"] / max(answer["first_bytes"], 1)
    seconds = rows * answer["seconds_per_row"]
    return f"about {rows:,.0f} rows, {seconds_text(seconds)} of one core in the model"
