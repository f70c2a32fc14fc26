"""How a run looks while it runs: a live bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING

from tidemill.cli.output import bytes_text, escape, people, seconds_text
from tidemill.domain.job import Job
from tidemill.domain.receipt import Receipt
from tidemill.domain.showing import visible
from tidemill.ports.observer import JobProgress, Observer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from tidemill.wire.api import JobStatus, QueuePlace

LINE_SECONDS = 5.0
RATE_SECONDS = 10.0
BAR_COLUMNS = 16
MOVING = ("sending", "fetching")


class ProgressView(Observer):
    """Shows one job on stderr. A context manager: leaves the terminal as it was."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._told = time.monotonic()
        self._marks: list[tuple[float, int]] = []
        self._stage = ""
        self._unnamed = False
        """A job that is refused while it is planned needs no name."""
        self._job_id: str | None = None

    def __enter__(self) -> ProgressView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_bar()

    def job_started(self, job: Job, resumed_chunks: int) -> None:
        """The worker's own hook: `job` runs in this process."""
        self._job_id = job.id
        if self.quiet:
            return
        if resumed_chunks:
            people.print(
                f"[bold]going on[/] with {job.id}: {resumed_chunks:,} of {job.chunks_total:,} chunks"
                f" ({job.counts.predicted + job.counts.rejected:,} rows) are already done"
            )
        else:
            self._unnamed = True

    def job_progress(self, job: Job, progress: JobProgress) -> None:
        self._show(job.id, progress)

    def stopped(self) -> None:
        """The command ends at once, by a second Ctrl-C: say how to go on with the job that it leaves."""
        self._stop_bar()
        if self._job_id is not None:
            people.print("what was committed is kept; nothing is published")
            people.print(f"  go on: the same command, or [bold]tidemill resume {self._job_id}[/]")
            people.print(f"  drop it: [bold]tidemill jobs cancel {self._job_id}[/]")

    def submitted(self, job_id: str) -> None:
        """A service holds the job from now on."""
        self._stop_bar()
        if not self.quiet:
            people.print(f"[dim]{job_id}[/]")

    def status(self, status: JobStatus) -> None:
        """A job that runs elsewhere, as its service tells of it."""
        progress = progress_of(status)
        if progress is None:
            self._stop_bar()
        else:
            self._show(status.id, progress)

    def sent(self, done: int, total: int | None) -> None:
        """Input on its way to the service."""
        self._moved("sending", done, total)

    def fetched(self, done: int, total: int | None) -> None:
        """The result on its way from the service."""
        self._moved("fetching", done, total)

    def _moved(self, what: str, done: int, total: int | None) -> None:
        if self.quiet or not people.is_terminal:
            return
        if self._bar is None or self._stage != what:
            self._stop_bar()
            self._stage = what
            self._start_bar(what)
        assert self._bar is not None and self._task is not None
        text = f"{what}: {bytes_text(done)}" + (f" of {bytes_text(total)}" if total else "")
        self._bar.update(self._task, description=text, total=total, completed=done)

    def _show(self, job_id: str, progress: JobProgress) -> None:
        if self.quiet:
            return
        if self._unnamed and progress.stage != "planning":
            self._unnamed = False
            people.print(f"[dim]{job_id}[/]")
        text = self._text(progress)
        if people.is_terminal:
            self._show_bar(progress, text)
        elif progress.stage != self._stage or time.monotonic() - self._told >= LINE_SECONDS:
            self._told = time.monotonic()
            if progress.stage not in ("committing", "assembling"):
                people.print(text)
        self._stage = progress.stage

    def chunk_committed(self, job: Job, receipt: Receipt) -> None:
        """Nothing: rows are what people count."""

    def job_ended(self, job: Job) -> None:
        self._stop_bar()

    def _show_bar(self, progress: JobProgress, text: str) -> None:
        if self._bar is None or self._stage in MOVING:
            self._stop_bar()
            self._start_bar(text)
        assert self._bar is not None and self._task is not None
        self._bar.update(self._task, description=visible(text))
        if progress.stage == "running":
            self._bar.update(self._task, total=progress.total, completed=progress.predicted + progress.rejected)

    def _start_bar(self, text: str) -> None:
        self._bar = import_module("tidemill.cli.console").bar(people.console, BAR_COLUMNS)
        self._task = self._bar.add_task(visible(text), total=None)
        self._bar.start()

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _text(self, progress: JobProgress) -> str:
        if progress.stage == "planning":
            return f"planning: {progress.files:,} files" if progress.files else "planning"
        if progress.stage == "queued":
            return f"queued: {escape(progress.note)}" if progress.note else "queued"
        if progress.stage != "running":
            return progress.stage
        done = progress.predicted + progress.rejected
        rate = self._rate(done)
        words = [f"{done:,} of {progress.total:,} rows"]
        if not people.is_terminal:
            words[0] = f"running: {words[0]}"
        if progress.rejected:
            words.append(f"[yellow]{progress.rejected:,} rejected[/]")
        if rate:
            words.append(f"{rate:,.0f} rows/s")
            words.append(f"{seconds_text((progress.total - done) / rate)} left")
        if bound := self._bound(progress.busy_seconds):
            words.append(f"[dim]bound by {bound}[/]")
        if progress.note:
            words.append(f"[yellow]{escape(progress.note)}[/]")
        return ", ".join(words)

    def _rate(self, done: int) -> float:
        now = time.monotonic()
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[0][0] > RATE_SECONDS:
            self._marks.pop(0)
        (then, before), (now, after) = self._marks[0], self._marks[-1]
        return (after - before) / (now - then) if now - then > 0.3 and after > before else 0.0

    def _bound(self, busy: Mapping[str, float]) -> str:
        names = {"read": "reading", "model": "model", "write": "writing"}
        stage = max(names, key=lambda name: busy.get(name, 0.0))
        return names[stage] if busy.get(stage, 0.0) > 0 else ""


def progress_of(status: JobStatus) -> JobProgress | None:
    """What a service tells of a job, as one that runs here would; None once nothing moves."""
    if status.state not in ("queued", "planning", "running", "committing"):
        return None
    usage = status.usage
    return JobProgress(
        stage=status.state,
        total=status.counts.total,
        predicted=status.counts.predicted,
        rejected=status.counts.rejected,
        busy_seconds={"read": usage.read_seconds, "model": usage.model_seconds, "write": usage.write_seconds},
        note=waiting_text(status.queue) if status.queue else None,
    )


def waiting_text(queue: QueuePlace) -> str:
    """Why a job waits, for people."""
    return f"place {queue.place:,}: {queue.detail}"
