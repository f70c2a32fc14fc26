"""The command `tidemill`: parses, calls one use case, prints."""

from __future__ import annotations

import gc
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from tidemill.cli.lazy import LazyGroup
from tidemill.cli.output import EXIT_FAILED, EXIT_INTERRUPTED, exit_code, people, print_error
from tidemill.domain.errors import TidemillError

_FOLDER = "tidemill.cli.commands"

COMMANDS = {
    "run": f"{_FOLDER}.run:run",
    "resume": f"{_FOLDER}.run:resume",
    "submit": f"{_FOLDER}.submit:submit",
    "jobs": f"{_FOLDER}.jobs:app",
    "results": f"{_FOLDER}.results:app",
    "schedules": f"{_FOLDER}.schedules:app",
    "series": f"{_FOLDER}.series:app",
    "usage": f"{_FOLDER}.usage:usage",
    "uploads": f"{_FOLDER}.uploads:app",
    "models": f"{_FOLDER}.models:app",
    "compare": f"{_FOLDER}.compare:compare",
    "verify": f"{_FOLDER}.verify:verify",
    "demo": f"{_FOLDER}.demo:demo",
    "serve": f"{_FOLDER}.serve:serve",
    "worker": f"{_FOLDER}.worker:worker",
    "keys": f"{_FOLDER}.keys:app",
    "webhooks": f"{_FOLDER}.webhooks:app",
    "sessions": f"{_FOLDER}.sessions:app",
    "audit": f"{_FOLDER}.audit:audit",
    "db": f"{_FOLDER}.db:app",
    "doctor": f"{_FOLDER}.doctor:doctor",
    "spec": f"{_FOLDER}.spec:app",
}
"""Where each command or group of commands is; a module is imported when its command is asked for."""


class Commands(LazyGroup):
    """All of them."""

    table = COMMANDS


app = typer.Typer(
    name="tidemill",
    cls=Commands,
    help="Score big data sets with trained models: complete, resumable, honest about what failed.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tidemill {version('tidemill')}")
        raise typer.Exit


@app.callback()
def _root(
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Service that commands talk to; the same after a command.")
    ] = None,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; ends the process with the documented exit codes."""
    as_json = "--json" in sys.argv
    try:
        app(standalone_mode=True)
    except TidemillError as exc:
        print_error(exc, as_json=as_json)
        sys.exit(exit_code(exc))
    except KeyboardInterrupt:
        people.print("[bold]stopped[/]")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(EXIT_FAILED)
    finally:
        gc.freeze()  # It all goes with the process: nobody need look through it once more.
