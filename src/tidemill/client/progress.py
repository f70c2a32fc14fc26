"""How far things are, on a terminal or in a notebook."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from tidemill.wire.api import JobStatus


class Progress:
    """One line that changes. A context manager; `shown` None: only where somebody can see it."""

    def __init__(self, shown: bool | None = None) -> None:
        self._console = Console(stderr=not _in_notebook())
        self.shown = (self._console.is_terminal or self._console.is_jupyter) if shown is None else shown
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def status(self, status: JobStatus) -> None:
        """A job."""
        counts = status.counts
        done = counts.predicted + counts.rejected
        text = status.state.replace("_", " ")
        if status.queue is not None:
            text += f", place {status.queue.place:,}"
        elif counts.total:
            text += f": {done:,} of {counts.total:,} rows"
        if status.rows_per_second:
            text += f", {status.rows_per_second:,.0f} rows/s"
        self._show(text, done, counts.total or None)

    def sent(self, done: int, total: int | None) -> None:
        """A file on its way to the service."""
        self._show(f"sending: {done / 1e6:,.1f} MB", done, total)

    def _show(self, text: str, done: int, total: int | None) -> None:
        if not self.shown:
            return
        if self._bar is None or self._task is None:
            columns = (BarColumn(bar_width=20), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task(text, total=total)
            self._bar.start()
        self._bar.update(self._task, description=text, completed=done, total=total)


def _in_notebook() -> bool:
    # A kernel is there before anything of ours is imported; nothing is imported only to ask.
    return "ipykernel" in sys.modules
