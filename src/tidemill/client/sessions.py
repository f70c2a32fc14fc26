"""Browsers in which people logged in to a service, for its administrators."""

from __future__ import annotations

from urllib.parse import quote

from tidemill.client.connection import Call, Connection
from tidemill.wire.api import SessionList, SessionOut

SessionOuts = list[SessionOut]


class Sessions:
    """`client.sessions`: list and end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> SessionOuts:
        """Newest first; those that are over are not there."""
        return self._connection.ask(SessionList, Call(method="GET", path="/sessions")).items

    def end(self, session_id: str) -> SessionOut:
        """From now on it opens nothing. Raises NotFound if it is over."""
        return self._connection.ask(SessionOut, Call(method="POST", path=f"/sessions/{quote(session_id, safe='')}/end"))
