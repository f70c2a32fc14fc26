"""Messages reach receivers: at least once, signed, whatever the receiver does."""

from __future__ import annotations

import json
import socket
import time
from datetime import timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.integration.api.house import House
from tests.integration.webhooks.conftest import Sending
from tests.integration.webhooks.receivers import (
    Answer,
    dripping,
    enormous,
    free_port,
    receiving,
    silent,
    status,
    until,
)
from tidemill.domain.errors import StoreUnavailable
from tidemill.domain.job import JobState
from tidemill.domain.webhook import MOST_ATTEMPTS, Delivery, DeliveryState, EventType
from tidemill.service import control, sender, webhooks
from tidemill.telemetry.metrics import Metrics
from tidemill.wire.webhooks import AddWebhook, NewWebhook


def add(house: House, url: str, **words: object) -> NewWebhook:
    return webhooks.add(house.context, house.here, AddWebhook.model_validate({"url": url, **words}))


def settled(house: House, hook: NewWebhook, count: int = 1) -> list[Delivery]:
    """All its deliveries, once there are so many and none waits."""

    def ask() -> list[Delivery] | None:
        found = house.context.store.outbox.list(webhook_id=hook.id)
        done = len(found) >= count and all(each.state is not DeliveryState.WAITING for each in found)
        return found if done else None

    return until(ask)


def tried(house: House, hook: NewWebhook) -> Delivery:
    """Its delivery, once an attempt has failed."""

    def ask() -> Delivery | None:
        (found,) = house.context.store.outbox.list(webhook_id=hook.id)
        return found if found.problem else None

    return until(ask)


def test_a_receiver_is_told_how_a_job_ended(either: House, sending_from: Sending) -> None:
    with receiving() as receiver:
        hook = add(either, f"{receiver.url}/hooks?a=b", labels={"team": "growth"})
        job = either.finish(either.submit(name="nightly", labels={"team": "growth"}), rejected=3)
        either.finish(either.submit(name="other"))
        sending_from(either)
        (request,) = receiver.wait()
        (done,) = settled(either, hook)
    assert request.path == "/hooks?a=b"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == receiver.url.removeprefix("http://")
    assert (request.id, done.status, done.attempts, done.state) == (done.id, 204, 1, DeliveryState.DELIVERED)
    told = request.verified(hook.secret)
    assert job.finished_at is not None
    assert told["type"] == "job.succeeded_with_rejections"
    assert told["timestamp"].endswith("Z")
    data = told["data"]
    assert (data["id"], data["name"], data["state"]) == (job.id, "nightly", "succeeded_with_rejections")
    assert (data["model"], data["labels"]) == ("churn", {"team": "growth"})
    assert data["counts"] == {"total": 20, "predicted": 17, "rejected": 3}
    assert data["finished_at"] == job.finished_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert data["links"] == {"self": f"/api/v1/jobs/{job.id}", "page": f"/jobs/{job.id}"}
    assert str(either.folder) not in request.body.decode()


def test_a_receiver_that_is_down_is_told_when_it_is_back(either: House, sending_from: Sending) -> None:
    port = free_port()
    hook = add(either, f"http://127.0.0.1:{port}/")
    either.fail(either.submit())
    sending_from(either)
    assert "cannot be reached" in str(tried(either, hook).problem)
    with receiving(port=port) as receiver:
        (request, *_) = receiver.wait()
        (done,) = settled(either, hook)
    assert request.verified(hook.secret)["data"]["error"] == {"code": "model_unusable"}
    assert "It broke" not in request.body.decode()
    assert (request.id, done.state, done.problem) == (done.id, DeliveryState.DELIVERED, None)
    assert done.attempts >= 2


def test_one_that_answers_500_gets_the_same_message_again(either: House, sending_from: Sending) -> None:
    counted = Metrics()
    with receiving(status(500, 503, 200)) as receiver:
        hook = add(either, receiver.url)
        either.finish(either.submit())
        sending_from(either, counted.attempted)
        requests = receiver.wait(3)
        (done,) = settled(either, hook)
    assert len({request.id for request in requests}) == len({request.body for request in requests}) == 1
    for request in requests:
        request.verified(hook.secret)
    assert (done.state, done.attempts, done.status) == (DeliveryState.DELIVERED, 3, 200)
    assert _counts(counted) == {"delivered": 1.0, "failed": 2.0, "given_up": 0.0}


def _counts(metrics: Metrics) -> dict[str, float]:
    names = ("delivered", "failed", "given_up")
    read = metrics.registry.get_sample_value
    return {name: read("tidemill_webhook_attempts_total", {"outcome": name}) or 0.0 for name in names}


def test_it_is_given_up_after_the_last_attempt(house: House, sending_from: Sending) -> None:
    counted = Metrics()
    with receiving(status(500)) as receiver:
        hook = add(house, receiver.url)
        house.finish(house.submit())
        sending_from(house, counted.attempted)
        (done,) = settled(house, hook)
        assert len(receiver.requests) == MOST_ATTEMPTS == 10
    assert (done.state, done.status, done.problem) == (DeliveryState.GIVEN_UP, 500, "It answered 500.")
    assert _counts(counted) == {"delivered": 0.0, "failed": 9.0, "given_up": 1.0}


@pytest.mark.parametrize("slow", [silent, dripping])
def test_an_attempt_has_a_whole_time(house: House, sending_from: Sending, slow: Answer) -> None:
    """Also to one that never stops to answer."""
    with receiving(slow) as receiver:
        hook = add(house, receiver.url)
        house.finish(house.submit())
        sending_from(house, attempt_seconds=0.5)
        assert tried(house, hook).problem == "No answer within 0.5 s."
        assert len({request.id for request in receiver.wait(2)}) == 1


def test_a_slow_one_holds_up_nobody(house: House, sending_from: Sending) -> None:
    """It has more messages than may be under way at once."""
    with receiving(silent) as bad, receiving() as good:
        add(house, bad.url)
        for _ in range(6):
            house.finish(house.submit())
        sending_from(house, at_once=4, at_once_each=2, attempt_seconds=60.0)
        bad.wait(2)
        hook = add(house, good.url)
        house.finish(house.submit())
        (done,) = settled(house, hook)
        assert done.state is DeliveryState.DELIVERED
        assert len(bad.requests) == 2


def test_a_redirect_is_not_followed(house: House, sending_from: Sending) -> None:
    """Not even to where a webhook itself may lead."""
    with receiving() as target:
        for place in (f"{target.url}/x", "http://169.254.169.254/latest/meta-data"):
            with receiving(status(302, Location=place)) as receiver:
                hook = add(house, receiver.url)
                sent = webhooks.ping(house.context, house.here, hook.id)
                started = sending_from(house)
                (done,) = settled(house, hook)
                assert receiver.ids == [sent.id]
                started.stop()
            assert done.status == 302
            assert "redirects are not followed" in str(done.problem)
        assert target.requests == []


def test_an_answer_of_10_gb_is_not_read(house: House, sending_from: Sending) -> None:
    with receiving(enormous) as receiver:
        hook = add(house, receiver.url)
        house.finish(house.submit())
        sending_from(house)
        (done,) = settled(house, hook)
        assert receiver.sent_bytes < 64 << 20, "what fits the system's buffers, no more"
    assert (done.state, done.status, done.attempts) == (DeliveryState.DELIVERED, 200, 1)


def test_an_answer_that_is_no_http_is_a_failed_attempt(house: House, sending_from: Sending) -> None:
    def answer(handler: object, before: int) -> None:
        handler.wfile.write(b"SSH-2.0-hush\xff\0\r\n\r\n")  # type: ignore[attr-defined]

    with receiving(answer) as receiver:
        hook = add(house, receiver.url)
        webhooks.ping(house.context, house.here, hook.id)
        sending_from(house)
        (done,) = settled(house, hook)
    assert (done.state, done.status, done.attempts) == (DeliveryState.GIVEN_UP, None, 1)
    assert done.problem == "It closed the connection, or what it answered is no HTTP."


def test_one_that_is_gone_is_disabled(house: House, sending_from: Sending) -> None:
    with receiving(status(410)) as receiver:
        hook = add(house, receiver.url)
        jobs = [house.finish(house.submit()) for _ in range(6)]
        sending_from(house, at_once_each=1)
        done = settled(house, hook, len(jobs))
        house.finish(house.submit())
        assert len(receiver.requests) == 1
    seen = webhooks.get(house.context, house.here, hook.id)
    assert (seen.enabled, seen.disabled_reason) == (False, "The receiver answered 410: it is gone.")
    assert {each.state for each in done} == {DeliveryState.GIVEN_UP}
    assert len(house.context.store.outbox.list(webhook_id=hook.id)) == len(jobs)


def test_a_receiver_may_ask_for_time(house: House, sending_from: Sending) -> None:
    with receiving(status(429, Retry_After="3600")) as receiver:
        hook = add(house, receiver.url)
        house.finish(house.submit())
        sending_from(house)
        waiting = tried(house, hook)
    assert waiting.next_at is not None and waiting.tried_at is not None
    assert timedelta(minutes=59) < waiting.next_at - waiting.tried_at < timedelta(minutes=61)


def test_two_secrets_sign_while_one_follows_the_other(house: House, sending_from: Sending) -> None:
    with receiving() as receiver:
        hook = add(house, receiver.url)
        sending_from(house)
        fresh = webhooks.rotate(house.context, house.here, hook.id, timedelta(hours=1))
        webhooks.ping(house.context, house.here, hook.id)
        (both,) = receiver.wait(1)
        newest = webhooks.rotate(house.context, house.here, hook.id, timedelta(0))
        webhooks.ping(house.context, house.here, hook.id)
        only = receiver.wait(2)[1]
    assert len({hook.secret, fresh.secret, newest.secret}) == 3
    for secret in (hook.secret, fresh.secret):
        assert both.verified(secret)["type"] == "webhook.ping"
        with pytest.raises(WebhookVerificationError):
            only.verified(secret)
    assert only.verified(newest.secret)["data"] == {"webhook_id": hook.id}
    assert len(only.headers["webhook-signature"].split()) == 1


def test_a_changed_message_does_not_verify(house: House, sending_from: Sending) -> None:
    with receiving() as receiver:
        hook = add(house, receiver.url)
        sending_from(house)
        webhooks.ping(house.context, house.here, hook.id)
        (request,) = receiver.wait()
    checked = Webhook(hook.secret)
    checked.verify(request.body, request.headers)
    for body, change in (
        (request.body.replace(b"ping", b"pong"), {}),
        (request.body, {"webhook-id": "msg_other"}),
        (request.body, {"webhook-timestamp": str(int(request.headers["webhook-timestamp"]) - 1)}),
    ):
        with pytest.raises(WebhookVerificationError):
            checked.verify(body, {**request.headers, **change})


def test_nothing_is_sent_of_what_was_rolled_back(either: House, sending_from: Sending) -> None:
    with receiving() as receiver:
        hook = add(either, receiver.url)
        job = either.submit()
        sending_from(either)
        with pytest.raises(RuntimeError), either.context.store.transaction():
            assert control.cancel(either.context, either.here, job.id).state is JobState.CANCELLED
            time.sleep(0.3)  # The sender looks several times.
            raise RuntimeError
        assert either.again(job).state is JobState.QUEUED
        sent = webhooks.ping(either.context, either.here, hook.id)
        settled(either, hook)
        assert receiver.ids == [sent.id]


@pytest.mark.parametrize("away", ["claim_due", "delivered_if_current"])
def test_a_store_that_was_away_is_asked_again(
    house: House, sending_from: Sending, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    outbox = house.context.store.outbox
    ask, asked = getattr(outbox, away), []

    def answer(*words: object, **more: object) -> object:
        asked.append(words)
        if len(asked) == 1:
            raise StoreUnavailable("It is being restarted.")
        return ask(*words, **more)

    monkeypatch.setattr(outbox, away, answer)
    monkeypatch.setattr(sender, "_PAUSE_SECONDS", 0.05)
    with receiving() as receiver:
        hook = add(house, receiver.url)
        sent = webhooks.ping(house.context, house.here, hook.id)
        sending_from(house, lease_seconds=0.5)
        (done,) = settled(house, hook)
        assert set(receiver.ids) == {sent.id}
        assert len(receiver.ids) == done.attempts == (1 if away == "claim_due" else 2)


def test_of_two_senders_one_sends_each(either: House, sending_from: Sending) -> None:
    with receiving() as receiver:
        hooks = [add(either, f"{receiver.url}/{number}") for number in range(3)]
        for _ in range(4):
            control.cancel(either.context, either.here, either.submit().id)
        for _ in range(2):
            sending_from(either)
        for hook in hooks:
            settled(either, hook, 4)
        assert len(receiver.ids) == len(set(receiver.ids)) == 12
    assert {json.loads(request.body)["type"] for request in receiver.requests} == {"job.cancelled"}


def test_a_receiver_that_closes_at_once(house: House, sending_from: Sending) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        hook = add(house, f"http://127.0.0.1:{listener.getsockname()[1]}")
        house.fail(house.submit())
        sending_from(house)
        for _ in range(2):
            listener.accept()[0].close()
        assert tried(house, hook).problem


def test_every_kind_of_event_has_a_state() -> None:
    states = {f"job.{state.value}" for state in JobState}
    assert {event.value for event in EventType} - states == {"job.started", "webhook.ping"}
