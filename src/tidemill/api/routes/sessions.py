"""Browsers in which people logged in."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from starlette.requests import Request

from tidemill.api.access import door, needs
from tidemill.api.dependencies import Here, Who
from tidemill.api.errors import problems
from tidemill.domain.access import Action
from tidemill.service import logins
from tidemill.wire.api import SessionList, SessionOut

router = door("/sessions", "sessions")

SessionId = Annotated[str, Path(pattern=r"^session_[0-9a-z]{16}$", description="A session's id.")]


@router.get("")
@needs(Action.MANAGE_KEYS)
def list_sessions(context: Here, who: Who) -> SessionList:
    """Logins of people in the caller's tenant that are not over, newest first."""
    return SessionList(items=logins.list(context, who))


@router.post("/{session_id}/end", responses=problems(404))
@needs(Action.MANAGE_KEYS)
def end_session(request: Request, context: Here, who: Who, session_id: SessionId) -> SessionOut:
    """End a login; other servers of the same store notice within a few seconds."""
    ended = logins.end(context, who, session_id)
    request.app.state.access.forget()
    return ended
