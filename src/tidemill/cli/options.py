"""Options that many commands take."""

from __future__ import annotations

from typing import Annotated, cast

import typer


def _or_of_root(ctx: typer.Context, value: str | None) -> str | None:
    """`tidemill --server URL jobs list` is `tidemill jobs list --server URL`."""
    return value if value is not None else cast("str | None", ctx.find_root().params.get("server"))


Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="Service to talk to instead of working here; by default TIDEMILL_SERVER. 'local' is this machine.",
        callback=_or_of_root,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
