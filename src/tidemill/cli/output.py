"""What commands print: for people, or JSON. Data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tidemill.domain.errors import Damaged, LeaseLost, Refused, Stopped, TidemillError
from tidemill.domain.showing import one_line, visible

if TYPE_CHECKING:
    from tidemill.cli.console import PlainConsole

EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_REJECTIONS, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


class _Later:
    """A console that is made when it is first used: importing rich takes a tenth of a start, and what is printed as
    JSON does without."""

    def __init__(self, options: Callable[[], Mapping[str, Any]]) -> None:
        self._options = options

    @cached_property
    def console(self) -> PlainConsole:
        made: PlainConsole = import_module(_CONSOLE).PlainConsole(highlight=False, soft_wrap=True, **self._options())
        return made

    def __getattr__(self, name: str) -> Any:
        return getattr(self.console, name)


_CONSOLE = "tidemill.cli.console"

PIPE_COLUMNS = 10_000
"""Width of a table that no terminal shows: nothing is folded."""

people = _Later(lambda: {"stderr": True})
data = _Later(lambda: {"width": None if sys.stdout.isatty() else PIPE_COLUMNS})


def escape(text: str) -> str:
    """Text that is shown as it is, also where it looks like markup."""
    return str(import_module("rich.markup").escape(text))


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")
    sys.stdout.flush()


def print_models(found: BaseModel | Sequence[BaseModel]) -> None:
    """What the service told, one thing or a list, as JSON on stdout."""
    if isinstance(found, BaseModel):
        print_json(found.model_dump(mode="json"))
    else:
        print_json([each.model_dump(mode="json") for each in found])


def print_line(text: str) -> None:
    """One line of data on stdout: as it is, unless a terminal shows it."""
    sys.stdout.write(f"{visible(text) if sys.stdout.isatty() else text}\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = ()) -> None:
    """A table of data on stdout; columns named in `right` are aligned there."""
    cells = [[cell_text(cell) for cell in row] for row in rows]
    made = import_module(_CONSOLE).table(
        [one_line(name) for name in columns], cells, [one_line(name) for name in right]
    )
    data.print(made, soft_wrap=False)


def cell_text(value: Any) -> str:
    """A value as people read it in a table; long text is cut."""
    if value is None:
        return "-"
    text = f"{value:.6g}" if isinstance(value, float) else one_line(str(value))
    return text if len(text) <= 60 else text[:59] + "…"


def print_error(error: TidemillError, *, as_json: bool = False) -> None:
    """An error for people on stderr: what, then what to do; or as JSON on stdout."""
    if as_json:
        print_json({"error": error.to_json()})
        return
    people.print(f"[bold red]error[/] {escape(error.message)}")
    if error.remedy:
        people.print(f"  [dim]→[/] {escape(error.remedy)}")


def print_rejections(rejections: Sequence[Mapping[str, Any]], most: int = 3) -> None:
    """A few rejected rows on stderr."""
    for row in rejections[:most]:
        people.print(
            f"  [yellow]{escape(row['file'])}[/], row {row['row']:,} ({row['stage']}): {escape(row['message'])}"
        )


def exit_code(error: TidemillError) -> int:
    """The exit code for an error."""
    if isinstance(error, Stopped):
        return EXIT_INTERRUPTED
    if isinstance(error, Refused):
        return EXIT_REFUSED
    if isinstance(error, Damaged | LeaseLost):
        return EXIT_FAILED
    return EXIT_FAILED


def bytes_text(size: float) -> str:
    """A size as people read it: "1.4 GB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def counted(number: int, noun: str) -> str:
    """A number of things: "1 file", "2,000 files"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def counts_text(counts: Mapping[str, int]) -> str:
    """The line that reconciles: "336,776 = 336,102 predicted + 674 rejected"."""
    return f"{counts['total']:,} = {counts['predicted']:,} predicted + {counts['rejected']:,} rejected"


def cost_text(cost: Mapping[str, Any]) -> str:
    """A price as people read it: "0.0125 EUR"."""
    return f"{cost['amount']:,.4f} {cost['currency']}"


def time_text(moment: datetime | None, *, none: str = "-") -> str:
    """A moment to the minute, in the zone of this machine."""
    return none if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M}"


def seconds_text(seconds: float) -> str:
    """A time as people read it: "3.2 s", "4 min 10 s", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
