"""Jobs over the API: from the request to what the store holds, and back."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.integration.api.house import House, client_of
from tidemill.domain.access import Role
from tidemill.domain.job import JobState, Want

JOBS = "/api/v1/jobs"


def body(house: House, **words: Any) -> dict[str, Any]:
    return {"model": "churn@champion", "input": {"path": [str(house.input)]}, **words}


def test_a_job_is_accepted_and_can_be_looked_at(house: House, client: TestClient) -> None:
    made = client.post(JOBS, json=body(house, name="nightly", labels={"team": "growth"}))
    assert made.status_code == 202
    told = made.json()
    assert made.headers["Location"] == told["links"]["self"] == f"{JOBS}/{told['id']}"
    assert (told["state"], told["name"], told["model"]["reference"]) == ("queued", "nightly", "churn@1")
    answer = client.get(made.headers["Location"])
    assert answer.status_code == 200
    seen = answer.json()
    assert (seen["queue"]["place"], seen["queue"]["reason"]) == (1, "no_worker")
    assert {**seen, "queue": None, "timestamps": told["timestamps"]} == told
    assert set(told["timestamps"]) == {"created", "queued"}
    stored = house.context.store.jobs.get(told["id"])
    assert (stored.name, stored.labels, stored.managed) == ("nightly", {"team": "growth"}, True)


def test_one_key_makes_one_job(house: House, client: TestClient) -> None:
    headers = {"Idempotency-Key": "2026-11-23/nightly"}
    first = client.post(JOBS, json=body(house), headers=headers)
    again = client.post(JOBS, json=body(house), headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["Location"] == first.headers["Location"]
    other = client.post(JOBS, json=body(house, name="other"), headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    assert len(client.get(JOBS).json()["items"]) == 1


@pytest.mark.parametrize("verb", ["retry", "clone"])
def test_one_key_makes_one_copy(house: House, client: TestClient, verb: str) -> None:
    parent = house.finish(house.submit(), rejected=1)
    headers = {"Idempotency-Key": "once"}
    first, again = (client.post(f"{JOBS}/{parent.id}/{verb}", headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    assert first.json()["parent_id"] == parent.id
    other = client.post(f"{JOBS}/{house.finish(house.submit(), rejected=1).id}/{verb}", headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    assert len(client.get(JOBS).json()["items"]) == 3


def test_pages_hold_every_job_once(house: House, client: TestClient) -> None:
    made = [house.submit(name=f"job {number}").id for number in range(7)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    pages = 0
    while True:
        page = client.get(JOBS, params=query).json()
        seen += [item["id"] for item in page["items"]]
        pages += 1
        if page["next"] is None:
            break
        query["before"] = page["next"]
    assert (seen, pages) == (made[::-1], 3)


def test_filters(house: House, client: TestClient) -> None:
    house.model("fraud")
    a = house.submit(name="a", labels={"team": "x", "day": "1:2"})
    b = house.submit(name="b", labels={"team": "x"}, model="fraud@1")
    c = house.finish(house.submit(name="a"), rejected=1)
    d = house.context.store.jobs.wish(house.submit(name="d").id, Want.CANCEL)
    client.post(f"{JOBS}/{c.id}/clone", json={"changes": {"name": "e"}})

    def found(**query: Any) -> list[str]:
        return [item["id"] for item in client.get(JOBS, params=query).json()["items"]]

    assert found(name="a") == [c.id, a.id]
    assert found(state="cancelled") == [d.id]
    assert found(state=["cancelled", "succeeded_with_rejections"]) == [d.id, c.id]
    assert found(label="team:x") == [b.id, a.id]
    assert found(label=["team:x", "day:1:2"]) == [a.id]
    assert found(model="fraud") == [b.id]
    assert len(found(owner="local")) == 5
    assert found(owner="key_none") == []
    (clone,) = found(parent=c.id)
    assert house.context.store.jobs.get(clone).name == "e"


def test_bad_queries(client: TestClient) -> None:
    queries = {
        "limit=0": 422, "limit=501": 422, "limit=x": 422, "state=done": 422, "before=no!": 422,
        "before=job_unknown": 404, "label=nocolon": 422, "colour=red": 422,
    }  # fmt: skip
    for query, status in queries.items():
        answer = client.get(f"{JOBS}?{query}")
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), query
        assert query.partition("=")[0] in answer.text or status == 404
        assert answer.json()["remedy"]


def test_cancel_pause_resume(house: House, client: TestClient) -> None:
    job = house.submit()
    for verb, state in [("pause", "paused"), ("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")]:
        answer = client.post(f"{JOBS}/{job.id}/{verb}")
        assert (answer.status_code, answer.json()["state"]) == (200, state)
    refused = client.post(f"{JOBS}/{job.id}/resume")
    assert (refused.status_code, refused.json()["code"]) == (409, "wrong_state")
    running = house.submit()
    house.run(running, committed=1)
    told = client.post(f"{JOBS}/{running.id}/cancel").json()
    assert (told["state"], told["want"]) == ("running", "cancel")


def test_retry_and_clone_make_new_jobs(house: House, client: TestClient) -> None:
    parent = house.finish(house.submit(name="nightly"), rejected=2)
    retry = client.post(f"{JOBS}/{parent.id}/retry")
    assert retry.status_code == 202
    assert retry.headers["Location"] == f"{JOBS}/{retry.json()['id']}"
    assert retry.json()["parent_id"] == parent.id
    assert retry.json()["spec"]["input"]["rejected_of"] == parent.id
    target = str(house.folder / "data" / "again")
    placed = client.post(f"{JOBS}/{parent.id}/retry", json={"output": {"path": target}})
    assert placed.json()["output"] == target
    clone = client.post(f"{JOBS}/{parent.id}/clone", json={"changes": {"name": "weekly"}})
    assert (clone.status_code, clone.json()["name"], clone.json()["parent_id"]) == (202, "weekly", parent.id)
    bare = client.post(f"{JOBS}/{parent.id}/clone")
    assert (bare.status_code, bare.json()["name"]) == (202, "nightly")
    refused = client.post(f"{JOBS}/{clone.json()['id']}/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "wrong_state")
    wrong = client.post(f"{JOBS}/{parent.id}/clone", json={"changes": {"priority": "high"}})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_spec")


def test_an_etag_changes_with_the_job_and_only_then(house: House, client: TestClient) -> None:
    job = house.submit()
    first = client.get(f"{JOBS}/{job.id}")
    etag = first.headers["ETag"]
    same = client.get(f"{JOBS}/{job.id}", headers={"If-None-Match": f'"other", {etag}'})
    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", etag)
    lease = house.run(job, chunks=3, committed=1)
    moved = client.get(f"{JOBS}/{job.id}", headers={"If-None-Match": etag})
    assert (moved.status_code, moved.json()["counts"]["predicted"]) == (200, 10)
    etag = moved.headers["ETag"]
    time.sleep(0.02)
    assert client.get(f"{JOBS}/{job.id}", headers={"If-None-Match": etag}).status_code == 304
    assert house.context.store.jobs.hand_over_if_current(lease)
    assert client.get(f"{JOBS}/{job.id}", headers={"If-None-Match": etag}).status_code == 200


def test_a_long_poll_answers_when_the_job_is_at_rest(house: House, client: TestClient) -> None:
    job = house.submit()
    lease = house.claim(job)
    ending = threading.Timer(0.3, lambda: house.context.store.jobs.end_if_current(lease, JobState.FAILED, None))
    started = time.monotonic()
    ending.start()
    answer = client.get(f"{JOBS}/{job.id}", params={"wait": 30})
    ending.join()
    assert answer.json()["state"] == "failed"
    assert 0.2 < time.monotonic() - started < 25


def test_a_long_poll_ends_when_its_time_is_over(house: House, client: TestClient) -> None:
    job = house.submit()
    answer = client.get(f"{JOBS}/{job.id}", params={"wait": 0.2})
    assert (answer.status_code, answer.json()["state"]) == (200, "queued")
    assert client.get(f"{JOBS}/{job.id}", params={"wait": 61}).status_code == 422
    assert client.get(f"{JOBS}/job_none00", params={"wait": 5}).status_code == 404


def test_logs(house: House, client: TestClient) -> None:
    job = house.submit()
    assert client.get(f"{JOBS}/{job.id}/logs").json() == {"lines": [], "truncated": False}
    log = house.context.places.logs / f"{job.id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(f"line {number}\n" for number in range(5)))
    assert client.get(f"{JOBS}/{job.id}/logs", params={"lines": 2}).json() == {
        "lines": ["line 3", "line 4"], "truncated": True,
    }  # fmt: skip


def test_the_service_at_a_glance(house: House, client: TestClient) -> None:
    house.submit()
    told = client.get("/api/v1/service").json()
    assert (told["jobs"], told["authenticated_as"], told["role"]) == ({"queued": 1}, "local", "admin")
    figures = client.get("/metrics")
    assert figures.headers["content-type"].startswith("text/plain")
    assert 'tidemill_jobs{state="queued"} 1.0' in figures.text


def test_urgency_is_for_administrators(house: House) -> None:
    _, operator = house.key()
    _, admin = house.key(Role.ADMIN)
    with client_of(house, key=operator) as client:
        refused = client.post(JOBS, json=body(house, priority=5))
        assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
    with client_of(house, key=admin) as client:
        assert client.post(JOBS, json=body(house, priority=5)).json()["priority"] == 5
