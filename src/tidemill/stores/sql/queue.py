"""Jobs: who holds them, what people wish, where they stand."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    and_,
    case,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from tidemill.domain.admission import Needs, choose
from tidemill.domain.errors import CountsDiffer, KeyReused, NotFound, Refused
from tidemill.domain.job import (
    ENDED,
    FINISHED,
    LEASED,
    TRANSITIONS,
    Idempotency,
    Job,
    JobFilter,
    JobState,
    Lease,
    NewJob,
    Want,
    can_follow,
)
from tidemill.domain.receipt import Usage
from tidemill.ports.store import EVERY_JOB, JobQueue, WorkerStore
from tidemill.stores.sql.database import Database, insert_rows
from tidemill.stores.sql.line import read_line
from tidemill.stores.sql.rows import check_labels, job_of, no_such_job, read_job, read_jobs
from tidemill.stores.sql.series import hold, record_files
from tidemill.stores.sql.tables import documents, held_by, idempotency, jobs

_MIN_ABBREVIATION = 6
_DIGESTS_PER_QUERY = 500
_ENDINGS = FINISHED | {JobState.PAUSED, JobState.FAILED, JobState.CANCELLED}
_HANDED_OVER = (JobState.PLANNING, JobState.RUNNING)
_UNLEASED = {"token": None, "worker_id": None, "lease_until_ms": None}
_FORGIVEN = {"want": Want.RUN.value, "want_told": Want.RUN.value, "crashes": 0, "error": None, "finished_at_ms": None}
"""What a person's wish to run a job again resets."""

_BEST_FIRST = (jobs.c.priority.desc(), jobs.c.number)
_BACKGROUND = jobs.c.foreground.is_(False)
_IS_LEASED = jobs.c.state.in_([state.value for state in LEASED])

_CLAIM_ATTEMPTS = 3
"""How often another job is chosen when a person changed the chosen one at the same moment."""


@dataclass(frozen=True, kw_only=True)
class _Standing:
    """What a claim must know of a job; it holds while (epoch, token, state) stay what they were."""

    id: str
    state: JobState
    epoch: int
    token: str | None
    needs: Needs
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

    def submit(self, job: NewJob, idempotency: Idempotency | None = None) -> tuple[Job, bool]:
        with self._database.write() as connection:
            if idempotency is not None:
                before = self._same_request(connection, job, idempotency)
                if before is not None:
                    return before, False
            return self._insert(connection, job, {"state": JobState.QUEUED.value, "epoch": 0}), True

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

    def claim_next(self, worker_id: str, *, free: Needs, host: Needs) -> tuple[Job, Lease] | None:
        orphans = self._orphans(_BACKGROUND)
        if not orphans and not self._has_work():
            return None
        with self._database.take_turn() as connection:
            for _ in range(_CLAIM_ATTEMPTS):
                standing = self._best(connection, orphans, free, host)
                if standing is None:
                    return None
                taken = self._take(connection, standing, worker_id, {})
                if taken is not None:
                    return taken
        return None

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
        """What a renewal came to is not asked after: the next one shows it, and this one must not take long."""
        if not leases:
            return {}
        wants: dict[str, Want] = {}
        with self._database.write(settle=False) as connection:
            for lease in sorted(leases, key=lambda lease: lease.job_id):
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
            if row is not None and state in FINISHED:
                record_files(connection, lease.job_id, self._database.now_ms)
            if row is not None and state is JobState.PAUSED and (row.want_told, row.want) == (Want.PAUSE, Want.RUN):
                # Somebody wanted it to go on again before the holder could have heard of it.
                self._requeue(connection, lease.job_id)
            return row is not None

    def hand_over_if_current(self, lease: Lease) -> bool:
        queued = (
            update(jobs)
            .where(held_by(lease), jobs.c.state.in_([state.value for state in _HANDED_OVER]))
            .values(state=JobState.QUEUED.value, **_UNLEASED)
            .returning(jobs.c.id)
        )
        with self._database.write() as connection:
            return connection.execute(queued).first() is not None

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
            return _whole(connection, job_id)

    def get(self, job_id: str) -> Job:
        with self._database.read() as connection:
            job = read_job(connection, job_id)
            if job is None:
                whole = self._unabbreviated(connection, job_id)
                job = read_job(connection, whole)
            if job is None:
                raise no_such_job(job_id)
            return job

    def find_by_output(self, output: str) -> Job | None:
        newest = select(jobs).where(jobs.c.output == output).order_by(jobs.c.number.desc()).limit(1)
        with self._database.read() as connection:
            found = read_jobs(connection, newest)
            return found[0] if found else None

    def model_digests_in_use(self, digests: Collection[str]) -> set[str]:
        asked, found = sorted(digests), set[str]()
        with self._database.read() as connection:
            for start in range(0, len(asked), _DIGESTS_PER_QUERY):
                some = jobs.c.model_digest.in_(asked[start : start + _DIGESTS_PER_QUERY])
                found.update(connection.execute(select(jobs.c.model_digest).where(some).distinct()).scalars())
        return found

    def list(self, wanted: JobFilter = EVERY_JOB, *, limit: int = 50, before: str | None = None) -> list[Job]:
        page = select(jobs).where(*self._conditions(wanted)).order_by(jobs.c.number.desc()).limit(limit)
        with self._database.read() as connection:
            if before is not None:
                number = connection.execute(select(jobs.c.number).where(jobs.c.id == before)).scalar()
                if number is None:
                    raise no_such_job(before)
                page = page.where(jobs.c.number < number)
            return read_jobs(connection, page)

    def set_labels(self, job_id: str, labels: dict[str, str]) -> None:
        """Raises NotFound."""
        with self._database.write() as connection:
            check_labels(labels)
            labelled = update(jobs).where(jobs.c.id == job_id).values(labels=labels).returning(jobs.c.id)
            if connection.execute(labelled).first() is None:
                raise no_such_job(job_id)

    def _conditions(self, wanted: JobFilter) -> Iterator[ColumnElement[bool]]:
        equal = {
            jobs.c.tenant: wanted.tenant,
            jobs.c.name: wanted.name,
            jobs.c.owner: wanted.owner,
            jobs.c.model_name: wanted.model,
            jobs.c.parent_id: wanted.parent_id,
        }
        yield from (column == value for column, value in equal.items() if value is not None)
        if wanted.states:
            yield jobs.c.state.in_([state.value for state in wanted.states])
        for key, value in wanted.labels:
            label = self._database.dialect.labels_of(jobs.c.labels)
            yield exists().where(label.c.key == key, label.c.value == value)

    def _same_request(self, connection: Connection, job: NewJob, promise: Idempotency) -> Job | None:
        """The job that came with this key before; None if this one is the first, and then it has the key."""
        row = {"tenant": job.tenant, "key": promise.key, "request_digest": promise.request_digest, "job_id": job.id}
        kept = self._database.dialect.insert_new(idempotency, row).returning(idempotency.c.job_id)
        if connection.execute(kept).first() is not None:
            return None
        here = and_(idempotency.c.tenant == job.tenant, idempotency.c.key == promise.key)
        before = connection.execute(select(idempotency).where(here)).one()
        if before.request_digest != promise.request_digest:
            raise KeyReused(
                f"The idempotency key {promise.key!r} came before, with another request ({before.job_id}).",
                remedy="Use a new key for a new request.",
            )
        return _whole(connection, before.job_id)

    def _insert(self, connection: Connection, job: NewJob, standing: dict[str, Any]) -> Job:
        values = {**_columns_of(job), "created_at_ms": self._database.now_ms, **standing}
        new = self._database.dialect.insert_new(jobs, values).returning(*jobs.c)
        row = connection.execute(new).mappings().first()
        if row is None:
            raise Refused(f"There is a job {job.id} already.", remedy="Submit it under another id.")
        if job.series is not None:
            hold(connection, self._database.dialect, job.tenant, job.series, job.id)
        bodies = {"spec": job.spec, "model": None if job.model is None else job.model.to_json()}
        stored = [{"job_id": job.id, "kind": kind, "body": body} for kind, body in bodies.items() if body is not None]
        insert_rows(connection, documents, stored)
        return job_of({**row, "plan": None, **json.loads(json.dumps(bodies))})

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
        if not self._database.dialect.sees_deaths:
            return frozenset()
        leased = select(jobs.c.id, jobs.c.epoch, jobs.c.token, jobs.c.worker_id).where(_IS_LEASED, *conditions)
        with self._database.read() as connection:
            rows = connection.execute(leased).all()
        alive = {worker_id: self._workers.is_alive(worker_id) for worker_id in {row.worker_id for row in rows}}
        return frozenset(
            Lease(job_id=row.id, epoch=row.epoch, token=row.token) for row in rows if not alive[row.worker_id]
        )

    def _best(self, connection: Connection, orphans: Collection[Lease], free: Needs, host: Needs) -> _Standing | None:
        """As `domain.admission.choose`: what does not fit now, but would if the host were empty, is waited for."""
        leased = self._standings().where(_IS_LEASED, _BACKGROUND).order_by(*_BEST_FIRST)
        for row in connection.execute(leased).mappings().all():
            standing = _standing_of(row)
            if standing.is_over(orphans) and standing.needs.fit(host):
                return standing if standing.needs.fit(free) else None
        line = read_line(connection)
        number = choose(line.groups, line.load, free=free, host=host)
        if number is None:
            return None
        chosen = self._standings().where(jobs.c.number == number, jobs.c.state == JobState.QUEUED.value)
        first = connection.execute(chosen).mappings().first()
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
        return _whole(connection, standing.id), lease

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
        """How it stands, and nobody changes that before this transaction ends."""
        locked = self._standings().where(jobs.c.id == job_id).with_for_update(of=jobs)
        row = connection.execute(locked).mappings().first()
        if row is None:
            raise no_such_job(job_id)
        return _standing_of(row)

    def _standings(self) -> Select[Any]:
        return select(
            jobs.c.id,
            jobs.c.state,
            jobs.c.epoch,
            jobs.c.token,
            jobs.c.cpus,
            jobs.c.memory_bytes,
            jobs.c.gpus,
            func.coalesce(jobs.c.lease_until_ms < self._database.now_ms, False).label("expired"),
            _has_document("plan").label("planned"),
            _has_document("manifest").label("has_manifest"),
        )

    def _unabbreviated(self, connection: Connection, part: str) -> str:
        if len(part) < _MIN_ABBREVIATION:
            raise no_such_job(part)
        size = len(part)
        starts = func.substr(jobs.c.id, 1, size) == part
        ends = case((func.length(jobs.c.id) >= size, func.substr(jobs.c.id, func.length(jobs.c.id) - size + 1))) == part
        found = (
            connection.execute(select(jobs.c.id).where(or_(starts, ends)).order_by(jobs.c.number).limit(4))
            .scalars()
            .all()
        )
        if not found:
            raise no_such_job(part)
        if len(found) > 1:
            names = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
            raise NotFound(f"More than one job is meant by {part!r}: {names}.", remedy="Give more of its id.")
        return str(found[0])


_NOTHING_DONE = dict.fromkeys(("rows_total", "rows_predicted", "rows_rejected", "chunks_total", "chunks_done"), 0)
_NO_USAGE = {field: getattr(Usage(), field) for field in Usage.__dataclass_fields__}


def _columns_of(job: NewJob) -> dict[str, Any]:
    labels = job.spec.get("labels") or {}
    check_labels(labels)
    pin = job.model
    return {
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
        **_NOTHING_DONE,
        "labels": labels,
        "usage": _NO_USAGE,
        "tenant": job.tenant,
        "owner": job.owner,
        "model_key": job.model_digest if pin is None or pin.name is None else f"{job.tenant}/{pin.name}",
        "model_name": pin.name if pin is not None else None,
        "cpus": job.needs.cpus,
        "memory_bytes": job.needs.memory_bytes,
        "gpus": job.needs.gpus,
        "parent_id": job.parent_id,
        "managed": job.managed,
    }


def _states_before(state: JobState) -> list[str]:
    return [before.value for before, following in TRANSITIONS.items() if state in following and before in LEASED]


def _has_document(kind: str) -> ColumnElement[bool]:
    return exists().where(documents.c.job_id == jobs.c.id, documents.c.kind == kind)


def _new_token() -> str:
    return os.urandom(16).hex()


def _standing_of(row: RowMapping) -> _Standing:
    return _Standing(
        id=row["id"],
        state=JobState(row["state"]),
        epoch=row["epoch"],
        token=row["token"],
        needs=Needs(cpus=row["cpus"], memory_bytes=row["memory_bytes"], gpus=row["gpus"]),
        expired=bool(row["expired"]),
        planned=bool(row["planned"]),
        has_manifest=bool(row["has_manifest"]),
    )


def _whole(connection: Connection, job_id: str) -> Job:
    job = read_job(connection, job_id)
    if job is None:
        raise no_such_job(job_id)
    return job
