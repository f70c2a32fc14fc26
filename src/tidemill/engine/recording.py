"""The worker's side of a series: it holds the series for a job, and keeps which files the job scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tidemill.domain.errors import AlreadyScored, LeaseLost, NotFound
from tidemill.domain.job import Job
from tidemill.domain.plan import InputFile, PlanSummary
from tidemill.engine.held import Held
from tidemill.engine.increment import unscored, write_record
from tidemill.wire.spec import JobSpec


class Recording:
    """Of one claim of one job. Of a job without a series it does nothing.

    The files are in the store before the job is planned, under the number that it will have in its series. They
    count from the transaction in which it succeeds; so no crash in between can score one twice.
    """

    def __init__(self, held: Held, job: Job, spec: JobSpec) -> None:
        self._held, self._job, self._spec = held, job, spec
        self._series = spec.input.series.name if spec.input.series is not None else ""
        self._store = held.store.series
        self._record = Path(job.staging) / f"record-{held.lease.epoch}.db"

    def begin(self, parent: Mapping[str, Any] | None) -> dict[str, Any]:
        """What the planner must know to choose among the files of the input: {"unscored"}, {"same"} or nothing.

        `parent` is the manifest of the job whose rejected rows this one scores. Raises SeriesBusy, NotFound.
        """
        if not self._series:
            return {}
        if parent is not None:
            write_record(self._record, self._files(_number(parent)))
            return {"same": str(self._record)}
        number = self._held.beat.while_ours(lambda: self._store.hold_if_current(self._held.lease, self._series))
        if number is None:
            raise LeaseLost()
        write_record(self._record, self._files(None))
        return {"unscored": unscored(self._spec, self._record, number)}

    def end(self) -> None:
        """The plan is made: the copy of the record is not needed any more."""
        self._record.unlink(missing_ok=True)

    def add(self, told: Sequence[Sequence[Any]]) -> None:
        """Files that the planner has taken, as (path, size, modification time)."""
        files = [InputFile(path=path, size_bytes=size, mtime_ns=mtime) for path, size, mtime in told]
        lease = self._held.lease
        if not self._held.beat.while_ours(lambda: self._store.add_if_current(lease, self._series, files)):
            raise LeaseLost()

    def check(self, plan: PlanSummary) -> None:
        """Raise AlreadyScored if the job failed before, and another one has taken over its files since."""
        if plan.increment is None or self._is_held():
            return
        raise AlreadyScored(
            f"After {self._job.id} failed, the series {self._series!r} went on without it: the files of its plan are"
            " scored by a later job.",
            remedy=f"Drop it with: tidemill jobs cancel {self._job.id}",
        )

    def _is_held(self) -> bool:
        return self._held.beat.while_ours(lambda: self._store.is_held(self._job.id, self._series))

    def _files(self, number: int | None) -> Iterator[InputFile]:
        return self._store.files(self._job.tenant, self._series, number=number)


def _number(parent: Mapping[str, Any]) -> int:
    increment = parent.get("increment")
    if increment is None:
        raise NotFound(
            f"{parent['job_id']} was no job of a series, so which files it scored is not known.",
            remedy="Retry it without the series.",
        )
    return int(increment["number"])
