"""The outbox: filled by the very change of state, emptied by one sender at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tidemill.domain.errors import NotFound
from tidemill.domain.job import JobState, Want
from tidemill.domain.webhook import JOB_EVENTS, Claimed, Delivery, DeliveryState, EventType, WebhookChange, body
from tidemill.ports.store import Store
from tidemill.testing.store.factories import ERROR, KEY_ID, new_job, new_pin, new_webhook
from tidemill.testing.store.suite import Held, StoreSuite, advance, claim_next, wait_for_expiry, write_all

GONE = 0.05
"""Seconds of a lease that ends while a test waits."""
LASTS = 60.0


class OutboxSuite(StoreSuite):
    """What a webhook is told of is what became durable, once each."""

    # Filled

    @pytest.mark.parametrize(
        ("state", "told"),
        [
            (JobState.SUCCEEDED, ["job.started", "job.succeeded"]),
            (JobState.SUCCEEDED_WITH_REJECTIONS, ["job.started", "job.succeeded_with_rejections"]),
            (JobState.FAILED, ["job.started", "job.failed"]),
            (JobState.CANCELLED, ["job.started", "job.cancelled"]),
            (JobState.QUEUED, ["job.started", "job.paused"]),
            (JobState.COMMITTING, ["job.started"]),
        ],
    )
    def test_states_are_told_as_they_come(
        self, hold: Callable[..., Held], store: Store, state: JobState, told: list[str]
    ) -> None:
        add(store, "whk_all", events=JOB_EVENTS)
        add(store, "whk_ends")
        held = hold(state)
        assert types(store, "whk_all") == told
        ends = {each.value for each in new_webhook("x").events}
        assert types(store, "whk_ends") == [each for each in told if each in ends]
        everything = store.outbox.list(job_id=held.job.id)
        assert len({each.id for each in everything}) == len(everything)
        assert all(each.state is DeliveryState.WAITING and each.attempts == 0 for each in everything)

    def test_what_is_told_is_what_was_true_then(self, hold: Callable[..., Held], store: Store) -> None:
        add(store, "whk_1")
        job = new_job("job_held", model=new_pin("churn"), parent_id="job_parent")
        held = hold(JobState.SUCCEEDED_WITH_REJECTIONS, job=job)
        (told,) = store.outbox.list()
        now, done = datetime.now(UTC), held.job
        assert (told.type, told.job_id, told.webhook_id) == (EventType.SUCCEEDED_WITH_REJECTIONS, "job_held", "whk_1")
        assert abs(told.at - now) < timedelta(minutes=1)
        assert done.started_at is not None and done.finished_at is not None
        assert told.facts == {
            "id": "job_held",
            "name": "nightly",
            "state": "succeeded_with_rejections",
            "model": "churn",
            "labels": {"team": "growth"},
            "parent_id": "job_parent",
            "total": 30,
            "predicted": 24,
            "rejected": 6,
            "error": None,
            "created_at_ms": round(done.created_at.timestamp() * 1000),
            "started_at_ms": round(done.started_at.timestamp() * 1000),
            "finished_at_ms": round(done.finished_at.timestamp() * 1000),
        }
        store.jobs.set_labels("job_held", {})
        assert store.outbox.list() == [told]

    @pytest.mark.parametrize("text", ["a.parquet changed.", "a\0b", "\ud800", '", "code": "x', "größer"])
    def test_a_failure_is_told_whatever_its_text_holds(
        self, hold: Callable[..., Held], store: Store, text: str
    ) -> None:
        add(store, "whk_1")
        held = hold(JobState.RUNNING)
        error = {**ERROR, "message": text}
        assert held.store.jobs.end_if_current(held.lease, JobState.FAILED, error)
        assert held.job.state is JobState.FAILED
        (told,) = store.outbox.list()
        assert told.facts["error"] == error
        assert json.loads(body(told))["data"]["error"] == {"code": ERROR["code"]}

    def test_people_change_states_too(self, store: Store) -> None:
        add(store, "whk_1", events=JOB_EVENTS)
        store.jobs.submit(new_job("job_a"))
        for want in (Want.PAUSE, Want.RUN, Want.CANCEL, Want.CANCEL):
            store.jobs.wish("job_a", want)
        assert types(store, "whk_1") == ["job.paused", "job.cancelled"]

    def test_a_job_starts_once(self, store: Store) -> None:
        """Also one that is handed over before it was planned, resumed or taken over."""
        add(store, "whk_1", events=JOB_EVENTS)
        store.jobs.submit(new_job("job_a"))
        for _ in range(3):
            claimed = claim_next(store, "v")
            assert claimed is not None
            assert store.jobs.hand_over_if_current(claimed[1])
        assert types(store, "whk_1") == ["job.started"]

    @pytest.mark.parametrize(
        ("wanted", "is_told"),
        [
            ({}, True),
            ({"tenant": "acme"}, False),
            ({"enabled": False}, False),
            ({"events": (EventType.SUCCEEDED, EventType.PAUSED)}, False),
            ({"job_name": "nightly"}, True),
            ({"job_name": "night"}, False),
            ({"job_name": "NIGHTLY"}, False),
            ({"labels": {"team": "growth"}}, True),
            ({"labels": {"team": "growth", "it's": 'a "b" %s {é}'}}, True),
            ({"labels": {"team": "ops"}}, False),
            ({"labels": {"team": "growth", "more": ""}}, False),
            ({"labels": {"growth": "team"}}, False),
        ],
    )
    def test_a_webhook_hears_what_it_asked_for(self, store: Store, wanted: dict[str, Any], is_told: bool) -> None:
        add(store, "whk_1", **wanted)
        job = new_job("job_a")
        labels = {"team": "growth", "it's": 'a "b" %s {é}'}
        store.jobs.submit(replace(job, spec={**job.spec, "labels": labels}))
        store.jobs.wish("job_a", Want.CANCEL)
        assert types(store, "whk_1") == (["job.cancelled"] if is_told else [])

    def test_labels_count_as_they_are_at_that_moment(self, store: Store) -> None:
        add(store, "whk_1", labels={"notify": "ops"}, events=JOB_EVENTS)
        store.jobs.submit(new_job("job_a"))
        store.jobs.wish("job_a", Want.PAUSE)
        store.jobs.set_labels("job_a", {"notify": "ops"})
        store.jobs.wish("job_a", Want.CANCEL)
        assert types(store, "whk_1") == ["job.cancelled"]

    # Nothing that did not happen

    def test_what_is_rolled_back_tells_nobody(self, store: Store) -> None:
        add(store, "whk_1")
        store.jobs.submit(new_job("job_a"))
        with pytest.raises(RuntimeError), store.transaction():
            store.jobs.wish("job_a", Want.CANCEL)
            assert types(store, "whk_1") == ["job.cancelled"]
            raise RuntimeError
        assert store.outbox.list() == []
        store.jobs.wish("job_a", Want.CANCEL)
        assert types(store, "whk_1") == ["job.cancelled"]

    def test_whoever_lost_the_lease_tells_nobody(self, hold: Callable[..., Held], store: Store) -> None:
        add(store, "whk_1", events=JOB_EVENTS)
        held = hold(JobState.RUNNING, lease_seconds=GONE, heartbeat_seconds=GONE / 5)
        wait_for_expiry()
        taken = store.jobs.claim(held.job.id, "v")
        assert taken is not None
        before = store.outbox.list()
        write_all(held.store, held.lease, "w")
        assert store.outbox.list() == before
        advance(Held(store=store, lease=taken[1], worker_id="v"), JobState.FAILED, 3)
        assert types(store, "whk_1") == ["job.started", "job.failed"]

    # Emptied

    def test_a_claimed_delivery_is_one_senders(self, store: Store, open_store: Callable[..., Store]) -> None:
        add(store, "whk_1")
        made = store.outbox.ping("whk_1")
        (claimed,) = claim(store)
        assert claimed.webhook == new_webhook("whk_1")
        delivery = claimed.delivery
        assert (delivery.id, delivery.type, delivery.job_id) == (made.id, EventType.PING, None)
        assert (delivery.attempts, delivery.state, delivery.facts) == (1, DeliveryState.WAITING, {})
        assert delivery.tried_at is not None and delivery.next_at is not None
        assert claim(store) == claim(open_store()) == []
        assert store.outbox.claim(made.id, KEY_ID, lease_seconds=LASTS) is None
        assert store.outbox.get(made.id, "whk_1") == delivery

    def test_of_many_senders_one_gets_each(self, store: Store, open_store: Callable[..., Store]) -> None:
        for number in range(4):
            add(store, f"whk_{number}")
        made = sorted(store.outbox.ping(f"whk_{number % 4}").id for number in range(40))
        senders = [open_store() for _ in range(4)]

        def claims(sender: Store) -> list[str]:
            found: list[str] = []
            while some := sender.outbox.claim_due(KEY_ID, limit=3, each=2, lease_seconds=LASTS):
                found += [each.delivery.id for each in some]
            return found

        with ThreadPoolExecutor(4) as pool:
            got = [each for found in pool.map(claims, senders) for each in found]
        assert sorted(got) == made

    def test_one_that_arrived_is_done(self, store: Store) -> None:
        add(store, "whk_1")
        store.outbox.ping("whk_1")
        (claimed,) = claim(store, GONE)
        assert store.outbox.delivered_if_current(claimed, 204)
        wait_for_expiry()
        assert claim(store) == []
        (done,) = store.outbox.list()
        assert (done.state, done.status, done.next_at) == (DeliveryState.DELIVERED, 204, None)
        assert not store.outbox.delivered_if_current(claimed, 204)
        assert not store.outbox.failed_if_current(claimed, "no", status=None, retry_seconds=0)
        assert store.outbox.list() == [done]

    def test_a_senders_death_makes_it_due_again(self, store: Store) -> None:
        add(store, "whk_1")
        store.outbox.ping("whk_1")
        (first,) = claim(store, GONE)
        wait_for_expiry()
        (second,) = claim(store)
        assert (second.delivery.id, second.delivery.attempts) == (first.delivery.id, 2)
        assert not store.outbox.delivered_if_current(first, 200)
        assert not store.outbox.failed_if_current(first, "no", status=500, retry_seconds=None)
        assert store.outbox.get(first.delivery.id, "whk_1") == second.delivery
        assert store.outbox.delivered_if_current(second, 200)

    def test_one_that_failed_waits_and_is_due_again(self, store: Store) -> None:
        add(store, "whk_1")
        store.outbox.ping("whk_1")
        (first,) = claim(store)
        assert store.outbox.failed_if_current(first, "It answered 500.", status=500, retry_seconds=3600)
        (waiting,) = store.outbox.list()
        assert waiting.next_at is not None and first.delivery.tried_at is not None
        assert timedelta(minutes=59) < waiting.next_at - first.delivery.tried_at < timedelta(minutes=61)
        assert (waiting.state, waiting.status, waiting.problem) == (DeliveryState.WAITING, 500, "It answered 500.")
        assert claim(store) == []

    def test_one_that_failed_is_given_up_in_the_end(self, store: Store) -> None:
        add(store, "whk_1")
        made = store.outbox.ping("whk_1")
        (first,) = claim(store)
        assert store.outbox.failed_if_current(first, "down", status=None, retry_seconds=0)
        again = store.outbox.claim(made.id, KEY_ID, lease_seconds=GONE)
        assert again is not None
        assert again.delivery.attempts == 2
        assert store.outbox.failed_if_current(again, "down", status=None, retry_seconds=None)
        wait_for_expiry()
        assert claim(store) == []
        (done,) = store.outbox.list()
        assert (done.state, done.problem, done.next_at) == (DeliveryState.GIVEN_UP, "down", None)
        assert store.outbox.counts_by_state() == {DeliveryState.GIVEN_UP: 1}

    def test_no_webhook_holds_up_another(self, store: Store) -> None:
        for hook in ("whk_a", "whk_b", "whk_c"):
            add(store, hook)
        for hook in [*["whk_a"] * 5, "whk_b", "whk_c"]:
            store.outbox.ping(hook)
        first = store.outbox.claim_due(KEY_ID, limit=3, each=2, lease_seconds=LASTS)
        assert [each.webhook.id for each in first] == ["whk_a", "whk_b", "whk_c"]
        rest = store.outbox.claim_due(KEY_ID, limit=9, each=2, lease_seconds=LASTS, busy={"whk_b"})
        assert [each.webhook.id for each in rest] == ["whk_a", "whk_a"]
        assert store.outbox.claim_due(KEY_ID, limit=9, each=9, lease_seconds=LASTS, busy={"whk_a"}) == []

    def test_a_disabled_webhook_and_another_key_are_left_alone(self, store: Store) -> None:
        add(store, "whk_a")
        add(store, "whk_b", key_id="f" * 16)
        for hook in ("whk_a", "whk_b"):
            store.outbox.ping(hook)
        assert [each.webhook.id for each in claim(store)] == ["whk_a"]
        store.webhooks.change("whk_a", WebhookChange(enabled=False))
        store.outbox.ping("whk_a")
        assert claim(store) == []

    # Looked at and forgotten

    def test_deliveries_come_newest_first(self, store: Store) -> None:
        add(store, "whk_a")
        add(store, "whk_b")
        made = [store.outbox.ping(hook) for hook in ("whk_a", "whk_b", "whk_a", "whk_a")]
        mine = [made[3], made[2], made[0]]
        assert store.outbox.list(webhook_id="whk_a") == mine
        assert store.outbox.list(webhook_id="whk_a", limit=2) == mine[:2]
        assert store.outbox.list(webhook_id="whk_a", limit=2, before=mine[1].number) == mine[2:]
        assert store.outbox.list(job_id="job_none") == []
        with pytest.raises(NotFound, match=made[1].id):
            store.outbox.get(made[1].id, "whk_a")

    def test_old_deliveries_are_forgotten_in_small_steps(self, store: Store) -> None:
        add(store, "whk_1")
        made = [store.outbox.ping("whk_1") for _ in range(5)]
        assert store.outbox.forget_before(made[0].at - timedelta(minutes=1), limit=9) == 0
        later = datetime.now(UTC) + timedelta(minutes=1)
        assert store.outbox.forget_before(later, limit=3) == 3
        assert store.outbox.list() == [made[4], made[3]]
        assert store.outbox.counts_by_state() == {DeliveryState.WAITING: 2}
        assert store.outbox.forget_before(later, limit=3) == 2

    def test_a_job_that_is_forgotten_leaves_what_it_told(self, hold: Callable[..., Held], store: Store) -> None:
        add(store, "whk_1")
        held = hold(JobState.SUCCEEDED)
        (told,) = store.outbox.list()
        assert store.history.forget_if_ended(held.job.id)
        assert store.outbox.list(job_id="job_held") == [told]


def add(store: Store, webhook_id: str, **changes: Any) -> None:
    assert store.webhooks.add(new_webhook(webhook_id, **changes), most=100)


def types(store: Store, webhook_id: str) -> list[str]:
    """What it was told, in order."""
    return [_type(each) for each in reversed(store.outbox.list(webhook_id=webhook_id))]


def claim(store: Store, lease_seconds: float = LASTS) -> list[Claimed]:
    return store.outbox.claim_due(KEY_ID, limit=9, each=9, lease_seconds=lease_seconds)


def _type(delivery: Delivery) -> str:
    return delivery.type.value
