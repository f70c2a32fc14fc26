"""`tidemill sessions ...`: people who are logged in."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from tidemill.cli.backend import chosen
from tidemill.cli.options import Json, Server
from tidemill.cli.output import people, print_models, print_table, time_text

app = typer.Typer(help="People who are logged in at the service's login provider.", no_args_is_help=True)


@app.command("list")
def list_sessions(server: Server = None, json: Json = False) -> None:
    """List logins that are not over, newest first, with the role that the rules of now give.

    tidemill sessions list
    """
    with chosen(server) as backend:
        found = backend.sessions_list()
    if json:
        print_models(found)
        return
    if not found:
        people.print("nobody is logged in")
        return
    rows = [
        (
            each.id,
            each.name,
            each.role or "-",
            each.tenant or "-",
            time_text(each.created_at),
            time_text(each.expires_at),
        )
        for each in found
    ]
    print_table(["session", "name", "role", "tenant", "since", "until"], rows)


@app.command()
def end(
    session: Annotated[str, typer.Argument(help="The session's id, such as session_1jk9w3x2tq8m4c0z.")],
    server: Server = None,
    json: Json = False,
) -> None:
    """End a login. Whoever it was has to log in again, if a rule still lets them; their jobs go on.

    tidemill sessions end session_1jk9w3x2tq8m4c0z
    """
    with chosen(server) as backend:
        ended = backend.sessions_end(session)
    if json:
        print_models(ended)
    else:
        people.print(f"[bold]{escape(ended.id)}[/] of {escape(ended.name)} opens nothing any more")
