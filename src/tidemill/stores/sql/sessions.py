"""Browsers in which somebody logged in."""

from __future__ import annotations

from sqlalchemy import RowMapping, delete, insert, select

from tidemill.domain.login import Person, Session
from tidemill.ports.store import MOST_SESSIONS, SessionStore
from tidemill.stores.sql.database import Database
from tidemill.stores.sql.rows import milliseconds, moment
from tidemill.stores.sql.tables import sessions

_NEWEST_FIRST = (sessions.c.created_at_ms.desc(), sessions.c.id.desc())


class SqlSessions(SessionStore):
    """What is over is deleted when the next one begins."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lives = sessions.c.expires_at_ms > database.now_ms

    def add(self, session: Session, secret_sha256: str) -> None:
        person = session.person
        values = {
            "id": session.id,
            "secret_sha256": secret_sha256,
            "name": person.name,
            "groups": sorted(person.groups),
            "vouched_by": person.vouched_by,
            "created_at_ms": milliseconds(session.created_at),
            "expires_at_ms": milliseconds(session.expires_at),
        }
        theirs = sessions.c.name == person.name
        newest = select(sessions.c.id).where(theirs).order_by(*_NEWEST_FIRST).limit(MOST_SESSIONS)
        with self._database.write() as connection:
            connection.execute(delete(sessions).where(~self._lives))
            connection.execute(insert(sessions).values(values))
            connection.execute(delete(sessions).where(theirs, sessions.c.id.not_in(newest)))

    def find(self, session_id: str) -> tuple[Session, str] | None:
        with self._database.read() as connection:
            found = connection.execute(select(sessions).where(sessions.c.id == session_id, self._lives))
            row = found.mappings().first()
            return None if row is None else (_session(row), str(row["secret_sha256"]))

    def list(self) -> list[Session]:
        newest = select(sessions).where(self._lives).order_by(*_NEWEST_FIRST)
        with self._database.read() as connection:
            return [_session(row) for row in connection.execute(newest).mappings()]

    def end(self, session_id: str) -> bool:
        ended = delete(sessions).where(sessions.c.id == session_id, self._lives).returning(sessions.c.id)
        with self._database.write() as connection:
            return connection.execute(ended).first() is not None


def _session(row: RowMapping) -> Session:
    return Session(
        id=row["id"],
        person=Person(name=row["name"], groups=frozenset(row["groups"]), vouched_by=row["vouched_by"]),
        created_at=moment(row["created_at_ms"]),
        expires_at=moment(row["expires_at_ms"]),
    )
