"""`tidemill verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.bootstrap.wiring import opened
from tidemill.cli.options import Json
from tidemill.cli.output import bytes_text, counted, counts_text, people, print_json
from tidemill.service import outputs


def verify(
    output: Annotated[str, typer.Argument(help="Folder or file that Tidemill published.")],
    json: Json = False,
) -> None:
    """Check a result against its manifest: every file there, with its size, rows and checksum.

    tidemill verify scores/
    """
    with opened() as context:
        answer = outputs.verify(context, output)
    if json:
        print_json({key: answer[key] for key in ("files", "bytes", "counts", "problems")})
        return
    size, counts = bytes_text(answer["bytes"]), counts_text(answer["counts"])
    people.print(f"[bold green]whole[/] {counted(answer['files'], 'file')}, {size}: {counts}")
