"""`tidemill uploads ...`: files that jobs read by `upload:ID`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from tidemill.cli.backend import Backend, chosen
from tidemill.cli.options import Json, Server
from tidemill.cli.output import bytes_text, people, print_json, print_line, print_models, print_table, time_text
from tidemill.cli.progress import ProgressView
from tidemill.domain.errors import OutputUnwritable, ServiceUnreachable, StoreUnavailable, UploadBusy

app = typer.Typer(help="Files that were sent: add, list, look at and remove them.", no_args_is_help=True)

UploadId = Annotated[str, typer.Argument(help="The upload's id, such as upload_1jk9w3x2tq8m4c0z.")]
UPLOAD = "upload:"


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="The file to send.")],
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="ID", help="Go on with an unfinished upload of this file.")
    ] = None,
    server: Server = None,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Send a file and print the input that names it. What breaks off goes on, also after a restart of the service.

    tidemill uploads add customers.parquet --server http://mill:8642
    """
    with chosen(server) as backend, ProgressView(quiet=quiet or json) as view, _told_how_to_go_on(backend, file) as ids:
        made = backend.uploads_add(
            file, resume=None if resume is None else _id(resume), begun=ids.append, moved=view.sent
        )
    if json:
        print_models(made)
        return
    print_line(made.input)
    people.print(f"[bold green]done[/] {escape(made.name)}, {bytes_text(made.size_bytes)}, sha256 {made.sha256}")


@contextmanager
def _told_how_to_go_on(backend: Backend, file: Path) -> Iterator[list[str]]:
    """What was sent is kept, whatever went wrong here: say how to go on with it."""
    ids: list[str] = []
    try:
        yield ids
    except (ServiceUnreachable, StoreUnavailable, UploadBusy, OutputUnwritable, KeyboardInterrupt):
        if ids:
            there = f" --server {backend.where}" if backend.where else ""
            people.print("what was sent is kept for a time; go on with it:")
            people.print(f"  tidemill uploads add {escape(str(file))} --resume {ids[0]}{escape(there)}", soft_wrap=True)
        raise


@app.command("list")
def list_uploads(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many at most.")] = 50,
    server: Server = None,
    json: Json = False,
) -> None:
    """List uploads, newest first; those whose bytes are not all there come before the others.

    tidemill uploads list
    """
    with chosen(server) as backend:
        unfinished, whole = backend.uploads_unfinished(), backend.uploads_list(limit=limit)
    if json:
        print_json({name: [each.model_dump(mode="json") for each in found]
                    for name, found in (("unfinished", unfinished), ("items", whole))})  # fmt: skip
        return
    if not unfinished and not whole:
        people.print("no uploads")
        return
    rows = [
        (each.id, each.name, f"{bytes_text(each.offset)} of {bytes_text(each.length)}", time_text(each.expires_at))
        for each in unfinished
    ]
    rows += [(each.id, each.name, bytes_text(each.size_bytes), time_text(each.expires_at)) for each in whole]
    print_table(["upload", "name", "size", "kept until"], rows, right=["size"])


@app.command()
def show(
    upload: UploadId,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, max=1_000, help="How many rows to show.")] = 5,
    server: Server = None,
    json: Json = False,
) -> None:
    """Print what is known of an upload: its format, columns and first rows.

    tidemill uploads show upload_1jk9w3x2tq8m4c0z -n 3
    """
    with chosen(server) as backend:
        found = backend.uploads_show(_id(upload))
        seen = backend.uploads_preview(found.id, rows)
    if json:
        print_json({**found.model_dump(mode="json"), "preview": seen.model_dump(mode="json")})
        return
    counted = "" if seen.total_rows is None else f", {seen.total_rows:,} rows"
    people.print(f"[bold]{found.id}[/] {escape(found.name)}: {seen.format}, {bytes_text(found.size_bytes)}{counted}")
    people.print(f"  sha256 {found.sha256}, kept until {time_text(found.expires_at)}")
    people.print(
        f"  {escape(', '.join(f'{name} {kind}' for name, kind in zip(seen.columns, seen.types, strict=True)))}"
    )
    print_table(seen.columns, seen.rows)


@app.command()
def remove(upload: UploadId, server: Server = None, json: Json = False) -> None:
    """Delete an upload, whole or not. A job that still reads it fails.

    tidemill uploads remove upload_1jk9w3x2tq8m4c0z
    """
    with chosen(server) as backend:
        backend.uploads_remove(_id(upload))
    if json:
        print_json({"removed": _id(upload)})
    else:
        people.print(f"[bold]{escape(_id(upload))}[/] is removed")


def _id(text: str) -> str:
    """Of an input as well: it is what `uploads add` prints."""
    return text.removeprefix(UPLOAD)
