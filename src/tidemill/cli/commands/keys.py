"""`tidemill keys ...`: who may use the service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.markup import escape

from tidemill.cli.backend import chosen
from tidemill.cli.options import Json, Server
from tidemill.cli.output import data, people, print_models, print_table, time_text
from tidemill.cli.requests import checked
from tidemill.domain.access import Role
from tidemill.wire.api import AddKey, KeyOut

app = typer.Typer(help="API keys of the service: made, shown once, revoked.", no_args_is_help=True)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="For people and for the audit log.")],
    role: Annotated[
        Role, typer.Option(help="viewer reads, operator runs jobs and adds models, admin does all.")
    ] = Role.OPERATOR,
    tenant: Annotated[
        str | None, typer.Option(help="Whose jobs and models it sees; by default those of whoever makes it.")
    ] = None,
    owner: Annotated[str, typer.Option(help="The person or team that answers for it.")] = "",
    max_running: Annotated[int | None, typer.Option(min=1, help="How many of its jobs may run at once.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Instead of the service's limit.")] = None,
    days: Annotated[float | None, typer.Option(min=0.001, max=36_500, help="It expires after so long.")] = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Make a key and print it, this once. From the first key on nobody gets in without one.

    tidemill keys add nightly --role operator --owner growth --days 90
    """
    words = {
        "name": name,
        "role": role.value,
        "tenant": tenant,
        "owner": owner,
        "max_running": max_running,
        "requests_per_minute": requests_per_minute,
        "expires_at": None if days is None else datetime.now(UTC) + timedelta(days=days),
    }
    with chosen(server) as backend:
        made = backend.keys_add(checked(AddKey, words))
    if json:
        print_models(made)
        return
    people.print(f"[bold]{escape(made.id)}[/] {escape(made.name)}, {made.role} of {escape(made.tenant)}. The key:")
    data.print(made.key, markup=False)
    people.print("  [dim]→[/] keep it now: nobody can show it again. Commands take it from TIDEMILL_API_KEY.")


@app.command("list")
def list_keys(server: Server = None, json: Json = False) -> None:
    """List keys, revoked and expired ones too, oldest first.

    tidemill keys list
    """
    with chosen(server) as backend:
        found = backend.keys_list()
    if json:
        print_models(found)
        return
    if not found:
        people.print("no keys: whoever reaches the service over loopback may do everything")
        return
    now = datetime.now(UTC)
    rows = [
        (key.id, key.name, key.role, key.tenant, key.owner or "-", time_text(key.created_at),
         time_text(key.last_used_at), _state(key, now))
        for key in found
    ]  # fmt: skip
    print_table(["key", "name", "role", "tenant", "owner", "made", "last used", "state"], rows)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key's id, such as key_1jk9w3x2tq8m4c0z.")],
    server: Server = None,
    json: Json = False,
) -> None:
    """Close a key for ever. Jobs that it submitted go on.

    tidemill keys revoke key_1jk9w3x2tq8m4c0z
    """
    with chosen(server) as backend:
        closed = backend.keys_revoke(key)
    if json:
        print_models(closed)
    else:
        people.print(f"[bold]{escape(closed.id)}[/] {escape(closed.name)} opens nothing any more")


def _state(key: KeyOut, now: datetime) -> str:
    if key.revoked_at is not None:
        return f"revoked {time_text(key.revoked_at)}"
    if key.expires_at is None:
        return "valid"
    return f"{'valid until' if now < key.expires_at else 'expired'} {time_text(key.expires_at)}"
