"""A job of a service, as a handle."""

from __future__ import annotations

import html
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tidemill.client import downloads
from tidemill.client.connection import Call, Connection, once
from tidemill.client.downloads import Fetched
from tidemill.client.events import LOST_TRIES, QUIET_SECONDS, EventStream
from tidemill.client.progress import Progress
from tidemill.client.uploads import Moved
from tidemill.domain.errors import (
    InvalidSpec,
    JobFailed,
    MissingExtra,
    ServiceUnreachable,
    StillRunning,
    Stopped,
    TidemillError,
    from_json,
)
from tidemill.domain.job import FINISHED, JobState
from tidemill.wire.api import (
    RESULT_SUFFIXES,
    CloneRequest,
    JobEventOut,
    JobProgressOut,
    JobStatus,
    LogLines,
    ResultFormat,
    ResultInfo,
    Rows,
)

MOVING = frozenset({JobState.QUEUED, JobState.PLANNING, JobState.RUNNING, JobState.COMMITTING})
"""States that change by themselves."""

MAX_HEAD_ROWS = 1_000
QUEUED_SECONDS = 3.0
"""How often to look at the place of a queued job, of which the event stream does not tell."""

Tell = Callable[[JobStatus], None]


class Job:
    """One job. `status` asks the service; `last` is what it said last."""

    def __init__(self, connection: Connection, status: JobStatus) -> None:
        self._connection = connection
        self.last = status

    @property
    def id(self) -> str:
        return self.last.id

    @property
    def status(self) -> JobStatus:
        """How it stands now."""
        self.last = self._connection.ask(JobStatus, Call(method="GET", path=self._path()))
        return self.last

    @property
    def state(self) -> JobState:
        """Its state now."""
        return JobState(self.status.state)

    def wait(self, timeout: float | None = None, *, progress: bool | None = None, tell: Tell | None = None) -> Job:
        """Until the job finished; returns itself. Seconds; None waits for ever.

        Shows how far it is on a terminal and in a notebook, unless `progress` says otherwise. Raises the
        job's own error if it failed, Stopped if it was cancelled or paused, StillRunning after the timeout.
        """
        with Progress(progress) as shown:
            status = self.wait_until_still(timeout, tell=lambda now: _both(now, shown.status, tell))
        self._check_finished(status)
        return self

    def wait_until_still(self, timeout: float | None = None, *, tell: Tell | None = None) -> JobStatus:
        """Until it ended or was paused, however it ended. Raises StillRunning after the timeout."""
        end = None if timeout is None else time.monotonic() + timeout
        for status in self._changes(end):
            if tell:
                tell(status)
            if JobState(status.state) not in MOVING:
                return status
            if end is not None and time.monotonic() >= end:
                break
        raise StillRunning(
            f"{self.id} is {self.last.state.replace('_', ' ')} after {timeout:g} seconds of waiting.",
            remedy="It goes on by itself: wait again, or look at its status.",
        )

    def _changes(self, end: float | None) -> Iterator[JobStatus]:
        """How it stands, again and again, until nothing moves any more or the time is over."""
        stream, lost = EventStream(self._connection, self.id), 0
        while True:
            try:
                yield self.status
                for told in self._news(stream, end):
                    lost = 0
                    yield told
            except ServiceUnreachable:
                lost += 1
                if lost >= LOST_TRIES:
                    raise
                self._connection.pause(lost)
            if end is not None and time.monotonic() >= end:
                return

    def _news(self, stream: EventStream, end: float | None) -> Iterator[JobStatus]:
        """What one connection tells. It ends when the whole status is worth a look again."""
        quiet = QUEUED_SECONDS if self.last.queue is not None else QUIET_SECONDS
        if end is not None:
            quiet = max(0.01, min(quiet, end - time.monotonic()))
        for told in stream.listen(quiet):
            if JobState(told.state) not in MOVING or (end is not None and time.monotonic() >= end):
                return
            if isinstance(told, JobProgressOut):
                self.last = self.last.model_copy(update={**dict(told), "queue": None})
                yield self.last

    def _check_finished(self, status: JobStatus) -> None:
        state = JobState(status.state)
        if state in FINISHED:
            return
        if state is JobState.FAILED:
            error = status.error
            raise from_json(error.model_dump()) if error else JobFailed(f"{self.id} failed.")
        if state is JobState.PAUSED:
            raise Stopped(f"{self.id} is paused.", remedy="Go on with it by resume().")
        raise Stopped(f"{self.id} was cancelled.", remedy="Submit it again, or clone() it.")

    def cancel(self) -> JobStatus:
        """End it and remove all that it left; a result that is published stays."""
        return self._verb("cancel")

    def pause(self) -> JobStatus:
        """Stop after what is in flight and keep what is done."""
        return self._verb("pause")

    def resume(self) -> JobStatus:
        """Go on with it when it was paused or failed."""
        return self._verb("resume")

    def _verb(self, verb: str) -> JobStatus:
        self.last = self._connection.ask(JobStatus, Call(method="POST", path=self._path(verb)))
        return self.last

    def retry(self) -> Job:
        """A new job over the rows that this one rejected."""
        return self._new("retry")

    def clone(self, **changes: Any) -> Job:
        """A new job by the same words but for these; None removes a word: `job.clone(model="churn@7")`."""
        return self._new("clone", CloneRequest(changes=changes))

    def _new(self, verb: str, body: CloneRequest | None = None) -> Job:
        call = Call(method="POST", path=self._path(verb), body=body, headers=once())
        return Job(self._connection, self._connection.ask(JobStatus, call))

    def logs(self, lines: int = 200) -> LogLines:
        """What its children printed and its worker logged: the newest lines, oldest first."""
        return self._connection.ask(LogLines, Call(method="GET", path=self._path("logs"), query={"lines": lines}))

    def events(self, *, after: int | None = None) -> Iterator[JobEventOut]:
        """Its changes of state from the beginning (or after an event's number), then as they come.

        Ends when the job has ended. A broken connection is taken up again without a gap.
        """
        for told in EventStream(self._connection, self.id, last=after).follow():
            if isinstance(told, JobEventOut):
                yield told

    @property
    def result(self) -> ResultInfo:
        """The finished result: its manifest, and where it can be fetched. Raises WrongState before."""
        return self._connection.ask(ResultInfo, Call(method="GET", path=self._path("result")))

    def head(self, rows: int = 10, *, rejected: bool = False) -> Rows:
        """The first rows of the result, or of what was rejected; at most 1,000."""
        query = {"rows": min(rows, MAX_HEAD_ROWS), "rejected": rejected or None}
        return self._connection.ask(Rows, Call(method="GET", path=self._path("result/head"), query=query))

    def look_up(self, **keys: Any) -> Rows:
        """The rows whose columns have these values: `job.look_up(customer_id=4711)`."""
        call = Call(method="GET", path=self._path("result/lookup"), query={name: str(keys[name]) for name in keys})
        return self._connection.ask(Rows, call)

    def download(
        self,
        path: str | PathLike[str],
        format: ResultFormat = "parquet",
        *,
        rejected: bool = False,
        overwrite: bool = False,
        moved: Moved | None = None,
    ) -> Path:
        """Write the result (or the rejected rows) to one file, whole and checked; into a folder by the job's id.

        What an interrupted call left is gone on with. Raises OutputExists, WrongState.
        """
        return self.fetch(Path(path), format, rejected=rejected, overwrite=overwrite, moved=moved).path

    def fetch(
        self, path: Path, form: str, *, rejected: bool = False, overwrite: bool = False, moved: Moved | None = None
    ) -> Fetched:
        """`download`, telling the size and SHA-256 of what arrived."""
        kind = "rejected" if rejected else "predictions"
        if path.is_dir():
            path = path / f"{self.id}{'.rejected' if rejected else ''}{RESULT_SUFFIXES[form]}"
        info = self.result
        offered = info.rejected_downloads if rejected else info.downloads
        address = offered.get(form)
        if address is None:
            raise InvalidSpec(
                f"{self.id} offers no {kind} as {form!r}.",
                remedy=f"Ask for one of: {', '.join(offered)}." if offered else "There are none.",
            )
        return downloads.fetch(self._connection, address, path, overwrite=overwrite, moved=moved)

    def to_arrow(self, *, rejected: bool = False) -> Any:
        """The predictions as a pyarrow.Table. Needs pyarrow."""
        parquet = _optional("pyarrow.parquet")
        with self._temporary(rejected=rejected) as path:
            return parquet.read_table(path)

    def to_pandas(self, *, rejected: bool = False) -> Any:
        """The predictions as a pandas.DataFrame. Needs pandas."""
        _optional("pandas")
        return self.to_arrow(rejected=rejected).to_pandas()

    def to_polars(self, *, rejected: bool = False) -> Any:
        """The predictions as a polars.DataFrame. Needs polars."""
        polars = _optional("polars")
        with self._temporary(rejected=rejected) as path:
            return polars.read_parquet(path)

    @contextmanager
    def _temporary(self, *, rejected: bool) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="tidemill-") as folder:
            yield self.fetch(Path(folder) / "result.parquet", "parquet", rejected=rejected).path

    def _path(self, below: str = "") -> str:
        path = f"/jobs/{quote(self.id, safe='')}"
        return f"{path}/{below}" if below else path

    def __repr__(self) -> str:
        return f"Job({self.id!r}, {self.last.state!r}, {standing(self.last)!r})"

    def _repr_html_(self) -> str:
        try:
            status = self.status
        except TidemillError as error:
            status, note = self.last, f"as last seen; {error}"
        else:
            note = ""
        cells = {
            "job": f"{status.id} ({status.name})",
            "state": status.state.replace("_", " "),
            "rows": standing(status),
            "model": status.model.reference if status.model else str(status.spec.get("model", "")),
            "error": f"{status.error.message} {status.error.remedy or ''}".strip() if status.error else "",
            "note": note,
        }
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{html.escape(text)}</td></tr>"
            for name, text in cells.items()
            if text
        )
        return f"<table>{rows}</table>"


def standing(status: JobStatus) -> str:
    """How far a job is, in a few words."""
    counts = status.counts
    if JobState(status.state) in FINISHED:
        return f"{counts.total:,} = {counts.predicted:,} predicted + {counts.rejected:,} rejected"
    if status.queue is not None:
        return f"place {status.queue.place:,} in the queue: {status.queue.detail}"
    done = counts.predicted + counts.rejected
    return f"{done:,} of {counts.total:,} rows ({status.percent:.0f} %)" if counts.total else "no rows yet"


def _both(status: JobStatus, *tells: Tell | None) -> None:
    for tell in tells:
        if tell:
            tell(status)


def _optional(name: str) -> Any:
    """A library that only some calls need."""
    try:
        return import_module(name)
    except ModuleNotFoundError as exc:
        package = name.partition(".")[0]
        raise MissingExtra(f"This needs {package}.", remedy=f"Run: pip install {package}") from exc
