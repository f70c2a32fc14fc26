"""The command `tidemill`: parses, calls one use case, prints."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version

import typer

from tidemill.cli.commands import compare, demo, doctor, jobs, results, run, spec, verify
from tidemill.cli.output import EXIT_FAILED, EXIT_INTERRUPTED, exit_code, people, print_error
from tidemill.domain.errors import TidemillError

app = typer.Typer(
    name="tidemill",
    help="Score big data sets with trained models: complete, resumable, honest about what failed.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: dict[str, Callable[..., None]] = {
    "run": run.run,
    "resume": run.resume,
    "compare": compare.compare,
    "verify": verify.verify,
    "demo": demo.demo,
    "doctor": doctor.doctor,
}
GROUPS = {"jobs": jobs.app, "results": results.app, "spec": spec.app}

for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tidemill {version('tidemill')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print it."),
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
