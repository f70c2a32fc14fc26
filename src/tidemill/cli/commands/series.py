"""`tidemill series ...`: which files were scored by jobs over an input that grows."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.markup import escape

from tidemill.cli.backend import chosen
from tidemill.cli.options import Json, Server
from tidemill.cli.output import bytes_text, counted, people, print_line, print_models, print_table, time_text
from tidemill.domain.errors import InvalidSpec

app = typer.Typer(help="What the jobs of a series have scored: look, and forget.", no_args_is_help=True)

Series = Annotated[str, typer.Argument(help="The series' name.")]


@app.command("list")
def list_series(
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many at most.")] = 100,
    server: Server = None,
    json: Json = False,
) -> None:
    """List series by name. One of `run --only-new` has the name of its output.

    tidemill series list
    """
    with chosen(server) as backend:
        found = backend.series_list(limit=limit)
    if json:
        print_models(found)
        return
    if not found:
        people.print("no series: `tidemill run MODEL FOLDER -o OUT --only-new` begins one")
        return
    rows = [
        (each.name, f"{each.files:,}", f"{each.jobs:,}", time_text(each.recorded_at, none="never"), each.holder or "-")
        for each in found
    ]
    print_table(["series", "files", "jobs", "last", "on its way"], rows)


@app.command()
def show(series: Series, server: Server = None, json: Json = False) -> None:
    """Show how much a series has scored.

    tidemill series show churn
    """
    with chosen(server) as backend:
        found = backend.series_show(series)
    if json:
        print_models(found)
        return
    print_line(found.name)
    print_line(f"  scored    {counted(found.files, 'file')} by {counted(found.jobs, 'job')}")
    print_line(f"  last      {time_text(found.recorded_at, none='never')}")
    if found.holder is not None:
        print_line(f"  now       {found.holder}: what it scores counts when it has succeeded")


@app.command()
def files(
    series: Series,
    path: Annotated[str | None, typer.Argument(help="Only this file, or those in this folder.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 100,
    server: Server = None,
    json: Json = False,
) -> None:
    """List files that were scored, by path, with the size and time that they had.

    tidemill series files churn /data/arriving/2026-11
    """
    with chosen(server) as backend:
        found = backend.series_files(series, "/" if path is None else _absolute(path), limit=limit)
    if json:
        print_models(found)
        return
    rows = [(each.path, bytes_text(each.size_bytes), time_text(each.modified_at)) for each in found]
    print_table(["file", "size", "modified"], rows)
    if len(found) == limit:
        people.print(f"[dim]the first {limit:,}; --limit shows more[/]")


@app.command()
def forget(
    series: Series,
    path: Annotated[str | None, typer.Argument(help="This file, or everything in this folder.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All files.")] = False,
    server: Server = None,
) -> None:
    """Let files count as never scored: the next job of the series scores them again. Outputs stay as they are.

    tidemill series forget churn /data/arriving/2026-11/bad.parquet
    """
    if (path is None) != everything:
        raise InvalidSpec("It is not clear what to forget.", remedy="Name a file or a folder, or say --all.")
    with chosen(server) as backend:
        gone = backend.series_forget(series, "/" if path is None else _absolute(path))
    people.print(f"[bold]{counted(gone, 'file')}[/] of {escape(series)} will be scored again, if still there")


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))
