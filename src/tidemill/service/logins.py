"""People who log in: let in by a rule, remembered by a session, asked for at every request."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from tidemill.domain.access import Principal
from tidemill.domain.errors import NotAllowed, NotAuthenticated, NotFound
from tidemill.domain.login import Logins, Person, Session, principal_of
from tidemill.service import audit
from tidemill.service.context import Context
from tidemill.service.provider import Attempt, Provider
from tidemill.service.tokens import is_genuine, new_token, read_token
from tidemill.wire.api import SessionOut

SESSION = "session"
"""What ids of sessions begin with."""

SessionOuts = list[SessionOut]

log = logging.getLogger(__name__)


def admit(context: Context, person: Person) -> Principal:
    """Who they are here. Raises NotAllowed if no rule names them."""
    who = principal_of(person, _logins(context).rules)
    if who is None:
        log.warning("refused %r, whom %s vouches for: no login rule names them", person.name, person.vouched_by)
        raise NotAllowed(
            f"You are known as {person.name}, but nobody let you in here.",
            remedy="Ask an administrator to name you, or a group of yours, in the setting `logins`.",
        )
    return who


def finish(context: Context, attempt: Attempt, answer: Mapping[str, str]) -> str:
    """End a login that was begun at the provider; the text of the new session's token.

    Raises NotAuthenticated, NotAllowed.
    """
    person = provider(context).finish(attempt, answer)
    who = admit(context, person)
    token = new_token(SESSION)
    now = datetime.now(UTC)
    session = Session(
        id=token.id,
        person=person,
        created_at=now,
        expires_at=now + timedelta(hours=_logins(context).session_hours),
    )
    with context.store.transaction():
        context.store.sessions.add(session, token.sha256)
        audit.record(context, who, "login", session.id, **_told(person, who))
    return token.text


def record_by_proxy(context: Context, person: Person, who: Principal) -> None:
    """Say in the audit log that a proxy vouched for them."""
    audit.record(context, who, "login", "", **_told(person, who))


def check(context: Context, text: str) -> Principal:
    """Who logged in with this token, by the rules of today. Raises NotAuthenticated, NotAllowed."""
    token = read_token(text)
    found = context.store.sessions.find(token.id)
    genuine = is_genuine(token, found[1] if found else None)
    if found is None or not genuine or context.policy.logins is None:
        raise NotAuthenticated("This login is over.", remedy="Log in again.")
    return admit(context, found[0].person)


def log_out(context: Context, text: str) -> bool:
    """End the session of this token; whether it was one."""
    token = read_token(text)
    found = context.store.sessions.find(token.id)
    if found is None or not is_genuine(token, found[1]):
        return False
    # Whom no rule names any more may still leave.
    who = _person_of(context, found[0]) or Principal(name=found[0].person.name, id=token.id)
    _end(context, found[0], who, "logout")
    return True


def list(context: Context, who: Principal) -> SessionOuts:
    """Newest first, of people in the caller's tenant; the person at the machine sees all."""
    told = [describe(context, each) for each in context.store.sessions.list()]
    return [each for each in told if who.is_here or each.tenant == who.tenant]


def end(context: Context, who: Principal, session_id: str) -> SessionOut:
    """End somebody's session. Raises NotFound, also for another tenant's."""
    found = context.store.sessions.find(session_id)
    told = None if found is None else describe(context, found[0])
    if found is None or told is None or not (who.is_here or told.tenant == who.tenant):
        raise NotFound(f"There is no session {session_id!r}.", remedy="`tidemill sessions list` shows them.")
    _end(context, found[0], who, "session.end")
    return told


def describe(context: Context, session: Session) -> SessionOut:
    """A session as the doors show it."""
    who = _person_of(context, session)
    return SessionOut(
        id=session.id,
        name=session.person.name,
        tenant=None if who is None else who.tenant,
        role=None if who is None else who.role.value,
        vouched_by=session.person.vouched_by,
        created_at=session.created_at,
        expires_at=session.expires_at,
    )


def provider(context: Context) -> Provider:
    """Raises NotFound if there is none."""
    if context.provider is None:
        raise NotFound("This service has no login provider.", remedy="Its operator names one in `oidc_issuer`.")
    return context.provider


def _end(context: Context, session: Session, who: Principal, action: str) -> None:
    with context.store.transaction():
        if context.store.sessions.end(session.id):
            audit.record(context, who, action, session.id, name=session.person.name)


def _person_of(context: Context, session: Session) -> Principal | None:
    """Who the person of a session is by the rules of now."""
    return None if context.policy.logins is None else principal_of(session.person, context.policy.logins.rules)


def _logins(context: Context) -> Logins:
    logins = context.policy.logins
    assert logins is not None, "somebody is vouched for"
    return logins


def _told(person: Person, who: Principal) -> dict[str, str]:
    return {"by": person.vouched_by, "role": who.role.value}
