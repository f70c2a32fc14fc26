"""What a run says when it ends, and what a preview shows."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidemill.cli.output import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_REJECTIONS,
    bytes_text,
    cost_text,
    counted,
    counts_text,
    escape,
    exit_code,
    people,
    print_error,
    print_json,
    print_rejections,
    print_table,
    seconds_text,
)
from tidemill.domain.errors import NothingNew, from_json
from tidemill.domain.job import FINISHED, Job, JobState
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
    "orc": (
        'pandas.read_orc("{path}")',
        'pyarrow.dataset.dataset("{path}", format="orc").to_table()',
    ),
    "avro": ('[row for part in sorted(glob.glob("{glob}")) for row in fastavro.reader(open(part, "rb"))]',),
    "arrow": (
        'pandas.read_feather("{path}")',
        'polars.read_ipc("{path}")',
        'pyarrow.ipc.open_file("{path}").read_all()',
    ),
}


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended, here or on a service."""

    job_id: str | None = None
    """None if nothing ran because all was there."""
    state: JobState
    job: Mapping[str, Any] | None = None
    """As `--json` prints it."""
    manifest: Mapping[str, Any] | None = None
    """Of the output if it is published; its path is one of this machine."""
    counts: Mapping[str, int]
    error: Mapping[str, Any] | None = None
    rejections: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    up_to_date: bool = False
    resumed_chunks: int = 0
    seconds: float = 0.0
    cost: Mapping[str, Any] | None = None
    """Amount and currency, by the rate card of whoever ran it."""
    go_on: str | None = None
    """The command that goes on with it, if that can be."""


def ending_of(context: Context, outcome: jobs.Outcome) -> Ending:
    """Of a run in this process."""
    job, manifest = outcome.job, outcome.manifest
    if job is None:
        assert manifest is not None
        return Ending(state=JobState.SUCCEEDED, manifest=manifest, counts=manifest["counts"], up_to_date=True)
    can_go_on = job.state in (JobState.PAUSED, JobState.FAILED) and os.path.isdir(job.staging)
    return Ending(
        job_id=job.id,
        state=job.state,
        job=job_json(job),
        manifest=manifest,
        counts=vars(job.counts) if manifest is None else manifest["counts"],
        error=job.error,
        rejections=jobs.rejections(context, job),
        notes=(job.plan or {}).get("warnings", ()),
        up_to_date=outcome.up_to_date,
        resumed_chunks=outcome.resumed_chunks,
        seconds=outcome.seconds,
        cost=jobs.cost(context, job),
        go_on=f"the same command, or [bold]tidemill resume {job.id}[/]" if can_go_on else None,
    )


def print_ending(ending: Ending, *, as_json: bool, allow_rejected: bool) -> int:
    """Say how a run ended; returns the exit code."""
    if as_json:
        print_json(_ending_json(ending))
    elif ending.manifest is not None:
        _print_summary(ending, ending.manifest)
    else:
        _print_unfinished(ending)
    if ending.up_to_date:
        return EXIT_DONE
    if ending.state in FINISHED:
        return EXIT_REJECTIONS if ending.counts["rejected"] and not allow_rejected else EXIT_DONE
    if ending.state is JobState.FAILED and ending.error:
        return exit_code(from_json(dict(ending.error)))
    return EXIT_INTERRUPTED if ending.state is JobState.PAUSED else EXIT_FAILED


def print_nothing_new(exc: NothingNew, *, as_json: bool) -> None:
    """Say that there was nothing to do, which is well."""
    if as_json:
        print_json({**_ending_json(Ending(state=JobState.SUCCEEDED, counts={}, up_to_date=True)), "nothing_new": True})
        return
    people.print(f"[bold green]nothing new[/] {escape(exc.message)}")


def _ending_json(ending: Ending) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "up_to_date": ending.up_to_date,
        "resumed_chunks": ending.resumed_chunks,
        "seconds": round(ending.seconds, 3),
        "cost": ending.cost,
        "job": ending.job,
        "manifest": None,
    }
    if ending.manifest is not None:
        answer["manifest"] = {key: value for key, value in ending.manifest.items() if key not in ("files", "spec")}
    if ending.job is not None:
        answer["rejections"] = list(ending.rejections)
    return answer


def job_json(job: Job) -> dict[str, Any]:
    """A job that ran here as `run --json` prints it."""
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


def reason_text(reason: Mapping[str, Any]) -> str:
    """Why rows of a preview would be rejected: "row 7 and 3 more (predict): ValueError: too old"."""
    more = f" and {reason['rows'] - 1:,} more" if reason["rows"] > 1 else ""
    return f"row {reason['first_row']:,}{more} ({reason['stage']}): {reason['error']}: {reason['message']}"


def _print_summary(ending: Ending, manifest: Mapping[str, Any]) -> None:
    counts = manifest["counts"]
    path = _short(manifest["output"])
    if ending.up_to_date:
        people.print(f"[bold green]up to date[/] {escape(path)}: this very job finished {manifest['committed_at']}")
        people.print(f"  {counts_text(counts)}")
        return
    people.print(f"[bold green]done[/] {escape(path)}")
    people.print(f"  rows       {counts_text(counts)}")
    if manifest.get("increment"):
        people.print(f"  files      {_files_text(manifest)}")
    people.print(f"  took       {_took(ending, manifest)}")
    if ending.cost:
        people.print(f"  cost       {cost_text(ending.cost)}")
    people.print(f"  columns    {escape(_few([column['name'] for column in manifest['schema']]))}")
    if said := _predicted_by(manifest):
        people.print(f"  predicted  {escape(said)}")
    for note in ending.notes:
        people.print(f"  [yellow]note[/]       {escape(note)}")
    if counts["rejected"]:
        folder = next(file["name"] for file in manifest["files"] if file["kind"] == "rejected")
        people.print(f"[yellow]rejected[/] rows and why: {escape(_short(_top(manifest['output'], folder)))}")
        print_rejections(ending.rejections)
    people.print("[dim]read it:[/]")
    for line in READERS[manifest["format"]]:
        people.print(f"  {escape(line.format(path=path, glob=_glob(manifest, path)))}")


def _predicted_by(manifest: Mapping[str, Any]) -> str | None:
    """What predicted, if that was in question."""
    decision = manifest.get("acceleration") or {}
    if kernel := decision.get("kernel"):
        rows = f"{kernel['checked_rows']:,} rows"
        return f"by the kernel {kernel['name']}, which gave what {manifest['model']['flavor']} gives on {rows}"
    if "disagrees" in (decision.get("why_not") or ""):
        return f"by {manifest['model']['flavor']}: {decision['why_not']}"
    return None


def _files_text(manifest: Mapping[str, Any]) -> str:
    """Of a job of a series: "3 new, 1 of them changed; 120 scored before, 1 written to just now"."""
    increment, files = manifest["increment"], manifest["snapshot"]["files"]
    changed = f", {increment['changed']:,} of them changed" if increment["changed"] else ""
    unsettled = f", {increment['unsettled']:,} written to just now" if increment["unsettled"] else ""
    return f"{files:,} new{changed}; {increment['known']:,} scored before{unsettled}"


def _few(names: Sequence[str]) -> str:
    """Names of columns, the middle left out if they are many: what the model wrote comes last."""
    if len(names) <= 12:
        return ", ".join(names)
    return ", ".join([*names[:6], f"({len(names) - 11:,} more)", *names[-5:]])


def _top(output: str, name: str) -> str:
    return os.path.join(os.path.dirname(output), name.split("/")[0])


def _took(ending: Ending, manifest: Mapping[str, Any]) -> str:
    usage = manifest["usage"]
    words = [seconds_text(ending.seconds)]
    if manifest["counts"]["total"] >= 1_000 and not ending.resumed_chunks:
        words.append(f"{manifest['counts']['total'] / ending.seconds:,.0f} rows/s")
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


def _print_unfinished(ending: Ending) -> None:
    if ending.error and ending.state is JobState.FAILED:
        print_error(from_json(dict(ending.error)))
        print_rejections(ending.rejections)
    done = ending.counts["predicted"] + ending.counts["rejected"]
    if ending.state is JobState.PAUSED:
        people.print(
            f"[bold]paused[/] {done:,} of {ending.counts['total']:,} rows are done and kept; nothing is published yet"
        )
    if ending.go_on:
        people.print(f"  go on: {ending.go_on}")
        people.print(f"  drop it: [bold]tidemill jobs cancel {ending.job_id}[/]")
    if ending.state is JobState.CANCELLED:
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
        for reason in answer["rejections"]:
            people.print(f"  {escape(reason_text(reason))}")
    if answer["rows"]:
        names = list(answer["rows"][0])
        shown = [*names[:4], *names[max(4, len(names) - 3) :]]
        people.print("[bold]first predictions[/]")
        print_table(shown, [[row[name] for name in shown] for row in answer["rows"]])
    people.print(f"[bold]estimate[/] {_estimate(answer)}")
    if spec.output is None:
        people.print(f"[bold]run it[/]   {escape(command)} -o {shlex.quote('scores/')}")


def _estimate(answer: Mapping[str, Any]) -> str:
    seconds = seconds_text(answer["estimated_seconds"])
    return f"about {answer['estimated_rows']:,} rows, {seconds} of one core in the model"
