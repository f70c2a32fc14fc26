"""API keys of a service, for its administrators."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import quote

from tidemill.client.connection import Call, Connection
from tidemill.wire.api import AddKey, KeyList, KeyOut, NewKey, RoleName

KeyOuts = list[KeyOut]


class Keys:
    """`client.keys`: add, list and revoke."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(
        self,
        name: str,
        *,
        role: RoleName = "operator",
        tenant: str | None = None,
        owner: str = "",
        max_running: int | None = None,
        requests_per_minute: int | None = None,
        expires_at: datetime | None = None,
    ) -> NewKey:
        """Make a key. Its text is in this answer's `key` and nowhere else, ever."""
        request = AddKey(
            name=name,
            role=role,
            tenant=tenant,
            owner=owner,
            max_running=max_running,
            requests_per_minute=requests_per_minute,
            expires_at=expires_at,
        )
        return self.make(request)

    def make(self, request: AddKey) -> NewKey:
        """The same from a whole request."""
        return self._connection.ask(NewKey, Call(method="POST", path="/keys", body=request))

    def list(self) -> KeyOuts:
        """Oldest first, with those that were revoked."""
        return self._connection.ask(KeyList, Call(method="GET", path="/keys")).items

    def revoke(self, key_id: str) -> KeyOut:
        """From now on it opens nothing. Safe to repeat."""
        return self._connection.ask(KeyOut, Call(method="POST", path=f"/keys/{quote(key_id, safe='')}/revoke"))
