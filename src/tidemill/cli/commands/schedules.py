"""`tidemill schedules ...`: jobs that come again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import date, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape

from tidemill.cli.backend import Backend, chosen
from tidemill.cli.options import Json, Server
from tidemill.cli.output import counted, people, print_json, print_line, print_models, print_table, time_text
from tidemill.cli.requests import checked
from tidemill.cli.words import takes_spec
from tidemill.domain.errors import InvalidSpec, NotFound
from tidemill.domain.schedule import CatchUp, Overlap
from tidemill.wire.schedules import AddSchedule, BackfillRequest, FiringOut, ScheduleOut
from tidemill.wire.series import SeriesOut
from tidemill.wire.spec import JobSpec

app = typer.Typer(
    help="Jobs that come again: add, look, pause, run now, fill in what is missing.", no_args_is_help=True
)

Schedule = Annotated[str, typer.Argument(help="The schedule's name or id.")]
_DAY = ["%Y-%m-%d"]


@app.command()
@takes_spec
def add(
    spec: JobSpec,
    cron: Annotated[
        str | None, typer.Option(help='Minute, hour, day of month, month, day of week: "0 2 * * *".', metavar="FIELDS")
    ] = None,
    timezone: Annotated[
        str, typer.Option(help="Whose clocks --cron and templates mean, such as Europe/Berlin.", metavar="ZONE")
    ] = "UTC",
    every: Annotated[str | None, typer.Option(help='Every so often instead, such as "6h".', metavar="TIME")] = None,
    on_new_files: Annotated[
        bool, typer.Option("--on-new-files", help="Look at these times for files not scored yet; by default every 1m.")
    ] = False,
    on_alias: Annotated[
        bool,
        typer.Option("--on-alias", help="Look at these times if the model's alias moved; by default every 1m."),
    ] = False,
    overlap: Annotated[
        Overlap, typer.Option(help="If the job before is not over: skip this one, queue it, or cancel the other.")
    ] = Overlap.SKIP,
    catch_up: Annotated[
        CatchUp, typer.Option(help="Of due times that no server was there for: skip them, run the last, or all.")
    ] = CatchUp.LAST,
    paused: Annotated[bool, typer.Option("--paused", help="Fire nothing until it is resumed.")] = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Submit a job again and again, under the name that [b]--name[/] or the spec gives.

    Paths may hold the due time: {{ due }}, {{ due | date }}, {{ due - 1d | date }}, {{ due | date("%Y/%m") }}.
    On a service, paths are those of its own disk: server:/path.

      tidemill schedules add nightly.yaml --cron "0 2 * * *" --timezone Europe/Berlin
      tidemill schedules add churn@champion '/in/{{ due | date }}' -o '/out/{{ due | date }}' --name daily --every 1d
      tidemill schedules add churn@champion /lake/arriving -o /scores --mode append --name arriving --on-new-files
      tidemill schedules add churn@champion /lake/all -o /scores --mode overwrite --name again --on-alias
    """
    if spec.name is None:
        raise InvalidSpec("A schedule needs a name.", remedy="Say --name NAME.")
    trigger = _trigger(cron, timezone, every, on_new_files=on_new_files, on_alias=on_alias)
    words = {
        "name": spec.name,
        "spec": spec.model_copy(update={"name": None}),
        "trigger": trigger,
        "overlap": overlap.value,
        "catch_up": catch_up.value,
        "paused": paused,
    }
    with chosen(server) as backend:
        added = backend.schedules_add(checked(AddSchedule, words))
        there = "" if backend.where is None else f" --server {backend.where}"
    if json:
        print_models(added)
        return
    print_line(added.id)
    people.print(f"[bold]{escape(added.name)}[/], {escape(added.trigger_text)}; next: {_next(added)}")
    _warn(added.warnings)
    if not there:
        people.print("[dim]it fires while a server of this store runs:[/] tidemill serve")
    people.print(f"[dim]look ahead:[/] tidemill schedules next {added.name}{there}", markup=True)


@app.command("list")
def list_schedules(
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many at most.")] = 100,
    server: Server = None,
    json: Json = False,
) -> None:
    """List schedules by name, with what is due next and what came of the last due time.

    tidemill schedules list
    """
    with chosen(server) as backend:
        found = backend.schedules_list(limit=limit)
    if json:
        print_models(found)
        return
    if not found:
        people.print("no schedules: `tidemill schedules add --help` says how to add one")
        return
    rows = [(each.name, each.trigger_text, _next(each), _told(each.last)) for each in found]
    print_table(["schedule", "trigger", "next", "last"], rows)


@app.command()
def show(
    schedule: Schedule,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many due times at most.")] = 10,
    server: Server = None,
    json: Json = False,
) -> None:
    """Show a schedule and what became of its latest due times.

    tidemill schedules show nightly
    """
    with chosen(server) as backend:
        shown, fired = backend.schedules_show(schedule), backend.schedules_firings(schedule, limit=limit)
        spec = JobSpec.model_validate(shown.spec)
        recorded = None if spec.input.series is None else _recorded(backend, spec.input.series.name)
    if json:
        firings = [each.model_dump(mode="json") for each in fired]
        series = None if recorded is None else recorded.model_dump(mode="json")
        print_json({**shown.model_dump(mode="json"), "series": series, "firings": firings})
        return
    print_line(f"{shown.name}  {shown.id}")
    print_line(f"  trigger   {shown.trigger_text}")
    print_line(f"  next      {_next(shown)}")
    print_line(f"  job       {spec.model}  {' '.join(spec.input.path)}")
    print_line(f"  output    {'kept by the service' if spec.output is None else spec.output.path}")
    if recorded is not None:
        print_line(f"  scored    {counted(recorded.files, 'file')} of the series {recorded.name}")
    print_line(f"  policies  overlap {shown.overlap}, catch-up {shown.catch_up}")
    print_line(f"  added by  {shown.created_by}, {time_text(shown.created_at)}; its jobs have its rights")
    _warn(shown.warnings)
    if fired:
        rows = [(each.local, each.origin, _told(each), each.job_id or "-", _why(each)) for each in fired]
        _print_whole(("due", "because", "state", "job", "why"), rows)


@app.command("next")
def next_due_times(
    schedule: Schedule,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=100, help="How many.")] = 10,
    server: Server = None,
    json: Json = False,
) -> None:
    """Show due times to come, with the paths of their jobs.

    tidemill schedules next nightly
    """
    with chosen(server) as backend:
        found = backend.schedules_next(schedule, count=count)
    if json:
        print_models(found)
        return
    rows = [(each.local, " ".join(each.input), each.output or "kept by the service") for each in found.items]
    _print_whole(("due", "input", "output"), rows)
    _warn(found.warnings)


@app.command()
def pause(schedule: Schedule, server: Server = None, json: Json = False) -> None:
    """Fire nothing by itself from now on. Jobs that it started go on.

    tidemill schedules pause nightly
    """
    with chosen(server) as backend:
        paused = backend.schedules_pause(schedule)
    _print_changed(paused, "is paused", as_json=json)


@app.command()
def resume(schedule: Schedule, server: Server = None, json: Json = False) -> None:
    """Fire again. What was due while it was paused is not caught up with: see backfill.

    tidemill schedules resume nightly
    """
    with chosen(server) as backend:
        resumed = backend.schedules_resume(schedule)
    _print_changed(resumed, f"goes on; next: {_next(resumed)}", as_json=json)


@app.command()
def run(schedule: Schedule, server: Server = None, json: Json = False) -> None:
    """Fire now, also while it is paused. The due time is this moment.

    tidemill schedules run nightly
    """
    with chosen(server) as backend:
        fired = backend.schedules_run(schedule)
    if json:
        print_models(fired)
        return
    if fired.job_id is not None:
        print_line(fired.job_id)
    else:
        people.print(f"it waits: {escape(_why(fired))}")


@app.command()
def backfill(
    schedule: Schedule,
    first: Annotated[datetime, typer.Option("--from", formats=_DAY, help="The first day.", metavar="DAY")],
    last: Annotated[datetime, typer.Option("--to", formats=_DAY, help="The last day.", metavar="DAY")],
    everything: Annotated[bool, typer.Option("--all", help="Score those again, too, that are done.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show how they stand.")] = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Show the due times of these days, and score those that are missing or failed, one after the other.

    tidemill schedules backfill nightly --from 2026-11-01 --to 2026-11-20
    """
    states = ["missing", "failed", *(["done"] if everything else [])]
    words = {"first": _day(first), "last": _day(last), "states": states, "dry_run": dry_run}
    with chosen(server) as backend:
        found = backend.schedules_backfill(schedule, checked(BackfillRequest, words))
    if json:
        print_models(found)
        return
    starts = "would start" if dry_run else "starts"
    rows = [
        (each.local, each.state, starts if each.starts else "-", each.job_id or "-", each.message)
        for each in found.items
    ]
    _print_whole(("due", "state", "now", "job", "why"), rows)
    if dry_run:
        people.print(f"{counted(sum(each.starts for each in found.items), 'due time')} would start")
    else:
        people.print(f"{counted(found.started, 'due time')} started, one after the other")
    if found.paused and found.started:
        people.print("[yellow]the schedule is paused[/]: they wait until it is resumed")


@app.command()
def remove(schedule: Schedule, server: Server = None) -> None:
    """Forget a schedule and what it fired. Jobs that it started go on.

    tidemill schedules remove nightly
    """
    with chosen(server) as backend:
        backend.schedules_remove(schedule)
    people.print(f"[bold]{escape(schedule)}[/] is removed")


def _trigger(
    cron: str | None, timezone: str, every: str | None, *, on_new_files: bool, on_alias: bool
) -> dict[str, Any]:
    if (cron is not None and every is not None) or (on_new_files and on_alias):
        raise InvalidSpec("A schedule has one trigger.", remedy="Say --cron or --every, --on-new-files or --on-alias.")
    looks = on_new_files or on_alias
    if cron is None and every is None and not looks:
        raise InvalidSpec(
            "A schedule has one trigger.", remedy='Say --cron "0 2 * * *", --every 6h, --on-new-files or --on-alias.'
        )
    timer: dict[str, Any] = {"kind": "interval", "every": every or "1m", "timezone": timezone}
    if cron is not None:
        timer = {"kind": "cron", "cron": cron, "timezone": timezone}
    return {"kind": "new_files" if on_new_files else "alias_moved", "look": timer} if looks else timer


def _print_changed(schedule: ScheduleOut, said: str, *, as_json: bool) -> None:
    if as_json:
        print_models(schedule)
    else:
        people.print(f"[bold]{escape(schedule.name)}[/] {escape(said)}")


def _print_whole(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table in which nothing is cut: the end of a path tells its date."""
    lines = [columns, *rows]
    widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
    for line in lines:
        print_line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _recorded(backend: Backend, series: str) -> SeriesOut | None:
    """What its jobs have scored; None while there was none."""
    with suppress(NotFound):
        return backend.series_show(series)
    return None


def _next(schedule: ScheduleOut) -> str:
    if schedule.paused:
        return "paused"
    return "never again" if schedule.next_local is None else schedule.next_local


def _told(fired: FiringOut | None) -> str:
    if fired is None:
        return "-"
    return (fired.job_state or fired.state).replace("_", " ")


def _why(fired: FiringOut) -> str:
    return "" if fired.reason is None else fired.reason.message


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        people.print(f"[yellow]note[/] {escape(warning)}")


def _day(moment: datetime) -> date:
    return moment.date()
