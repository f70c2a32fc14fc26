"""`tidemill compare`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.bootstrap.wiring import opened
from tidemill.cli.options import Json
from tidemill.cli.output import EXIT_DONE, EXIT_FAILED, people, print_json, print_table
from tidemill.service import outputs


def compare(
    left: Annotated[str, typer.Argument(help="Output path or job id.")],
    right: Annotated[str, typer.Argument(help="Another one, of the same rows.")],
    json: Json = False,
) -> None:
    """Compare two results row by row: how many values differ, and by how much. Exit 1 if any do.

    tidemill compare scores-old/ scores-new/
    """
    with opened() as context:
        answer = outputs.compare(context, left, right)
    same = answer["rows_left"] == answer["rows_right"] and not any(c["different"] for c in answer["columns"])
    same = same and not answer["only_left"] and not answer["only_right"]
    if json:
        print_json({**answer, "same": same})
    else:
        rows = [
            (c["name"], f"{c['different']:,}", c["max_difference"], c["mean_difference"]) for c in answer["columns"]
        ]
        numbers = ["different", "largest difference", "mean difference"]
        print_table(["column", *numbers], rows, right=numbers)
        people.print(
            f"{answer['rows_left']:,} and {answer['rows_right']:,} rows: {'the same' if same else 'not the same'}"
        )
        for side in ("left", "right"):
            if answer[f"only_{side}"]:
                people.print(f"only {side}: {', '.join(answer[f'only_{side}'])}", markup=False)
    raise typer.Exit(EXIT_DONE if same else EXIT_FAILED)
