"""Webhooks, and what became of their deliveries."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from fastapi import Path, Query
from starlette.responses import Response

from tidemill.api.access import door, needs
from tidemill.api.dependencies import PREFIX, Here, Limit, Who
from tidemill.api.errors import problems
from tidemill.domain.access import Action
from tidemill.service import webhooks
from tidemill.wire.webhooks import (
    AddWebhook,
    ChangeWebhook,
    DeliveryOut,
    DeliveryPage,
    NewWebhook,
    RotateWebhook,
    WebhookList,
    WebhookOut,
)

router = door("/webhooks", "webhooks")

WebhookId = Annotated[str, Path(pattern=r"^whk_[0-9a-z]{16}$", description="A webhook's id.")]
DeliveryId = Annotated[str, Path(pattern=r"^msg_[0-9a-f]{32}$", description="A delivery's id.")]
_LOCATION = {"description": "Where it is.", "schema": {"type": "string"}}
CREATED: dict[int | str, dict[str, Any]] = {
    201: {"description": "The webhook and its secret. No other answer shows that.", "headers": {"Location": _LOCATION}},
}
PINGED: dict[int | str, dict[str, Any]] = {
    202: {"description": "The delivery: GET it to see what became of it.", "headers": {"Location": _LOCATION}},
}


@router.post("", status_code=201, responses={**CREATED, **problems(404, 409)})
@needs(Action.MANAGE_WEBHOOKS)
def add_webhook(response: Response, context: Here, who: Who, wanted: AddWebhook) -> NewWebhook:
    """Have a URL told of jobs of your tenant, signed as Standard Webhooks 1.0.0 says."""
    made = webhooks.add(context, who, wanted)
    response.headers["Location"] = f"{PREFIX}/webhooks/{made.id}"
    response.headers["Cache-Control"] = "no-store"
    return made


@router.get("")
@needs(Action.MANAGE_WEBHOOKS)
def list_webhooks(context: Here, who: Who) -> WebhookList:
    """Webhooks of your tenant, oldest first."""
    return WebhookList(items=[webhooks.describe(hook) for hook in webhooks.list(context, who)])


@router.get("/{webhook_id}", responses=problems(404))
@needs(Action.MANAGE_WEBHOOKS)
def get_webhook(context: Here, who: Who, webhook_id: WebhookId) -> WebhookOut:
    """One webhook, without its secret."""
    return webhooks.describe(webhooks.get(context, who, webhook_id))


@router.patch("/{webhook_id}", responses=problems(404, 409))
@needs(Action.MANAGE_WEBHOOKS)
def change_webhook(context: Here, who: Who, webhook_id: WebhookId, wanted: ChangeWebhook) -> WebhookOut:
    """Change what is given; disable it, or enable it again."""
    return webhooks.describe(webhooks.change(context, who, webhook_id, wanted))


@router.delete("/{webhook_id}", status_code=204, responses=problems(404))
@needs(Action.MANAGE_WEBHOOKS)
def remove_webhook(context: Here, who: Who, webhook_id: WebhookId) -> None:
    """Remove it with its deliveries, also those that wait."""
    webhooks.remove(context, who, webhook_id)


@router.post(
    "/{webhook_id}/rotate",
    responses={200: {"description": "The webhook and its new secret."}, **problems(404, 409)},
)
@needs(Action.MANAGE_WEBHOOKS)
def rotate_webhook(
    response: Response, context: Here, who: Who, webhook_id: WebhookId, wanted: RotateWebhook | None = None
) -> NewWebhook:
    """Give it a new secret; for a time messages are signed with the old one, too."""
    response.headers["Cache-Control"] = "no-store"
    overlap = timedelta(seconds=(wanted or RotateWebhook()).overlap_seconds)
    return webhooks.rotate(context, who, webhook_id, overlap)


@router.post("/{webhook_id}/test", status_code=202, responses={**PINGED, **problems(404, 409)})
@needs(Action.MANAGE_WEBHOOKS)
def ping_webhook(response: Response, context: Here, who: Who, webhook_id: WebhookId) -> DeliveryOut:
    """Send it a `webhook.ping`, once."""
    made = webhooks.ping(context, who, webhook_id)
    response.headers["Location"] = f"{PREFIX}/webhooks/{webhook_id}/deliveries/{made.id}"
    return webhooks.describe_delivery(made)


@router.get("/{webhook_id}/deliveries", responses=problems(404))
@needs(Action.MANAGE_WEBHOOKS)
def list_deliveries(
    context: Here,
    who: Who,
    webhook_id: WebhookId,
    job: Annotated[str | None, Query(pattern=r"^[0-9a-z_]{6,40}$", description="A job's whole id.")] = None,
    limit: Limit = 50,
    before: Annotated[int | None, Query(ge=1, le=2**62, description="`next` of the page before.")] = None,
) -> DeliveryPage:
    """What it was told and is still to be told, newest first."""
    found = webhooks.deliveries(context, who, webhook_id, job_id=job, limit=limit + 1, before=before)
    following = str(found[limit - 1].number) if len(found) > limit else None
    return DeliveryPage(items=[webhooks.describe_delivery(each) for each in found[:limit]], next=following)


@router.get("/{webhook_id}/deliveries/{delivery_id}", responses=problems(404))
@needs(Action.MANAGE_WEBHOOKS)
def get_delivery(context: Here, who: Who, webhook_id: WebhookId, delivery_id: DeliveryId) -> DeliveryOut:
    """One delivery."""
    return webhooks.describe_delivery(webhooks.delivery(context, who, webhook_id, delivery_id))
