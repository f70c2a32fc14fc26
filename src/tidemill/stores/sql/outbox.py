"""What webhooks are still to be told, and what became of it."""

from __future__ import annotations

import os
from collections.abc import Collection
from datetime import datetime
from itertools import zip_longest
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    delete,
    func,
    insert,
    select,
    update,
)

from tidemill.domain.errors import NotFound
from tidemill.domain.webhook import Claimed, Delivery, DeliveryState, EventType
from tidemill.ports.outbox import Outbox
from tidemill.stores.sql.database import Database
from tidemill.stores.sql.rows import milliseconds, moment, moment_or_none
from tidemill.stores.sql.tables import deliveries, webhooks
from tidemill.stores.sql.webhooks import no_such_webhook, webhook_of

_WAITING = deliveries.c.state == DeliveryState.WAITING.value
_SETTLED = {"next_at_ms": None, "token": None}


class SqlOutbox(Outbox):
    """A claim moves the time at which a delivery is due to the end of its lease: a sender that died needs no sweep."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ping(self, webhook_id: str) -> Delivery:
        values = {
            "id": f"msg_{os.urandom(16).hex()}",
            "webhook_id": webhook_id,
            "type": EventType.PING.value,
            "at_ms": self._database.now_ms,
            "facts": {},
            "state": DeliveryState.WAITING.value,
            "attempts": 0,
            "next_at_ms": self._database.now_ms,
        }
        with self._database.write() as connection:
            there = select(webhooks.c.id).where(webhooks.c.id == webhook_id).with_for_update()
            if connection.execute(there).first() is None:
                raise no_such_webhook(webhook_id)
            made = insert(deliveries).values(values).returning(*deliveries.c)
            return _delivery(connection.execute(made).mappings().one())

    def claim_due(
        self, key_id: str, *, limit: int, each: int, lease_seconds: float, busy: Collection[str] = ()
    ) -> list[Claimed]:
        due = and_(self._due(key_id), deliveries.c.webhook_id.not_in(list(busy)))
        with self._database.read() as connection:
            # Without the write lock: senders ask again and again, and thousands may be due to one that is down.
            numbers = _first_of_each(connection, due, limit=limit, each=each)
        if not numbers:
            return []
        with self._database.take_turn() as connection:
            here = and_(deliveries.c.number.in_(numbers), self._due(key_id))
            return _take(connection, here, self._database.now_ms, lease_seconds)

    def claim(self, delivery_id: str, key_id: str, *, lease_seconds: float) -> Claimed | None:
        with self._database.take_turn() as connection:
            this = and_(deliveries.c.id == delivery_id, self._due(key_id))
            taken = _take(connection, this, self._database.now_ms, lease_seconds)
            return taken[0] if taken else None

    def delivered_if_current(self, claimed: Claimed, status: int) -> bool:
        return self._settle(
            claimed, {"state": DeliveryState.DELIVERED.value, "status": status, "problem": None, **_SETTLED}
        )

    def failed_if_current(
        self, claimed: Claimed, problem: str, *, status: int | None, retry_seconds: float | None
    ) -> bool:
        told = {"status": status, "problem": problem}
        if retry_seconds is None:
            return self._settle(claimed, {"state": DeliveryState.GIVEN_UP.value, **told, **_SETTLED})
        again = self._database.now_ms + round(retry_seconds * 1000)
        return self._settle(claimed, {"next_at_ms": again, "token": None, **told})

    def get(self, delivery_id: str, webhook_id: str) -> Delivery:
        this = and_(deliveries.c.id == delivery_id, deliveries.c.webhook_id == webhook_id)
        with self._database.read() as connection:
            row = connection.execute(select(deliveries).where(this)).mappings().first()
        if row is None:
            raise NotFound(
                f"There is no delivery {delivery_id!r} of the webhook {webhook_id}.",
                remedy=f"`tidemill webhooks deliveries {webhook_id}` shows what is there.",
            )
        return _delivery(row)

    def list(
        self,
        *,
        webhook_id: str | None = None,
        job_id: str | None = None,
        limit: int = 50,
        before: int | None = None,
    ) -> list[Delivery]:
        page = select(deliveries).order_by(deliveries.c.number.desc()).limit(limit)
        if webhook_id is not None:
            page = page.where(deliveries.c.webhook_id == webhook_id)
        if job_id is not None:
            page = page.where(deliveries.c.job_id == job_id)
        if before is not None:
            page = page.where(deliveries.c.number < before)
        with self._database.read() as connection:
            return [_delivery(row) for row in connection.execute(page).mappings()]

    def counts_by_state(self) -> dict[DeliveryState, int]:
        counts = select(deliveries.c.state, func.count()).group_by(deliveries.c.state)
        with self._database.read() as connection:
            return {DeliveryState(state): int(count) for state, count in connection.execute(counts)}

    def forget_before(self, moment: datetime, *, limit: int) -> int:
        old = (
            select(deliveries.c.number)
            .where(deliveries.c.at_ms < milliseconds(moment))
            .order_by(deliveries.c.at_ms, deliveries.c.number)
            .limit(limit)
        )
        gone = delete(deliveries).where(deliveries.c.number.in_(old)).returning(deliveries.c.number)
        with self._database.write() as connection:
            return len(connection.execute(gone).all())

    def _due(self, key_id: str) -> ColumnElement[bool]:
        sent_to = select(webhooks.c.id).where(webhooks.c.enabled.is_(True), webhooks.c.key_id == key_id)
        return and_(_WAITING, deliveries.c.next_at_ms <= self._database.now_ms, deliveries.c.webhook_id.in_(sent_to))

    def _settle(self, claimed: Claimed, values: dict[str, Any]) -> bool:
        held = and_(deliveries.c.id == claimed.delivery.id, deliveries.c.token == claimed.token)
        settled = update(deliveries).where(held).values(values).returning(deliveries.c.number)
        with self._database.write() as connection:
            return connection.execute(settled).first() is not None


def _delivery(row: RowMapping) -> Delivery:
    return Delivery(
        number=row["number"],
        id=row["id"],
        webhook_id=row["webhook_id"],
        job_id=row["job_id"],
        type=EventType(row["type"]),
        at=moment(row["at_ms"]),
        facts=row["facts"],
        state=DeliveryState(row["state"]),
        attempts=row["attempts"],
        next_at=moment_or_none(row["next_at_ms"]),
        tried_at=moment_or_none(row["tried_at_ms"]),
        status=row["status"],
        problem=row["problem"],
    )


def _first_of_each(connection: Connection, due: ColumnElement[bool], *, limit: int, each: int) -> list[int]:
    """Numbers of due deliveries: the first of every webhook before the second of any."""
    hook = deliveries.c.webhook_id
    longest_due = select(hook).where(due).group_by(hook).order_by(func.min(deliveries.c.next_at_ms)).limit(limit)
    queues = [
        connection.execute(
            select(deliveries.c.number)
            .where(due, hook == webhook_id)
            .order_by(deliveries.c.next_at_ms, deliveries.c.number)
            .limit(each)
        )
        .scalars()
        .all()
        for webhook_id in connection.execute(longest_due).scalars().all()
    ]
    in_turn = [number for rank in zip_longest(*queues) for number in rank if number is not None]
    return in_turn[:limit]


def _take(
    connection: Connection, which: ColumnElement[bool], now_ms: ColumnElement[int], lease_seconds: float
) -> list[Claimed]:
    token = os.urandom(16).hex()
    values = {
        "attempts": deliveries.c.attempts + 1,
        "token": token,
        "tried_at_ms": now_ms,
        "next_at_ms": now_ms + round(lease_seconds * 1000),
    }
    taken = update(deliveries).where(which).values(values).returning(*deliveries.c)
    found = [_delivery(row) for row in connection.execute(taken).mappings()]
    ids = {delivery.webhook_id for delivery in found}
    rows = connection.execute(select(webhooks).where(webhooks.c.id.in_(ids))).mappings()
    hooks = {row["id"]: webhook_of(row) for row in rows}
    # One whose webhook is removed at this very moment is gone with it.
    return [
        Claimed(delivery=delivery, webhook=hooks[delivery.webhook_id], token=token)
        for delivery in sorted(found, key=lambda each: each.number)
        if delivery.webhook_id in hooks
    ]
