"""API keys and the audit log."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tidemill.domain.access import ApiKey, AuditEntry, Role
from tidemill.domain.errors import NotFound
from tidemill.ports.store import Store
from tidemill.testing.store.factories import new_key
from tidemill.testing.store.suite import StoreSuite

EXPIRES = datetime(2027, 1, 2, 3, 4, 5, 678_000, UTC)


class KeysSuite(StoreSuite):
    """Keys are found until they are revoked, and then, too."""

    def test_a_key_is_kept_as_it_was_given(self, store: Store, open_store: Callable[..., Store]) -> None:
        assert not store.keys.any()
        key = new_key("key_1", role=Role.ADMIN, max_running=3, requests_per_minute=60, expires_at=EXPIRES)
        store.keys.add(key, "a" * 64)
        store.keys.add(new_key("key_2"), "b" * 64)
        other = open_store()
        assert other.keys.find("key_1") == (key, "a" * 64)
        assert other.keys.find("key_2") == (new_key("key_2"), "b" * 64)
        assert other.keys.find("key_3") is None
        assert other.keys.any()

    def test_keys_are_listed_oldest_first(self, store: Store) -> None:
        day = timedelta(days=1)
        keys = [
            new_key(f"key_{name}", tenant=tenant, created_at=EXPIRES + days * day)
            for name, tenant, days in (("c", "acme", 0), ("a", "default", 1), ("b", "acme", 2))
        ]
        for key in reversed(keys):
            store.keys.add(key, "a" * 64)
        assert store.keys.list() == keys
        assert store.keys.list("acme") == [keys[0], keys[2]]
        assert store.keys.list("none") == []

    def test_a_revoked_key_stays_revoked(self, store: Store) -> None:
        store.keys.add(new_key("key_1"), "a" * 64)
        first = store.keys.revoke("key_1")
        assert first.revoked_at is not None
        assert not first.is_valid(datetime.now(UTC))
        assert store.keys.revoke("key_1", "default") == first
        assert store.keys.find("key_1") == (first, "a" * 64)
        assert store.keys.list() == [first]
        assert store.keys.any()

    def test_another_tenants_key_is_not_found(self, store: Store) -> None:
        store.keys.add(new_key("key_1"), "a" * 64)
        with pytest.raises(NotFound):
            store.keys.revoke("key_1", "acme")
        with pytest.raises(NotFound):
            store.keys.revoke("key_2")
        assert store.keys.list() == [new_key("key_1")]

    def test_use_is_kept_to_the_minute(self, store: Store) -> None:
        store.keys.add(new_key("key_1"), "a" * 64)
        store.keys.add(new_key("key_2"), "b" * 64)
        store.keys.touch("key_1")
        (used, _), (unused, _) = _found(store, "key_1"), _found(store, "key_2")
        assert used.last_used_at is not None
        assert unused.last_used_at is None
        store.keys.touch("key_1")
        assert _found(store, "key_1") == (used, "a" * 64)
        store.keys.touch("key_none")

    # The audit log

    def test_entries_come_newest_first(self, store: Store, open_store: Callable[..., Store]) -> None:
        for number in range(5):
            store.audit.record(_entry(str(number), tenant="acme" if number % 2 else "default"))
        entries = open_store().audit.list()
        assert [entry.subject for entry in entries] == list("43210")
        assert [entry.subject for entry in store.audit.list("acme")] == list("31")
        first = store.audit.list(limit=2)
        assert first == entries[:2]
        assert store.audit.list(limit=2, before=first[-1].number) == entries[2:4]
        assert [entry.subject for entry in store.audit.list("default", before=entries[1].number)] == list("20")
        assert entries[0].detail == {"from": "2", "to": "3"}
        assert all(entry.at is not None and entry.at.utcoffset() is not None for entry in entries)

    def test_an_entry_may_bring_its_time(self, store: Store) -> None:
        store.audit.record(_entry("a", at=EXPIRES))
        (entry,) = store.audit.list()
        assert (entry.at, entry.actor, entry.action, entry.subject) == (EXPIRES, "ada", "alias.move", "a")

    def test_old_entries_are_forgotten_in_small_steps(self, store: Store) -> None:
        for number in range(5):
            store.audit.record(_entry(str(number), at=EXPIRES + timedelta(days=number)))
        moment = EXPIRES + timedelta(days=3)
        assert store.audit.forget_before(moment, limit=2) == 2
        assert [entry.subject for entry in store.audit.list()] == list("432")
        assert store.audit.forget_before(moment, limit=2) == 1
        assert store.audit.forget_before(moment, limit=2) == 0
        assert [entry.subject for entry in store.audit.list()] == list("43")


def _found(store: Store, key_id: str) -> tuple[ApiKey, str]:
    found = store.keys.find(key_id)
    assert found is not None
    return found


def _entry(subject: str, *, tenant: str = "default", at: datetime | None = None) -> AuditEntry:
    return AuditEntry(
        at=at, tenant=tenant, actor="ada", action="alias.move", subject=subject, detail={"from": "2", "to": "3"}
    )
