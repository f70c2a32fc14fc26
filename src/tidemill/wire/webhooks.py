"""Request and response types of webhooks. Times are aware UTC, durations seconds."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tidemill.wire.api import Text

JobEventName = Literal[
    "job.started",
    "job.paused",
    "job.succeeded",
    "job.succeeded_with_rejections",
    "job.failed",
    "job.cancelled",
]
Url = Annotated[Text, Field(min_length=1, max_length=2000)]
WantedEvents = Annotated[list[JobEventName], Field(min_length=1, max_length=20)]
WantedLabels = Annotated[dict[Text, Text], Field(max_length=20)]
MAX_OVERLAP_SECONDS = 7 * 86_400


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Response(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class AddWebhook(_Request):
    """Where to say that something became of a job, and of which jobs."""

    url: Url
    """http or https, of a host on the public internet or one that the operator allows."""
    events: WantedEvents | None = None
    """By default whatever ends a job."""
    job_name: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    """Only of jobs of this name."""
    labels: WantedLabels = {}
    """Only of jobs with all of these labels."""
    description: Annotated[Text, Field(max_length=200)] = ""


class ChangeWebhook(_Request):
    """What is left out stays as it is."""

    url: Url | None = None
    events: WantedEvents | None = None
    job_name: Annotated[Text, Field(max_length=200)] | None = None
    """"" for jobs of any name."""
    labels: WantedLabels | None = None
    description: Annotated[Text, Field(max_length=200)] | None = None
    enabled: bool | None = None
    """False: nothing is sent any more, and what waits is given up."""


class RotateWebhook(_Request):
    overlap_seconds: Annotated[float, Field(ge=0, le=MAX_OVERLAP_SECONDS)] = 86_400.0
    """How long the old secret signs, too."""


class WebhookOut(_Response):
    id: str
    tenant: str
    url: str
    events: list[str]
    job_name: str | None
    labels: dict[str, str]
    description: str
    enabled: bool
    disabled_reason: str | None
    """Why the service disabled it; None if a person did."""
    previous_until: datetime | None
    """Until then messages are signed with the secret before the last rotation, too."""
    created_at: datetime
    created_by: str


class NewWebhook(WebhookOut):
    """The only answer that holds the secret."""

    secret: str
    """"whsec_" and base64, as Standard Webhooks writes it."""


class WebhookList(_Response):
    items: list[WebhookOut]


class DeliveryOut(_Response):
    """A message to one webhook."""

    id: str
    """The header `webhook-id` of every attempt."""
    webhook_id: str
    job_id: str | None
    type: str
    at: datetime
    """When it happened."""
    state: Literal["waiting", "delivered", "given_up"]
    attempts: int
    next_at: datetime | None
    """When a waiting one is tried next."""
    tried_at: datetime | None
    status: int | None
    """HTTP status of the last answer, if there was one."""
    problem: str | None
    """Why the last attempt failed."""


class DeliveryPage(_Response):
    items: list[DeliveryOut]
    next: str | None
    """`before` of the next page; None on the last."""
