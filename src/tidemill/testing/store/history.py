"""What became of jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from tidemill.domain.cost import UsageSum
from tidemill.domain.errors import NotFound
from tidemill.domain.ids import new_id
from tidemill.domain.job import ENDED, LEASED, Idempotency, Job, JobState, NewJob, Want
from tidemill.domain.receipt import NO_USAGE, Usage
from tidemill.ports.store import Store
from tidemill.testing.store.factories import new_job, new_pin, new_plan, new_receipt
from tidemill.testing.store.suite import Held, StoreSuite, claim_next, everything


class HistorySuite(StoreSuite):
    """Events are complete, counts are right, and what is forgotten is gone."""

    def test_every_change_of_state_is_an_event(self, store: Store) -> None:
        store.jobs.submit(new_job("job_a"))
        store.jobs.submit(new_job("job_b"))
        for _ in range(2):
            claimed = claim_next(store, "v")
            assert claimed is not None
            store.jobs.hand_over_if_current(claimed[1])
        store.jobs.wish("job_a", Want.PAUSE)
        store.jobs.wish("job_a", Want.RUN)
        store.jobs.wish("job_a", Want.CANCEL)
        events = store.history.events("job_a")
        states = "queued planning queued planning queued paused queued cancelled".split()
        assert [event.state.value for event in events] == states
        assert {event.job_id for event in events} == {"job_a"}
        numbers = [event.number for event in events]
        assert numbers == sorted(set(numbers))
        assert [event.at for event in events] == sorted(event.at for event in events)
        job = store.jobs.get("job_a")
        assert (events[0].at, events[-1].at) == (job.created_at, job.finished_at)
        assert store.history.events("job_none") == []

    @pytest.mark.parametrize("state", sorted(set(JobState)))
    def test_the_last_event_is_the_state(self, hold: Callable[..., Held], store: Store, state: JobState) -> None:
        hold(state)
        events = store.history.events("job_held")
        assert (events[0].state, events[-1].state) == (JobState.PLANNING, state)

    def test_events_go_on_from_a_number(self, store: Store) -> None:
        store.jobs.submit(new_job("job_a"))
        for _ in range(5):
            store.jobs.wish("job_a", Want.PAUSE)
            store.jobs.submit(new_job(f"job_b{_}"))
            store.jobs.wish("job_a", Want.RUN)
        events = store.history.events("job_a")
        assert len(events) == 11
        assert store.history.events("job_a", after=events[3].number) == events[4:]
        assert store.history.events("job_a", after=events[3].number, limit=2) == events[4:6]
        assert store.history.events("job_a", after=events[-1].number) == []

    def test_what_did_not_happen_is_no_event(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING)
        before = store.history.events("job_held")
        held.store.jobs.renew_if_current([held.lease], "w")
        held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(0)])
        store.jobs.wish("job_held", Want.PAUSE)
        held.store.jobs.end_if_current(held.lease, JobState.SUCCEEDED)
        assert store.history.events("job_held") == before

    def test_counts_by_state(self, hold: Callable[..., Held], store: Store) -> None:
        assert store.history.counts_by_state() == {}
        hold(JobState.RUNNING)
        for number, tenant in enumerate(("default", "acme", "acme")):
            store.jobs.submit(new_job(f"job_{number}", tenant=tenant))
        store.jobs.wish("job_2", Want.CANCEL)
        counts = {JobState.RUNNING: 1, JobState.QUEUED: 2, JobState.CANCELLED: 1}
        assert store.history.counts_by_state() == counts
        assert store.history.counts_by_state("acme") == {JobState.QUEUED: 1, JobState.CANCELLED: 1}
        assert store.history.counts_by_state("none") == {}

    def test_the_oldest_queued_job(self, store: Store) -> None:
        assert store.history.oldest_queued_seconds() == 0.0
        store.jobs.submit(new_job("job_foreground", foreground=True))
        assert store.history.oldest_queued_seconds() == 0.0
        first, _ = store.jobs.submit(new_job("job_a"))
        time.sleep(0.2)
        second, _ = store.jobs.submit(new_job("job_b"))
        assert _waits_since(store, first.created_at)
        for want in (Want.PAUSE, Want.RUN):
            store.jobs.wish("job_a", want)
        assert _waits_since(store, second.created_at)
        for job_id in ("job_a", "job_b"):
            store.jobs.wish(job_id, Want.CANCEL)
        assert store.history.oldest_queued_seconds() == 0.0

    # What jobs used

    def test_usage_is_summed_by_model_and_by_owner(self, store: Store) -> None:
        big = Usage(**{name: type(zero)(2**40 + 3) for name, zero in vars(NO_USAGE).items()})
        small = Usage(cpu_seconds=0.5, peak_memory_bytes=7, input_bytes=1)
        _work(store, new_job("job_a", owner="key_1", model=new_pin(version=1)), big)
        _work(store, new_job("job_b", owner="key_2", model=new_pin(version=2)), big, rejected=2)
        _work(store, new_job("job_c", owner="key_1", model=new_pin(None)), small)
        _work(store, new_job("job_red", tenant="red", owner="key_3", model=new_pin()), small)
        store.jobs.submit(new_job("job_idle", owner="key_1", model=new_pin("idle")))
        by_model = store.history.usage("model", tenant="default")
        churn = UsageSum(of="churn", jobs=2, chunks=2, predicted=18, rejected=2, usage=big + big)
        other = UsageSum(of="6" * 64, jobs=1, chunks=1, predicted=10, rejected=0, usage=small)
        idle = UsageSum(of="idle", jobs=1, chunks=0, predicted=0, rejected=0, usage=NO_USAGE)
        assert by_model == [churn, other, idle]
        assert [(each.of, each.jobs) for each in store.history.usage("model")] == [
            ("churn", 3), ("6" * 64, 1), ("idle", 1),
        ]  # fmt: skip
        by_owner = store.history.usage("key", tenant="default")
        assert [(each.of, each.jobs, each.usage) for each in by_owner] == [
            ("key_1", 3, big + small), ("key_2", 1, big),
        ]  # fmt: skip
        assert store.history.usage("key", tenant="default", limit=1) == by_owner[:1]
        assert store.history.usage("model", tenant="none") == []
        assert store.history.totals() == UsageSum(
            of="", jobs=5, chunks=4, predicted=38, rejected=2, usage=big + big + small + small
        )

    def test_usage_since_a_moment_leaves_older_jobs_out(self, store: Store) -> None:
        _work(store, new_job("job_a"), Usage(cpu_seconds=1.0))
        _apart()
        job = _work(store, new_job("job_b"), Usage(cpu_seconds=2.0))
        later = job.created_at + timedelta(milliseconds=1)
        found = [store.history.usage("model", since=since) for since in (None, job.created_at, later)]
        assert [[each.usage.cpu_seconds for each in sums] for sums in found] == [[3.0], [2.0], []]

    def test_usage_of_an_empty_store(self, store: Store) -> None:
        assert store.history.usage("model") == []
        assert store.history.totals() == UsageSum(of="", jobs=0, chunks=0, predicted=0, rejected=0, usage=NO_USAGE)

    # Forgetting

    def test_ended_jobs_come_oldest_first(self, store: Store, hold: Callable[..., Held]) -> None:
        hold(JobState.FAILED)
        for job_id in ("job_paused", "job_cancelled", "job_queued", "job_late"):
            store.jobs.submit(new_job(job_id))
        _apart()
        store.jobs.wish("job_paused", Want.PAUSE)
        _apart()
        store.jobs.wish("job_cancelled", Want.CANCEL)
        _apart()
        moment = _last_change(store.jobs.wish("job_late", Want.CANCEL))
        found = store.history.ended_before(moment, limit=10)
        assert [job.id for job in found] == ["job_held", "job_paused", "job_cancelled"]
        assert found == [store.jobs.get(job.id) for job in found]
        assert [job.id for job in store.history.ended_before(moment, limit=2)] == ["job_held", "job_paused"]
        later = moment + timedelta(milliseconds=1)
        assert [job.id for job in store.history.ended_before(later, limit=9)][-1] == "job_late"
        assert store.history.ended_before(moment - timedelta(days=1), limit=9) == []

    def test_a_job_that_goes_on_is_not_ended(self, store: Store) -> None:
        store.jobs.submit(new_job("job_a"))
        for want in (Want.PAUSE, Want.RUN):
            job = store.jobs.wish("job_a", want)
        assert store.history.ended_before(job.created_at + timedelta(days=1), limit=9) == []

    @pytest.mark.parametrize("state", sorted(ENDED | {JobState.PAUSED, JobState.FAILED}))
    def test_all_of_a_forgotten_job_is_gone(self, hold: Callable[..., Held], store: Store, state: JobState) -> None:
        promise = Idempotency(key="k1", request_digest="a" * 64)
        store.jobs.submit(new_job("job_other", model=new_pin()), promise)
        before = everything(store)
        hold(state, job=new_job("job_held", model=new_pin()))
        assert store.history.forget_if_ended("job_held")
        with pytest.raises(NotFound):
            store.jobs.get("job_held")
        assert store.history.events("job_held") == []
        assert list(store.ledger.receipts("job_held")) == []
        assert store.ledger.find_manifest("job_held") is None
        assert everything(store) == before
        assert store.history.forget_if_ended("job_held")

    def test_a_big_job_is_forgotten_in_small_steps(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING, chunks=25)
        held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(chunk) for chunk in range(25)])
        assert held.store.jobs.end_if_current(held.lease, JobState.PAUSED)
        assert store.history.forget_if_ended("job_held", limit=10) is False
        assert store.jobs.get("job_held").state is JobState.CANCELLED
        assert len(list(store.ledger.receipts("job_held"))) == 15
        steps = 1
        while not store.history.forget_if_ended("job_held", limit=10):
            steps += 1
        assert 2 <= steps <= 4
        assert everything(store) == []

    @pytest.mark.parametrize("state", sorted(LEASED | {JobState.QUEUED}))
    def test_what_is_held_or_queued_stays(self, hold: Callable[..., Held], store: Store, state: JobState) -> None:
        held = hold(state)
        before = everything(store)
        assert store.history.forget_if_ended("job_held")
        assert everything(store) == before
        if state in LEASED:
            assert held.store.jobs.is_current(held.lease)

    def test_a_forgotten_jobs_key_is_free(self, store: Store) -> None:
        store.jobs.submit(new_job("job_a"), Idempotency(key="k1", request_digest="a" * 64))
        store.jobs.wish("job_a", Want.CANCEL)
        assert store.history.forget_if_ended("job_a")
        assert store.jobs.submit(new_job("job_b"), Idempotency(key="k1", request_digest="b" * 64))[1]


def _work(store: Store, job: NewJob, used: Usage, *, rejected: int = 0) -> Job:
    """A job with one chunk, which used that."""
    stored, lease = store.jobs.submit_claimed(job, "v")
    assert store.ledger.record_plan_if_current(lease, new_plan(1))
    assert store.ledger.commit_chunks_if_current(lease, [new_receipt(0, rejected=rejected, usage=used)])
    return stored


def _waits_since(store: Store, moment: datetime) -> bool:
    """Whether the oldest queued job waits since then, by the store's own clock."""
    before, waited, after = _now(store), timedelta(seconds=store.history.oldest_queued_seconds()), _now(store)
    return before - moment <= waited <= after - moment


def _now(store: Store) -> datetime:
    return store.jobs.submit(new_job(new_id("job"), foreground=True))[0].created_at


def _apart() -> None:
    """Times are kept to the millisecond."""
    time.sleep(0.005)


def _last_change(job: Job) -> datetime:
    assert job.finished_at is not None
    return job.finished_at
