"""API keys, by the SHA-256 of their secret."""

from __future__ import annotations

import threading
import time
from typing import Any

from sqlalchemy import RowMapping, func, insert, select, update

from tidemill.domain.access import ApiKey, Role
from tidemill.domain.errors import NotFound
from tidemill.ports.store import KeyStore
from tidemill.stores.sql.database import Database
from tidemill.stores.sql.rows import milliseconds, moment, moment_or_none
from tidemill.stores.sql.tables import api_keys

_TOUCH_SECONDS = 60.0
_MOST_TOUCHED = 10_000


class SqlKeys(KeyStore):
    """When a key was used is written once a minute by each process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._touched: dict[str, float] = {}
        self._guard = threading.Lock()

    def add(self, key: ApiKey, secret_sha256: str) -> None:
        with self._database.write() as connection:
            connection.execute(insert(api_keys).values(**_columns_of(key), secret_sha256=secret_sha256))

    def find(self, key_id: str) -> tuple[ApiKey, str] | None:
        with self._database.read() as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.id == key_id)).mappings().first()
            return None if row is None else (_key(row), str(row["secret_sha256"]))

    def list(self, tenant: str | None = None) -> list[ApiKey]:
        keys = select(api_keys).order_by(api_keys.c.created_at_ms, api_keys.c.id)
        if tenant is not None:
            keys = keys.where(api_keys.c.tenant == tenant)
        with self._database.read() as connection:
            return [_key(row) for row in connection.execute(keys).mappings()]

    def revoke(self, key_id: str, tenant: str | None = None) -> ApiKey:
        """Of one that was revoked before the first time stays."""
        revoked = (
            update(api_keys)
            .where(api_keys.c.id == key_id)
            .values(revoked_at_ms=func.coalesce(api_keys.c.revoked_at_ms, self._database.now_ms))
            .returning(*api_keys.c)
        )
        if tenant is not None:
            revoked = revoked.where(api_keys.c.tenant == tenant)
        with self._database.write() as connection:
            row = connection.execute(revoked).mappings().first()
            if row is None:
                raise NotFound(f"There is no key {key_id!r}.", remedy="`tidemill keys list` shows them.")
            return _key(row)

    def touch(self, key_id: str) -> None:
        if not self._is_due(key_id):
            return
        used = update(api_keys).where(api_keys.c.id == key_id).values(last_used_at_ms=self._database.now_ms)
        with self._database.write(settle=False) as connection:
            connection.execute(used)

    def any(self) -> bool:
        with self._database.read() as connection:
            return connection.execute(select(api_keys.c.id).limit(1)).first() is not None

    def _is_due(self, key_id: str) -> bool:
        now = time.monotonic()
        with self._guard:
            if now - self._touched.get(key_id, -_TOUCH_SECONDS) < _TOUCH_SECONDS:
                return False
            if len(self._touched) >= _MOST_TOUCHED:
                self._touched.clear()
            self._touched[key_id] = now
            return True


def _columns_of(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "role": key.role.value,
        "owner": key.owner,
        "max_running": key.max_running,
        "requests_per_minute": key.requests_per_minute,
        "created_at_ms": milliseconds(key.created_at),
        "expires_at_ms": None if key.expires_at is None else milliseconds(key.expires_at),
        "revoked_at_ms": None if key.revoked_at is None else milliseconds(key.revoked_at),
        "last_used_at_ms": None if key.last_used_at is None else milliseconds(key.last_used_at),
    }


def _key(row: RowMapping) -> ApiKey:
    return ApiKey(
        id=row["id"],
        name=row["name"],
        tenant=row["tenant"],
        role=Role(row["role"]),
        owner=row["owner"],
        max_running=row["max_running"],
        requests_per_minute=row["requests_per_minute"],
        created_at=moment(row["created_at_ms"]),
        expires_at=moment_or_none(row["expires_at_ms"]),
        revoked_at=moment_or_none(row["revoked_at_ms"]),
        last_used_at=moment_or_none(row["last_used_at_ms"]),
    )
