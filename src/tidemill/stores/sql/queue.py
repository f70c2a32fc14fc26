"""Jobs: who holds them, what people wish, where they stand."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    case,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from tidemill.domain.errors import CountsDiffer, NotFound, Refused
from tidemill.domain.job import (
    ENDED,
    FINISHED,
    LEASED,
    TRANSITIONS,
    Counts,
    Job,
    JobState,
    Lease,
    NewJob,
    Want,
    can_follow,
)
from tidemill.domain.receipt import Usage
from tidemill.ports.store import JobQueue, WorkerStore
from tidemill.stores.sql.database import Database
from tidemill.stores.sql.tables import documents, held_by, jobs

_MIN_ABBREVIATION = 6
_ENDINGS = FINISHED | {JobState.PAUSED, JobState.FAILED, JobState.CANCELLED}
_UNLEASED = {"token": None, "worker_id": None, "lease_until_ms": None}
_FORGIVEN = {"want": Want.RUN.value, "want_told": Want.RUN.value, "crashes": 0, "error": None, "finished_at_ms": None}
"""What a person's wish to run a job again resets."""

_BEST_FIRST = (jobs.c.priority.desc(), jobs.c.number)
_BACKGROUND = jobs.c.foreground.is_(False)
_IS_LEASED = jobs.c.state.in_([state.value for state in LEASED])


@dataclass(frozen=True, kw_only=True)
class _Standing:
    """What a claim must know of a job; it holds while (epoch, token, state) stay what they were."""

    id: str
    state: JobState
    epoch: int
    token: str | None
    expired: bool
    planned: bool
    has_manifest: bool

    def is_over(self, orphans: Collection[Lease]) -> bool:
        """Whether the job was leased and nobody holds it any more."""
        if self.token is None:
            return False
        return self.expired or Lease(job_id=self.id, epoch=self.epoch, token=self.token) in orphans

    def is_held(self, orphans: Collection[Lease]) -> bool:
        return self.state in LEASED and not self.is_over(orphans)

    @property
    def reached(self) -> JobState:
        """The leased state in which a claim goes on."""
        if self.has_manifest:
            return JobState.COMMITTING
        return JobState.RUNNING if self.planned else JobState.PLANNING


class SqlQueue(JobQueue):
    """The queue on one database. Locks of workers are files, so they are tested outside transactions."""

    def __init__(self, database: Database, workers: WorkerStore, *, lease_seconds: float) -> None:
        self._database = database
        self._workers = workers
        self._lease_until = database.now_ms + round(lease_seconds * 1000)

    def submit(self, job: NewJob) -> Job:
        with self._database.write() as connection:
            return self._insert(connection, job, {"state": JobState.QUEUED.value, "epoch": 0})

    def submit_claimed(self, job: NewJob, worker_id: str) -> tuple[Job, Lease]:
        lease = Lease(job_id=job.id, epoch=1, token=_new_token())
        held = {
            "state": JobState.PLANNING.value,
            "epoch": lease.epoch,
            "token": lease.token,
            "worker_id": worker_id,
            "lease_until_ms": self._lease_until,
            "started_at_ms": self._database.now_ms,
        }
        with self._database.write() as connection:
            return self._insert(connection, job, held), lease

    def claim_next(self, worker_id: str) -> tuple[Job, Lease] | None:
        orphans = self._orphans(_BACKGROUND)
        if not orphans and not self._has_work():
            return None
        with self._database.write() as connection:
            standing = self._best(connection, orphans)
            return None if standing is None else self._take(connection, standing, worker_id, {})

    def claim(self, job_id: str, worker_id: str) -> tuple[Job, Lease] | None:
        orphans = self._orphans(jobs.c.id == job_id)
        with self._database.write() as connection:
            standing = self._standing(connection, job_id)
            if standing.state in ENDED or standing.is_held(orphans):
                return None
            if standing.state in (JobState.PAUSED, JobState.FAILED):
                self._requeue(connection, job_id)
                standing = self._standing(connection, job_id)
            return self._take(connection, standing, worker_id, _FORGIVEN)

    def renew_if_current(self, leases: Sequence[Lease], worker_id: str) -> dict[str, Want]:
        if not leases:
            return {}
        wants: dict[str, Want] = {}
        with self._database.write() as connection:
            for lease in leases:
                row = connection.execute(
                    update(jobs)
                    .where(held_by(lease), jobs.c.worker_id == worker_id)
                    .values(lease_until_ms=self._lease_until, want_told=jobs.c.want)
                    .returning(jobs.c.want)
                ).first()
                if row is not None:
                    wants[lease.job_id] = Want(row.want)
        return wants

    def is_current(self, lease: Lease) -> bool:
        with self._database.read() as connection:
            return connection.execute(select(jobs.c.id).where(held_by(lease))).first() is not None

    def end_if_current(self, lease: Lease, state: JobState, error: dict[str, Any] | None = None) -> bool:
        if state not in _ENDINGS:
            raise ValueError(f"no lease ends in {state}")
        with self._database.write() as connection:
            ending = (
                update(jobs)
                .where(held_by(lease), jobs.c.state.in_(_states_before(state)))
                .values(
                    state=state.value,
                    error=error,
                    finished_at_ms=None if state is JobState.PAUSED else self._database.now_ms,
                    **_UNLEASED,
                )
                .returning(jobs.c.want, jobs.c.want_told)
            )
            try:
                row = connection.execute(ending).first()
            except IntegrityError as exc:
                raise CountsDiffer(
                    f"Job {lease.job_id} cannot be {state}: its counts say otherwise.",
                    remedy="Report this: the ledger and the manifest do not reconcile.",
                ) from exc
            if row is not None and state is JobState.PAUSED and (row.want_told, row.want) == (Want.PAUSE, Want.RUN):
                # Somebody wanted it to go on again before the holder could have heard of it.
                self._requeue(connection, lease.job_id)
            return row is not None

    def count_crash_if_current(self, lease: Lease) -> int | None:
        with self._database.write() as connection:
            crashed = update(jobs).where(held_by(lease)).values(crashes=jobs.c.crashes + 1).returning(jobs.c.crashes)
            row = connection.execute(crashed).first()
            return None if row is None else int(row.crashes)

    def wish(self, job_id: str, want: Want) -> Job:
        """A job whose lease is over has no holder who could see it: it changes at once, too."""
        orphans = self._orphans(jobs.c.id == job_id)
        with self._database.write() as connection:
            standing = self._standing(connection, job_id)
            if standing.state not in ENDED and standing.state is not JobState.COMMITTING:
                self._heed(connection, standing, want, held=standing.is_held(orphans))
            return _job(connection.execute(_jobs().where(jobs.c.id == job_id)).mappings().one())

    def get(self, job_id: str) -> Job:
        with self._database.read() as connection:
            row = connection.execute(_jobs().where(jobs.c.id == job_id)).mappings().first()
            if row is None:
                whole = self._unabbreviated(connection, job_id)
                row = connection.execute(_jobs().where(jobs.c.id == whole)).mappings().one()
            return _job(row)

    def find_by_output(self, output: str) -> Job | None:
        newest = _jobs().where(jobs.c.output == output).order_by(jobs.c.number.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(newest).mappings().first()
            return None if row is None else _job(row)

    def list(self, *, states: Sequence[JobState] = (), limit: int = 50, before: str | None = None) -> list[Job]:
        page = _jobs().order_by(jobs.c.number.desc()).limit(limit)
        if states:
            page = page.where(jobs.c.state.in_([state.value for state in states]))
        with self._database.read() as connection:
            if before is not None:
                number = connection.execute(select(jobs.c.number).where(jobs.c.id == before)).scalar()
                if number is None:
                    raise _not_found(before)
                page = page.where(jobs.c.number < number)
            return [_job(row) for row in connection.execute(page).mappings()]

    def set_labels(self, job_id: str, labels: dict[str, str]) -> None:
        """Raises NotFound."""
        with self._database.write() as connection:
            labelled = update(jobs).where(jobs.c.id == job_id).values(labels=labels).returning(jobs.c.id)
            if connection.execute(labelled).first() is None:
                raise _not_found(job_id)

    def _insert(self, connection: Connection, job: NewJob, standing: dict[str, Any]) -> Job:
        values = {
            "id": job.id,
            "name": job.name,
            "want": Want.RUN.value,
            "want_told": Want.RUN.value,
            "spec_digest": job.spec_digest,
            "model_digest": job.model_digest,
            "output": job.output,
            "staging": job.staging,
            "foreground": job.foreground,
            "priority": job.priority,
            "crashes": 0,
            "rows_total": 0,
            "rows_predicted": 0,
            "rows_rejected": 0,
            "chunks_total": 0,
            "chunks_done": 0,
            "labels": job.spec.get("labels") or {},
            "usage": _NO_USAGE,
            "created_at_ms": self._database.now_ms,
        }
        if connection.execute(select(jobs.c.id).where(jobs.c.id == job.id)).first() is not None:
            raise Refused(f"There is a job {job.id} already.", remedy="Submit it under another id.")
        connection.execute(insert(jobs).values(**values, **standing))
        connection.execute(insert(documents).values(job_id=job.id, kind="spec", body=job.spec))
        return _job(connection.execute(_jobs().where(jobs.c.id == job.id)).mappings().one())

    def _has_work(self) -> bool:
        """A cheap look without the write lock: idle workers ask several times a second."""
        waiting = jobs.c.state == JobState.QUEUED.value
        over = _IS_LEASED & (jobs.c.lease_until_ms < self._database.now_ms)
        with self._database.read() as connection:
            return (
                connection.execute(select(jobs.c.id).where(_BACKGROUND, or_(waiting, over)).limit(1)).first()
                is not None
            )

    def _orphans(self, *conditions: ColumnElement[bool]) -> frozenset[Lease]:
        """Leases whose worker is dead. One that is taken meanwhile has another epoch, so it is not in here."""
        leased = select(jobs.c.id, jobs.c.epoch, jobs.c.token, jobs.c.worker_id).where(_IS_LEASED, *conditions)
        with self._database.read() as connection:
            rows = connection.execute(leased).all()
        alive = {worker_id: self._workers.is_alive(worker_id) for worker_id in {row.worker_id for row in rows}}
        return frozenset(
            Lease(job_id=row.id, epoch=row.epoch, token=row.token) for row in rows if not alive[row.worker_id]
        )

    def _best(self, connection: Connection, orphans: Collection[Lease]) -> _Standing | None:
        leased = self._standings().where(_IS_LEASED, _BACKGROUND).order_by(*_BEST_FIRST)
        for row in connection.execute(leased).mappings().all():
            standing = _standing_of(row)
            if standing.is_over(orphans):
                return standing
        queued = self._standings().where(jobs.c.state == JobState.QUEUED.value, _BACKGROUND).order_by(*_BEST_FIRST)
        first = connection.execute(queued.limit(1)).mappings().first()
        return None if first is None else _standing_of(first)

    def _take(
        self, connection: Connection, standing: _Standing, worker_id: str, changes: dict[str, Any]
    ) -> tuple[Job, Lease] | None:
        lease = Lease(job_id=standing.id, epoch=standing.epoch + 1, token=_new_token())
        values = {
            "state": standing.reached.value,
            "epoch": lease.epoch,
            "token": lease.token,
            "worker_id": worker_id,
            "lease_until_ms": self._lease_until,
            "started_at_ms": func.coalesce(jobs.c.started_at_ms, self._database.now_ms),
            "want_told": jobs.c.want,
            **changes,
        }
        taken = (
            update(jobs)
            .where(
                jobs.c.id == standing.id,
                jobs.c.epoch == standing.epoch,
                jobs.c.token.is_not_distinct_from(standing.token),
                jobs.c.state == standing.state.value,
            )
            .values(values)
            .returning(jobs.c.id)
        )
        if connection.execute(taken).first() is None:
            return None
        return _job(connection.execute(_jobs().where(jobs.c.id == standing.id)).mappings().one()), lease

    def _heed(self, connection: Connection, standing: _Standing, want: Want, *, held: bool) -> None:
        here = jobs.c.id == standing.id
        if held or (standing.state in LEASED and want is Want.RUN):
            connection.execute(update(jobs).where(here).values(want=want.value))
        elif want is Want.RUN:
            self._requeue(connection, standing.id)
        else:
            state = JobState.PAUSED if want is Want.PAUSE else JobState.CANCELLED
            if can_follow(standing.state, state):
                finished = None if state is JobState.PAUSED else self._database.now_ms
                values = {"state": state.value, "want": want.value, "finished_at_ms": finished, **_UNLEASED}
                connection.execute(update(jobs).where(here).values(values))

    def _requeue(self, connection: Connection, job_id: str) -> None:
        resting = jobs.c.state.in_([JobState.PAUSED.value, JobState.FAILED.value])
        queued = {"state": JobState.QUEUED.value, **_FORGIVEN}
        connection.execute(update(jobs).where(jobs.c.id == job_id, resting).values(queued))

    def _standing(self, connection: Connection, job_id: str) -> _Standing:
        row = connection.execute(self._standings().where(jobs.c.id == job_id)).mappings().first()
        if row is None:
            raise _not_found(job_id)
        return _standing_of(row)

    def _standings(self) -> Select[Any]:
        return select(
            jobs.c.id,
            jobs.c.state,
            jobs.c.epoch,
            jobs.c.token,
            func.coalesce(jobs.c.lease_until_ms < self._database.now_ms, False).label("expired"),
            _has_document("plan").label("planned"),
            _has_document("manifest").label("has_manifest"),
        )

    def _unabbreviated(self, connection: Connection, part: str) -> str:
        if len(part) < _MIN_ABBREVIATION:
            raise _not_found(part)
        size = len(part)
        starts = func.substr(jobs.c.id, 1, size) == part
        ends = case((func.length(jobs.c.id) >= size, func.substr(jobs.c.id, func.length(jobs.c.id) - size + 1))) == part
        found = (
            connection.execute(select(jobs.c.id).where(or_(starts, ends)).order_by(jobs.c.number).limit(4))
            .scalars()
            .all()
        )
        if not found:
            raise _not_found(part)
        if len(found) > 1:
            names = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
            raise NotFound(f"More than one job is meant by {part!r}: {names}.", remedy="Give more of its id.")
        return str(found[0])


_NO_USAGE = {field: getattr(Usage(), field) for field in Usage.__dataclass_fields__}


def _states_before(state: JobState) -> list[str]:
    return [before.value for before, following in TRANSITIONS.items() if state in following and before in LEASED]


def _has_document(kind: str) -> ColumnElement[bool]:
    return exists().where(documents.c.job_id == jobs.c.id, documents.c.kind == kind)


def _new_token() -> str:
    return os.urandom(16).hex()


def _not_found(job_id: str) -> NotFound:
    return NotFound(f"There is no job {job_id!r}.", remedy="`tidemill jobs list` shows what is there.")


def _jobs() -> Select[Any]:
    spec, plan = documents.alias("spec"), documents.alias("plan")
    return (
        select(jobs, spec.c.body.label("spec"), plan.c.body.label("plan"))
        .join(spec, (spec.c.job_id == jobs.c.id) & (spec.c.kind == "spec"))
        .outerjoin(plan, (plan.c.job_id == jobs.c.id) & (plan.c.kind == "plan"))
    )


def _standing_of(row: RowMapping) -> _Standing:
    return _Standing(
        id=row["id"],
        state=JobState(row["state"]),
        epoch=row["epoch"],
        token=row["token"],
        expired=bool(row["expired"]),
        planned=bool(row["planned"]),
        has_manifest=bool(row["has_manifest"]),
    )


def _job(row: RowMapping) -> Job:
    return Job(
        id=row["id"],
        name=row["name"],
        state=JobState(row["state"]),
        want=Want(row["want"]),
        spec=row["spec"],
        spec_digest=row["spec_digest"],
        model_digest=row["model_digest"],
        output=row["output"],
        staging=row["staging"],
        foreground=row["foreground"],
        priority=row["priority"],
        epoch=row["epoch"],
        crashes=row["crashes"],
        worker_id=row["worker_id"],
        counts=Counts(total=row["rows_total"], predicted=row["rows_predicted"], rejected=row["rows_rejected"]),
        chunks_total=row["chunks_total"],
        chunks_done=row["chunks_done"],
        plan=row["plan"],
        error=row["error"],
        usage=row["usage"],
        created_at=_utc(row["created_at_ms"]),
        started_at=None if row["started_at_ms"] is None else _utc(row["started_at_ms"]),
        finished_at=None if row["finished_at_ms"] is None else _utc(row["finished_at_ms"]),
        labels=row["labels"],
    )


def _utc(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
