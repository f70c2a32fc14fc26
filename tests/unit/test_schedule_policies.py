"""Policies as functions: which passed due times fire, and what two jobs at once do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.job import ENDED, JobState
from tidemill.domain.schedule import (
    CATCH_UP_MOST,
    MOST_WAITING,
    ON_TIME,
    OVER,
    CatchUp,
    Firing,
    FiringState,
    Origin,
    Overlap,
    date_state,
    meet,
    passed,
)
from tidemill.domain.trigger import Cron, Interval

T0 = datetime(2026, 11, 26, tzinfo=UTC)
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
NIGHTLY = Cron(expression="0 2 * * *", zone="Europe/Berlin")

triggers = st.one_of(
    st.builds(Interval, every_seconds=st.integers(1, 90_000), start=st.just(T0)),
    st.sampled_from(["* * * * *", "0 2 * * *", "*/7 3 * * 1-5", "0 0 1 * *"]).map(
        lambda expression: Cron(expression=expression, zone="America/New_York")
    ),
)
seconds = st.integers(0, 400_000).map(lambda number: timedelta(seconds=number))


@given(trigger=triggers, since=seconds, late=seconds, catch_up=st.sampled_from(CatchUp))
@settings(max_examples=50, deadline=None)
def test_what_passed_fires_by_its_policy(
    trigger: Interval | Cron, since: timedelta, late: timedelta, catch_up: CatchUp
) -> None:
    next_due = trigger.next_after(T0 + since)
    assert next_due is not None
    now = next_due + late
    found = passed(trigger, next_due, now, catch_up)
    every = list(trigger.newest(next_due, now, CATCH_UP_MOST))
    on_time = [due for due in every if now - due <= ON_TIME]
    assert found.next_due == trigger.next_after(now) and found.next_due > now
    assert list(found.fire) == sorted(set(found.fire))
    assert set(on_time) <= set(found.fire) <= set(every)
    match catch_up:
        case CatchUp.ALL:
            assert list(found.fire) == every
        case CatchUp.LAST:
            assert found.fire[-1] == every[-1]
            assert len(found.fire) == max(1, len(on_time))
        case CatchUp.SKIP:
            assert list(found.fire) == on_time


@given(trigger=triggers, since=seconds, looks=st.lists(st.integers(0, 20_000), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_looking_often_or_seldom_all_fires_the_same(
    trigger: Interval | Cron, since: timedelta, looks: list[int]
) -> None:
    """None lost, none doubled, whenever it is looked."""
    next_due = first = trigger.next_after(T0 + since)
    assert first is not None and next_due is not None
    fired: list[datetime] = []
    now = first - SECOND
    for pause in looks:
        now += timedelta(seconds=pause)
        if next_due <= now:
            found = passed(trigger, next_due, now, CatchUp.ALL)
            fired += found.fire
            assert found.next_due is not None
            next_due = found.next_due
    if sum(looks) < CATCH_UP_MOST:
        assert fired == list(trigger.newest(first, now, CATCH_UP_MOST))
    assert len(fired) == len(set(fired))


@pytest.mark.parametrize(("catch_up", "days"), [(CatchUp.SKIP, []), (CatchUp.LAST, [29]), (CatchUp.ALL, [27, 28, 29])])
def test_down_for_three_days(catch_up: CatchUp, days: list[int]) -> None:
    down = datetime(2026, 11, 26, 12, tzinfo=UTC)
    next_due = NIGHTLY.next_after(down)
    assert next_due is not None
    found = passed(NIGHTLY, next_due, down + 3 * DAY, catch_up)
    assert [due.day for due in found.fire] == days
    assert found.next_due == datetime(2026, 11, 30, 1, tzinfo=UTC)


def test_a_year_of_minutes_is_bounded() -> None:
    minutely = Cron(expression="* * * * *")
    found = passed(minutely, T0 - 365 * DAY, T0, CatchUp.ALL)
    assert len(found.fire) == CATCH_UP_MOST
    assert found.fire[-1] == T0
    assert found.after(0) == found.fire[1]
    assert found.after(CATCH_UP_MOST - 1) == found.next_due == T0 + 60 * SECOND


# Jobs at once


def firing(state: FiringState, job_state: JobState | None = None, *, number: int = 0) -> Firing:
    started = state is FiringState.STARTED
    return Firing(
        schedule_id="sched_a",
        due=T0 + number * SECOND,
        state=state,
        origin=Origin.DUE,
        job_id=f"job_{number}" if started else None,
        job_state=(job_state or JobState.RUNNING) if started else None,
        fired_at=T0,
    )


WAITS = firing(FiringState.WAITING)
RUNS = firing(FiringState.STARTED)


@pytest.mark.parametrize("overlap", Overlap)
def test_nothing_in_the_way(overlap: Overlap) -> None:
    assert meet(overlap, []).state is FiringState.STARTED


@given(waiting=st.integers(0, 2 * MOST_WAITING), runs=st.booleans(), overlap=st.sampled_from(Overlap))
def test_something_in_the_way(waiting: int, runs: bool, overlap: Overlap) -> None:
    unfinished = [firing(FiringState.WAITING, number=number) for number in range(waiting)] + [RUNS] * runs
    met = meet(overlap, unfinished)
    if not unfinished:
        assert met.state is FiringState.STARTED
        return
    assert met.message
    match overlap:
        case Overlap.SKIP:
            assert met.state is FiringState.SKIPPED
            assert not met.cancel and not met.replace
        case Overlap.QUEUE:
            assert met.state is (FiringState.SKIPPED if waiting >= MOST_WAITING else FiringState.WAITING)
            assert not met.cancel and not met.replace
        case Overlap.CANCEL:
            assert met.state is FiringState.WAITING
            assert met.cancel == (("job_0",) if runs else ())
            assert len(met.replace) == waiting


def test_the_job_in_the_way_is_named() -> None:
    paused = firing(FiringState.STARTED, JobState.PAUSED)
    assert meet(Overlap.SKIP, [paused]).message == "job_0 is paused."
    assert meet(Overlap.QUEUE, [WAITS, WAITS]).message == "2 due times wait."


@pytest.mark.parametrize("state", JobState)
def test_which_jobs_are_in_the_way(state: JobState) -> None:
    assert firing(FiringState.STARTED, state).is_active == (state not in ENDED | {JobState.FAILED})
    assert (state in OVER) == (state in ENDED | {JobState.FAILED})


def test_how_dates_stand() -> None:
    found = {state: date_state(firing(FiringState.STARTED, state)) for state in JobState}
    assert {state for state, told in found.items() if told == "done"} == {
        JobState.SUCCEEDED,
        JobState.SUCCEEDED_WITH_REJECTIONS,
    }
    assert {state for state, told in found.items() if told == "failed"} == {JobState.FAILED, JobState.CANCELLED}
    assert [date_state(each) for each in (None, WAITS, firing(FiringState.SKIPPED), firing(FiringState.REFUSED))] == [
        "missing",
        "waiting",
        "missing",
        "failed",
    ]
