"""Due times become jobs: once each, with the words of their date, in the order of the policies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.integration.schedules.conftest import DAY, HOUR, MINUTE, SECOND, T0, Timed, every
from tidemill.domain.errors import NotFound
from tidemill.domain.job import JobState
from tidemill.domain.schedule import CatchUp, FiringState, Overlap
from tidemill.domain.trigger import Cron
from tidemill.service import firing
from tidemill.wire.spec import JobSpec


def test_a_due_time_becomes_a_job(house: Timed) -> None:
    output = {"path": f"{house.folder}/data/scores/{{{{ due - 1d | date }}}}/"}
    nightly = house.schedule(trigger=Cron(expression="0 2 * * *", zone="Europe/Berlin"), spec={"output": output})
    assert house.tick() == 0
    assert house.tick(at=T0 + HOUR - SECOND) == 0
    assert house.tick(at=T0 + HOUR) == 1
    assert house.tick(after=SECOND) == 0
    (fired,) = house.firings(nightly)
    assert (fired.due, fired.state, fired.job_state) == (T0 + HOUR, FiringState.STARTED, JobState.QUEUED)
    job = house.job(fired)
    assert job.output == f"{house.folder}/data/scores/2026-11-25"
    assert JobSpec.model_validate(job.spec).name == job.name == "nightly"
    assert (job.tenant, job.owner) == ("default", "local")
    kept = house.context.store.schedules.get("default", "nightly")
    assert (kept.next_due, kept.checked_at) == (T0 + HOUR + DAY, T0 + HOUR)


def test_who_comes_second_changes_nothing(house: Timed) -> None:
    hourly = house.schedule()
    house.now += HOUR
    assert firing.fire_due(house.context, hourly, house.now) == 1
    assert firing.fire_due(house.context, hourly, house.now) == 0
    assert len(house.context.store.jobs.list()) == len(house.firings(hourly)) == 1


def test_a_transaction_of_which_nobody_knows_is_done_again(house: Timed) -> None:
    hourly = house.schedule()
    house.tick(after=HOUR)
    house.end_jobs(hourly)
    # As if the answer to the commit had been lost and the row were read from before it.
    house.context.store.schedules.move_on(hourly.id, hourly.next_due, checked_at=house.now)
    house.tick()
    assert len(house.context.store.jobs.list()) == len(house.firings(hourly)) == 1
    assert house.context.store.schedules.get("default", "nightly").next_due == T0 + 2 * HOUR


def test_a_job_that_cannot_be_is_told_in_its_firing(house: Timed) -> None:
    lost = house.schedule("lost", spec={"model": "churn@7"})
    fine = house.schedule("fine")
    house.tick(after=HOUR)
    (refused,) = house.firings(lost)
    assert (refused.state, refused.job_id) == (FiringState.REFUSED, None)
    assert refused.reason is not None and refused.reason["code"] == NotFound.code
    assert "churn" in refused.message
    assert house.told(fine) == [("26 01:00", "started", "due")]
    assert house.tick(after=HOUR) == 2


def test_the_clock_put_forward_and_back(house: Timed) -> None:
    quarterly = house.schedule(trigger=every(900), catch_up=CatchUp.LAST)
    house.tick(after=15 * MINUTE)
    house.end_jobs(quarterly)
    house.tick(after=2 * HOUR)
    house.end_jobs(quarterly)
    assert house.told(quarterly) == [("26 00:15", "started", "due"), ("26 02:15", "started", "due")]
    house.now -= 2 * HOUR
    for _ in range(int(3 * HOUR / MINUTE)):
        house.tick(after=MINUTE)
        house.end_jobs(quarterly)
    dues = [each.due for each in house.firings(quarterly)]
    assert dues == [T0 + number * 15 * MINUTE for number in range(1, 14)]
    assert len(house.context.store.jobs.list(limit=100)) == len(dues)


def test_the_clock_put_back_before_something_overdue(house: Timed) -> None:
    late = house.schedule(trigger=every(900), checked_at=T0 + 5 * HOUR)
    assert late.next_due == T0 + 15 * MINUTE
    house.tick(after=10 * MINUTE)
    house.tick(after=5 * MINUTE)
    assert house.told(late) == [("26 00:15", "started", "due")]


def test_one_with_much_to_catch_up_with_lets_others_have_their_turn(
    house: Timed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firing, "DUE_TIMES_AT_ONCE", 3)
    much = house.schedule("much", trigger=every(600), catch_up=CatchUp.ALL, overlap=Overlap.QUEUE)
    one = house.schedule("one", trigger=every(6000), catch_up=CatchUp.ALL)
    house.tick(after=100 * MINUTE)
    assert (len(house.firings(much)), len(house.firings(one))) == (3, 1)
    for _ in range(4):
        house.tick()
    assert [each.due for each in house.firings(much)] == [T0 + number * 10 * MINUTE for number in range(1, 11)]


def test_what_is_never_due_again_rests(house: Timed) -> None:
    last = house.schedule(trigger=every(900))
    house.context.store.schedules.move_on(last.id, None, checked_at=house.now)
    assert house.tick(after=HOUR) == 0
    assert firing.fire_due(house.context, replace(last, next_due=None), house.now) == 0
