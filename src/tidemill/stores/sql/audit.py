"""What people did."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, insert, select

from tidemill.domain.access import AuditEntry
from tidemill.ports.store import AuditLog
from tidemill.stores.sql.database import Database
from tidemill.stores.sql.rows import milliseconds, moment
from tidemill.stores.sql.tables import audit


class SqlAudit(AuditLog):
    """Entries in a table that refuses changes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, entry: AuditEntry) -> None:
        """An entry without a time gets the database's."""
        values = {
            "at_ms": self._database.now_ms if entry.at is None else milliseconds(entry.at),
            "tenant": entry.tenant,
            "actor": entry.actor,
            "action": entry.action,
            "subject": entry.subject,
            "detail": entry.detail,
        }
        with self._database.write() as connection:
            connection.execute(insert(audit).values(**values))

    def list(self, tenant: str | None = None, *, limit: int = 100, before: int | None = None) -> list[AuditEntry]:
        page = select(audit).order_by(audit.c.number.desc()).limit(limit)
        if tenant is not None:
            page = page.where(audit.c.tenant == tenant)
        if before is not None:
            page = page.where(audit.c.number < before)
        with self._database.read() as connection:
            return [
                AuditEntry(
                    number=row.number,
                    at=moment(row.at_ms),
                    tenant=row.tenant,
                    actor=row.actor,
                    action=row.action,
                    subject=row.subject,
                    detail=row.detail,
                )
                for row in connection.execute(page)
            ]

    def forget_before(self, moment: datetime, *, limit: int) -> int:
        old = (
            select(audit.c.number)
            .where(audit.c.at_ms < milliseconds(moment))
            .order_by(audit.c.at_ms, audit.c.number)
            .limit(limit)
        )
        gone = delete(audit).where(audit.c.number.in_(old)).returning(audit.c.number)
        with self._database.write() as connection:
            return len(connection.execute(gone).all())
