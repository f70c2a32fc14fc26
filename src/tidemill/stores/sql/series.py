"""Which files the jobs of a series have scored.

A series counts its jobs that succeeded. The holder writes its files under the next number, and the count, raised in
the transaction in which it succeeds, makes them count: a million rows become part of the record by one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, delete, func, or_, select, tuple_, update

from tidemill.domain.errors import NotFound
from tidemill.domain.job import JobState, Lease
from tidemill.domain.plan import InputFile
from tidemill.domain.series import Series, check_over
from tidemill.ports.store import SeriesStore
from tidemill.stores.sql.database import Database, Dialect
from tidemill.stores.sql.rows import moment_or_none
from tidemill.stores.sql.tables import held_by, jobs, scored_files, series

FILES_PER_PAGE = 10_000
_AFTER_ALL = 2**62
"""More than any series has jobs."""


def record_files(connection: Connection, job_id: str, now_ms: ColumnElement[int]) -> None:
    """The job has succeeded: what it said that it would score counts from now on. Of most jobs that is nothing."""
    recorded = {"jobs": series.c.jobs + 1, "job_id": None, "recorded_at_ms": now_ms}
    connection.execute(update(series).where(series.c.job_id == job_id).values(recorded))


def hold(connection: Connection, dialect: Dialect, tenant: str, name: str, job_id: str) -> Row[Any]:
    """Make the job the holder of its series, which is made if it is not there; the series' row. Raises SeriesBusy."""
    connection.execute(dialect.insert_new(series, {"tenant": tenant, "name": name, "jobs": 0}))
    row = connection.execute(_one(tenant, name).with_for_update()).one()
    if row.job_id not in (None, job_id):
        _check_over(connection, row)
    connection.execute(update(series).where(series.c.number == row.number).values(job_id=job_id))
    return row


def _check_over(connection: Connection, row: Row[Any]) -> None:
    state = connection.execute(select(jobs.c.state).where(jobs.c.id == row.job_id)).scalar()
    if state is not None:
        check_over(row.name, row.job_id, JobState(state))


class SqlSeries(SeriesStore):
    """Readers page by path, each page in a short transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def hold_if_current(self, lease: Lease, name: str) -> int | None:
        with self._database.write() as connection:
            tenant = connection.execute(select(jobs.c.tenant).where(held_by(lease))).scalar()
            if tenant is None:
                return None
            row = hold(connection, self._database.dialect, tenant, name, lease.job_id)
        leftovers = and_(scored_files.c.series == row.number, scored_files.c.job > row.jobs)
        while self._delete(leftovers, FILES_PER_PAGE) == FILES_PER_PAGE:
            pass
        return int(row.jobs) + 1

    def is_held(self, job_id: str, name: str) -> bool:
        held = select(series.c.number).where(series.c.job_id == job_id, series.c.name == name)
        with self._database.read() as connection:
            return connection.execute(held).first() is not None

    def add_if_current(self, lease: Lease, name: str, files: Sequence[InputFile]) -> bool:
        held = (
            select(series.c.number, series.c.jobs)
            .join(jobs, jobs.c.id == series.c.job_id)
            .where(held_by(lease), series.c.name == name)
            .with_for_update(of=series)
        )
        with self._database.write() as connection:
            row = connection.execute(held).first()
            if row is None:
                return False
            key = {"series": row.number, "job": row.jobs + 1}
            new = self._database.dialect.insert_new(scored_files, {}).returning(scored_files.c.path)
            # Many in one statement, and with RETURNING for the reason that `insert_rows` gives.
            connection.execute(new, [{**key, **vars(file)} for file in files]).all()
            return True

    def files(
        self, tenant: str, name: str, *, number: int | None = None, below: str = "/", after: str = ""
    ) -> Iterator[InputFile]:
        counted = self._counted(tenant, name, below)
        if number is not None:
            counted = and_(counted, scored_files.c.job == number)
        key = tuple_(scored_files.c.path, scored_files.c.job)
        start: tuple[str, int] = (after, _AFTER_ALL)
        while True:
            page = (
                select(scored_files)
                .join(series, series.c.number == scored_files.c.series)
                .where(counted, key > start)
                .order_by(scored_files.c.path, scored_files.c.job)
                .limit(FILES_PER_PAGE)
            )
            with self._database.read() as connection:
                rows = connection.execute(page).all()
            for row in rows:
                yield InputFile(path=row.path, size_bytes=row.size_bytes, mtime_ns=row.mtime_ns)
            if len(rows) < FILES_PER_PAGE:
                return
            start = (rows[-1].path, rows[-1].job)

    def get(self, tenant: str, name: str) -> Series:
        with self._database.read() as connection:
            row = connection.execute(_facts().where(_is(tenant, name))).first()
            if row is None:
                raise no_such_series(name)
            return _series_of(row)

    def list(self, tenant: str, *, limit: int = 100, after: str | None = None) -> list[Series]:
        page = _facts().where(series.c.tenant == tenant).order_by(series.c.name).limit(limit)
        if after is not None:
            page = page.where(series.c.name > after)
        with self._database.read() as connection:
            return [_series_of(row) for row in connection.execute(page)]

    def forget(self, tenant: str, name: str, *, below: str, limit: int = FILES_PER_PAGE) -> int:
        with self._database.read() as connection:
            row = connection.execute(_one(tenant, name)).first()
            if row is None:
                raise no_such_series(name)
        counted = and_(scored_files.c.series == row.number, scored_files.c.job <= row.jobs, _below(below))
        return self._delete(counted, limit)

    def _delete(self, which: ColumnElement[bool], limit: int) -> int:
        keys = list(scored_files.primary_key.columns)
        some = select(*keys).where(which).order_by(*keys).limit(limit)
        gone = delete(scored_files).where(tuple_(*keys).in_(some)).returning(scored_files.c.job)
        with self._database.write() as connection:
            return len(connection.execute(gone).all())

    @staticmethod
    def _counted(tenant: str, name: str, below: str) -> ColumnElement[bool]:
        return and_(_is(tenant, name), scored_files.c.job <= series.c.jobs, _below(below))


def no_such_series(name: str) -> NotFound:
    """The error for a series that is not there."""
    return NotFound(f"There is no series {name!r}.", remedy="`tidemill series list` shows what is there.")


def _is(tenant: str, name: str) -> ColumnElement[bool]:
    return and_(series.c.tenant == tenant, series.c.name == name)


def _one(tenant: str, name: str) -> Select[Any]:
    return select(series).where(_is(tenant, name))


def _below(path: str) -> ColumnElement[bool]:
    """That file, or those in that folder."""
    # "0" follows "/", and paths are compared byte by byte.
    inside = and_(scored_files.c.path > f"{path.rstrip('/')}/", scored_files.c.path < f"{path.rstrip('/')}0")
    return or_(scored_files.c.path == path, inside)


def _facts() -> Select[Any]:
    counted = and_(scored_files.c.series == series.c.number, scored_files.c.job <= series.c.jobs)
    files = select(func.count(scored_files.c.path.distinct())).where(counted).correlate(series).scalar_subquery()
    return select(series, files.label("files"))


def _series_of(row: Row[Any]) -> Series:
    return Series(
        tenant=row.tenant,
        name=row.name,
        jobs=row.jobs,
        files=row.files,
        holder=row.job_id,
        recorded_at=moment_or_none(row.recorded_at_ms),
    )
