"""Webhooks: made, changed, tried, removed; and what became of their deliveries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from tidemill.domain.access import Principal
from tidemill.domain.errors import InvalidSpec, Refused, WrongState
from tidemill.domain.ids import new_id
from tidemill.domain.job import Job
from tidemill.domain.webhook import ENDINGS, OVERLAP, Delivery, EventType, Webhook, WebhookChange
from tidemill.service import audit, reach, signing
from tidemill.service.context import Context
from tidemill.service.reach import Reach
from tidemill.wire.webhooks import AddWebhook, ChangeWebhook, DeliveryOut, NewWebhook, WebhookOut

Webhooks = list[Webhook]
Deliveries = list[Delivery]

SETTING = "webhook_hosts"
MOST = 100
"""Of one tenant."""
MOST_OF_JOB = 20


def add(context: Context, who: Principal, wanted: AddWebhook) -> NewWebhook:
    """Make one, and show its secret this once. Raises InvalidSpec, NotAllowed, NotFound (of the host), Refused."""
    _check_url(context, wanted.url)
    key, now = _key(context), datetime.now(UTC)
    hook = Webhook(
        id=new_id("whk"),
        tenant=who.tenant,
        url=wanted.url,
        events=_events(wanted.events) or ENDINGS,
        job_name=wanted.job_name,
        labels=dict(wanted.labels),
        description=wanted.description,
        key_id=signing.key_id(key),
        created_at=now.replace(microsecond=now.microsecond // 1000 * 1000),
        created_by=who.name,
    )
    with context.store.transaction():
        if not context.store.webhooks.add(hook, most=MOST):
            raise Refused(
                f"The tenant {who.tenant} has {MOST} webhooks, which is the most.",
                remedy="Remove one that is not used.",
            )
        audit.record(context, who, "webhook.add", hook.id, url=reach.without_secrets(hook.url))
    return _with_secret(key, hook)


def list(context: Context, who: Principal) -> Webhooks:
    """Of the caller's tenant, oldest first; the person at the machine sees all."""
    return context.store.webhooks.list(_tenant(who))


def get(context: Context, who: Principal, webhook_id: str) -> Webhook:
    """Raises NotFound, also for another tenant's."""
    return context.store.webhooks.get(webhook_id, _tenant(who))


def change(context: Context, who: Principal, webhook_id: str, wanted: ChangeWebhook) -> Webhook:
    """Change what is given. Raises as `add` does, and NotFound."""
    if wanted.url is not None:
        _check_url(context, wanted.url)
    told = {name: str(value) for name, value in wanted.model_dump(exclude_none=True, exclude={"url"}).items()}
    if wanted.url is not None:
        told["url"] = reach.without_secrets(wanted.url)
    with context.store.transaction():
        hook = context.store.webhooks.change(
            webhook_id,
            WebhookChange(
                url=wanted.url,
                events=None if wanted.events is None else _events(wanted.events),
                job_name=wanted.job_name,
                labels=None if wanted.labels is None else dict(wanted.labels),
                description=wanted.description,
                enabled=wanted.enabled,
            ),
            _tenant(who),
        )
        audit.record(context, who, "webhook.change", hook.id, **told)
    return hook


def rotate(context: Context, who: Principal, webhook_id: str, overlap: timedelta = OVERLAP) -> NewWebhook:
    """Give it a new secret, shown this once; the old one signs, too, for `overlap`. Raises NotFound, Refused."""
    context.store.webhooks.get(webhook_id, _tenant(who))
    key = _key(context)
    with context.store.transaction():
        hook = context.store.webhooks.rotate(webhook_id, overlap, _tenant(who))
        audit.record(context, who, "webhook.rotate", hook.id, overlap_seconds=f"{overlap.total_seconds():g}")
    return _with_secret(key, hook)


def ping(context: Context, who: Principal, webhook_id: str) -> Delivery:
    """Have it told of nothing, to see whether that arrives: one attempt. Raises NotFound, WrongState."""
    hook = context.store.webhooks.get(webhook_id, _tenant(who))
    if not hook.enabled:
        raise WrongState(
            f"The webhook {hook.id} is disabled: nothing is sent to it.",
            remedy=f"Enable it first: tidemill webhooks enable {hook.id}",
        )
    with context.store.transaction():
        delivery = context.store.outbox.ping(hook.id)
        audit.record(context, who, "webhook.test", hook.id)
    return delivery


def remove(context: Context, who: Principal, webhook_id: str) -> None:
    """With everything that it was or should have been told. Raises NotFound."""
    with context.store.transaction():
        hook = context.store.webhooks.get(webhook_id, _tenant(who))
        context.store.webhooks.remove(hook.id)
        audit.record(context, who, "webhook.remove", hook.id, url=reach.without_secrets(hook.url))


def deliveries(
    context: Context,
    who: Principal,
    webhook_id: str,
    *,
    job_id: str | None = None,
    limit: int = 50,
    before: int | None = None,
) -> Deliveries:
    """Newest first. Raises NotFound."""
    hook = context.store.webhooks.get(webhook_id, _tenant(who))
    return context.store.outbox.list(webhook_id=hook.id, job_id=job_id, limit=limit, before=before)


def of_job(context: Context, job: Job) -> Deliveries:
    """The newest deliveries that tell of a job which the caller may see."""
    return context.store.outbox.list(job_id=job.id, limit=MOST_OF_JOB)


def delivery(context: Context, who: Principal, webhook_id: str, delivery_id: str) -> Delivery:
    """Raises NotFound."""
    hook = context.store.webhooks.get(webhook_id, _tenant(who))
    return context.store.outbox.get(delivery_id, hook.id)


def reach_of(context: Context) -> Reach:
    """Where webhooks may lead, whoever made them: they are called later, by nobody in particular."""
    return Reach(anywhere=False, hosts=context.policy.webhook_hosts, setting=SETTING)


def describe(hook: Webhook) -> WebhookOut:
    """A webhook as the doors show it."""
    return WebhookOut.model_validate(_words(hook))


def describe_delivery(delivery: Delivery) -> DeliveryOut:
    """A delivery as the doors show it."""
    return DeliveryOut(
        id=delivery.id,
        webhook_id=delivery.webhook_id,
        job_id=delivery.job_id,
        type=delivery.type.value,
        at=delivery.at,
        state=delivery.state.value,
        attempts=delivery.attempts,
        next_at=delivery.next_at,
        tried_at=delivery.tried_at,
        status=delivery.status,
        problem=delivery.problem,
    )


def _with_secret(key: bytes, hook: Webhook) -> NewWebhook:
    return NewWebhook.model_validate({**_words(hook), "secret": signing.newest_secret(key, hook)})


def _words(hook: Webhook) -> Mapping[str, object]:
    return {**vars(hook), "events": [event.value for event in hook.events]}


def _tenant(who: Principal) -> str | None:
    return None if who.is_here else who.tenant


def _events(names: Sequence[str] | None) -> tuple[EventType, ...]:
    """Each once, in the order of their table."""
    return tuple(event for event in EventType if event.value in (names or ()))


def _check_url(context: Context, url: str) -> None:
    asked = reach.parsed(url)
    if asked.userinfo or asked.fragment:
        raise InvalidSpec(
            f"The URL {reach.without_secrets(url)!r} has a user, a password or a fragment.",
            remedy="Leave them out: a receiver knows us by the signature.",
        )
    reach.aim(url, reach_of(context))


def _key(context: Context) -> bytes:
    """The signing key, if all webhooks of the store are signed with it. Raises Refused."""
    key = context.signing.find()
    other = context.store.webhooks.foreign_key("" if key is None else signing.key_id(key))
    if other is not None:
        raise Refused(
            f"Webhooks of this store are signed with another key ({other}) than this machine has.",
            remedy=f"Copy webhook.key from the machine that serves to {context.signing.path}, or give its text by"
            f" {signing.SETTING}; if it is lost, remove those webhooks and add them again.",
        )
    return context.signing.make() if key is None else key
