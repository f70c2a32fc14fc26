"""Webhooks: kept, changed, rotated, removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tidemill.domain.errors import InvalidSpec, NotFound
from tidemill.domain.webhook import DeliveryState, EventType, Webhook, WebhookChange
from tidemill.ports.store import Store
from tidemill.testing.store.factories import KEY_ID, new_job, new_webhook
from tidemill.testing.store.suite import StoreSuite

MOST = 100
UNTIL = datetime(2027, 1, 2, 3, 4, 5, 678_000, UTC)


class WebhooksSuite(StoreSuite):
    """Each is of one tenant."""

    def test_a_webhook_is_kept_as_it_was_given(self, store: Store, open_store: Callable[..., Store]) -> None:
        hook = new_webhook(
            "whk_1",
            events=(EventType.STARTED, EventType.FAILED),
            job_name="nightly",
            labels={"team": "größer", "a'b": '"'},
            description="for ops",
            enabled=False,
            disabled_reason="gone",
            generation=3,
            previous_until=UNTIL,
        )
        assert store.webhooks.add(hook, most=MOST)
        assert store.webhooks.add(new_webhook("whk_2"), most=MOST)
        other = open_store()
        assert other.webhooks.get("whk_1") == hook
        assert other.webhooks.get("whk_2", "default") == new_webhook("whk_2")
        assert other.webhooks.list() == [hook, new_webhook("whk_2")]

    def test_another_tenants_webhook_is_not_found(self, store: Store) -> None:
        _add(store, new_webhook("whk_1"), new_webhook("whk_2", tenant="acme"))
        hooks = store.webhooks
        asks: list[Callable[[str, str], object]] = [
            hooks.get,
            lambda each, tenant: hooks.change(each, WebhookChange(enabled=False), tenant),
            lambda each, tenant: hooks.change(each, WebhookChange(), tenant),
            lambda each, tenant: hooks.rotate(each, timedelta(0), tenant),
            hooks.remove,
        ]
        for ask in asks:
            for webhook_id in ("whk_1", "whk_3"):
                with pytest.raises(NotFound, match=webhook_id):
                    ask(webhook_id, "acme")
        assert [hook.id for hook in hooks.list("acme")] == ["whk_2"]
        assert hooks.list("none") == []
        assert hooks.get("whk_1") == new_webhook("whk_1")

    def test_a_tenant_has_so_many(self, store: Store) -> None:
        assert [store.webhooks.add(new_webhook(f"whk_{n}"), most=2) for n in range(3)] == [True, True, False]
        assert store.webhooks.add(new_webhook("whk_a", tenant="acme"), most=2)
        assert [hook.id for hook in store.webhooks.list()] == ["whk_0", "whk_1", "whk_a"]

    def test_what_is_given_changes_and_no_more(self, store: Store) -> None:
        hook = new_webhook("whk_1", job_name="nightly", labels={"a": "b"}, disabled_reason="gone", enabled=False)
        _add(store, hook)
        assert store.webhooks.change("whk_1", WebhookChange()) == hook
        changed = store.webhooks.change(
            "whk_1", WebhookChange(url="https://b.example", events=(EventType.FAILED,), job_name="", labels={})
        )
        expected = replace(hook, url="https://b.example", events=(EventType.FAILED,), job_name=None, labels={})
        assert changed == expected == store.webhooks.get("whk_1")
        enabled = store.webhooks.change("whk_1", WebhookChange(enabled=True, description="x"))
        assert enabled == replace(expected, enabled=True, disabled_reason=None, description="x")

    def test_a_rotation_is_a_new_generation(self, store: Store) -> None:
        _add(store, new_webhook("whk_1"))
        before = datetime.now(UTC)
        first = store.webhooks.rotate("whk_1", timedelta(hours=2))
        assert first.generation == 2
        assert first.previous_until is not None
        assert timedelta(hours=1.9) < first.previous_until - before < timedelta(hours=2.1)
        assert store.webhooks.rotate("whk_1", timedelta(0)).generation == 3

    def test_a_webhook_goes_with_its_deliveries(self, store: Store) -> None:
        _add(store, new_webhook("whk_1"), new_webhook("whk_2"))
        kept = store.outbox.ping("whk_2")
        store.outbox.ping("whk_1")
        store.webhooks.remove("whk_1", "default")
        assert store.outbox.list() == [kept]
        with pytest.raises(NotFound):
            store.webhooks.get("whk_1")
        with pytest.raises(NotFound):
            store.outbox.ping("whk_1")
        store.webhooks.disable("whk_1", "gone")
        assert [hook.id for hook in store.webhooks.list()] == ["whk_2"]

    @pytest.mark.parametrize("by", ["a person", "the service"])
    def test_a_disabled_one_gives_up_what_it_waits_for(self, store: Store, by: str) -> None:
        _add(store, new_webhook("whk_1"), new_webhook("whk_2"))
        waiting, other = store.outbox.ping("whk_1"), store.outbox.ping("whk_2")
        if by == "a person":
            store.webhooks.change("whk_1", WebhookChange(enabled=False))
        else:
            store.webhooks.disable("whk_1", "It is gone.")
        reason = None if by == "a person" else "It is gone."
        assert store.webhooks.get("whk_1") == new_webhook("whk_1", enabled=False, disabled_reason=reason)
        given_up = store.outbox.get(waiting.id, "whk_1")
        assert (given_up.state, given_up.next_at, given_up.problem) == (
            DeliveryState.GIVEN_UP,
            None,
            "The webhook was disabled.",
        )
        assert store.outbox.get(other.id, "whk_2") == other

    def test_secrets_of_another_key_are_seen(self, store: Store) -> None:
        assert store.webhooks.foreign_key(KEY_ID) is None
        _add(store, new_webhook("whk_1"))
        assert store.webhooks.foreign_key(KEY_ID) is None
        assert store.webhooks.foreign_key("") == KEY_ID

    @pytest.mark.parametrize("text", ["a\0b", "\ud800"])
    def test_labels_that_are_no_text_break_no_job(self, store: Store, text: str) -> None:
        with pytest.raises(InvalidSpec):
            store.webhooks.add(new_webhook("whk_1", labels={"a": text}), most=MOST)
        _add(store, new_webhook("whk_1"))
        with pytest.raises(InvalidSpec):
            store.webhooks.change("whk_1", WebhookChange(labels={text: "a"}))
        store.jobs.submit(new_job("job_a"))


def _add(store: Store, *hooks: Webhook) -> None:
    for hook in hooks:
        assert store.webhooks.add(hook, most=MOST)
