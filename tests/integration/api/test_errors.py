"""Every error is a problem with a code and what to do, whatever was sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.integration.api.house import House, client_of
from tidemill.domain.errors import StoreUnavailable
from tidemill.ports.store import JobQueue, KeyStore

JOBS = "/api/v1/jobs"


def told(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The problem of an answer, which must be one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["title"]
    assert problem["detail"].endswith(".")
    assert problem["remedy"]
    return problem


def test_nothing_there(client: TestClient) -> None:
    problem = told(client.get("/api/v1/nothing"), 404, "not_found")
    assert problem["detail"] == "There is nothing at /api/v1/nothing."
    told(client.get(f"{JOBS}/job_nothing"), 404, "not_found")
    told(client.get("/api/v1/jobs/"), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "detail", "remedy"),
    [
        ("GET", f"{JOBS}/nope", "There is no job 'nope'.", "tidemill jobs list"),
        ("GET", f"{JOBS}/No%20job/events", "There is no job 'No job'.", "tidemill jobs list"),
        ("POST", f"{JOBS}/{'x' * 500}/cancel", f"There is no job '{'x' * 100}'.", "tidemill jobs list"),
        ("POST", "/api/v1/keys/nope/revoke", "There is no key 'nope'.", "tidemill keys list"),
    ],
)
def test_a_word_that_can_name_nothing_names_nothing(
    client: TestClient, method: str, path: str, detail: str, remedy: str
) -> None:
    problem = told(client.request(method, path), 404, "not_found")
    assert problem["detail"] == detail
    assert remedy in problem["remedy"]


def test_a_method_that_a_path_does_not_take(client: TestClient) -> None:
    answer = client.delete(JOBS)
    assert told(answer, 405, "method_not_allowed")["detail"] == f"{JOBS} does not take DELETE."
    assert answer.headers["Allow"] == "GET, POST"


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 65 + b"1" + b"}" * 65, b'{"model": ' + b"[" * 70 + b"]" * 70 + b"}"]
)
def test_a_body_that_nests_too_deep(client: TestClient, content: bytes) -> None:
    answer = client.post(JOBS, content=content, headers={"Content-Type": "application/json"})
    assert "deeper than 64 levels" in told(answer, 413, "too_large")["detail"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(house: House, chunked: bool) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(400):
            sent += 1024
            yield b" " * 1024

    content = pieces() if chunked else b" " * 400 * 1024
    with client_of(house, max_body_bytes=64 * 1024) as client:
        answer = client.post(JOBS, content=content, headers={"Content-Type": "application/json"})
        problem = told(answer, 413, "too_large")
        assert "65,536 bytes" in problem["detail"]
        assert "uploads" in problem["remedy"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "nonsense"])
def test_a_body_of_another_type(client: TestClient, kind: str) -> None:
    answer = client.post(JOBS, content=b'{"model": "x"}', headers={"Content-Type": kind})
    assert "application/json" in told(answer, 415, "unsupported_media_type")["remedy"]


def test_a_body_without_a_type(client: TestClient) -> None:
    told(client.post(JOBS, content=b"{}"), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe{\x00}\x00", b'{"model": "\\ud800"}', b"NaN", b"1e999"]
)
def test_a_body_that_is_no_spec(client: TestClient, content: bytes) -> None:
    told(client.post(JOBS, content=content, headers={"Content-Type": "application/json"}), 422, "invalid_spec")


def test_every_fault_of_a_spec_is_named(client: TestClient) -> None:
    spec = {
        "model": 5, "input": {"path": []}, "colour": "red", "compute": {"scorers": "4"},
        "limits": {"rejected": "many", "runtime": "0s"}, "priority": 101,
    }  # fmt: skip
    problem = told(client.post(JOBS, json=spec), 422, "invalid_spec")
    assert {fault["where"] for fault in problem["errors"]} == {
        "body.model", "body.input.path", "body.colour", "body.compute.scorers", "body.limits.rejected",
        "body.limits.runtime", "body.priority",
    }  # fmt: skip
    assert "0x" not in json.dumps(problem)


def test_headers_that_are_wrong(house: House, client: TestClient) -> None:
    spec = {"model": "churn@1", "input": {"path": [str(house.input)]}}
    told(client.post(JOBS, json=spec, headers={"Idempotency-Key": "with space"}), 422, "invalid_spec")
    told(client.post(JOBS, json=spec, headers={"Idempotency-Key": "x" * 201}), 422, "invalid_spec")
    job = house.submit()
    told(client.get(f"{JOBS}/{job.id}/events", headers={"Last-Event-ID": "x"}), 422, "invalid_spec")


def test_a_refusal_says_what_to_do(house: House, client: TestClient) -> None:
    spec = {"model": "churn@gone", "input": {"path": [str(house.input)]}}
    told(client.post(JOBS, json=spec), 404, "not_found")
    spec = {"model": "churn@1", "input": {"path": ["/nowhere/at/all.parquet"]}}
    told(client.post(JOBS, json=spec), 404, "not_found")
    target = house.folder / "data" / "taken"
    target.mkdir()
    (target / "x").write_text("x")
    spec = {"model": "churn@1", "input": {"path": [str(house.input)]}, "output": {"path": str(target)}}
    told(client.post(JOBS, json=spec), 409, "output_exists")


class Away:
    """A store that does not answer."""

    def __getattr__(self, name: str) -> Any:
        raise StoreUnavailable("The job store does not answer.", remedy="Try again in a moment.")


class Broken:
    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError("a defect")


class Stand:
    """A store with one aggregate replaced."""

    def __init__(self, store: Any, **replaced: Any) -> None:
        self.__dict__.update(replaced)
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def with_aggregate(house: House, **replaced: Any) -> House:
    store: Any = Stand(house.context.store, **replaced)
    return House(replace(house.context, joined=lambda: (store, house.context.worker_lock)), house.folder)


def test_a_store_that_is_away(house: House) -> None:
    away: Any = Away()
    jobs: JobQueue = away
    keys: KeyStore = away
    job = house.submit()
    with client_of(with_aggregate(house, jobs=jobs)) as client:
        for path in (JOBS, f"{JOBS}/{job.id}", f"{JOBS}/{job.id}/events"):
            answer = client.get(path)
            told(answer, 503, "store_unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
        assert client.get("/api/v1/health").status_code == 200
    with client_of(with_aggregate(house, keys=keys)) as client:
        told(client.get(JOBS), 503, "store_unavailable")
        for path in ("/health", "/ready", "/api/v1/health", "/api/v1/ready"):
            health = client.get(path)
            assert health.status_code == 503
            assert int(health.headers["Retry-After"]) >= 1
            assert health.json()["status"] == "unavailable"


def test_a_defect_is_a_problem_that_tells_no_secrets(house: House) -> None:
    broken: Any = Broken()
    with client_of(with_aggregate(house, jobs=broken)) as client:
        problem = told(client.get(JOBS), 500, "error")
    assert "ZeroDivisionError" in problem["detail"]
    assert "a defect" not in json.dumps(problem)


def test_a_server_that_ends_is_not_ready(house: House) -> None:
    with client_of(house) as client:
        assert client.get("/ready").status_code == 200
        client.app.state.pulse.close()  # type: ignore[attr-defined]
        assert client.get("/ready").json()["detail"] == "This server is about to end."
        assert client.get("/health").status_code == 200
