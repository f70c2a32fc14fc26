"""`tidemill audit`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.backend import chosen
from tidemill.cli.options import Json, Server
from tidemill.cli.output import people, print_models, print_table


def audit(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="So many of the newest.")] = 50,
    server: Server = None,
    json: Json = False,
) -> None:
    """Show who did what: keys, models, trust, deleted results; newest first.

    tidemill audit -n 20
    """
    with chosen(server) as backend:
        found = backend.audit_list(limit=limit)
    if json:
        print_models(found)
        return
    if not found:
        people.print("nothing yet")
        return
    rows = [
        (
            entry.at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            entry.actor,
            entry.action,
            entry.subject,
            ", ".join(f"{name} {value}" for name, value in entry.detail.items()),
        )
        for entry in found
    ]
    print_table(["at", "who", "did", "to", "more"], rows)
