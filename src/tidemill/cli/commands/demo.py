"""`tidemill demo`: a real result in seconds, right after the installation."""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from tidemill.bootstrap.wiring import opened
from tidemill.cli.output import people
from tidemill.cli.progress import ProgressView
from tidemill.cli.summary import ending_of, print_ending
from tidemill.service import jobs
from tidemill.wire.spec import InputSpec, JobSpec, OutputSpec


def demo(
    folder: Annotated[Path, typer.Argument(help="Where to put the demo.")] = Path("tidemill-demo"),
) -> None:
    """Score a small real data set with a real model, and see what to try next.

    The data are flights that left New York in 2013; the model guesses how late they arrive.
    """
    with as_file(files("tidemill.cli") / "demo_data") as source:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("flights.parquet", "model.txt"):
            shutil.copyfile(source / name, folder / name)
    model, data, output = folder / "model.txt", folder / "flights.parquet", folder / "scores"
    people.print(f"[bold]$ tidemill run {escape(str(model))} {escape(str(data))} -o {escape(str(output))}[/]")
    spec = JobSpec(model=str(model), input=InputSpec(path=[str(data)]), output=OutputSpec(path=str(output)))
    with opened() as context:
        with ProgressView() as view:
            outcome = jobs.run(context, spec, [view])
        code = print_ending(ending_of(context, outcome), as_json=False, allow_rejected=True)
    people.print("[dim]try next:[/]")
    people.print(f"  tidemill results head {escape(str(output))} -n 3")
    people.print(f"  tidemill verify {escape(str(output))}")
    people.print(f"  tidemill run {escape(str(model))} {escape(str(data))}        (a preview: no -o)")
    raise typer.Exit(code)
