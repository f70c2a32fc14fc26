"""How people are shown something, by rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Column, Table

from tidemill.domain.showing import visible


class PlainConsole(Console):
    """A console that shows what others called their things, and lets it steer nothing."""

    def print(self, *objects: Any, **words: Any) -> None:
        super().print(*(visible(each) if isinstance(each, str) else each for each in objects), **words)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> Table:
    """A table without lines, of text as it is; columns named in `right` are aligned there."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        made.add_column(escape(name), justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(escape, row))
    return made


def bar(console: Console, columns: int) -> Progress:
    """A bar of so many columns, its share and a line of text that is cut where the terminal ends."""
    most = max(20, console.width - columns - 8)
    return Progress(
        BarColumn(bar_width=columns),
        TaskProgressColumn(),
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", max_width=most)),
        console=console,
        transient=True,
    )
