"""Schedules, and what became of their due times."""

from __future__ import annotations

import difflib
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, exists, literal_column, or_, select, update

from tidemill.domain.errors import KeyReused, NotFound, Refused
from tidemill.domain.job import Idempotency, JobState
from tidemill.domain.lookout import trigger_of
from tidemill.domain.schedule import OVER, PUT_BACK, CatchUp, Firing, FiringState, Origin, Overlap, Schedule
from tidemill.domain.trigger import Trigger
from tidemill.ports.store import FiringStore, ScheduleStore
from tidemill.stores.sql.database import Database
from tidemill.stores.sql.rows import milliseconds, moment, moment_or_none
from tidemill.stores.sql.tables import firings, schedules

_MOST_NAMES = 1000


def _text(value: str) -> ColumnElement[str]:
    """In the statement itself: a database uses an index with a condition only for a query that shows it."""
    return literal_column(f"'{value}'")


_OVER = [_text(state.value) for state in JobState if state in OVER]


def _waits(table: Any = firings) -> ColumnElement[bool]:
    waits: ColumnElement[bool] = table.c.state == _text(FiringState.WAITING.value)
    return waits


def _is_active(table: Any = firings) -> ColumnElement[bool]:
    return and_(table.c.state == _text(FiringState.STARTED.value), table.c.job_state.not_in(_OVER))


class SqlSchedules(ScheduleStore):
    """Schedules on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def now(self) -> datetime:
        with self._database.read() as connection:
            return moment(self._database.now(connection))

    def add(self, schedule: Schedule, idempotency: Idempotency | None = None) -> tuple[Schedule, bool]:
        promise = None if idempotency is None else (idempotency.key, idempotency.request_digest)
        key, digest = promise or (None, None)
        values = {**_columns_of(schedule), "request_key": key, "request_digest": digest}
        new = self._database.dialect.insert_new(schedules, values).returning(schedules.c.id)
        with self._database.write() as connection:
            if connection.execute(new).first() is not None:
                return schedule, True
            before = self._same_request(connection, schedule.tenant, idempotency)
            if before is None:
                raise Refused(
                    f"There is a schedule {schedule.name!r} already.",
                    remedy=f"Choose another name, or remove that one with: tidemill schedules remove {schedule.name}",
                )
            return before, False

    def get(self, tenant: str, which: str) -> Schedule:
        here = and_(schedules.c.tenant == tenant, or_(schedules.c.id == which, schedules.c.name == which))
        # A schedule may be called like the id of another one: ids go first.
        found = select(schedules).where(here).order_by((schedules.c.id == which).desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(found).mappings().first()
            if row is None:
                raise self._unknown(connection, tenant, which)
            return _schedule(row)

    def remove(self, schedule_id: str) -> None:
        with self._database.write() as connection:
            _hold(connection, schedule_id)
            connection.execute(delete(firings).where(firings.c.schedule_id == schedule_id))
            connection.execute(delete(schedules).where(schedules.c.id == schedule_id))

    def list_due(self, now: datetime, *, limit: int) -> list[Schedule]:
        at = milliseconds(now)
        due = and_(
            schedules.c.paused.is_(False),
            schedules.c.next_due_ms.is_not(None),
            or_(schedules.c.next_due_ms <= at, schedules.c.checked_at_ms > milliseconds(now + PUT_BACK)),
        )
        page = select(schedules).where(due).order_by(schedules.c.next_due_ms, schedules.c.number).limit(limit)
        with self._database.read() as connection:
            return [_schedule(row) for row in connection.execute(page).mappings()]

    def find_and_hold(self, schedule_id: str) -> Schedule | None:
        with self._database.write() as connection:
            row = _hold(connection, schedule_id)
            return None if row is None else _schedule(row)

    def move_on(
        self, schedule_id: str, next_due: datetime | None, *, checked_at: datetime, trigger: Trigger | None = None
    ) -> None:
        due = None if next_due is None else milliseconds(next_due)
        values: dict[str, Any] = {"next_due_ms": due, "checked_at_ms": milliseconds(checked_at)}
        if trigger is not None:
            values["trigger_spec"] = trigger.to_json()
        with self._database.write() as connection:
            connection.execute(update(schedules).where(schedules.c.id == schedule_id).values(values))

    def set_paused(self, schedule_id: str, paused: bool) -> None:
        with self._database.write() as connection:
            connection.execute(update(schedules).where(schedules.c.id == schedule_id).values(paused=paused))

    def _same_request(self, connection: Connection, tenant: str, promise: Idempotency | None) -> Schedule | None:
        if promise is None:
            return None
        here = and_(schedules.c.tenant == tenant, schedules.c.request_key == promise.key)
        row = connection.execute(select(schedules).where(here)).mappings().first()
        if row is None:
            return None
        if row["request_digest"] != promise.request_digest:
            raise KeyReused(
                f"The idempotency key {promise.key!r} came before, with another request ({row['id']}).",
                remedy="Use a new key for a new request.",
            )
        return _schedule(row)

    def _unknown(self, connection: Connection, tenant: str, which: str) -> NotFound:
        names = select(schedules.c.name).where(schedules.c.tenant == tenant).order_by(schedules.c.name)
        known = connection.execute(names.limit(_MOST_NAMES)).scalars().all()
        similar = difflib.get_close_matches(which, known, n=1)
        remedy = f"Did you mean {similar[0]!r}?" if similar else "`tidemill schedules list` shows them."
        return NotFound(f"There is no schedule {which!r}.", remedy=remedy)

    def list(self, tenant: str, *, limit: int = 100, after: str | None = None) -> list[Schedule]:
        page = select(schedules).where(schedules.c.tenant == tenant).order_by(schedules.c.name).limit(limit)
        if after is not None:
            page = page.where(schedules.c.name > after)
        with self._database.read() as connection:
            return [_schedule(row) for row in connection.execute(page).mappings()]


class SqlFirings(FiringStore):
    """Firings on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record_if_new(self, firing: Firing) -> bool:
        new = self._database.dialect.insert_new(firings, _row_of(firing)).returning(firings.c.due_ms)
        with self._database.write() as connection:
            return connection.execute(new).first() is not None

    def replace_if_over(self, firing: Firing) -> bool:
        return self._replace(firing, and_(~_waits(), ~_is_active()))

    def settle_if_waiting(self, firing: Firing) -> bool:
        return self._replace(firing, _waits())

    def find(self, schedule_id: str, due: datetime) -> Firing | None:
        return self._find(_is(schedule_id, due))

    def find_by_request(self, schedule_id: str, request_key: str) -> Firing | None:
        return self._find(and_(firings.c.schedule_id == schedule_id, firings.c.request_key == request_key))

    def unfinished(self, schedule_id: str, *, backfill: bool) -> list[Firing]:
        line = firings.c.origin == Origin.BACKFILL.value if backfill else firings.c.origin != Origin.BACKFILL.value
        mine = and_(firings.c.schedule_id == schedule_id, line)
        found = self._list(and_(mine, _waits())) + self._list(and_(mine, _is_active()))
        return sorted(found, key=lambda firing: firing.due)

    def ready(self, *, limit: int) -> list[tuple[Schedule, Firing]]:
        before = firings.alias("before")
        same_line = and_(
            before.c.schedule_id == firings.c.schedule_id,
            (before.c.origin == Origin.BACKFILL.value) == (firings.c.origin == Origin.BACKFILL.value),
        )
        # Two conditions, for two indexes.
        active = exists().where(same_line, _is_active(before))
        earlier = exists().where(same_line, _waits(before), before.c.due_ms < firings.c.due_ms)
        runs = exists().where(schedules.c.id == firings.c.schedule_id, schedules.c.paused.is_(False))
        page = select(firings).where(_waits(), runs, ~active, ~earlier).order_by(firings.c.due_ms).limit(limit)
        with self._database.read() as connection:
            found = [_firing(row) for row in connection.execute(page).mappings()]
            if not found:
                return []
            wanted = select(schedules).where(schedules.c.id.in_({firing.schedule_id for firing in found}))
            by_id = {row["id"]: _schedule(row) for row in connection.execute(wanted).mappings()}
        return [(by_id[firing.schedule_id], firing) for firing in found if firing.schedule_id in by_id]

    def between(self, schedule_id: str, first: datetime, last: datetime) -> list[Firing]:
        span = firings.c.due_ms.between(milliseconds(first), milliseconds(last))
        return self._list(and_(firings.c.schedule_id == schedule_id, span))

    def forget_before(self, moment: datetime, *, limit: int) -> int:
        keys = (firings.c.schedule_id, firings.c.due_ms)
        old = and_(firings.c.due_ms < milliseconds(moment), ~_waits(), ~_is_active())
        some = select(*keys).where(old).order_by(firings.c.due_ms, firings.c.schedule_id).limit(limit)
        with self._database.write() as connection:
            found = connection.execute(some).all()
            for row in found:
                connection.execute(delete(firings).where(_is_key(row.schedule_id, row.due_ms)))
            return len(found)

    def _replace(self, firing: Firing, condition: ColumnElement[bool]) -> bool:
        replaced = (
            update(firings)
            .where(_is(firing.schedule_id, firing.due), condition)
            .values(_row_of(firing))
            .returning(firings.c.due_ms)
        )
        with self._database.write() as connection:
            return connection.execute(replaced).first() is not None

    def _find(self, condition: ColumnElement[bool]) -> Firing | None:
        with self._database.read() as connection:
            row = connection.execute(select(firings).where(condition)).mappings().first()
            return None if row is None else _firing(row)

    def _list(self, condition: ColumnElement[bool]) -> list[Firing]:
        with self._database.read() as connection:
            rows = connection.execute(select(firings).where(condition).order_by(firings.c.due_ms)).mappings()
            return [_firing(row) for row in rows]

    def list(self, schedule_id: str, *, limit: int = 50, before: datetime | None = None) -> list[Firing]:
        page = select(firings).where(firings.c.schedule_id == schedule_id).order_by(firings.c.due_ms.desc())
        if before is not None:
            page = page.where(firings.c.due_ms < milliseconds(before))
        with self._database.read() as connection:
            return [_firing(row) for row in connection.execute(page.limit(limit)).mappings()]


def _hold(connection: Connection, schedule_id: str) -> RowMapping | None:
    return (
        connection.execute(select(schedules).where(schedules.c.id == schedule_id).with_for_update()).mappings().first()
    )


def _is(schedule_id: str, due: datetime) -> ColumnElement[bool]:
    return _is_key(schedule_id, milliseconds(due))


def _is_key(schedule_id: str, due_ms: int) -> ColumnElement[bool]:
    return and_(firings.c.schedule_id == schedule_id, firings.c.due_ms == due_ms)


def _columns_of(schedule: Schedule) -> dict[str, Any]:
    return {
        "id": schedule.id,
        "tenant": schedule.tenant,
        "name": schedule.name,
        "spec": schedule.spec,
        "trigger_spec": schedule.trigger.to_json(),
        "overlap": schedule.overlap.value,
        "catch_up": schedule.catch_up.value,
        "paused": schedule.paused,
        "key_id": schedule.key_id,
        "created_by": schedule.created_by,
        "created_at_ms": milliseconds(schedule.created_at),
        "next_due_ms": None if schedule.next_due is None else milliseconds(schedule.next_due),
        "checked_at_ms": milliseconds(schedule.checked_at),
    }


def _schedule(row: RowMapping) -> Schedule:
    return Schedule(
        id=row["id"],
        tenant=row["tenant"],
        name=row["name"],
        spec=row["spec"],
        trigger=trigger_of(row["trigger_spec"]),
        overlap=Overlap(row["overlap"]),
        catch_up=CatchUp(row["catch_up"]),
        paused=row["paused"],
        key_id=row["key_id"],
        created_by=row["created_by"],
        created_at=moment(row["created_at_ms"]),
        next_due=moment_or_none(row["next_due_ms"]),
        checked_at=moment(row["checked_at_ms"]),
    )


def _row_of(firing: Firing) -> dict[str, Any]:
    return {
        "schedule_id": firing.schedule_id,
        "due_ms": milliseconds(firing.due),
        "state": firing.state.value,
        "origin": firing.origin.value,
        "job_id": firing.job_id,
        "job_state": None if firing.job_state is None else firing.job_state.value,
        "reason": firing.reason,
        "fired_at_ms": milliseconds(firing.fired_at),
        "request_key": firing.request_key,
    }


def _firing(row: RowMapping) -> Firing:
    return Firing(
        schedule_id=row["schedule_id"],
        due=moment(row["due_ms"]),
        state=FiringState(row["state"]),
        origin=Origin(row["origin"]),
        job_id=row["job_id"],
        job_state=None if row["job_state"] is None else JobState(row["job_state"]),
        reason=row["reason"],
        fired_at=moment(row["fired_at_ms"]),
        request_key=row["request_key"],
    )
