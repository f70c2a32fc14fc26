"""Looking at many jobs, and forgetting old ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    cast,
    delete,
    func,
    literal,
    select,
    tuple_,
    update,
)

from tidemill.domain.cost import UsageBy, UsageSum
from tidemill.domain.job import ENDED, Job, JobEvent, JobState, Waiting
from tidemill.domain.receipt import NO_USAGE, Usage
from tidemill.ports.store import JobHistory, WorkerStore
from tidemill.stores.sql.database import Database
from tidemill.stores.sql.line import explain_waiting, read_line, read_waiters
from tidemill.stores.sql.rows import milliseconds, moment, read_jobs
from tidemill.stores.sql.tables import chunks, documents, events, idempotency, jobs

_RESTING = frozenset({JobState.PAUSED, JobState.FAILED})
"""Nothing holds these, but people may want them to go on."""


class SqlHistory(JobHistory):
    """Foreground jobs wait for a person, not for a worker: they have no place in the line."""

    def __init__(self, database: Database, workers: WorkerStore) -> None:
        self._database = database
        self._workers = workers

    def waiting(self, job_ids: Sequence[str]) -> dict[str, Waiting]:
        if not job_ids:
            return {}
        live = [worker.facts for worker in self._workers.list_live()]
        hosts = [(facts.free, facts.capacity) for facts in live if not facts.draining]
        with self._database.read() as connection:
            line = read_line(connection)
            waiters = read_waiters(connection, line, job_ids)
        return {job_id: explain_waiting(line, waiter, hosts) for job_id, waiter in waiters.items()}

    def events(self, job_id: str, *, after: int = 0, limit: int = 1000) -> list[JobEvent]:
        page = (
            select(events)
            .where(events.c.job_id == job_id, events.c.number > after)
            .order_by(events.c.number)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [
                JobEvent(number=row.number, job_id=row.job_id, at=moment(row.at_ms), state=JobState(row.state))
                for row in connection.execute(page)
            ]

    def counts_by_state(self, tenant: str | None = None) -> dict[JobState, int]:
        counts = select(jobs.c.state, func.count()).group_by(jobs.c.state)
        if tenant is not None:
            counts = counts.where(jobs.c.tenant == tenant)
        with self._database.read() as connection:
            return {JobState(state): int(count) for state, count in connection.execute(counts)}

    def oldest_queued_seconds(self) -> float:
        """Since it was queued the last time."""
        since = (
            select(func.max(events.c.at_ms).label("at_ms"))
            .join(jobs, jobs.c.id == events.c.job_id)
            .where(jobs.c.state == JobState.QUEUED.value, jobs.c.foreground.is_(False))
            .group_by(jobs.c.id)
            .subquery()
        )
        with self._database.read() as connection:
            waited = connection.execute(select(self._database.now_ms - func.min(since.c.at_ms))).scalar_one()
        return 0.0 if waited is None else max(0.0, float(waited) / 1000)

    def usage(
        self, by: UsageBy, *, tenant: str | None = None, since: datetime | None = None, limit: int = 100
    ) -> list[UsageSum]:
        """A registered model's name holds all its versions; another model is named by its digest."""
        of = jobs.c.owner if by == "key" else func.coalesce(jobs.c.model_name, jobs.c.model_digest)
        sums = _usage_sums(of).group_by(of).order_by(_used("cpu_seconds").desc(), of).limit(limit)
        if tenant is not None:
            sums = sums.where(jobs.c.tenant == tenant)
        if since is not None:
            sums = sums.where(jobs.c.created_at_ms >= milliseconds(since))
        with self._database.read() as connection:
            return [_usage_sum(row) for row in connection.execute(sums)]

    def totals(self) -> UsageSum:
        with self._database.read() as connection:
            return _usage_sum(connection.execute(_usage_sums(literal(""))).one())

    def ended_before(self, moment: datetime, *, limit: int) -> list[Job]:
        before = milliseconds(moment)
        ended = [state.value for state in ENDED | {JobState.FAILED}]
        finished = select(jobs.c.id, jobs.c.finished_at_ms.label("at_ms")).where(
            jobs.c.state.in_(ended), jobs.c.finished_at_ms < before
        )
        with self._database.read() as connection:
            oldest = [*self._oldest(connection, finished, limit), *self._oldest(connection, _paused(before), limit)]
            ids = [job_id for _, job_id in sorted(oldest)[:limit]]
            found = {job.id: job for job in read_jobs(connection, select(jobs).where(jobs.c.id.in_(ids)))}
        return [found[job_id] for job_id in ids if job_id in found]

    def forget_if_ended(self, job_id: str, *, limit: int = 1000) -> bool:
        """A paused or failed job is cancelled first: nobody goes on with one that is half gone."""
        with self._database.write() as connection:
            locked = select(jobs.c.state).where(jobs.c.id == job_id).with_for_update()
            row = connection.execute(locked).first()
            if row is None or JobState(row.state) not in ENDED | _RESTING:
                return True
            if JobState(row.state) in _RESTING:
                connection.execute(update(jobs).where(jobs.c.id == job_id).values(state=JobState.CANCELLED.value))
            left = limit
            for table in (chunks, events, documents, idempotency):
                left -= _delete(connection, table, job_id, left)
            if left <= 0:
                return False
            connection.execute(delete(jobs).where(jobs.c.id == job_id))
            return True

    def _oldest(self, connection: Connection, ended: Select[Any], limit: int) -> list[tuple[int, str]]:
        moments = ended.subquery()
        page = select(moments.c.at_ms, moments.c.id).order_by(moments.c.at_ms, moments.c.id).limit(limit)
        return [(int(row.at_ms), str(row.id)) for row in connection.execute(page)]


def _used(name: str) -> ColumnElement[Any]:
    """A word of `Usage` over jobs. Usage of an older version may lack it."""
    value = jobs.c.usage[name]
    if name == "peak_memory_bytes":
        return func.coalesce(func.max(cast(value.as_string(), BigInteger)), 0)
    return func.coalesce(func.sum(value.as_float()), 0)


def _usage_sums(of: ColumnElement[str]) -> Select[Any]:
    counted = (jobs.c.chunks_done, jobs.c.rows_predicted, jobs.c.rows_rejected)
    return select(
        of.label("of"),
        func.count().label("jobs"),
        *(func.coalesce(func.sum(column), 0).label(column.name) for column in counted),
        *(_used(name).label(name) for name in vars(NO_USAGE)),
    )


def _usage_sum(row: Row[Any]) -> UsageSum:
    # Sums of whole numbers come back as a decimal or a float.
    used = {name: type(zero)(getattr(row, name)) for name, zero in vars(NO_USAGE).items()}
    return UsageSum(
        of=row.of,
        jobs=row.jobs,
        chunks=int(row.chunks_done),
        predicted=int(row.rows_predicted),
        rejected=int(row.rows_rejected),
        usage=Usage(**used),
    )


def _paused(before: int) -> Select[Any]:
    """Paused jobs keep no time of their own; the last event of each tells it."""
    last = (
        select(events.c.job_id.label("id"), func.max(events.c.at_ms).label("at_ms"))
        .join(jobs, jobs.c.id == events.c.job_id)
        .where(jobs.c.state == JobState.PAUSED.value)
        .group_by(events.c.job_id)
        .subquery()
    )
    return select(last.c.id, last.c.at_ms).where(last.c.at_ms < before)


def _delete(connection: Connection, table: Table, job_id: str, limit: int) -> int:
    """Delete at most so many of the rows that belong to a job; how many it was."""
    if limit <= 0:
        return 0
    keys = list(table.primary_key.columns)
    some = select(*keys).where(table.c.job_id == job_id).order_by(*keys).limit(limit)
    gone = delete(table).where(tuple_(*keys).in_(some)).returning(table.c.job_id)
    return len(connection.execute(gone).all())
