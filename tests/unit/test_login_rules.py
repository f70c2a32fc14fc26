"""Which rule lets whom in, and which settings are no rules."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tidemill.config import Settings
from tidemill.domain.access import Principal, Role
from tidemill.domain.login import LoginRule, Person, principal_of, shown_owner
from tidemill.service.tokens import NO_TOKEN, Token, is_genuine, new_token, read_token
from tidemill.ui.session import own_place

ADA = Person(name="ada@example.org", groups=frozenset({"ml", "all"}), vouched_by="proxy")
BOB = Person(name="bob", vouched_by="proxy")


def rule(role: Role = Role.VIEWER, **words: Any) -> LoginRule:
    return LoginRule(role=role, **words)


@pytest.mark.parametrize(
    "person, one, named",
    [
        (ADA, rule(user="ada@example.org"), True),
        (ADA, rule(user="Ada@Example.org"), True),
        (ADA, rule(user="ada"), False),
        (ADA, rule(user="ada@example.org.evil"), False),
        (ADA, rule(group="ml"), True),
        (ADA, rule(group="ML"), False),
        (ADA, rule(group="*"), False),
        (ADA, rule(user="*"), True),
        (BOB, rule(user="bob"), True),
        (BOB, rule(user="Bob"), False),
        (BOB, rule(group="bob"), False),
        (BOB, rule(), False),
    ],
)
def test_a_rule_names_a_user_or_a_group(person: Person, one: LoginRule, named: bool) -> None:
    assert one.names(person) is named


def test_the_first_rule_that_names_somebody_counts() -> None:
    rules = [rule(group="ml", tenant="growth"), rule(Role.ADMIN, user="*")]
    assert principal_of(ADA, rules) == Principal(
        name="ada@example.org", tenant="growth", role=Role.VIEWER, id="user:ada@example.org"
    )
    who = principal_of(BOB, rules)
    assert who is not None
    assert (who.role, who.tenant, who.is_here, who.owner) == (Role.ADMIN, "default", False, "user:bob")
    assert principal_of(BOB, rules[:1]) is None
    assert principal_of(BOB, []) is None


def test_owners_are_shown_by_their_names() -> None:
    assert [shown_owner(owner) for owner in ("user:bob", "key_1", "bob", "")] == ["bob", "key_1", "bob", ""]


RULE = {"user": "bob", "role": "viewer"}


@pytest.mark.parametrize(
    "words, says",
    [
        ({"logins": [{"role": "viewer"}]}, "either a user"),
        ({"logins": [{**RULE, "group": "x"}]}, "either a user"),
        ({"logins": [{**RULE, "user": ""}]}, "at least 1"),
        ({"logins": [{**RULE, "tenent": "growth"}]}, "tenent"),
        ({"logins": [{**RULE, "role": "root"}]}, "role"),
        ({"logins": [{**RULE, "tenant": ""}]}, "at least 1"),
        ({"trusted_proxies": ["10.0.0.1"]}, "no rule in `logins`"),
        ({"trusted_proxies": ["proxy.example.org"], "logins": [RULE]}, "trusted_proxies"),
        ({"trusted_proxies": ["10.0.0.1/8"], "logins": [RULE]}, "not a valid IPv4 or IPv6 network"),
        ({"oidc_issuer": "https://x", "logins": [RULE]}, "oidc_client_id and public_url"),
        (
            {"oidc_issuer": "https://x", "oidc_client_id": "x", "public_url": "https://t", "logins": []},
            "no rule in `logins`",
        ),
        ({"public_url": "https://t/path"}, "public_url"),
        ({"public_url": "tidemill.example.org"}, "public_url"),
        ({"proxy_user_header": "X Y"}, "proxy_user_header"),
        ({"session_hours": 0}, "session_hours"),
    ],
)
def test_settings_that_would_let_in_nobody_or_anybody_are_refused(words: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Settings(**words)


def test_a_secret_is_not_printed() -> None:
    settings = Settings(
        oidc_issuer="https://x", oidc_client_id="x", oidc_client_secret="s3cret", public_url="https://t", logins=[RULE]
    )
    assert "s3cret" not in repr(settings) + str(settings.oidc_client_secret)


def test_a_token_is_read_as_it_was_written() -> None:
    token = new_token("session")
    assert read_token(token.text) == token
    assert token.id.startswith("session_") and token.secret not in repr(token)
    assert is_genuine(token, token.sha256)
    assert not is_genuine(token, new_token("session").sha256)
    assert not is_genuine(token, None)
    for text in ("", "tm_", token.text + "0", token.text.upper(), f"x{token.text}", token.text[:-1] + "\n"):
        assert read_token(text) == NO_TOKEN
    assert not is_genuine(NO_TOKEN, None)
    assert not is_genuine(Token(id="", secret=""), "0" * 64)


@pytest.mark.parametrize("place", ["/", "/jobs/job_1?x=//y", "/a;b='c'", "/%2F%2Fevil"])
def test_own_places_are_kept(place: str) -> None:
    assert own_place(place) == place
