"""The log of a job: what its workers did and what its scorers printed, in one bounded file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tidemill.domain.access import Principal
from tidemill.domain.job import FINISHED, Job, JobState
from tidemill.domain.receipt import Receipt
from tidemill.domain.showing import redacted, visible
from tidemill.durable.files import remove_file
from tidemill.ports.observer import JobProgress, Observer
from tidemill.service import control
from tidemill.service.context import Context
from tidemill.wire.api import LogLines

MOST_BYTES = 1 << 20
"""A log that has grown beyond is cut to its last half."""
LINE_BYTES = 4_000
PROGRESS_SECONDS = 5.0
REJECTIONS = 20
"""So many examples of rejected rows are logged by each worker that runs the job."""
PRINTED_LINES = 40
MOST_LINES = 10_000
PIECE_BYTES = 1 << 16


def path_of(context: Context, job_id: str) -> Path:
    """Where a job's log is, if it has one."""
    return context.places.logs / f"{job_id}.log"


def tail(context: Context, who: Principal, job_id: str, lines: int = 200) -> LogLines:
    """The last lines of a job's log, oldest first. Raises NotFound."""
    job = control.get(context, who, job_id)
    wanted = max(0, min(lines, MOST_LINES))
    found, more = _last_lines(path_of(context, job.id), wanted)
    return LogLines(lines=found, truncated=more)


def _last_lines(path: Path, wanted: int) -> tuple[list[str], bool]:
    """(The last lines, whether there are earlier ones), read from the end."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return [], False
    with file:
        start, data = file.seek(0, os.SEEK_END), b""
        while start > 0 and data.count(b"\n") <= wanted:
            step = min(PIECE_BYTES, start)
            start -= step
            file.seek(start)
            data = file.read(step) + data
    lines = data.decode(errors="replace").splitlines()
    if start > 0:
        lines = lines[1:]
    kept = lines[len(lines) - min(wanted, len(lines)) :]
    return kept, start > 0 or len(kept) < len(lines)


class JobLog(Observer):
    """Writes one job's log, for one claim of it. A log that cannot be written stops nothing: the worker
    reports what an observer raises and goes on."""

    def __init__(self, folder: Path, job_id: str, worker_id: str, *, clock: Callable[[], float] = time.monotonic):
        self.path = folder / f"{job_id}.log"
        self.worker_id = worker_id
        self._clock = clock
        self._told_at = clock()
        self._told_rows = -1
        self._stage = ""
        self._examples = 0

    def say(self, text: str) -> None:
        """Append a line, or several: those after the first are indented."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        lines = visible(redacted(text)).split("\n")
        body = "\n  ".join(line.encode(errors="replace")[:LINE_BYTES].decode(errors="replace") for line in lines)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(f"{now} {body}\n".encode(errors="replace"))
            size = file.tell()
        if size > MOST_BYTES:
            self._cut()

    def _cut(self) -> None:
        """Keep the last half. Another worker that has lost the job may write meanwhile: a line of its may go."""
        with self.path.open("rb") as file:
            file.seek(-MOST_BYTES // 2, os.SEEK_END)
            file.readline()
            rest = file.read()
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        scratch.write_bytes(b"(earlier lines were cut)\n" + rest)
        os.replace(scratch, self.path)

    def job_started(self, job: Job, resumed_chunks: int) -> None:
        text = f"taken by {self.worker_id} (epoch {job.epoch})"
        if resumed_chunks:
            done = job.counts.predicted + job.counts.rejected
            text += f": {resumed_chunks:,} of {job.chunks_total:,} chunks ({done:,} rows) are done"
        self.say(text)

    def job_planned(self, job: Job) -> None:
        plan = job.plan or {}
        self.say(f"planned: {job.counts.total:,} rows in {job.chunks_total:,} chunks of {plan.get('files', 0):,} files")
        for warning in plan.get("warnings", ()):
            self.say(f"warning: {warning}")

    def job_progress(self, job: Job, progress: JobProgress) -> None:
        now, rows = self._clock(), progress.predicted + progress.rejected
        if progress.stage != self._stage:
            self._stage, self._told_at, self._told_rows = progress.stage, now, rows
            self.say(progress.stage)
        elif now - self._told_at >= PROGRESS_SECONDS and rows != self._told_rows:
            rate = (rows - self._told_rows) / (now - self._told_at)
            text = f"{rows:,} of {progress.total:,} rows, {progress.rejected:,} rejected, {rate:,.0f} rows/s"
            self._told_at, self._told_rows = now, rows
            self.say(f"{text}; {progress.note}" if progress.note else text)

    def chunk_committed(self, job: Job, receipt: Receipt) -> None:
        for row in receipt.rejections[: REJECTIONS - self._examples]:
            self._examples += 1
            self.say(f"rejected: {row.file}, row {row.row:,} ({row.stage}): {row.error}: {row.message}")
            if self._examples == REJECTIONS:
                self.say("rejected: further ones are not logged; the rejected output holds them all")

    def scorer_lost(self, job: Job, cause: str, log: str) -> None:
        printed = log.strip().splitlines()[-PRINTED_LINES:]
        self.say("\n".join([f"a scorer was lost: {cause}", *printed]))

    def job_ended(self, job: Job) -> None:
        if job.state is JobState.FAILED and job.error is not None:
            self.say(f"failed ({job.error.get('code')}): {job.error.get('message')}")
            if job.error.get("remedy"):
                self.say(f"to do: {job.error['remedy']}")
        elif job.state in FINISHED:
            counts = job.counts
            self.say(
                f"published: {counts.total:,} rows = {counts.predicted:,} predicted + {counts.rejected:,} rejected,"
                f" at {job.output}"
            )
        elif job.state is JobState.QUEUED:
            self.say("handed over: this worker ends, another one goes on")
        else:
            self.say(f"left {job.state.value}")


def remove(context: Context, job_id: str) -> None:
    """Remove a job's log; it may be gone already."""
    remove_file(path_of(context, job_id))
