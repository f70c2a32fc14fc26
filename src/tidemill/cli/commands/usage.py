"""`tidemill usage`: what jobs used and what that costs, by model or by key."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer

from tidemill.cli.backend import chosen
from tidemill.cli.options import Json, Server
from tidemill.cli.output import bytes_text, people, print_models, print_table
from tidemill.domain.errors import InvalidSpec
from tidemill.wire.api import UsageSum

NUMBERS = ("jobs", "predicted", "rejected", "CPU seconds", "peak memory", "in", "out", "cost")


class By(StrEnum):
    """What jobs can have in common."""

    MODEL = "model"
    KEY = "key"


def usage(
    by: Annotated[By, typer.Option(help="What to sum by.")] = By.MODEL,
    since: Annotated[
        str | None,
        typer.Option(help="Only jobs submitted then or later: a day, or a time; of this machine without an offset."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many, most CPU time first.")] = 100,
    server: Server = None,
    json: Json = False,
) -> None:
    """Show what jobs used, summed by model or by key, and what it costs by the rate card of the settings.

    tidemill usage --by key --since 2026-11-01
    """
    with chosen(server) as backend:
        found = backend.usage(by.value, since=None if since is None else moment_of(since), limit=limit)
    if json:
        print_models(found)
        return
    if not found.items:
        people.print("no jobs yet" if since is None else "no such jobs")
        return
    print_table((by.value, *NUMBERS), [_row(each) for each in found.items], right=NUMBERS)
    if found.truncated:
        people.print(f"[dim]only the first {limit:,}[/]")


def moment_of(text: str) -> datetime:
    """A day or a time as people write it; without an offset it is one of this machine."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as exc:
        raise InvalidSpec(f"{text!r} is no time.", remedy="Write 2026-11-01, or 2026-11-01T06:00:00+01:00.") from exc


def _row(each: UsageSum) -> tuple[str, ...]:
    used = each.usage
    return (
        each.of or "-",
        f"{each.jobs:,}",
        f"{each.predicted:,}",
        f"{each.rejected:,}",
        f"{used.cpu_seconds:,.1f}",
        bytes_text(used.peak_memory_bytes),
        bytes_text(used.input_bytes),
        bytes_text(used.output_bytes),
        "-" if used.cost is None else f"{used.cost.amount:,.4f} {used.cost.currency}",
    )
