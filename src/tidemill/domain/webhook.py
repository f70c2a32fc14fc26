"""What a webhook is, what it is told, and when a delivery that failed is tried again."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class EventType(StrEnum):
    """What a webhook is told of."""

    STARTED = "job.started"
    """A worker took the job for the first time."""
    PAUSED = "job.paused"
    SUCCEEDED = "job.succeeded"
    SUCCEEDED_WITH_REJECTIONS = "job.succeeded_with_rejections"
    FAILED = "job.failed"
    CANCELLED = "job.cancelled"
    PING = "webhook.ping"
    """A person asked for it, to see whether it arrives."""


ENDINGS = (
    EventType.SUCCEEDED,
    EventType.SUCCEEDED_WITH_REJECTIONS,
    EventType.FAILED,
    EventType.CANCELLED,
)
"""What a webhook is told of if nobody says: whatever ends a job."""

JOB_EVENTS = (EventType.STARTED, EventType.PAUSED, *ENDINGS)
"""What can be asked for."""

OVERLAP = timedelta(hours=24)
"""After a rotation the secret before signs, too, for so long."""

RETRY_SECONDS = (5, 5 * 60, 30 * 60, *(hours * 3600 for hours in (2, 5, 10, 14, 20, 24)))
"""How long after the first, second, ... failed attempt the next one comes: three days in all."""
MOST_ATTEMPTS = len(RETRY_SECONDS) + 1
_JITTER = 0.2
"""Pauses are longer by up to this share, so that what failed together does not come back together."""


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """An address of a tenant's own that is told of its jobs. Times are aware UTC."""

    id: str
    tenant: str
    url: str
    events: tuple[EventType, ...] = ENDINGS
    job_name: str | None = None
    """Only jobs of this name."""
    labels: dict[str, str] = field(default_factory=dict)
    """Only jobs with all of these."""
    description: str = ""
    enabled: bool = True
    disabled_reason: str | None = None
    """None if a person disabled it."""
    key_id: str
    """Names the signing key that its secrets are derived from."""
    generation: int = 1
    """How many secrets it has had."""
    previous_until: datetime | None = None
    """Until then the secret before signs, too."""
    created_at: datetime
    created_by: str


@dataclass(frozen=True, kw_only=True)
class WebhookChange:
    """What to change; None stays as it is."""

    url: str | None = None
    events: tuple[EventType, ...] | None = None
    job_name: str | None = None
    """"" takes the condition away."""
    labels: dict[str, str] | None = None
    description: str | None = None
    enabled: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One message to one webhook, from the change of state that it tells of to its arrival."""

    number: int
    """Grows over all deliveries."""
    id: str
    """Stays the same over all attempts: by it a receiver knows what it has had."""
    webhook_id: str
    job_id: str | None
    type: EventType
    at: datetime
    """When it happened."""
    facts: dict[str, Any]
    """What was true of the job then, as the store wrote it down; more than `body` tells."""
    state: DeliveryState
    attempts: int
    next_at: datetime | None
    """When a waiting one is sent, or, while it is being sent, sent again by another sender."""
    tried_at: datetime | None
    status: int | None
    """HTTP status of the last answer, if there was one."""
    problem: str | None
    """Why the last attempt failed."""


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A delivery that one sender may attempt now; `token` tells it from a later claim."""

    delivery: Delivery
    webhook: Webhook
    token: str


def retry_seconds(attempts: int, chance: float) -> float | None:
    """How long to wait after so many failed attempts (1 or more); None: no more. `chance` is in [0, 1)."""
    if attempts > len(RETRY_SECONDS):
        return None
    return RETRY_SECONDS[attempts - 1] * (1 + _JITTER * chance)


def body(delivery: Delivery, home: str = "") -> bytes:
    """The JSON of a message: the same bytes at every attempt. `home` is where people reach the service, without a
    slash at its end; its links are relative without.

    It says which job, where it stands and how many rows, and where to ask for more: no data, no paths, no texts of
    errors, which may quote data.
    """
    told = {"type": delivery.type.value, "timestamp": _text(delivery.at), "data": _data(delivery, home)}
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()


def secret(key: bytes, webhook_id: str, generation: int) -> bytes:
    """The secret of one generation of one webhook: 32 bytes that only the holder of the key can derive."""
    return hmac.digest(key, f"tidemill webhook secret 1\n{webhook_id}\n{generation}".encode(), hashlib.sha256)


def secret_text(value: bytes) -> str:
    """A secret as Standard Webhooks writes it."""
    return "whsec_" + base64.b64encode(value).decode()


def signed_headers(secrets: Sequence[bytes], message_id: str, timestamp: int, content: bytes) -> dict[str, str]:
    """The headers that sign an attempt at `timestamp` (seconds since 1970), once with each secret."""
    signed = b".".join([message_id.encode(), str(timestamp).encode(), content])
    signatures = [base64.b64encode(hmac.digest(each, signed, hashlib.sha256)).decode() for each in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


_TIMES = MappingProxyType(
    {"created_at": "created_at_ms", "started_at": "started_at_ms", "finished_at": "finished_at_ms"}
)


def _data(delivery: Delivery, home: str) -> dict[str, Any]:
    facts = delivery.facts
    if delivery.job_id is None:
        return {"webhook_id": delivery.webhook_id}
    return {
        **{name: facts[name] for name in ("id", "name", "state", "model", "labels", "parent_id")},
        "counts": {name: facts[name] for name in ("total", "predicted", "rejected")},
        "error": None if facts["error"] is None else {"code": facts["error"]["code"]},
        **{name: _text_of_ms(facts[fact]) for name, fact in _TIMES.items()},
        "links": {"self": f"{home}/api/v1/jobs/{delivery.job_id}", "page": f"{home}/jobs/{delivery.job_id}"},
    }


def _text_of_ms(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else _text(_EPOCH + timedelta(milliseconds=milliseconds))


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
