"""A login provider, and a service whose people log in there."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.integration.api.house import House, opened_house, served
from tests.integration.login.provider import CLIENT, SECRET, FakeProvider, fake_provider, visit
from tidemill.api.app import create_app

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
OPERATORS = [{"group": "ml", "role": "operator", "tenant": "growth"}]


class Browser(httpx2.Client):
    """Keeps cookies, follows nothing by itself."""

    def begin(self, place: str = "/") -> str:
        """To the provider and back; the address that it would have the browser open now."""
        sent = self.get("/login/provider", params={"place": place})
        assert sent.status_code == 303, sent.text
        back = visit(sent.headers["location"])
        assert back.status_code == 303, back.text
        return str(back.headers["location"])

    def log_in(self, place: str = "/") -> httpx2.Response:
        return self.get(self.begin(place))

    def is_known(self) -> bool:
        return self.get("/").status_code == 200


@dataclass(frozen=True, kw_only=True)
class Service:
    """One that is served, and what stands behind it."""

    house: House
    url: str

    def browser(self) -> Browser:
        return Browser(base_url=self.url, timeout=30, verify=False)


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with fake_provider() as fake:
        yield fake


@contextmanager
def service_at(folder: Path, provider: FakeProvider, **settings: Any) -> Iterator[Service]:
    """The service of this folder, on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    words = {
        "public_url": url,
        "oidc_issuer": provider.url,
        "oidc_client_id": CLIENT,
        "oidc_client_secret": SECRET,
        "logins": OPERATORS,
        "data_roots": [folder / "data"],
        **settings,
    }
    provider.redirect_urls.append(f"{str(words['public_url']).rstrip('/')}/login/provider/back")
    with opened_house(folder, **words) as house, served(create_app(house.context), port) as there:
        assert there == url
        yield Service(house=house, url=url)


@pytest.fixture
def service(tmp_path: Path, provider: FakeProvider) -> Iterator[Service]:
    with service_at(tmp_path, provider) as made:
        yield made
