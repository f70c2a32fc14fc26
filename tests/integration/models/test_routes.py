"""The registry over REST: who may do what, what comes back, what is left of a refusal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient

from tests.integration.models.conftest import Shelf, code, joblib_file, sha256, skops_file
from tidemill.api.app import create_app
from tidemill.domain.access import Principal, Role
from tidemill.service import keys, models
from tidemill.service.context import Context
from tidemill.wire.api import AddKey

BASE = "/api/v1/models"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A client with a key."""

    client: TestClient
    headers: dict[str, str]

    def __call__(self, method: str, path: str, status: int, **words: Any) -> Any:
        """The answer's JSON, or None; it must have this status."""
        answer: httpx2.Response = self.client.request(method, BASE + path, headers=self.headers, **words)
        assert answer.status_code == status, answer.text
        if status == 201:
            assert answer.headers["location"].startswith(f"{BASE}/")
            found = self.client.get(answer.headers["location"], headers=self.headers)
            assert found.json() == answer.json()
        return answer.json() if answer.content else None


@pytest.fixture(scope="module")
def client(context: Context) -> TestClient:
    return TestClient(create_app(context), base_url="http://127.0.0.1", client=("127.0.0.1", 50_000))


@pytest.fixture
def caller(context: Context, client: TestClient, tenant: str) -> Callable[..., Caller]:
    def made(role: Role, of: str = tenant) -> Caller:
        _, text = keys.add(context, Principal(name="ann"), AddKey(name="k", role=role.value, tenant=of))
        return Caller(client=client, headers={"Authorization": f"Bearer {text}"})

    return made


def test_a_sent_model_is_found_by_number_alias_and_name(caller: Callable[..., Caller]) -> None:
    operator, viewer = caller(Role.OPERATOR), caller(Role.VIEWER)
    data = skops_file(20)
    words = {"filename": "m.skops", "alias": ["champion", "best"], "description": "sent"}
    added = operator("PUT", "/churn/versions", 201, params=words, content=data)
    assert (added["reference"], added["digest"], added["size_bytes"]) == ("churn@1", sha256(data), len(data))
    assert (added["origin"], added["aliases"], added["description"]) == ("sent", ["best", "champion"], "sent")
    assert [field["name"] for field in added["signature"]["inputs"]] == ["a", "b"]
    for which in ("1", "champion", "latest"):
        assert viewer("GET", f"/churn/versions/{which}", 200) == added
    assert viewer("GET", "/churn", 200) == {"items": [added], "next": None}
    assert viewer("GET", "", 200) == {"items": [added], "next": None}
    problem = viewer("GET", "/churn/versions/champoin", 404)
    assert problem["code"] == "not_found" and "champion" in problem["detail"] + (problem["remedy"] or "")


def test_a_body_in_many_pieces(caller: Callable[..., Caller]) -> None:
    data = code(1) + b"." * 3_000_000
    pieces = (data[start : start + 100_000] for start in range(0, len(data), 100_000))
    added = caller(Role.OPERATOR)("PUT", "/big/versions", 201, content=pieces)
    assert (added["digest"], added["size_bytes"]) == (sha256(data), len(data))


def test_a_model_is_added_from_a_path_that_keys_may_read(caller: Callable[..., Caller], shelf: Shelf) -> None:
    operator = caller(Role.OPERATOR)
    source = str(shelf.put("m.pkl", code(1)))
    assert operator("POST", "/churn/versions", 201, json={"source": source})["origin"] == source
    assert operator("POST", "/churn/versions", 201, json={"source": source})["version"] == 1
    outside = str(shelf.put("m.pkl", code(2), outside=True))
    assert operator("POST", "/churn/versions", 403, json={"source": outside})["code"] == "not_allowed"
    assert operator("POST", "/churn/versions", 404, json={"source": f"{source}.gone"})["code"] == "not_found"
    environment = {"source": source, "environment": {"requirements": "skops"}}
    assert "administrator" in operator("POST", "/churn/versions", 403, json=environment)["remedy"]


def test_aliases_and_limits(caller: Callable[..., Caller], context: Context, tenant: str) -> None:
    operator = caller(Role.OPERATOR)
    for number in (1, 2):
        operator("PUT", "/churn/versions", 201, content=code(number))
    assert operator("PUT", "/churn/aliases/champion", 200, json={"version": 2})["aliases"] == ["champion"]
    assert operator("GET", "/churn/versions/champion", 200)["version"] == 2
    assert operator("PUT", "/churn/aliases/champion", 404, json={"version": 3})["code"] == "not_found"
    assert operator("PUT", "/churn/aliases/3", 422, json={"version": 1})["code"] == "invalid_spec"
    assert operator("DELETE", "/churn/aliases/champion", 204) is None
    assert operator("DELETE", "/churn/aliases/champion", 404)["code"] == "not_found"
    assert operator("PUT", "/churn/limits", 200, json={"max_running": 3}) == {"max_running": 3}
    assert context.store.models.running_limit(tenant, "churn") == 3
    page = operator("GET", "/churn", 200, params={"limit": 1})
    assert ([item["version"] for item in page["items"]], page["next"]) == ([2], "2")
    rest = operator("GET", "/churn", 200, params={"limit": 1, "before": page["next"]})
    assert ([item["version"] for item in rest["items"]], rest["next"]) == ([1], None)


def test_only_an_admin_trusts(caller: Callable[..., Caller]) -> None:
    operator, admin = caller(Role.OPERATOR), caller(Role.ADMIN)
    added = operator("PUT", "/risk/versions", 201, content=joblib_file(20))
    assert (added["carries_code"], added["trusted"], added["signature"]) == (True, False, None)
    operator("POST", "/risk/versions/1/trust", 403)
    assert operator("POST", "/risk/versions/1/check", 200)["loads"] is None
    trusted = admin("POST", "/risk/versions/latest/trust", 200)
    assert trusted["trusted"] and len(trusted["signature"]["inputs"]) == 2
    checked = operator("POST", "/risk/versions/1/check", 200)
    assert checked == {
        "reference": "risk@1", "digest": added["digest"], "intact": True, "loads": True, "problem": None,
    }  # fmt: skip


def test_what_a_refusal_leaves(caller: Callable[..., Caller], context: Context) -> None:
    before = {path for path in Path(context.places.models).rglob("*") if path.is_file()}
    operator, viewer = caller(Role.OPERATOR), caller(Role.VIEWER)
    viewer("PUT", "/churn/versions", 403, content=code(30))
    assert operator("PUT", "/churn/versions", 422, content=b"no model")["code"] == "unknown_format"
    assert operator("PUT", "/churn/versions", 422, content=b"")["code"] == "model_unusable"
    assert operator("PUT", "/churn/versions", 422, content=code(30), params={"alias": "3"})["code"] == "invalid_spec"
    assert operator("GET", "", 200)["items"] == []
    assert {path for path in Path(context.places.models).rglob("*") if path.is_file()} == before


def test_another_tenant_finds_nothing(caller: Callable[..., Caller], tenant: str) -> None:
    caller(Role.OPERATOR)("PUT", "/churn/versions", 201, content=code(1))
    other = caller(Role.ADMIN, f"{tenant}-b")
    assert other("GET", "", 200)["items"] == []
    for method, path, words in (
        ("GET", "/churn", {}),
        ("GET", "/churn/versions/1", {}),
        ("PUT", "/churn/aliases/champion", {"json": {"version": 1}}),
        ("DELETE", "/churn/aliases/champion", {}),
        ("POST", "/churn/versions/1/trust", {}),
        ("POST", "/churn/versions/1/check", {}),
        ("PUT", "/churn/limits", {"json": {"max_running": 1}}),
    ):
        assert other(method, path, 404, **words)["code"] == "not_found"


def test_a_sender_that_goes_away_leaves_nothing(
    caller: Callable[..., Caller], client: TestClient, context: Context, tenant: str
) -> None:
    before = {path for path in Path(context.places.models).rglob("*") if path.is_file()}
    headers = [
        (b"host", b"127.0.0.1"),
        *((k.lower().encode(), v.encode()) for k, v in caller(Role.OPERATOR).headers.items()),
    ]
    pieces = iter([code(31), b"." * 2_000_000, b"." * 2_000_000])
    seen: list[set[Path]] = []

    async def receive() -> dict[str, Any]:
        seen.append({path for path in Path(context.places.models).rglob("*") if path.is_file()} - before)
        piece = next(pieces, None)
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": True}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http", "http_version": "1.1", "method": "PUT", "path": f"{BASE}/churn/versions", "query_string": b"",
        "root_path": "", "scheme": "http", "headers": headers, "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80),
    }  # fmt: skip

    async def call() -> None:
        with suppress(ClientDisconnect):
            await client.app(scope, receive, send)

    anyio.run(call)
    assert any(path.name == "model" for path in seen[-1]), "bytes were on their way in"
    assert {path for path in Path(context.places.models).rglob("*") if path.is_file()} == before
    assert models.list_names(context, Principal(name="x", tenant=tenant)).items == []
