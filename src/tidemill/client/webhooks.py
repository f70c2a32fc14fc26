"""Webhooks of a service: who is told when something becomes of a job."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote

from tidemill.client.connection import Call, Connection
from tidemill.domain.errors import StillRunning
from tidemill.wire.webhooks import (
    AddWebhook,
    ChangeWebhook,
    DeliveryOut,
    DeliveryPage,
    JobEventName,
    NewWebhook,
    RotateWebhook,
    WebhookList,
    WebhookOut,
)

WebhookOuts = list[WebhookOut]
PING_SECONDS = 30.0
"""How long to wait for what becomes of a ping."""
_LOOK_SECONDS = 0.3


class Webhooks:
    """`client.webhooks`: add, list, change, test, rotate and remove."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(
        self,
        url: str,
        *,
        events: Sequence[JobEventName] | None = None,
        job_name: str | None = None,
        labels: Mapping[str, str] | None = None,
        description: str = "",
    ) -> NewWebhook:
        """Have `url` told of jobs; by default of whatever ends one. The secret is in this answer and no other."""
        request = AddWebhook(
            url=url,
            events=None if events is None else list(events),
            job_name=job_name,
            labels=dict(labels or {}),
            description=description,
        )
        return self.make(request)

    def make(self, request: AddWebhook) -> NewWebhook:
        """The same from a whole request."""
        return self._connection.ask(NewWebhook, Call(method="POST", path="/webhooks", body=request))

    def list(self) -> WebhookOuts:
        """Oldest first."""
        return self._connection.ask(WebhookList, Call(method="GET", path="/webhooks")).items

    def get(self, webhook_id: str) -> WebhookOut:
        """Raises NotFound."""
        return self._connection.ask(WebhookOut, Call(method="GET", path=_path(webhook_id)))

    def change(self, webhook_id: str, change: ChangeWebhook) -> WebhookOut:
        """Change what is given. Raises NotFound."""
        body = change.model_dump(mode="json", exclude_unset=True)
        return self._connection.ask(WebhookOut, Call(method="PATCH", path=_path(webhook_id), body=body))

    def rotate(self, webhook_id: str, *, overlap_seconds: float = 86_400.0) -> NewWebhook:
        """A new secret, in this answer and no other; the old one signs, too, for so long. Raises NotFound."""
        call = Call(
            method="POST", path=f"{_path(webhook_id)}/rotate", body=RotateWebhook(overlap_seconds=overlap_seconds)
        )
        return self._connection.ask(NewWebhook, call)

    def test(self, webhook_id: str, *, timeout_seconds: float = PING_SECONDS) -> DeliveryOut:
        """Send it a `webhook.ping` and wait for what becomes of it. Raises NotFound, StillRunning."""
        sent = self._connection.ask(DeliveryOut, Call(method="POST", path=f"{_path(webhook_id)}/test"))
        end = time.monotonic() + timeout_seconds
        while sent.state == "waiting":
            if time.monotonic() >= end:
                raise StillRunning(
                    f"The ping {sent.id} still waits after {timeout_seconds:g} seconds.",
                    remedy=f"Look at it with: tidemill webhooks deliveries {webhook_id}",
                )
            time.sleep(_LOOK_SECONDS)
            path = f"{_path(webhook_id)}/deliveries/{quote(sent.id, safe='')}"
            sent = self._connection.ask(DeliveryOut, Call(method="GET", path=path))
        return sent

    def remove(self, webhook_id: str) -> None:
        """With its deliveries. Raises NotFound."""
        self._connection.tell(Call(method="DELETE", path=_path(webhook_id)))

    def deliveries(self, webhook_id: str, *, job: str | None = None, page_size: int = 100) -> Iterator[DeliveryOut]:
        """What it was told and is still to be told, newest first; pages are fetched as they are needed."""
        query: dict[str, str | int | None] = {"job": job, "limit": page_size}
        while True:
            call = Call(method="GET", path=f"{_path(webhook_id)}/deliveries", query=query)
            page = self._connection.ask(DeliveryPage, call)
            yield from page.items
            if page.next is None:
                return
            query["before"] = page.next


def _path(webhook_id: str) -> str:
    return f"/webhooks/{quote(webhook_id, safe='')}"
