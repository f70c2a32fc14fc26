"""Every route and method of the service as it is served, asked by everybody there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from tests.integration.api.house import House, client_of, opened_house
from tests.integration.api.test_doors import MADE_BY_NAME, SECRET, Things, ask, things_of
from tidemill.api.access import OPEN, Gate
from tidemill.api.app import create_app
from tidemill.domain.access import NEEDS, Action, Principal, Role
from tidemill.service import keys

V, O, A, EVERYBODY = "viewer", "operator", "admin", "everybody"  # noqa: E741
LEAST = {
    "GET /api/v1/jobs": V, "POST /api/v1/jobs": O, "GET /api/v1/jobs/{job_id}": V,
    "POST /api/v1/jobs/{job_id}/cancel": O, "POST /api/v1/jobs/{job_id}/pause": O,
    "POST /api/v1/jobs/{job_id}/resume": O, "POST /api/v1/jobs/{job_id}/retry": O,
    "POST /api/v1/jobs/{job_id}/clone": O, "GET /api/v1/jobs/{job_id}/logs": V, "GET /api/v1/jobs/{job_id}/events": V,
    "GET /api/v1/jobs/{job_id}/result": V, "DELETE /api/v1/jobs/{job_id}/result": O,
    "GET /api/v1/jobs/{job_id}/result/head": V, "GET /api/v1/jobs/{job_id}/result/lookup": V,
    "GET /api/v1/jobs/{job_id}/result/download": V, "HEAD /api/v1/jobs/{job_id}/result/download": V,
    "GET /api/v1/jobs/{job_id}/result/rejected": V, "HEAD /api/v1/jobs/{job_id}/result/rejected": V,
    "PUT /api/v1/uploads/{upload}": O, "GET /api/v1/uploads": V, "GET /api/v1/uploads/{upload}": V,
    "GET /api/v1/uploads/{upload}/preview": V, "DELETE /api/v1/uploads/{upload}": O,
    "OPTIONS /api/v1/tus": O, "GET /api/v1/tus": V, "POST /api/v1/tus": O, "HEAD /api/v1/tus/{upload}": O,
    "PATCH /api/v1/tus/{upload}": O, "POST /api/v1/tus/{upload}": O, "DELETE /api/v1/tus/{upload}": O,
    "GET /api/v1/models": V, "GET /api/v1/models/{name}": V, "GET /api/v1/models/{name}/versions/{version}": V,
    "POST /api/v1/models/{name}/versions": O, "PUT /api/v1/models/{name}/versions": O,
    "PUT /api/v1/models/{name}/aliases/{alias}": O, "DELETE /api/v1/models/{name}/aliases/{alias}": O,
    "POST /api/v1/models/{name}/versions/{version}/trust": A, "POST /api/v1/models/{name}/versions/{version}/check": O,
    "PUT /api/v1/models/{name}/limits": O, "POST /api/v1/keys": A, "GET /api/v1/keys": A,
    "POST /api/v1/keys/{key_id}/revoke": A, "GET /api/v1/audit": A, "GET /api/v1/service": V, "GET /api/v1/usage": V,
    "GET /api/v1/openapi.json": V, "GET /metrics": V, "GET /api/v1/health": EVERYBODY, "GET /api/v1/ready": EVERYBODY,
    "GET /health": EVERYBODY, "GET /ready": EVERYBODY,
    "POST /api/v1/webhooks": O, "GET /api/v1/webhooks": O, "GET /api/v1/webhooks/{webhook_id}": O,
    "PATCH /api/v1/webhooks/{webhook_id}": O, "DELETE /api/v1/webhooks/{webhook_id}": O,
    "POST /api/v1/webhooks/{webhook_id}/rotate": O, "POST /api/v1/webhooks/{webhook_id}/test": O,
    "GET /api/v1/webhooks/{webhook_id}/deliveries": O,
    "GET /api/v1/webhooks/{webhook_id}/deliveries/{delivery_id}": O,
    "POST /api/v1/schedules": O, "GET /api/v1/schedules": V, "GET /api/v1/schedules/{schedule}": V,
    "DELETE /api/v1/schedules/{schedule}": O, "POST /api/v1/schedules/{schedule}/pause": O,
    "POST /api/v1/schedules/{schedule}/resume": O, "POST /api/v1/schedules/{schedule}/run": O,
    "GET /api/v1/schedules/{schedule}/next": V, "GET /api/v1/schedules/{schedule}/firings": V,
    "POST /api/v1/schedules/{schedule}/backfill": O,
    "GET /api/v1/series": V, "GET /api/v1/series/{series}": V, "GET /api/v1/series/{series}/files": V,
    "POST /api/v1/series/{series}/forget": O,
    "GET /api/v1/sessions": A, "POST /api/v1/sessions/{session_id}/end": A,
    # Pages.
    "GET /schedules": V, "GET /schedules/{schedule}": V, "POST /schedules/{schedule}/run": O,
    "POST /schedules/{schedule}/pause": O, "POST /schedules/{schedule}/resume": O,
    "GET /login/provider": EVERYBODY, "GET /login/provider/back": EVERYBODY,
    "GET /": V, "GET /jobs/{job_id}": V, "GET /jobs/{job_id}/live": V, "GET /live": V, "GET /live/events": V,
    "POST /jobs/{job_id}/cancel": O, "POST /jobs/{job_id}/pause": O, "POST /jobs/{job_id}/resume": O,
    "POST /jobs/{job_id}/retry": O, "GET /login": EVERYBODY, "POST /login": EVERYBODY, "POST /logout": EVERYBODY,
}  # fmt: skip
"""Who may at least call what, written down a second time: a new route stands here on purpose or fails the test."""

ROLES = [Role.VIEWER, Role.OPERATOR, Role.ADMIN]
STREAMS = ("/api/v1/jobs/{job_id}/events", "/live/events")
"""Answers without an end, to whom they let in."""
PAGE_HEADERS = {"Sec-Fetch-Site": "same-origin"}


def routes_of(house: House) -> Iterator[tuple[str, str, object]]:
    """(method, path template, what it declares to need; None for what declares nothing) of the served app."""
    for route in create_app(house.context).routes:
        contexts = getattr(route, "effective_route_contexts", None)
        if contexts is not None:
            for context in contexts():
                gate = context.original_route
                assert isinstance(gate, Gate)
                for method in sorted(context.methods or gate.methods):
                    yield method, context.path, gate.need
        elif isinstance(route, Mount):
            assert route.path == "/static"
        else:
            assert isinstance(route, Route)
            for method in sorted(set(route.methods or ()) - {"HEAD"}):
                yield method, route.path, None


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("doors")
    with opened_house(folder, data_roots=[folder / "data"], requests_per_minute=1_000_000) as house:
        yield house


@pytest.fixture(scope="module")
def theirs(shared: House) -> Things:
    """What the tenant red has."""
    return things_of(shared, "red")


@pytest.fixture(scope="module")
def routes(shared: House) -> list[tuple[str, str, object]]:
    return list(routes_of(shared))


def test_every_route_stands_in_the_table(routes: list[tuple[str, str, object]]) -> None:
    assert {f"{method} {path}" for method, path, _ in routes} == set(LEAST)
    for method, path, need in routes:
        if need is None:
            continue
        declared = EVERYBODY if need is OPEN else NEEDS[need].value if isinstance(need, Action) else "?"
        assert declared == LEAST[f"{method} {path}"], f"{method} {path}"


def request(client: TestClient, method: str, path: str, things: Things) -> tuple[int, str]:
    if path.startswith("/api"):
        return ask(client, method, path, things)[:2]
    answer = client.request(method, things.path(path), headers=PAGE_HEADERS, follow_redirects=False)
    return answer.status_code, answer.text


def bad_keys(house: House) -> dict[str, str | None]:
    """Everything that opens nothing."""
    revoked, revoked_text = house.key(Role.ADMIN, "red")
    keys.revoke(house.context, house.here, str(revoked.id))
    soon = datetime.now(UTC) + timedelta(milliseconds=50)
    _, expired = house.key(Role.ADMIN, "red", expires_at=soon)
    while datetime.now(UTC) <= soon:
        pass
    _, good = house.key(Role.ADMIN, "red")
    zeros = "0" * 48
    return {
        "none": None,
        "revoked": revoked_text,
        "expired": expired,
        "cut": good[:-1],
        "longer": good + "0",
        "of another secret": good[:-48] + zeros,
        "upper case": good.upper(),
        "nonsense": "x",
        "unknown": f"tm_key_{'0' * 16}_{zeros}",
        "somebody's id": str(revoked.id),
    }


def test_no_bad_key_opens_any_route(shared: House, theirs: Things, routes: list[tuple[str, str, object]]) -> None:
    before = shared.again(theirs.job)
    for kind, key in bad_keys(shared).items():
        with client_of(shared, key=key) as client:
            for method, path, _ in routes:
                if LEAST[f"{method} {path}"] == EVERYBODY:
                    continue
                status, text = request(client, method, path, theirs)
                assert status == 401, f"{kind}: {method} {path}"
                text = text.replace(theirs.path(path), "")  # The page to sign in leads back to where one came from.
                assert SECRET not in text, f"{kind}: {method} {path}"
                assert theirs.job.id not in text, f"{kind}: {method} {path}"
    assert shared.again(theirs.job) == before


@pytest.mark.parametrize("role", ROLES)
def test_a_role_opens_exactly_what_the_table_says(house: House, role: Role) -> None:
    """Reading first, so that there is still something to read."""
    things = things_of(house, "red")
    _, key = house.key(role, "red")
    with client_of(house, key=key) as client:
        for method, path, _ in sorted(routes_of(house), key=lambda each: (each[0] != "GET", "revoke" in each[1])):
            least = LEAST[f"{method} {path}"]
            if least == EVERYBODY or path in STREAMS:
                continue
            status, text = request(client, method, path, things)
            allowed = ROLES.index(Role(least)) <= ROLES.index(role)
            by_role = status in (401, 403) and (method == "HEAD" or "The role " in text)
            assert by_role is not allowed, f"{method} {path}: {status} {text[:200]}"
            assert status < 500, f"{method} {path}: {text[:200]}"
            if method == "GET" and allowed and "/result" not in path and "preview" not in path:
                assert status == 200, f"{method} {path}: {text[:200]}"


def test_another_tenants_admin_finds_nothing(
    shared: House, theirs: Things, routes: list[tuple[str, str, object]]
) -> None:
    before = shared.again(theirs.job)
    _, blue = shared.key(Role.ADMIN, "blue")
    with client_of(shared, key=blue) as client:
        for method, path, _ in sorted(routes, key=lambda each: each[0] != "GET"):
            if LEAST[f"{method} {path}"] == EVERYBODY or path == "/live/events":
                continue
            status, text = request(client, method, path, theirs)
            where = f"{method} {path}: {status} {text[:200]}"
            if "{" in path and f"{method} {path}" not in MADE_BY_NAME:
                assert status == 404, where
            elif method == "GET" and path != "/api/v1/openapi.json":
                assert status == 200, where
                assert SECRET not in text, where
                assert theirs.job.id not in text, where
    assert shared.again(theirs.job) == before


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "X")


def test_no_other_method_does_anything(shared: House, theirs: Things, routes: list[tuple[str, str, object]]) -> None:
    known = {(method, path) for method, path, _ in routes}
    paths = {path for _, path, _ in routes}
    with client_of(shared) as client:
        for path in sorted(paths):
            for method in METHODS:
                if (method, path) in known or (method == "HEAD" and ("GET", path) in known):
                    continue
                answer = client.request(method, theirs.path(path), headers=PAGE_HEADERS)
                assert answer.status_code in (401, 405, 501), f"{method} {path}: {answer.status_code}"


BACK_DOORS = [
    "//api/v1/jobs", "/api//v1/jobs", "/api/v1//jobs", "/api/v1/jobs/", "/API/v1/jobs", "/api/V1/jobs",
    "/api/v1/%6aobs", "/api/v1/jobs%00", "/api/v1/jobs%20", "/api/v1/jobs%2f", "/api/v1/jobs;a=b",
    "/api/v1/jobs.json", "/api/v1/./jobs",
    "/api/v1/health/../jobs", "/api/v1/health/%2e%2e/jobs", "/api/v1/health/..%2fjobs", "/health/..;/api/v1/jobs",
    "/static/../api/v1/jobs", "/static/%2e%2e/%2e%2e/pages/jobs.py", "/static/..%2f..%2fpages%2fjobs.py",
    "/static/....//....//x", "/static//etc/passwd", "/static/%00", "/static/", "/static",
    "/docs", "/redoc", "/openapi.json",
    "/api/v1/docs", "/.git/config", "/.env", "/debug", "/admin", "/login/../", "/v1/files", "/server-status",
    "/api/v1/jobs?key=x", "/api/v1/jobs/*", "/api/v1/keys#", "/metrics/", "/metrics%2f",
]  # fmt: skip


@pytest.mark.parametrize("path", BACK_DOORS)
def test_no_way_around_a_door(shared: House, theirs: Things, path: str) -> None:
    with client_of(shared) as client:
        # As it stands, whatever a client would make of it.
        sent = client.build_request("GET", "/")
        sent.url = sent.url.copy_with(raw_path=path.partition("#")[0].encode())
        answer = client.send(sent)
    assert answer.status_code in (401, 404, 405), f"{path}: {answer.status_code} {answer.text[:200]}"
    assert SECRET not in answer.text
    assert "import " not in answer.text


OVERRIDES = [
    {"X-HTTP-Method-Override": "GET"}, {"X-Original-URL": "/api/v1/health"}, {"X-Rewrite-URL": "/api/v1/health"},
    {"X-Forwarded-For": "127.0.0.1"}, {"X-Real-IP": "127.0.0.1"}, {"Forwarded": "for=127.0.0.1;host=localhost"},
    {"X-Forwarded-Host": "127.0.0.1"}, {"Host": "localhost"}, {"X-Forwarded-User": "admin"}, {"Remote-User": "admin"},
    {"X-API-Key": ""}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer null"},
    {"Authorization": "Basic YWRtaW46YWRtaW4="}, {"Cookie": "tidemill_key="},
    {"Cookie": "tidemill_key=x; tidemill_key=y"},
]  # fmt: skip


@pytest.mark.parametrize("headers", OVERRIDES)
def test_no_header_stands_for_a_key(shared: House, theirs: Things, headers: dict[str, str]) -> None:
    with client_of(shared, client=("10.0.0.7", 4711), host="tidemill.example") as client:
        for path in ("/api/v1/jobs", "/api/v1/keys", "/metrics", "/"):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401, f"{path} {headers}"
            assert SECRET not in answer.text


def test_what_is_wrong_with_a_key_is_not_told(shared: House) -> None:
    texts = set()
    for key in bad_keys(shared).values():
        if key is not None:
            with client_of(shared, key=key) as client:
                texts.add(client.get("/api/v1/jobs").text)
    assert len(texts) == 1
    assert json.loads(texts.pop())["code"] == "not_authenticated"


def test_the_person_at_the_machine_is_nobody_once_there_are_keys(shared: House, theirs: Things, tmp_path: Path) -> None:
    with client_of(shared) as client:
        assert client.get("/api/v1/jobs").status_code == 401
    with opened_house(tmp_path) as other, client_of(other) as client:
        assert client.get("/api/v1/jobs").status_code == 200
        assert isinstance(other.here, Principal)


@pytest.mark.parametrize(
    "place", ["/\t/evil.example", "/\r\nSet-Cookie: a=b", "/\n//evil.example", "/%0d%0aSet-Cookie:a=b"]
)
def test_signing_in_adds_no_header_and_leads_nowhere_else(shared: House, place: str) -> None:
    _, key = shared.key(Role.VIEWER)
    with client_of(shared) as client:
        form = {"key": key, "place": place}
        answer = client.post("/login", data=form, headers=PAGE_HEADERS, follow_redirects=False)
    assert answer.status_code == 303
    assert not set(answer.headers["location"]) & set("\t\r\n")
    location = answer.headers["location"]
    assert location == "/" or location.startswith("/%")
    assert [name for name in answer.headers if name == "set-cookie"] == ["set-cookie"]
