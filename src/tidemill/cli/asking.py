"""Asking a person whether a model may run the code that it carries."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from tidemill.cli.backend import AskTrust
from tidemill.cli.output import escape, people

Trust = Annotated[bool, typer.Option("--trust", help="Allow this model file to run the code that it carries.")]


def asker(trust: bool, as_json: bool) -> AskTrust:
    """Yes if the flag was given; else a question, where somebody can answer it."""

    def ask(model: Mapping[str, Any]) -> bool:
        if trust:
            return True
        if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return False
        people.print(f"[bold yellow]{escape(model['path'])}[/] is a {model['flavor']} model, sha256 {model['digest']}.")
        people.print(
            "Loading it runs code that is inside the file, with your rights. Only go on if you trust its author."
        )
        return typer.confirm("Trust this file from now on?", default=False, err=True)

    return ask
