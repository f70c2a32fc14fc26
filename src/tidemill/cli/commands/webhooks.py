"""`tidemill webhooks ...`: who is told when something becomes of a job."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape

from tidemill.cli.backend import chosen
from tidemill.cli.options import Json, Server
from tidemill.cli.output import EXIT_FAILED, data, people, print_json, print_models, print_table, time_text
from tidemill.cli.requests import checked
from tidemill.cli.words import pair
from tidemill.wire.webhooks import AddWebhook, ChangeWebhook, DeliveryOut, NewWebhook, WebhookOut

app = typer.Typer(help="Webhooks: URLs that are told when a job ends, signed.", no_args_is_help=True)

WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="The webhook's id, such as whk_1jk9w3x2tq8m4c0z.")]
SHOWN = 5
"""So many deliveries are shown with their webhook."""


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="Where messages go, by POST.")],
    event: Annotated[
        list[str] | None,
        typer.Option("--event", "-e", help="What to tell, such as job.failed; repeat it. By default what ends a job."),
    ] = None,
    job_name: Annotated[str | None, typer.Option("--job-name", help="Only of jobs of this name.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Only of jobs with this label; repeat it.")
    ] = None,
    description: Annotated[str, typer.Option(help="For people.")] = "",
    server: Server = None,
    json: Json = False,
) -> None:
    """Have a URL told of jobs, and print the secret that its messages are signed with, this once.

    tidemill webhooks add https://ops.example.com/hooks/tidemill -e job.failed -e job.cancelled
    """
    words = {
        "url": url,
        "events": event or None,
        "job_name": job_name,
        "labels": dict(pair(text) for text in label or []),
        "description": description,
    }
    with chosen(server) as backend:
        made = backend.webhooks_add(checked(AddWebhook, words))
    _print_secret(made, json=json)
    if not json:
        people.print(f"  [dim]→[/] see whether it arrives: tidemill webhooks test {made.id}")


@app.command("list")
def list_webhooks(server: Server = None, json: Json = False) -> None:
    """List webhooks, oldest first.

    tidemill webhooks list
    """
    with chosen(server) as backend:
        found = backend.webhooks_list()
    if json:
        print_models(found)
        return
    if not found:
        people.print("no webhooks: nobody is told of jobs")
        return
    rows = [(hook.id, hook.url, " ".join(hook.events), _which(hook), _state(hook)) for hook in found]
    print_table(["webhook", "url", "events", "jobs", "state"], rows)


@app.command()
def show(webhook: WebhookId, server: Server = None, json: Json = False) -> None:
    """Print a webhook and its last deliveries.

    tidemill webhooks show whk_1jk9w3x2tq8m4c0z
    """
    with chosen(server) as backend:
        found = backend.webhooks_show(webhook)
        last = backend.webhooks_deliveries(webhook, limit=SHOWN)
    if json:
        print_json({**found.model_dump(mode="json"), "deliveries": [each.model_dump(mode="json") for each in last]})
        return
    people.print(f"[bold]{found.id}[/] {escape(found.url)}, {escape(_state(found))}")
    people.print(f"  told of {', '.join(found.events)} of {escape(_which(found))}")
    if found.description:
        people.print(f"  {escape(found.description)}")
    if found.previous_until is not None:
        people.print(f"  the secret before the last rotation signs, too, until {time_text(found.previous_until)}")
    _print_deliveries(last)


@app.command("test")
def ping(webhook: WebhookId, server: Server = None, json: Json = False) -> None:
    """Send a webhook.ping, once, and say what became of it.

    tidemill webhooks test whk_1jk9w3x2tq8m4c0z
    """
    with chosen(server) as backend:
        sent = backend.webhooks_test(webhook)
    if json:
        print_models(sent)
    elif sent.state == "delivered":
        people.print(f"[bold green]delivered[/] {sent.id}: the receiver answered {sent.status}")
    else:
        people.print(f"[bold red]not delivered[/] {sent.id}: {escape(sent.problem or sent.state)}")
    if sent.state != "delivered":
        sys.exit(EXIT_FAILED)


@app.command()
def rotate(
    webhook: WebhookId,
    overlap_hours: Annotated[float, typer.Option(min=0, max=168, help="How long the old secret signs, too.")] = 24,
    server: Server = None,
    json: Json = False,
) -> None:
    """Make a new secret and print it, this once.

    tidemill webhooks rotate whk_1jk9w3x2tq8m4c0z --overlap-hours 48
    """
    with chosen(server) as backend:
        made = backend.webhooks_rotate(webhook, overlap_hours * 3600)
    _print_secret(made, json=json)


@app.command()
def enable(webhook: WebhookId, server: Server = None, json: Json = False) -> None:
    """Send to a webhook again.

    tidemill webhooks enable whk_1jk9w3x2tq8m4c0z
    """
    _switch(webhook, server, json=json, enabled=True)


@app.command()
def disable(webhook: WebhookId, server: Server = None, json: Json = False) -> None:
    """Send nothing to a webhook any more; what waits is given up.

    tidemill webhooks disable whk_1jk9w3x2tq8m4c0z
    """
    _switch(webhook, server, json=json, enabled=False)


@app.command()
def remove(webhook: WebhookId, server: Server = None, json: Json = False) -> None:
    """Remove a webhook with its deliveries, also those that wait.

    tidemill webhooks remove whk_1jk9w3x2tq8m4c0z
    """
    with chosen(server) as backend:
        backend.webhooks_remove(webhook)
    if json:
        print_json({"removed": webhook})
    else:
        people.print(f"[bold]{escape(webhook)}[/] is removed")


@app.command()
def deliveries(
    webhook: WebhookId,
    job: Annotated[str | None, typer.Option(help="Only of this job; its whole id.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many at most.")] = 50,
    server: Server = None,
    json: Json = False,
) -> None:
    """List what a webhook was told and is still to be told, newest first.

    tidemill webhooks deliveries whk_1jk9w3x2tq8m4c0z
    """
    with chosen(server) as backend:
        found = backend.webhooks_deliveries(webhook, job=job, limit=limit)
    if json:
        print_models(found)
    else:
        _print_deliveries(found)


def _switch(webhook: str, server: str | None, *, json: bool, enabled: bool) -> None:
    with chosen(server) as backend:
        changed = backend.webhooks_change(webhook, ChangeWebhook(enabled=enabled))
    if json:
        print_models(changed)
    else:
        people.print(f"[bold]{changed.id}[/] is {escape(_state(changed))}")


def _print_secret(made: NewWebhook, *, json: bool) -> None:
    if json:
        print_models(made)
        return
    people.print(f"[bold]{made.id}[/] {escape(made.url)}, told of {', '.join(made.events)}. The secret:")
    data.print(made.secret, markup=False)
    people.print("  [dim]→[/] keep it now: nobody can show it again. The receiver checks signatures with it.")


def _print_deliveries(found: Sequence[DeliveryOut]) -> None:
    if not found:
        people.print("no deliveries")
        return
    rows = [
        (
            each.id,
            each.type,
            each.job_id,
            time_text(each.at),
            each.state,
            each.attempts,
            time_text(each.next_at),
            each.problem,
        )
        for each in found
    ]
    columns = ["delivery", "type", "job", "happened", "state", "attempts", "next", "problem"]
    print_table(columns, rows, right=["attempts"])


def _which(hook: WebhookOut) -> str:
    named = [] if hook.job_name is None else [f"name {hook.job_name}"]
    named += [f"{key}={value}" for key, value in hook.labels.items()]
    return f"jobs with {', '.join(named)}" if named else "all jobs"


def _state(hook: WebhookOut) -> str:
    if hook.enabled:
        return "enabled"
    return f"disabled: {hook.disabled_reason}" if hook.disabled_reason else "disabled"
