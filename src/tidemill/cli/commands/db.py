"""`tidemill db ...`: the store itself. Always the one that the settings of this machine name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from tidemill.bootstrap.wiring import opened_store
from tidemill.cli.options import Json
from tidemill.cli.output import bytes_text, data, people, print_json

app = typer.Typer(help="The job store of this machine: check, upgrade, back up.", no_args_is_help=True)


@app.command()
def check(json: Json = False) -> None:
    """Say which store this is, whether it answers, is sound, and has the schema that this version knows.

    tidemill db check
    """
    with opened_store(upgrade=False) as store:
        facts = store.check()
    if json:
        print_json(facts)
        return
    _print_facts(facts)
    people.print("[bold green]ok[/] the store answers and is sound")


@app.command()
def upgrade(json: Json = False) -> None:
    """Bring the store to the schema that this version knows. Older workers go on with it.

    tidemill db upgrade
    """
    with opened_store(upgrade=True) as store:
        facts = store.check()
    if json:
        print_json(facts)
        return
    people.print(f"{escape(str(facts['url']))} has schema {facts['schema']}, the newest")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="A new file.")],
    json: Json = False,
) -> None:
    """Copy the store to a new file while others work with it. Registered models and results are files of
    their own: copy their folders as well (`tidemill doctor` names them).

    tidemill db backup tidemill-2026-11-22.db
    """
    target = os.path.abspath(file)
    with opened_store(upgrade=False) as store:
        store.back_up(target)
    size = os.path.getsize(target)
    if json:
        print_json({"file": target, "bytes": size})
    else:
        people.print(f"[bold]backed up[/] to {escape(target)} ({bytes_text(size)})")


def _print_facts(facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        data.print(f"[bold]{escape(name.replace('_', ' ')):15}[/]{escape(str(value))}")
