"""A proxy says who sends a request: believed from its own address only, and only if nobody else had a hand in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import httpx2
import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from tests.integration.api.house import House, client_of, opened_house
from tests.integration.api.test_serve import serving
from tests.integration.login.conftest import SAME_ORIGIN
from tidemill.api.app import create_app
from tidemill.api.proxies import person_of
from tidemill.domain.access import Principal, Role
from tidemill.domain.errors import NotAuthenticated
from tidemill.domain.job import JobState

PROXY = "10.20.0.7"
USER, GROUPS = "X-Forwarded-User", "X-Forwarded-Groups"
SETTINGS: dict[str, Any] = {
    "trusted_proxies": ["10.20.0.0/24", "fd00::7"],
    "proxy_groups_header": GROUPS,
    "logins": [
        {"group": "admins", "role": "admin"},
        {"group": "ml team", "role": "operator", "tenant": "growth"},
        {"user": "Ada@example.org", "role": "viewer"},
        {"user": "grüße", "role": "viewer"},
    ],
}


class Ask(Protocol):
    def __call__(
        self, path: str = ..., *, peer: str = ..., method: str = ..., headers: Any = ...
    ) -> httpx2.Response: ...


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with opened_house(tmp_path, **SETTINGS) as made:
        yield made


@pytest.fixture
def ask(house: House) -> Ask:
    """Sends a request from an address; all go to one server, whose clock stands still."""
    app = create_app(house.context, clock=lambda: 0.0)

    def asked(
        path: str = "/api/v1/service", *, peer: str = PROXY, method: str = "GET", headers: Any = ()
    ) -> httpx2.Response:
        client = TestClient(
            app, base_url="http://tidemill.example.org", client=(peer, 50_000), raise_server_exceptions=False,
            follow_redirects=False,
        )  # fmt: skip
        answer: httpx2.Response = client.request(method, path, headers=headers)
        return answer

    return asked


def test_whom_it_names_is_let_in_by_the_rules(ask: Ask) -> None:
    for headers, wanted in (
        ({USER: "ada@example.org"}, ("ada@example.org", "viewer")),
        ({USER: " bob ", GROUPS: "sales, ml team ,x"}, ("bob", "operator")),
        ({USER: "eve", GROUPS: "ml team,admins"}, ("eve", "admin")),
        ({USER: "grüße".encode()}, ("grüße", "viewer")),
        ({USER.lower(): "ada@example.org", "X-Forwarded-For": "127.0.0.1"}, ("ada@example.org", "viewer")),
    ):
        told = ask(headers=headers)
        assert told.status_code == 200, (headers, told.text)
        assert (told.json()["authenticated_as"], told.json()["role"]) == wanted
    page = ask("/", headers={USER: "bob", GROUPS: "ml team"})
    assert page.status_code == 200
    assert "bob" in page.text and 'title="tenant growth"' in page.text and "Sign out" not in page.text


@pytest.mark.parametrize(
    "peer, believed",
    [
        ("10.20.0.255", True), ("fd00::7", True), ("::ffff:10.20.0.7", True),
        ("10.20.1.7", False), ("127.0.0.1", False), ("::1", False), ("fd00::8", False), ("::ffff:10.20.1.7", False),
        ("192.0.2.1", False), ("testclient", False), ("", False),
    ],
)  # fmt: skip
def test_only_a_trusted_address_is_believed(ask: Ask, peer: str, believed: bool) -> None:
    """Of the connection; what headers say of where it comes from counts for nothing."""
    headers = {USER: "ada@example.org", "X-Forwarded-For": PROXY, "Forwarded": f"for={PROXY}", "X-Real-IP": PROXY}
    answer = ask(peer=peer, headers=headers)
    assert answer.status_code == (200 if believed else 401), answer.text


HANDS: list[list[tuple[str, bytes | str]]] = [
    [(USER, "ada@example.org"), (USER, "eve")],
    [(USER, "eve"), (USER.upper(), "ada@example.org")],
    [(USER, "eve"), (USER, "")],
    [(USER, "eve, ada@example.org")],
    [(USER, "ada\u00adx".encode())],
    [(USER, "a" * 20_000)],
    [(USER, "bob"), (GROUPS, "sales"), (GROUPS, "admins")],
]


@pytest.mark.parametrize("headers", HANDS, ids=range(len(HANDS)))
def test_headers_that_a_client_had_a_hand_in_are_refused(ask: Ask, headers: list[tuple[str, bytes | str]]) -> None:
    """Not the first one and not the last one is taken: which the proxy set cannot be seen."""
    answer = ask(headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
    assert "operator of the proxy" in answer.json()["remedy"]
    assert ask("/", headers=headers).status_code == 401


def test_a_name_that_is_no_text_is_refused(house: House) -> None:
    scope = {"type": "http", "client": (PROXY, 1), "headers": [(USER.lower().encode(), b"\xff")]}
    with pytest.raises(NotAuthenticated, match="X-Forwarded-User is not UTF-8"):
        person_of(Request(scope), house.context.policy.logins)


@pytest.mark.parametrize(
    "headers", [{}, {USER: ""}, {USER: "  "}, {GROUPS: "admins"}, {"X_Forwarded_User": "ada@example.org"}]
)
def test_a_request_without_a_name_is_nobodys(ask: Ask, headers: dict[str, str]) -> None:
    assert ask(headers=headers).status_code == 401


def test_whom_no_rule_names_is_refused(ask: Ask, house: House) -> None:
    answer = ask(headers={USER: "mallory", GROUPS: "sales"})
    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    assert "You are known as mallory" in answer.json()["detail"]
    assert ask("/", headers={USER: "mallory"}).status_code == 403
    assert house.context.store.audit.list() == []


def test_groups_count_only_where_the_operator_named_their_header(tmp_path: Path) -> None:
    """A proxy that knows nothing of groups passes on what clients send."""
    with opened_house(tmp_path, **{**SETTINGS, "proxy_groups_header": None}) as house:
        with client_of(house, client=(PROXY, 1)) as client:
            assert client.get("/api/v1/service", headers={USER: "eve", GROUPS: "admins"}).status_code == 403


def test_without_the_setting_the_header_is_nothing(tmp_path: Path) -> None:
    with opened_house(tmp_path) as house, client_of(house, client=(PROXY, 1)) as client:
        assert client.get("/api/v1/service", headers={USER: "ada@example.org"}).status_code == 401


def test_the_door_without_a_key_is_closed(ask: Ask) -> None:
    """A proxy on this machine that forgot the header would else let everybody in as the administrator."""
    for peer in ("127.0.0.1", PROXY):
        answer = ask(peer=peer, headers={"Host": "127.0.0.1"})
        assert answer.status_code == 401, peer


def test_a_key_goes_before_the_header(ask: Ask, house: House) -> None:
    _, key = house.key(Role.ADMIN, "red")
    told = ask(headers={USER: "ada@example.org", "Authorization": f"Bearer {key}"}).json()
    assert told["authenticated_as"] == "red-admin"
    assert ask(headers={USER: "ada@example.org", "X-API-Key": "nonsense"}).status_code == 401


def test_a_cookie_that_opens_nothing_does_not_stand_in_the_way_for_long(ask: Ask) -> None:
    headers = {USER: "ada@example.org", "Cookie": "tidemill_session=tm_session_0123456789abcdef_" + "0" * 48}
    answer = ask("/", headers=headers)
    assert answer.status_code == 401
    assert 'tidemill_session=""' in answer.headers["set-cookie"]


def test_another_site_changes_nothing(ask: Ask, house: House) -> None:
    """The browser proves itself to the proxy, whoever's page makes it send something."""
    house.model("churn", "default")
    job = house.submit()
    who = {USER: "eve", GROUPS: "admins"}
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
    ):
        for path in (f"/jobs/{job.id}/cancel", f"/api/v1/jobs/{job.id}/cancel"):
            assert ask(path, method="POST", headers={**who, **headers}).status_code == 403, (path, headers)
    assert house.again(job).state is JobState.QUEUED
    assert ask(f"/jobs/{job.id}/pause", method="POST", headers={**who, **SAME_ORIGIN}).status_code == 303
    assert ask(f"/api/v1/jobs/{job.id}/cancel", method="POST", headers=who).status_code == 200
    assert house.again(job).state is JobState.CANCELLED


def test_a_login_is_in_the_audit_log_once(ask: Ask, house: House) -> None:
    for _ in range(3):
        ask(headers={USER: "bob", GROUPS: "ml team"})
    ask(headers={USER: "ada@example.org"})
    entries = house.context.store.audit.list()
    assert [(entry.tenant, entry.actor, entry.action) for entry in entries] == [
        ("default", "ada@example.org", "login"), ("growth", "bob", "login"),
    ]  # fmt: skip
    assert entries[1].detail == {"by": "proxy", "role": "operator", "actor_id": "user:bob"}


def test_one_tenant_sees_nothing_of_another(ask: Ask, house: House) -> None:
    house.model("churn", "default")
    job = house.submit(Principal(name="here"))
    assert ask(f"/api/v1/jobs/{job.id}", headers={USER: "ada@example.org"}).status_code == 200
    bob = {USER: "bob", GROUPS: "ml team"}
    assert ask(f"/api/v1/jobs/{job.id}", headers=bob).status_code == 404
    assert ask(f"/jobs/{job.id}", headers=bob).status_code == 404


def test_the_server_itself_keeps_to_the_connection(tmp_path: Path) -> None:
    """It could be told by a header to take another address for the client's."""
    trusted = "127.0.0.9"
    environment = {
        "TIDEMILL_TRUSTED_PROXIES": json.dumps([trusted]),
        "TIDEMILL_LOGINS": json.dumps(SETTINGS["logins"]),
        "FORWARDED_ALLOW_IPS": "*",
    }
    with serving(tmp_path / "home", "--no-jobs", **environment) as (_, url):
        headers = {USER: "ada@example.org", "X-Forwarded-For": trusted, "X-Forwarded-Proto": "https"}
        for address, status in (("127.0.0.1", 401), (trusted, 200)):
            line = httpx2.HTTPTransport(local_address=address, verify=False)
            with httpx2.Client(transport=line) as client:
                assert client.get(f"{url}/api/v1/service", headers=headers).status_code == status, address
