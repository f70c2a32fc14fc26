"""Webhooks: who is told of what."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, func, insert, select, update

from tidemill.domain.errors import NotFound
from tidemill.domain.webhook import DeliveryState, EventType, Webhook, WebhookChange
from tidemill.ports.outbox import WebhookStore
from tidemill.stores.sql.database import Database
from tidemill.stores.sql.rows import check_labels, milliseconds, moment, moment_or_none
from tidemill.stores.sql.tables import deliveries, webhooks

DISABLED = "The webhook was disabled."
"""The problem of deliveries that are given up with their webhook."""


class SqlWebhooks(WebhookStore):
    """Labels are checked here: the trigger that compares them must never fail."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, webhook: Webhook, *, most: int) -> bool:
        check_labels(webhook.labels)
        with self._database.take_turn() as connection:
            count = select(func.count()).select_from(webhooks).where(webhooks.c.tenant == webhook.tenant)
            if connection.execute(count).scalar_one() >= most:
                return False
            connection.execute(insert(webhooks).values(**_columns_of(webhook)))
            return True

    def get(self, webhook_id: str, tenant: str | None = None) -> Webhook:
        with self._database.read() as connection:
            row = connection.execute(select(webhooks).where(_here(webhook_id, tenant))).mappings().first()
            return _found(row, webhook_id)

    def list(self, tenant: str | None = None) -> list[Webhook]:
        some = select(webhooks).order_by(webhooks.c.created_at_ms, webhooks.c.id)
        if tenant is not None:
            some = some.where(webhooks.c.tenant == tenant)
        with self._database.read() as connection:
            return [webhook_of(row) for row in connection.execute(some).mappings()]

    def change(self, webhook_id: str, change: WebhookChange, tenant: str | None = None) -> Webhook:
        values = _changed(change)
        with self._database.write() as connection:
            if change.enabled is False:
                _give_up(connection, webhook_id, tenant)
            return self._update(connection, webhook_id, tenant, values)

    def rotate(self, webhook_id: str, overlap: timedelta, tenant: str | None = None) -> Webhook:
        values = {
            "generation": webhooks.c.generation + 1,
            "previous_until_ms": self._database.now_ms + round(overlap.total_seconds() * 1000),
        }
        with self._database.write() as connection:
            return self._update(connection, webhook_id, tenant, values)

    def disable(self, webhook_id: str, reason: str) -> None:
        values = {"enabled": False, "disabled_reason": reason}
        with self._database.write() as connection:
            _give_up(connection, webhook_id, None)
            connection.execute(update(webhooks).where(webhooks.c.id == webhook_id).values(values))

    def remove(self, webhook_id: str, tenant: str | None = None) -> None:
        gone = delete(webhooks).where(_here(webhook_id, tenant)).returning(webhooks.c.id)
        with self._database.write() as connection:
            if connection.execute(gone).first() is None:
                raise no_such_webhook(webhook_id)
            connection.execute(delete(deliveries).where(deliveries.c.webhook_id == webhook_id))

    def foreign_key(self, key_id: str) -> str | None:
        other = select(webhooks.c.key_id).where(webhooks.c.key_id != key_id).limit(1)
        with self._database.read() as connection:
            return connection.execute(other).scalar_one_or_none()

    def _update(self, connection: Connection, webhook_id: str, tenant: str | None, values: dict[str, Any]) -> Webhook:
        if not values:
            row = connection.execute(select(webhooks).where(_here(webhook_id, tenant))).mappings().first()
        else:
            changed = update(webhooks).where(_here(webhook_id, tenant)).values(values).returning(*webhooks.c)
            row = connection.execute(changed).mappings().first()
        return _found(row, webhook_id)


def webhook_of(row: RowMapping) -> Webhook:
    """The webhook of a whole row."""
    return Webhook(
        id=row["id"],
        tenant=row["tenant"],
        url=row["url"],
        events=tuple(EventType(event) for event in row["events"]),
        job_name=row["job_name"],
        labels=row["labels"],
        description=row["description"],
        enabled=row["enabled"],
        disabled_reason=row["disabled_reason"],
        key_id=row["key_id"],
        generation=row["generation"],
        previous_until=moment_or_none(row["previous_until_ms"]),
        created_at=moment(row["created_at_ms"]),
        created_by=row["created_by"],
    )


def no_such_webhook(webhook_id: str) -> NotFound:
    """The error for a webhook that is not there."""
    return NotFound(f"There is no webhook {webhook_id!r}.", remedy="`tidemill webhooks list` shows what is there.")


def _found(row: RowMapping | None, webhook_id: str) -> Webhook:
    if row is None:
        raise no_such_webhook(webhook_id)
    return webhook_of(row)


def _here(webhook_id: str, tenant: str | None) -> ColumnElement[bool]:
    here = webhooks.c.id == webhook_id
    return here if tenant is None else and_(here, webhooks.c.tenant == tenant)


def _give_up(connection: Connection, webhook_id: str, tenant: str | None) -> None:
    values = {"state": DeliveryState.GIVEN_UP.value, "next_at_ms": None, "token": None, "problem": DISABLED}
    whose = select(webhooks.c.id).where(_here(webhook_id, tenant))
    waiting = deliveries.c.state == DeliveryState.WAITING.value
    connection.execute(update(deliveries).where(deliveries.c.webhook_id.in_(whose), waiting).values(values))


def _changed(change: WebhookChange) -> dict[str, Any]:
    values = {name: value for name, value in vars(change).items() if value is not None}
    if change.labels is not None:
        check_labels(change.labels)
    if change.events is not None:
        values["events"] = [event.value for event in change.events]
    if change.job_name is not None:
        values["job_name"] = change.job_name or None
    if change.enabled is not None:
        values["disabled_reason"] = None
    return values


def _columns_of(webhook: Webhook) -> dict[str, Any]:
    columns = {name: value for name, value in vars(webhook).items() if name not in ("previous_until", "created_at")}
    return {
        **columns,
        "events": [event.value for event in webhook.events],
        "previous_until_ms": None if webhook.previous_until is None else milliseconds(webhook.previous_until),
        "created_at_ms": milliseconds(webhook.created_at),
    }
