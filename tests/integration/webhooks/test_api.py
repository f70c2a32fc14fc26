"""Webhooks over HTTP and from Python."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

import tidemill
from tests.integration.api.house import House, client_of, served
from tests.integration.webhooks.conftest import Sending
from tests.integration.webhooks.receivers import receiving, status
from tidemill.api.app import create_app
from tidemill.client import webhooks as client_webhooks
from tidemill.domain.access import Role
from tidemill.domain.errors import NotFound, StillRunning, WrongState
from tidemill.service import webhooks
from tidemill.wire.webhooks import ChangeWebhook

PATH = "/api/v1/webhooks"
URL = "http://127.0.0.1:9/hook"
NONE = "whk_0000000000000000"


@pytest.fixture
def client(house: House) -> Iterator[TestClient]:
    _, key = house.key(Role.OPERATOR)
    with client_of(house, key=key) as opened:
        yield opened


def test_from_the_first_to_the_last(house: House, client: TestClient) -> None:
    wanted = {"url": URL, "events": ["job.failed", "job.started"], "labels": {"a": "b"}, "description": "ops"}
    made = client.post(PATH, json=wanted)
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    hook = made.json()
    secret = hook.pop("secret")
    assert secret.startswith("whsec_")
    assert made.headers["location"] == f"{PATH}/{hook['id']}"
    assert hook["events"] == ["job.started", "job.failed"]
    assert (hook["created_by"], hook["tenant"], hook["enabled"]) == ("default-operator", "default", True)
    here = made.headers["location"]
    assert client.get(here).json() == hook
    assert client.get(PATH).json() == {"items": [hook]}

    changed = client.patch(here, json={"enabled": False, "labels": {}}).json()
    assert changed == {**hook, "enabled": False, "labels": {}}
    assert client.post(f"{here}/test").json()["code"] == "wrong_state"
    assert client.patch(here, json={"enabled": True}).json()["enabled"]

    rotated = client.post(f"{here}/rotate")
    assert (rotated.status_code, rotated.headers["cache-control"]) == (200, "no-store")
    assert rotated.json()["secret"] not in (secret, None)
    assert rotated.json()["previous_until"] is not None

    pinged = client.post(f"{here}/test")
    assert pinged.status_code == 202
    assert client.get(pinged.headers["location"]).json() == pinged.json()
    assert (pinged.json()["type"], pinged.json()["state"]) == ("webhook.ping", "waiting")

    assert client.delete(here).status_code == 204
    assert client.get(here).json()["code"] == "not_found"
    actions = [entry.action for entry in house.context.store.audit.list(limit=6)]
    assert actions == [f"webhook.{verb}" for verb in ("remove", "test", "rotate", "change", "change", "add")]


def test_deliveries_have_pages(house: House, client: TestClient) -> None:
    here = f"{PATH}/{client.post(PATH, json={'url': URL}).json()['id']}"
    jobs = [house.finish(house.submit()) for _ in range(3)]
    first = client.get(f"{here}/deliveries", params={"limit": 2}).json()
    second = client.get(f"{here}/deliveries", params={"limit": 2, "before": first["next"]}).json()
    told = [each["job_id"] for each in first["items"] + second["items"]]
    assert told == [job.id for job in reversed(jobs)]
    assert second["next"] is None
    of_one = client.get(f"{here}/deliveries", params={"job": jobs[1].id}).json()["items"]
    assert [each["job_id"] for each in of_one] == [jobs[1].id]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ({}, 422, "url"),
        ({"url": "nowhere"}, 422, "is not a URL of the web"),
        ({"url": "http://10.0.0.7/"}, 403, "webhook_hosts"),
        ({"url": URL, "events": []}, 422, "events"),
        ({"url": URL, "events": ["job.exploded"]}, 422, "job.succeeded"),
        ({"url": URL, "events": ["webhook.ping"]}, 422, "events"),
        ({"url": URL, "secret": "mine"}, 422, "secret"),
    ],
)
def test_what_is_refused_says_why(client: TestClient, words: dict[str, object], code: int, says: str) -> None:
    answer = client.post(PATH, json=words)
    assert answer.status_code == code, answer.text
    assert says in answer.text
    assert client.get(PATH).json() == {"items": []}


def test_a_tenant_has_a_hundred(house: House, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "MOST", 2)
    answers = [client.post(PATH, json={"url": URL}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 409]
    assert "has 2 webhooks" in answers[-1].json()["detail"]


def test_from_python(house: House, sending_from: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_webhooks, "_LOOK_SECONDS", 0.02)
    with (
        receiving(status(204, 500, 204)) as receiver,
        served(create_app(house.context)) as url,
        tidemill.Client(url) as client,
    ):
        hook = client.webhooks.add(receiver.url, events=["job.failed"], job_name="nightly", labels={"a": "b"})
        assert client.webhooks.list() == [client.webhooks.get(hook.id)]
        with pytest.raises(StillRunning, match="still waits"):
            client.webhooks.test(hook.id, timeout_seconds=0.05)
        sending_from(house)
        receiver.wait()
        failed = client.webhooks.test(hook.id)
        assert (failed.state, failed.problem, failed.attempts) == ("given_up", "It answered 500.", 1)
        arrived = client.webhooks.test(hook.id)
        assert (arrived.state, arrived.status) == ("delivered", 204)
        assert receiver.requests[-1].verified(hook.secret)["data"] == {"webhook_id": hook.id}
        assert [each.id for each in client.webhooks.deliveries(hook.id, page_size=1)][:2] == [arrived.id, failed.id]
        assert client.webhooks.rotate(hook.id, overlap_seconds=0).secret != hook.secret
        assert not client.webhooks.change(hook.id, ChangeWebhook(enabled=False)).enabled
        with pytest.raises(WrongState):
            client.webhooks.test(hook.id)
        client.webhooks.remove(hook.id)
        for ask in (client.webhooks.get, client.webhooks.remove, client.webhooks.test):
            with pytest.raises(NotFound):
                ask(NONE)
