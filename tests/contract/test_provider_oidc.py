"""The extra oidc: logins at a provider on this machine, with nothing installed but what it brings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.integration.login.provider import ADA, CLIENT, SECRET, FakeProvider, fake_provider, visit
from tidemill.domain.errors import NotAuthenticated
from tidemill.domain.login import Person
from tidemill.service.oidc import Client, OidcProvider

BACK = "http://127.0.0.1:1/login/provider/back"


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with fake_provider() as found:
        found.redirect_urls.append(BACK)
        yield found


class TestOidcProvider:
    """The rest is in tests/integration/login."""

    def person(self, provider: FakeProvider, **changes: Any) -> Person:
        words: dict[str, Any] = {
            "issuer": provider.url,
            "client_id": CLIENT,
            "client_secret": SECRET,
            "redirect_url": BACK,
            "home_url": "http://127.0.0.1:1/",
            "scopes": ("openid", "email"),
            "name_claim": "email",
            "groups_claim": "groups",
        }
        client = OidcProvider(Client(**{**words, **changes}))
        url, attempt = client.begin()
        return client.finish(attempt, httpx2.URL(visit(url).headers["location"]).params)

    def test_a_person_is_who_the_token_says(self, provider: FakeProvider) -> None:
        assert self.person(provider).name == ADA["email"]

    def test_a_token_for_another_is_refused(self, provider: FakeProvider) -> None:
        provider.change = lambda claims: {**claims, "aud": "another"}
        with pytest.raises(NotAuthenticated, match="could not be logged in"):
            self.person(provider)
