"""Browsers in which somebody logged in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tidemill.domain.login import Person, Session
from tidemill.ports.store import MOST_SESSIONS, Store
from tidemill.testing.store.suite import StoreSuite

ADA = Person(
    name="ada@example.org", groups=frozenset({"ml", "growth, \u00fcber"}), vouched_by="https://login.example.org"
)
BEGAN = datetime(2026, 5, 4, 3, 2, 1, 987_000, UTC)
FAR = datetime(2126, 5, 4, 3, 2, 1, 987_000, UTC)


def new_session(session_id: str, **changes: Any) -> Session:
    """One that is not over while the test runs."""
    return Session(**{"id": session_id, "person": ADA, "created_at": BEGAN, "expires_at": FAR, **changes})


class SessionsSuite(StoreSuite):
    """Sessions are found until they end or are over."""

    def test_a_session_is_kept_as_it_was_given(self, store: Store, open_store: Callable[..., Store]) -> None:
        store.sessions.add(new_session("session_1"), "a" * 64)
        eve = Person(name="eve", vouched_by="proxy")
        store.sessions.add(new_session("session_2", person=eve), "b" * 64)
        other = open_store()
        assert other.sessions.find("session_1") == (new_session("session_1"), "a" * 64)
        assert other.sessions.find("session_2") == (new_session("session_2", person=eve), "b" * 64)
        assert other.sessions.find("session_3") is None

    def test_sessions_are_listed_newest_first(self, store: Store) -> None:
        made = [new_session(f"session_{n}", created_at=BEGAN + timedelta(days=n % 2)) for n in range(4)]
        for session in made:
            store.sessions.add(session, "a" * 64)
        assert [session.id[-1] for session in store.sessions.list()] == list("3120")
        assert store.sessions.list()[0] == made[3]

    def test_what_was_ended_is_gone(self, store: Store, open_store: Callable[..., Store]) -> None:
        store.sessions.add(new_session("session_1"), "a" * 64)
        store.sessions.add(new_session("session_2"), "b" * 64)
        assert open_store().sessions.end("session_1")
        assert not store.sessions.end("session_1")
        assert store.sessions.find("session_1") is None
        assert store.sessions.list() == [new_session("session_2")]

    def test_what_is_over_is_not_there(self, store: Store) -> None:
        store.sessions.add(new_session("session_1"), "a" * 64)
        store.sessions.add(new_session("session_2", expires_at=datetime.now(UTC) - timedelta(minutes=1)), "b" * 64)
        assert store.sessions.find("session_2") is None
        assert store.sessions.list() == [new_session("session_1")]
        assert not store.sessions.end("session_2")

    def test_one_person_has_a_bounded_number(self, store: Store) -> None:
        bob = new_session("session_bob", person=Person(name="bob", vouched_by="proxy"))
        store.sessions.add(bob, "a" * 64)
        for number in range(MOST_SESSIONS + 3):
            began = BEGAN + timedelta(seconds=number)
            store.sessions.add(new_session(f"session_{number:02}", created_at=began), "a" * 64)
        kept = [session.id for session in store.sessions.list()]
        assert kept == [*(f"session_{number:02}" for number in reversed(range(3, MOST_SESSIONS + 3))), bob.id]

    def test_what_is_over_makes_room(self, store: Store) -> None:
        """Its id can be used again, so it was deleted."""
        over = new_session("session_1", expires_at=datetime.now(UTC) - timedelta(minutes=1))
        store.sessions.add(over, "a" * 64)
        store.sessions.add(new_session("session_1"), "b" * 64)
        assert store.sessions.find("session_1") == (new_session("session_1"), "b" * 64)
