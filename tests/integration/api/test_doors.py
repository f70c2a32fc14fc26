"""Who gets in: every route with no key, with too small a role, with another tenant's key."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient

from tests.integration.api.house import LOCAL, House, client_of, opened_house
from tidemill.api import app as app_module
from tidemill.api.access import OPEN, Gate
from tidemill.api.app import PREFIX, ROOT_ROUTERS, ROUTERS, create_app
from tidemill.bootstrap.server import check_reach
from tidemill.domain.access import NEEDS, Action, Principal, Role
from tidemill.domain.errors import Refused
from tidemill.domain.ids import new_id
from tidemill.domain.job import Job
from tidemill.service import schedules, uploads
from tidemill.testing.store import new_webhook
from tidemill.wire.schedules import AddSchedule

GATES = [
    (method, prefix + route.path, route)
    for prefix, routers in ((PREFIX, ROUTERS), ("", ROOT_ROUTERS))
    for router in routers
    for route in router.routes
    if isinstance(route, Gate)
    for method in sorted(route.methods)
]
NAMES = [f"{method} {path}" for method, path, _ in GATES]
GUARDED = [(method, path, route.need) for method, path, route in GATES if route.need is not OPEN]
SECRET = "the-secret-name"


def test_every_route_is_a_gate_or_a_page(house: House) -> None:
    """Of the app as it is served. Pages let in by the same rule, see the tests of the pages."""
    gates, pages = 0, []
    for route in create_app(house.context).routes:
        if hasattr(route, "effective_route_contexts"):
            for context in route.effective_route_contexts():
                assert isinstance(context.original_route, Gate), context.path
                gates += 1
        else:
            assert isinstance(route, Route | Mount)
            endpoint = route.app if isinstance(route, Mount) else route.endpoint
            assert isinstance(endpoint, StaticFiles) or endpoint.__module__.startswith("tidemill.ui"), route.path
            pages.append(route.path)
    assert gates == sum(len(router.routes) for router in (*ROUTERS, *ROOT_ROUTERS))
    assert not [path for path in pages if path.startswith("/api")]


def test_no_app_is_made_with_a_route_that_is_neither(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    before = app_module.described_app

    def with_a_back_door() -> FastAPI:
        app = before()
        app.add_api_route("/back-door", lambda: "data")
        return app

    monkeypatch.setattr(app_module, "described_app", with_a_back_door)
    with pytest.raises(TypeError, match="back-door' is open to everybody"):
        create_app(house.context)


def test_only_health_and_readiness_need_no_key() -> None:
    opened = {path for _, path, route in GATES if route.need is OPEN}
    assert opened == {"/api/v1/health", "/api/v1/ready", "/health", "/ready"}


@dataclass(frozen=True)
class Things:
    """What somebody has, and the words for it in paths."""

    job: Job
    words: dict[str, str]

    def path(self, template: str) -> str:
        return re.sub(r"\{(\w+)(:\w+)?\}", lambda part: self.words[part[1]], template)


BODIES = {
    "/api/v1/jobs": {"model": f"{SECRET}@1", "input": {"path": ["/x"]}},
    "/api/v1/models/{name}/versions": {"source": "/x"},
    "/api/v1/models/{name}/aliases/{alias}": {"version": 1},
    "/api/v1/models/{name}/limits": {"max_running": 1},
    "/api/v1/keys": {"name": "x"},
    "/api/v1/webhooks": {"url": "https://203.0.113.9/hook"},
    "/api/v1/webhooks/{webhook_id}": {"enabled": False},
    "/api/v1/schedules": {
        "name": "x",
        "spec": {"model": f"{SECRET}@1", "input": {"path": ["/x"]}},
        "trigger": {"kind": "cron", "cron": "0 2 * * *"},
    },
    "/api/v1/series/{series}/forget": {"path": "/"},
    "/api/v1/schedules/{schedule}/backfill": {"first": "2026-11-01", "last": "2026-11-02"},
}


TUS = {
    "Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream", "Upload-Offset": "0",
    "Upload-Length": "1", "X-HTTP-Method-Override": "PATCH",
}  # fmt: skip
"""All that any of these routes asks for."""


def things_of(house: House, tenant: str) -> Things:
    """A finished job with rejected rows, a model, an upload, a key, a webhook, a schedule and a series."""
    house.model(SECRET, tenant, alias="champion")
    who, _ = house.key(Role.ADMIN, tenant)
    labels = {"a": SECRET}
    job = house.submit(who, model=f"{SECRET}@1", name=SECRET, labels=labels)
    job = house.finish(job, rejected=1, series=SECRET)
    receiving = uploads.Receiving(house.context, who, f"{SECRET}.csv")
    receiving.write(b"a")
    sent = receiving.finish()
    receiving.close()
    hook = new_webhook(new_id("whk"), tenant=tenant, url=f"https://{SECRET}.example/{SECRET}")
    assert house.context.store.webhooks.add(hook, most=100)
    told = house.context.store.outbox.ping(hook.id)
    wanted = {
        "name": SECRET,
        "spec": {"model": f"{SECRET}@1", "input": {"path": [sent.input]}},
        "trigger": {"kind": "cron", "cron": "0 2 * * *"},
    }
    schedules.add(house.context, who, AddSchedule.model_validate(wanted))
    words = {
        "name": SECRET,
        "version": "1",
        "alias": "champion",
        "key_id": who.id or "",
        "upload": sent.id,
        "session_id": "session_0123456789abcdef",
        "webhook_id": hook.id,
        "delivery_id": told.id,
        "schedule": SECRET,
        "series": SECRET,
        "job_id": job.id,
    }
    return Things(job, words)


@pytest.fixture
def theirs(house: House) -> Things:
    return things_of(house, "red")


def ask(client: TestClient, method: str, path: str, things: Things) -> tuple[int, str, str]:
    query = {"customer": "1"} if path.endswith("/lookup") else {}
    content = BODIES.get(path) if method in ("POST", "PUT", "PATCH") else None
    headers = TUS if path.startswith("/api/v1/tus") else {}
    answer = client.request(method, things.path(path), params=query, json=content, headers=headers)
    return answer.status_code, answer.text, answer.headers.get("content-type", "")


def test_without_a_key_nothing_is_told(house: House, theirs: Things) -> None:
    """Also on this machine, and also with a key that is none."""
    for key in (None, "tm_key_0123456789abcdef_" + "0" * 48, "nonsense"):
        with client_of(house, key=key) as client:
            for method, path, _ in GUARDED:
                status, text, kind = ask(client, method, path, theirs)
                assert (status, kind) == (401, "application/problem+json"), f"{method} {path}"
                if method != "HEAD":
                    told = json.loads(text)
                    assert (told["code"], SECRET in text) == ("not_authenticated", False)
                    assert "tidemill keys add" in told["remedy"]


MADE_BY_NAME = {
    "POST /api/v1/models/{name}/versions",
    "PUT /api/v1/models/{name}/versions",
    "PUT /api/v1/uploads/{upload}",
}
"""These make something new of that name, in the caller's own tenant."""


def test_another_tenants_key_sees_nothing_of_it(house: House, theirs: Things) -> None:
    """Whatever the role: not there, or an empty list, and never a word of the other tenant's."""
    before = house.again(theirs.job)
    who, blue = house.key(Role.ADMIN, "blue")
    with client_of(house, key=blue) as client:
        for method, path, _ in sorted(GUARDED, key=lambda each: each[0] != "GET"):
            status, text, _ = ask(client, method, path, theirs)
            where = f"{method} {path}: {status} {text}"
            assert status < 500, where
            if "{" in path and f"{method} {path}" not in MADE_BY_NAME:
                assert status == 404, where
            elif method == "GET" and path != "/api/v1/openapi.json":
                assert SECRET not in text, where
                assert theirs.job.id not in text, where
            if method == "GET" and path in ("/api/v1/jobs", "/api/v1/models", "/api/v1/uploads", "/api/v1/audit"):
                assert json.loads(text) == {"items": [], "next": None}, where
        (mine,) = client.get("/api/v1/keys", params={}).json()["items"][:1]
        assert mine["id"] == who.id
    assert house.again(theirs.job) == before
    assert house.context.store.models.get("red", SECRET, "champion").version == 1
    assert uploads.get(house.context, Principal(name="x", tenant="red"), theirs.words["upload"]).size_bytes == 1
    key = house.context.store.keys.find(theirs.words["key_id"])
    assert key is not None
    assert key[0].revoked_at is None
    hook = house.context.store.webhooks.get(theirs.words["webhook_id"])
    assert (hook.enabled, hook.generation) == (True, 1)


def test_their_own_key_sees_it(house: House, theirs: Things) -> None:
    """So that the test above proves something: the same requests find it all."""
    _, red = house.key(Role.ADMIN, "red")
    with client_of(house, key=red) as client:
        found = {
            path: ask(client, "GET", path, theirs)[0]
            for method, path, _ in GUARDED
            if method == "GET" and "{" in path and "/result" not in path
        }
    assert set(found.values()) == {200}, found


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
def test_a_role_reaches_as_far_as_the_table_says(house: House, role: Role) -> None:
    _, key = house.key(role)
    things = things_of(house, "default")
    order = [Role.VIEWER, Role.OPERATOR, Role.ADMIN]
    with client_of(house, key=key) as client:
        for method, path, need in GUARDED:
            assert isinstance(need, Action)
            if order.index(NEEDS[need]) <= order.index(role):
                continue
            status, text, _ = ask(client, method, path, things)
            assert status == 403, f"{method} {path}"
            assert method == "HEAD" or json.loads(text)["code"] == "not_allowed"
    assert house.again(things.job) == things.job


ADMINS_ONLY = ("/trust", "/keys", "/sessions", "/audit")


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
def test_a_viewer_only_looks_and_an_operator_manages_nothing(house: House, role: Role) -> None:
    """Not taken from what the routes say of themselves."""
    _, key = house.key(role)
    things = things_of(house, "default")
    with client_of(house, key=key) as client:
        for method, path, _ in GUARDED:
            changes = method not in ("GET", "HEAD")
            if any(part in path for part in ADMINS_ONLY) or (changes and role is Role.VIEWER):
                assert ask(client, method, path, things)[0] == 403, f"{method} {path}"
    assert house.again(things.job) == things.job


def test_a_key_comes_as_bearer_or_in_a_header_of_its_own(house: House) -> None:
    _, key = house.key(Role.VIEWER)
    with client_of(house) as client:
        for headers in ({"Authorization": f"Bearer {key}"}, {"Authorization": f"bearer  {key}"}, {"X-API-Key": key}):
            assert client.get("/api/v1/service", headers=headers).status_code == 200
        for headers in ({"Authorization": f"Basic {key}"}, {"Authorization": key}, {"X-API-Key": f"Bearer {key}"}):
            answer = client.get("/api/v1/service", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="tidemill"'


def test_a_revoked_key_is_out_at_once(house: House) -> None:
    who, key = house.key()
    _, admin = house.key(Role.ADMIN)
    with client_of(house, key=admin) as client:
        auth = {"Authorization": f"Bearer {key}"}
        assert client.get("/api/v1/jobs", headers=auth).status_code == 200
        assert client.post(f"/api/v1/keys/{who.id}/revoke").json()["revoked_at"]
        assert client.get("/api/v1/jobs", headers=auth).status_code == 401


def test_the_first_key_shuts_the_door_behind_it(client: TestClient) -> None:
    assert client.get("/api/v1/jobs").status_code == 200
    made = client.post("/api/v1/keys", json={"name": "first", "role": "admin"})
    assert made.status_code == 201
    assert made.headers["Cache-Control"] == "no-store"
    assert client.get("/api/v1/jobs").status_code == 401
    auth = {"Authorization": f"Bearer {made.json()['key']}"}
    listed = client.get("/api/v1/keys", headers=auth).json()["items"]
    assert [item["name"] for item in listed] == ["first"]
    assert "key" not in listed[0]
    (entry,) = client.get("/api/v1/audit", headers=auth).json()["items"]
    assert (entry["action"], entry["actor"], entry["subject"]) == ("key.add", "local", made.json()["id"])


def test_the_audit_log_has_pages(house: House) -> None:
    _, admin = house.key(Role.ADMIN)
    with client_of(house, key=admin) as client:
        for number in range(5):
            client.post("/api/v1/keys", json={"name": f"k{number}"})
        first = client.get("/api/v1/audit", params={"limit": 3}).json()
        second = client.get("/api/v1/audit", params={"limit": 3, "before": first["next"]}).json()
    told = [item["detail"]["name"] for item in first["items"] + second["items"]]
    assert told[:5] == ["k4", "k3", "k2", "k1", "k0"]
    assert (second["next"], first["items"][0]["actor"]) == (None, "default-admin")


def test_without_keys_only_this_machine_gets_in(house: House) -> None:
    for address, host, headers in (
        (("10.0.0.7", 4711), "127.0.0.1", {}),
        (LOCAL, "tidemill.evil.example", {}),
        (LOCAL, "127.0.0.1.evil.example", {}),
        (LOCAL, "127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}),
    ):
        with client_of(house, client=address, host=host) as client:
            answer = client.get("/api/v1/jobs", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
            assert client.get("/api/v1/health", headers=headers).status_code == 200


OTHER_SITES: list[tuple[dict[str, str], bool]] = [
    ({}, True),
    ({"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1"}, True),
    ({"Sec-Fetch-Site": "none"}, True),
    ({"Origin": "http://127.0.0.1"}, True),
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"}, False),
    ({"Origin": "https://evil.example"}, False),
    ({"Origin": "null"}, False),
]


def test_other_sites_pages_change_nothing(house: House, client: TestClient) -> None:
    for headers, allowed in OTHER_SITES:
        job = house.submit()
        answer = client.post(f"/api/v1/jobs/{job.id}/pause", headers=headers)
        assert answer.status_code == (200 if allowed else 403), headers
        assert house.again(job).state.value == ("paused" if allowed else "queued")
        assert client.get("/api/v1/jobs", headers=headers).status_code == 200


def test_a_key_has_a_rate(house: House) -> None:
    _, slow = house.key(Role.VIEWER, requests_per_minute=12)
    _, other = house.key(Role.VIEWER)
    now = 0.0
    with client_of(house, key=slow, clock=lambda: now) as client:
        answers = [client.get("/api/v1/service") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        assert answers[-1].json()["code"] == "too_many_requests"
        assert int(answers[-1].headers["Retry-After"]) >= 1
        assert client.get("/api/v1/service", headers={"Authorization": f"Bearer {other}"}).status_code == 200
        now = 5.0
        assert [client.get("/api/v1/service").status_code for _ in range(2)] == [200, 429]


def test_guessing_keys_has_a_rate(tmp_path: Path) -> None:
    with opened_house(tmp_path, requests_per_minute=12) as house:
        _, key = house.key(requests_per_minute=600)
        with client_of(house, clock=lambda: 0.0) as client:
            guesses = [client.get("/api/v1/jobs", headers={"X-API-Key": f"guess {n}"}) for n in range(4)]
            assert [answer.status_code for answer in guesses] == [401, 401, 429, 429]
            assert client.get("/api/v1/jobs", headers={"X-API-Key": key}).status_code == 200


def test_another_address_needs_a_key_before_it_is_served(house: House) -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        check_reach(house.context, host)
    with pytest.raises(Refused, match=r"everybody who reaches 0\.0\.0\.0") as refused:
        check_reach(house.context, "0.0.0.0")
    assert "tidemill keys add" in str(refused.value)
    house.key()
    check_reach(house.context, "0.0.0.0")
