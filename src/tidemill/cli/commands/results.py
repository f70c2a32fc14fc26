"""`tidemill results ...`: look at what was published, and fetch it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from tidemill.bootstrap.wiring import opened
from tidemill.cli.backend import chosen
from tidemill.cli.options import Json, Server
from tidemill.cli.output import bytes_text, people, print_json, print_table
from tidemill.cli.progress import ProgressView
from tidemill.domain.errors import InvalidSpec
from tidemill.service import outputs
from tidemill.wire.api import Rows

app = typer.Typer(help="Results: look at them, fetch them, find rows in them.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(help="Job id, or the end of one.")]
Rejected = Annotated[bool, typer.Option("--rejected", help="The rejected rows instead.")]


class Form(StrEnum):
    """Formats of a result that is fetched."""

    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"
    ARROW = "arrow"


@app.command()
def head(
    target: Annotated[str, typer.Argument(help="Job id, or an output of this machine.")],
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, max=10_000, help="How many.")] = 10,
    rejected: Rejected = False,
    server: Server = None,
    json: Json = False,
) -> None:
    """Print the first rows of a result.

    tidemill results head scores/ -n 5
    """
    if is_path(target):
        with opened() as context:
            found: list[dict[str, Any]] = outputs.head(context, target, rows, rejected=rejected)["rows"]
    else:
        with chosen(server) as backend:
            found = _records(backend.results_head(target, rows, rejected=rejected))
    _print_rows(found, as_json=json)


def is_path(target: str) -> bool:
    """Whether a result is named by its place on this machine and not by its job."""
    return os.sep in target or os.path.exists(target) or not target.replace("_", "").isalnum()


def _records(rows: Rows) -> list[dict[str, Any]]:
    return [dict(zip(rows.columns, row, strict=True)) for row in rows.rows]


def _print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    if not rows:
        people.print("no rows")
        return
    names = list(rows[0])
    print_table(names, [[row[name] for name in names] for row in rows])


@app.command()
def download(
    job: JobId,
    out: Annotated[Path, typer.Option("--output", "-o", help="File to write: .parquet, .csv, .jsonl or .arrow.")],
    form: Annotated[
        Form | None, typer.Option("--format", help="By default what the file's ending says, else parquet.")
    ] = None,
    rejected: Rejected = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    server: Server = None,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Fetch a result as one file, whole and checked. What was interrupted goes on where it broke off.

    tidemill results download job_1jk9w3x2tq8m4c0z -o scores.csv
    """
    wanted = form or _form_of(out)
    with chosen(server) as backend, ProgressView(quiet=quiet or json) as view:
        path = backend.results_download(
            job, out, form=wanted.value, rejected=rejected, overwrite=overwrite, moved=view.fetched
        )
    size = path.stat().st_size
    if json:
        print_json({"path": str(path), "format": wanted.value, "size_bytes": size})
    else:
        people.print(f"[bold green]done[/] {escape(str(path))}, {bytes_text(size)}")


def _form_of(path: Path) -> Form:
    ending = path.suffix.removeprefix(".").lower()
    if path.suffix and ending not in list(Form):
        raise InvalidSpec(
            f"{path} does not say which format it is to be.",
            remedy="End it in .parquet, .csv, .jsonl or .arrow, or say --format.",
        )
    return Form(ending) if path.suffix else Form.PARQUET


@app.command()
def get(
    job: JobId,
    where: Annotated[list[str], typer.Argument(help="A column and its value; may be repeated.", metavar="COL=VALUE")],
    server: Server = None,
    json: Json = False,
) -> None:
    """Find rows of a result by the values of columns.

    tidemill results get job_1jk9w3x2tq8m4c0z customer_id=4711
    """
    with chosen(server) as backend:
        found = backend.results_get(job, _wanted(where))
    _print_rows(_records(found), as_json=json)


def _wanted(texts: list[str]) -> Mapping[str, str]:
    wanted = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals:
            raise InvalidSpec(f"{text!r} names no value.", remedy="Write it as COLUMN=VALUE.")
        wanted[column] = value
    return wanted


@app.command()
def info(job: JobId, server: Server = None) -> None:
    """Print what a result is: its manifest and where it can be fetched, as JSON."""
    with chosen(server) as backend:
        print_json(backend.results_info(job).model_dump(mode="json"))
