"""Schedules, and what became of their due times."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tidemill.domain.errors import KeyReused, NotFound, Refused
from tidemill.domain.job import Idempotency, JobState, Want
from tidemill.domain.schedule import PUT_BACK, CatchUp, Firing, FiringState, Origin, Overlap
from tidemill.domain.trigger import Interval
from tidemill.ports.store import Store
from tidemill.testing.store.factories import ERROR, new_firing, new_job, new_schedule
from tidemill.testing.store.suite import Held, StoreSuite

T0 = datetime(2026, 5, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
STARTED, WAITING, SKIPPED, REFUSED = FiringState.STARTED, FiringState.WAITING, FiringState.SKIPPED, FiringState.REFUSED


class SchedulesSuite(StoreSuite):
    """Every due time fires at most once, and what became of it is kept."""

    # Schedules

    def test_a_schedule_is_kept_as_it_was_given(self, store: Store, open_store: Callable[..., Store]) -> None:
        nightly = new_schedule(overlap=Overlap.QUEUE, catch_up=CatchUp.ALL)
        odd = new_schedule(
            "odd",
            paused=True,
            key_id=None,
            next_due=None,
            trigger=Interval(every_seconds=90, start=T0, zone="Asia/Kolkata"),
            tenant="acme",
        )
        assert store.schedules.add(nightly) == (nightly, True)
        assert store.schedules.add(odd) == (odd, True)
        other = open_store()
        assert other.schedules.get("default", "nightly") == other.schedules.get("default", nightly.id) == nightly
        assert other.schedules.get("acme", "odd") == odd

    def test_names_are_unique_in_a_tenant(self, store: Store) -> None:
        store.schedules.add(new_schedule())
        with pytest.raises(Refused, match="nightly"):
            store.schedules.add(new_schedule(id="sched_2"))
        store.schedules.add(new_schedule(id="sched_2", tenant="acme"))
        assert store.schedules.get("default", "nightly").id == "sched_nightly"

    def test_ids_go_before_names(self, store: Store) -> None:
        store.schedules.add(new_schedule())
        store.schedules.add(new_schedule("sched_nightly", id="sched_2"))
        assert store.schedules.get("default", "sched_nightly").id == "sched_nightly"

    def test_the_same_key_adds_one(self, store: Store, open_store: Callable[..., Store]) -> None:
        promise = Idempotency(key="k", request_digest="a" * 64)
        first, _ = store.schedules.add(new_schedule(), promise)
        assert open_store().schedules.add(new_schedule(id="sched_2"), promise) == (first, False)
        assert store.schedules.add(new_schedule("other", id="sched_3"), promise) == (first, False)
        with pytest.raises(KeyReused, match="sched_nightly"):
            store.schedules.add(new_schedule("other"), Idempotency(key="k", request_digest="b" * 64))
        assert store.schedules.add(new_schedule(id="sched_4", tenant="acme"), promise)[1]
        assert [schedule.id for schedule in store.schedules.list("default")] == ["sched_nightly"]

    def test_another_tenants_schedule_is_not_found(self, store: Store) -> None:
        store.schedules.add(new_schedule())
        for which in ("nightly", "sched_nightly"):
            with pytest.raises(NotFound):
                store.schedules.get("acme", which)
        with pytest.raises(NotFound) as caught:
            store.schedules.get("default", "nigthly")
        assert caught.value.remedy == "Did you mean 'nightly'?"

    def test_schedules_are_listed_by_name(self, store: Store) -> None:
        for name in ("b", "B", "c", "a"):
            store.schedules.add(new_schedule(name))
        store.schedules.add(new_schedule("z", tenant="acme"))
        assert [each.name for each in store.schedules.list("default")] == ["B", "a", "b", "c"]
        assert [each.name for each in store.schedules.list("default", limit=2, after="B")] == ["a", "b"]

    def test_the_clock_is_the_databases(self, store: Store) -> None:
        first = store.schedules.now()
        assert first.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - first) < HOUR
        assert store.schedules.now() >= first

    def test_due_ones_come_oldest_first(self, store: Store) -> None:
        for name, due in (("late", T0 - HOUR), ("now", T0), ("soon", T0 + HOUR), ("never", None)):
            store.schedules.add(new_schedule(name, next_due=due, checked_at=T0 - 2 * HOUR))
        store.schedules.add(new_schedule("paused", paused=True, checked_at=T0 - 2 * HOUR))
        assert [each.name for each in store.schedules.list_due(T0, limit=9)] == ["late", "now"]
        assert [each.name for each in store.schedules.list_due(T0, limit=1)] == ["late"]
        store.schedules.set_paused("sched_paused", False)
        assert [each.name for each in store.schedules.list_due(T0, limit=9)] == ["late", "now", "paused"]
        store.schedules.set_paused("sched_late", True)
        assert [each.name for each in store.schedules.list_due(T0, limit=9)] == ["now", "paused"]

    def test_one_that_was_looked_at_later_than_now_is_looked_at_again(self, store: Store) -> None:
        store.schedules.add(new_schedule(next_due=T0 + 9 * HOUR, checked_at=T0 + 8 * HOUR))
        assert [each.name for each in store.schedules.list_due(T0, limit=9)] == ["nightly"]
        store.schedules.move_on("sched_nightly", T0 + 2 * HOUR, checked_at=T0 + PUT_BACK)
        assert store.schedules.list_due(T0, limit=9) == []
        store.schedules.move_on("sched_nightly", T0 + 2 * HOUR, checked_at=T0)
        moved = store.schedules.get("default", "nightly")
        assert (moved.next_due, moved.checked_at) == (T0 + 2 * HOUR, T0)
        store.schedules.move_on("sched_nightly", None, checked_at=T0 + HOUR)
        assert store.schedules.get("default", "nightly").next_due is None

    def test_whoever_holds_one_is_alone(self, store: Store, open_store: Callable[..., Store]) -> None:
        store.schedules.add(new_schedule())
        assert store.schedules.find_and_hold("sched_none") is None
        other, seen = open_store(), list[Any]()
        holding = threading.Event()

        def second() -> None:
            holding.wait()
            with other.transaction():
                found = other.schedules.find_and_hold("sched_nightly")
                assert found is not None
                seen.append(found.next_due)

        thread = threading.Thread(target=second)
        thread.start()
        with store.transaction():
            assert store.schedules.find_and_hold("sched_nightly") == new_schedule()
            holding.set()
            thread.join(0.3)
            store.schedules.move_on("sched_nightly", T0 + HOUR, checked_at=T0)
            assert seen == []
        thread.join()
        assert seen == [T0 + HOUR]

    def test_a_removed_one_takes_its_firings_along_and_leaves_jobs(self, store: Store) -> None:
        store.schedules.add(new_schedule())
        store.jobs.submit(new_job("job_aaaaaa"))
        store.firings.record_if_new(_started(T0, "job_aaaaaa"))
        store.schedules.remove("sched_nightly")
        store.schedules.remove("sched_nightly")
        assert store.schedules.list("default") == []
        assert store.firings.find("sched_nightly", T0) is None
        assert store.jobs.wish("job_aaaaaa", Want.CANCEL).state is JobState.CANCELLED
        store.schedules.add(new_schedule())
        assert store.firings.list("sched_nightly") == []

    # Firings

    def test_a_due_time_fires_once(self, store: Store, open_store: Callable[..., Store]) -> None:
        store.schedules.add(new_schedule())
        first = new_firing(T0, SKIPPED, reason=ERROR, request_key="k", origin=Origin.LATE)
        assert store.firings.record_if_new(first)
        other = open_store()
        assert not other.firings.record_if_new(_started(T0, "job_b"))
        assert not other.firings.record_if_new(new_firing(T0 + HOUR, request_key="k"))
        assert other.firings.record_if_new(new_firing(T0 + HOUR))
        assert other.firings.list("sched_nightly") == [new_firing(T0 + HOUR), first]
        assert other.firings.find("sched_nightly", T0) == other.firings.find_by_request("sched_nightly", "k") == first
        assert other.firings.find("sched_nightly", T0 + 2 * HOUR) is None
        assert other.firings.find_by_request("sched_nightly", "other") is None

    def test_firing_job_and_next_due_come_together_or_not(self, store: Store, open_store: Callable[..., Store]) -> None:
        store.schedules.add(new_schedule())

        def fire() -> None:
            store.firings.record_if_new(_started(T0, "job_aaaaaa"))
            store.jobs.submit(new_job("job_aaaaaa"))
            store.schedules.move_on("sched_nightly", T0 + HOUR, checked_at=T0)

        with suppress(ZeroDivisionError), store.transaction():
            fire()
            raise ZeroDivisionError
        other = open_store()
        assert other.firings.list("sched_nightly") == []
        assert other.jobs.list() == []
        assert other.schedules.get("default", "nightly") == new_schedule()
        with store.transaction():
            fire()
        assert other.firings.list("sched_nightly") == [_started(T0, "job_aaaaaa")]
        assert other.jobs.get("job_aaaaaa").state is JobState.QUEUED

    def test_two_servers_at_one_due_time(self, store: Store, open_store: Callable[..., Store]) -> None:
        store.schedules.add(new_schedule())
        start, fired = threading.Barrier(4), list[str]()

        def fire(name: str) -> None:
            mine = open_store()
            start.wait()
            for hour in range(10):
                with mine.transaction():
                    mine.schedules.find_and_hold("sched_nightly")
                    if mine.firings.record_if_new(_started(T0 + hour * HOUR, f"job_{name}{hour}")):
                        mine.jobs.submit(new_job(f"job_{name}{hour}"))
                        fired.append(f"job_{name}{hour}")

        threads = [threading.Thread(target=fire, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        kept = store.firings.list("sched_nightly")
        assert len(kept) == len(fired) == 10
        assert {firing.job_id for firing in kept} == {job.id for job in store.jobs.list()} == set(fired)

    def test_a_firing_knows_the_state_of_its_job(self, store: Store, hold: Callable[..., Held]) -> None:
        store.schedules.add(new_schedule())
        store.firings.record_if_new(_started(T0, "job_held"))
        held = hold(JobState.COMMITTING)
        assert _state(store) is JobState.COMMITTING
        assert held.store.jobs.end_if_current(held.lease, JobState.SUCCEEDED)
        assert _state(store) is JobState.SUCCEEDED
        assert store.history.forget_if_ended("job_held")
        assert _state(store) is JobState.SUCCEEDED

    def test_unfinished_ones_stand_in_two_lines(self, store: Store) -> None:
        store.schedules.add(new_schedule())
        back = Origin.BACKFILL
        for hour, firing in enumerate(
            [
                _started(T0, "job_0"),
                _started(T0, "job_1", job_state=JobState.PAUSED),
                *(_started(T0, f"job_{state}", job_state=state) for state in _OVER),
                new_firing(T0, SKIPPED),
                new_firing(T0, REFUSED),
                new_firing(T0, WAITING),
                new_firing(T0, WAITING, origin=back),
                _started(T0, "job_b", origin=back),
            ]
        ):
            assert store.firings.record_if_new(_at(firing, hour))
        timed = store.firings.unfinished("sched_nightly", backfill=False)
        assert [(firing.job_id, firing.state) for firing in timed] == [
            ("job_0", STARTED),
            ("job_1", STARTED),
            (None, WAITING),
        ]
        filled = store.firings.unfinished("sched_nightly", backfill=True)
        assert [(firing.job_id, firing.state) for firing in filled] == [(None, WAITING), ("job_b", STARTED)]
        assert store.firings.unfinished("sched_none", backfill=False) == []

    def test_the_first_of_a_free_line_is_ready(self, store: Store) -> None:
        schedules = {name: new_schedule(name) for name in ("free", "busy", "paused", "two")}
        for schedule in schedules.values():
            store.schedules.add(schedule)
        store.schedules.set_paused("sched_paused", True)
        for name in schedules:
            for hour in (2, 1):
                store.firings.record_if_new(new_firing(T0 + hour * HOUR, schedule_id=f"sched_{name}"))
        store.firings.record_if_new(_started(T0, "job_a", schedule_id="sched_busy"))
        store.firings.record_if_new(_started(T0, "job_b", schedule_id="sched_free", job_state=JobState.FAILED))
        store.firings.record_if_new(_started(T0, "job_c", schedule_id="sched_two"))
        store.firings.record_if_new(new_firing(T0 - HOUR, schedule_id="sched_two", origin=Origin.BACKFILL))
        ready = [(schedule.name, firing.due) for schedule, firing in store.firings.ready(limit=9)]
        assert ready == [("two", T0 - HOUR), ("free", T0 + HOUR)]
        assert [firing.due for _, firing in store.firings.ready(limit=1)] == [T0 - HOUR]

    def test_only_one_that_waits_is_settled(self, store: Store) -> None:
        store.schedules.add(new_schedule())
        started = _started(T0, "job_a")
        assert not store.firings.settle_if_waiting(started)
        store.firings.record_if_new(new_firing(T0))
        assert store.firings.settle_if_waiting(started)
        assert not store.firings.settle_if_waiting(new_firing(T0, SKIPPED))
        assert store.firings.find("sched_nightly", T0) == started

    def test_only_one_that_is_over_is_replaced(self, store: Store) -> None:
        store.schedules.add(new_schedule())
        again = new_firing(T0, WAITING, origin=Origin.BACKFILL)
        assert not store.firings.replace_if_over(again)
        found = {}
        kept: list[Firing] = [
            *(new_firing(T0, state) for state in (WAITING, SKIPPED, REFUSED)),
            *(_started(T0, "job_a", job_state=state) for state in JobState),
        ]
        for hour, firing in enumerate(kept):
            store.firings.record_if_new(_at(firing, hour))
            found[firing.job_state or firing.state] = store.firings.replace_if_over(_at(again, hour))
        assert {state for state, replaced in found.items() if replaced} == {
            SKIPPED,
            REFUSED,
            *_OVER,
        }

    def test_firings_come_in_pages_and_spans(self, store: Store) -> None:
        store.schedules.add(new_schedule())
        store.schedules.add(new_schedule("other"))
        for hour in range(5):
            store.firings.record_if_new(new_firing(T0 + hour * HOUR, SKIPPED))
        store.firings.record_if_new(new_firing(T0, SKIPPED, schedule_id="sched_other"))
        page = store.firings.list("sched_nightly", limit=2)
        assert [firing.due for firing in page] == [T0 + 4 * HOUR, T0 + 3 * HOUR]
        assert [firing.due for firing in store.firings.list("sched_nightly", limit=2, before=page[-1].due)] == [
            T0 + 2 * HOUR,
            T0 + HOUR,
        ]
        span = store.firings.between("sched_nightly", T0 + HOUR, T0 + 3 * HOUR)
        assert [firing.due for firing in span] == [T0 + HOUR, T0 + 2 * HOUR, T0 + 3 * HOUR]

    def test_old_ones_are_forgotten_in_small_steps(self, store: Store) -> None:
        store.schedules.add(new_schedule())
        for hour, firing in enumerate(
            [
                new_firing(T0, WAITING),
                _started(T0, "job_a"),
                *(_started(T0, "job_b", job_state=state) for state in _OVER),
                new_firing(T0, SKIPPED),
            ]
        ):
            store.firings.record_if_new(_at(firing, hour))
        moment = T0 + 6 * HOUR
        assert store.firings.forget_before(moment, limit=3) == 3
        assert store.firings.forget_before(moment, limit=3) == 1
        assert store.firings.forget_before(moment, limit=3) == 0
        left = {firing.due for firing in store.firings.list("sched_nightly")}
        assert left == {T0, T0 + HOUR, T0 + 6 * HOUR}


_OVER = (JobState.SUCCEEDED, JobState.SUCCEEDED_WITH_REJECTIONS, JobState.FAILED, JobState.CANCELLED)


def _started(due: datetime, job_id: str, *, job_state: JobState = JobState.QUEUED, **changes: Any) -> Firing:
    return new_firing(due, STARTED, job_id=job_id, job_state=job_state, **changes)


def _at(firing: Firing, hour: int) -> Firing:
    changes = {name: getattr(firing, name) for name in ("job_id", "job_state", "origin", "schedule_id")}
    return new_firing(T0 + hour * HOUR, firing.state, **changes)


def _state(store: Store) -> JobState | None:
    firing = store.firings.find("sched_nightly", T0)
    return None if firing is None else firing.job_state
