"""What people did that others may ask about later."""

from __future__ import annotations

from tidemill.domain.access import AuditEntry, Principal
from tidemill.service.context import Context
from tidemill.wire.api import AuditOut

Entries = list[AuditEntry]


def record(context: Context, who: Principal, action: str, subject: str, **detail: str) -> None:
    """Add an entry to the tenant's log; call it in the transaction that does what it tells of."""
    told = detail if who.id is None else {**detail, "actor_id": who.id}
    context.store.audit.record(
        AuditEntry(tenant=who.tenant, actor=who.name, action=action, subject=subject, detail=told)
    )


def list(context: Context, who: Principal, *, limit: int = 100, before: int | None = None) -> Entries:
    """Newest first, of the caller's tenant; the person at the machine sees all."""
    return context.store.audit.list(None if who.is_here else who.tenant, limit=limit, before=before)


def describe(entry: AuditEntry) -> AuditOut:
    """An entry as the doors show it."""
    assert entry.at is not None, "the store sets it"
    return AuditOut(
        number=entry.number,
        at=entry.at,
        actor=entry.actor,
        action=entry.action,
        subject=entry.subject,
        detail=entry.detail,
    )
