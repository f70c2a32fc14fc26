"""`tidemill spec ...`: the words of a job spec."""

from __future__ import annotations

import typer

from tidemill.cli.output import print_json
from tidemill.wire.spec import JobSpec

app = typer.Typer(help="The job spec.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def schema() -> None:
    """Print the JSON Schema of a job spec, for editors and checks."""
    print_json(JobSpec.model_json_schema(by_alias=True))
