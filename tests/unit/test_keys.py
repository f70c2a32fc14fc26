"""API keys: made, shown once, checked, revoked, and never of another tenant."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.integration.api.house import House, opened_house
from tidemill.domain.access import ApiKey, Principal, Role
from tidemill.domain.errors import NotAllowed, NotAuthenticated, NotFound, Refused
from tidemill.service import audit, keys
from tidemill.wire.api import AddKey


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with opened_house(tmp_path) as opened:
        yield opened


def test_a_key_opens_what_its_role_may(house: House) -> None:
    made, text = keys.add(house.context, house.here, AddKey(name="nightly", role="viewer", owner="growth"))
    who = keys.authenticate(house.context, f"Bearer {text}", loopback=False)
    assert who == Principal(name="nightly", tenant="default", role=Role.VIEWER, id=made.id)
    assert text.startswith(f"tm_{made.id}_")
    assert who.owner == made.id


def test_only_the_hash_of_the_secret_is_kept(house: House) -> None:
    made, text = house.key()
    found = house.context.store.keys.find(made.id or "")
    assert found is not None
    secret = text.rpartition("_")[2]
    assert found[1] == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in repr(found)


def test_without_any_key_only_loopback_gets_in(house: House) -> None:
    assert keys.authenticate(house.context, None, loopback=True) == Principal(name="local", role=Role.ADMIN)
    with pytest.raises(NotAuthenticated):
        keys.authenticate(house.context, None, loopback=False)


def test_from_the_first_key_on_everybody_needs_one(house: House) -> None:
    who, _ = house.key()
    with pytest.raises(NotAuthenticated, match="needs an API key"):
        keys.authenticate(house.context, None, loopback=True)
    keys.revoke(house.context, house.here, who.id or "")
    with pytest.raises(NotAuthenticated):
        keys.authenticate(house.context, None, loopback=True)


def test_a_wrong_key_opens_nothing_and_says_no_more(house: House) -> None:
    who, text = house.key()
    _, other = house.key()
    secret = text.rpartition("_")[2]
    wrong = [
        text[:-1] + ("0" if text[-1] != "0" else "1"),
        text.replace(who.id or "", "key_0000000000000000"),
        text.removeprefix("tm_"),
        "",
        text + "0",
        text.upper(),
        text.replace(secret, other.rpartition("_")[2]),
    ]
    for each in wrong:
        with pytest.raises(NotAuthenticated, match="not valid: unknown, revoked or expired"):
            keys.authenticate(house.context, f"Bearer {each}", loopback=True)


def test_an_expired_key_opens_nothing(house: House) -> None:
    now = datetime.now(UTC)
    secret = "ab" * 24
    key = ApiKey(
        id="key_0123456789abcdef", name="old", tenant="default", role=Role.ADMIN, owner="",
        created_at=now - timedelta(days=2), expires_at=now - timedelta(seconds=1),
    )  # fmt: skip
    house.context.store.keys.add(key, hashlib.sha256(secret.encode()).hexdigest())
    with pytest.raises(NotAuthenticated):
        keys.check(house.context, f"tm_{key.id}_{secret}")


def test_a_key_that_is_over_before_it_begins_is_refused(house: House) -> None:
    past = AddKey(name="late", expires_at=datetime.now(UTC) - timedelta(minutes=1))
    with pytest.raises(Refused, match="which is over"):
        keys.add(house.context, house.here, past)
    assert keys.list(house.context, house.here) == []


def test_a_revoked_key_opens_nothing(house: House) -> None:
    who, text = house.key()
    closed = keys.revoke(house.context, house.here, who.id or "")
    assert closed.revoked_at is not None
    with pytest.raises(NotAuthenticated):
        keys.check(house.context, text)


def test_keys_of_other_tenants_are_out_of_reach(house: House) -> None:
    red, _ = house.key(Role.ADMIN, "red")
    blue, _ = house.key(Role.ADMIN, "blue")
    assert [key.id for key in keys.list(house.context, red)] == [red.id]
    with pytest.raises(NotFound):
        keys.revoke(house.context, red, blue.id or "")
    with pytest.raises(NotAllowed, match="makes no keys of blue"):
        keys.add(house.context, red, AddKey(name="spy", tenant="blue"))
    mine, _ = keys.add(house.context, red, AddKey(name="mine"))
    assert mine.tenant == "red"
    assert {key.tenant for key in keys.list(house.context, house.here)} == {"red", "blue"}


def test_what_was_done_to_keys_is_in_the_audit_log(house: House) -> None:
    red, _ = house.key(Role.ADMIN, "red")
    made, _ = keys.add(house.context, red, AddKey(name="mine", role="viewer"))
    keys.revoke(house.context, red, made.id)
    entries = audit.list(house.context, red)
    assert [(entry.action, entry.subject, entry.actor) for entry in entries] == [
        ("key.revoke", made.id, "red-admin"),
        ("key.add", made.id, "red-admin"),
    ]
    assert entries[1].detail == {"name": "mine", "role": "viewer", "tenant": "red", "actor_id": red.id}
    assert [entry.action for entry in audit.list(house.context, house.here)].count("key.add") == 2
