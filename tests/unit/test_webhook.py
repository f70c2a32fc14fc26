"""Messages, signatures and the times of retries."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tidemill.domain.webhook import (
    MOST_ATTEMPTS,
    RETRY_SECONDS,
    Delivery,
    DeliveryState,
    EventType,
    body,
    retry_seconds,
    secret,
    secret_text,
    signed_headers,
)

KEY = b"k" * 64
FACTS: dict[str, Any] = {
    "id": "job_1",
    "name": "nächtlich",
    "state": "failed",
    "model": None,
    "labels": {"team": "growth"},
    "parent_id": None,
    "total": 30,
    "predicted": 10,
    "rejected": 0,
    "error": {"code": "input_changed", "message": "a row of Ada's", "remedy": None},
    "created_at_ms": 1_780_000_000_000,
    "started_at_ms": 1_780_000_000_007,
    "finished_at_ms": None,
}


def delivery(**changes: Any) -> Delivery:
    words: dict[str, Any] = {
        "number": 1,
        "id": "msg_1",
        "webhook_id": "whk_1",
        "job_id": "job_1",
        "type": EventType.FAILED,
        "at": datetime(2026, 5, 4, 3, 2, 1, 9_000, UTC),
        "facts": FACTS,
        "state": DeliveryState.WAITING,
        "attempts": 0,
        "next_at": None,
        "tried_at": None,
        "status": None,
        "problem": None,
    }
    return Delivery(**{**words, **changes})


def test_a_message_says_what_became_of_the_job() -> None:
    assert json.loads(body(delivery())) == {
        "type": "job.failed",
        "timestamp": "2026-05-04T03:02:01.009Z",
        "data": {
            "id": "job_1",
            "name": "nächtlich",
            "state": "failed",
            "model": None,
            "labels": {"team": "growth"},
            "parent_id": None,
            "counts": {"total": 30, "predicted": 10, "rejected": 0},
            "error": {"code": "input_changed"},
            "created_at": "2026-05-28T20:26:40.000Z",
            "started_at": "2026-05-28T20:26:40.007Z",
            "finished_at": None,
            "links": {"self": "/api/v1/jobs/job_1", "page": "/jobs/job_1"},
        },
    }


def test_links_lead_to_where_people_reach_the_service() -> None:
    links = json.loads(body(delivery(), "https://tidemill.example.com"))["data"]["links"]
    assert links == {
        "self": "https://tidemill.example.com/api/v1/jobs/job_1",
        "page": "https://tidemill.example.com/jobs/job_1",
    }


def test_a_message_is_the_same_at_every_attempt() -> None:
    later = delivery(attempts=7, tried_at=datetime.now(UTC), status=500, problem="It answered 500.")
    assert body(later) == body(delivery())


def test_a_ping_names_its_webhook() -> None:
    ping = body(delivery(type=EventType.PING, job_id=None, facts={}))
    assert json.loads(ping)["data"] == {"webhook_id": "whk_1"}


def test_a_signature_verifies_with_each_secret_and_no_other() -> None:
    secrets = [secret(KEY, "whk_1", generation) for generation in (2, 1)]
    content = body(delivery())
    now = int(datetime.now(UTC).timestamp())
    headers = signed_headers(secrets, "msg_1", now, content)
    for each in secrets:
        assert Webhook(secret_text(each)).verify(content, headers)["type"] == "job.failed"
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_text(secret(KEY, "whk_1", 3))).verify(content, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_text(secrets[0])).verify(content, signed_headers(secrets, "msg_1", now - 301, content))


def test_each_webhook_generation_and_key_has_a_secret_of_its_own() -> None:
    made = {
        secret(key, hook, generation)
        for key in (KEY, b"other" * 10)
        for hook in ("whk_1", "whk_11")
        for generation in (1, 11)
    }
    assert len(made) == 8
    assert all(24 <= len(base64.b64decode(secret_text(each).removeprefix("whsec_"))) <= 64 for each in made)


def test_retries_go_on_for_about_three_days() -> None:
    least = [retry_seconds(attempt, 0.0) for attempt in range(1, MOST_ATTEMPTS + 1)]
    assert least == [*RETRY_SECONDS, None]
    assert list(RETRY_SECONDS) == sorted(RETRY_SECONDS)
    for chance, most_days in ((0.0, 3.2), (0.999, 3.9)):
        pauses = [retry_seconds(attempt, chance) for attempt in range(1, MOST_ATTEMPTS)]
        total = timedelta(seconds=sum(pause for pause in pauses if pause is not None))
        assert timedelta(days=3) < total < timedelta(days=most_days)


def test_what_failed_together_does_not_come_back_together() -> None:
    first, second = retry_seconds(3, 0.1), retry_seconds(3, 0.9)
    assert first is not None and second is not None
    assert RETRY_SECONDS[2] < first < second < 1.2 * RETRY_SECONDS[2]
