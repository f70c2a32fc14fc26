"""`tidemill results ...`: look at what was published."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.bootstrap.wiring import opened
from tidemill.cli.output import people, print_json, print_table
from tidemill.service import outputs

app = typer.Typer(help="Look at published results.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def head(
    target: Annotated[str, typer.Argument(help="Output path, or job id.")],
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, max=10_000)] = 10,
    rejected: Annotated[bool, typer.Option("--rejected", help="The rejected rows instead.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the first rows of a result.

    tidemill results head scores/ -n 5
    """
    with opened() as context:
        answer = outputs.head(context, target, rows, rejected=rejected)
    if json:
        print_json(answer["rows"])
        return
    if not answer["rows"]:
        people.print("no rows")
        return
    names = list(answer["rows"][0])
    print_table(names, [[row[name] for name in names] for row in answer["rows"]])
