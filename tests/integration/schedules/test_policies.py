"""What schedules do about runs that are stuck, servers that were away, and people who change their minds."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.schedules.conftest import DAY, HOUR, MINUTE, SECOND, T0, Timed, every, states
from tidemill.domain.access import Role
from tidemill.domain.errors import (
    InvalidSpec,
    KeyReused,
    NotAllowed,
    NotFound,
    OutputExists,
    Refused,
    TooLarge,
    WrongState,
)
from tidemill.domain.job import JobState, Want
from tidemill.domain.schedule import CatchUp, FiringState, Origin, Overlap, Schedule
from tidemill.domain.trigger import Cron
from tidemill.service import firing, keys, retention, schedules, submission
from tidemill.wire.schedules import AddSchedule, BackfillRequest

STARTED, WAITING, SKIPPED, REFUSED = FiringState.STARTED, FiringState.WAITING, FiringState.SKIPPED, FiringState.REFUSED
NIGHTLY = Cron(expression="0 2 * * *", zone="Europe/Berlin")


# Overlap, with a run that is stuck


def test_skip(house: Timed) -> None:
    schedule = house.schedule(trigger=every(600), overlap=Overlap.SKIP)
    house.tick(after=10 * MINUTE)
    (stuck,) = house.firings(schedule)
    lease = house.run(house.job(stuck), committed=1)
    house.pass_time(30 * MINUTE)
    assert states(house.firings(schedule)) == [STARTED, SKIPPED, SKIPPED, SKIPPED]
    assert house.firings(schedule)[1].message == f"{stuck.job_id} is running."
    assert house.context.store.jobs.end_if_current(lease, JobState.FAILED, {"code": "x", "message": "", "remedy": ""})
    house.pass_time(10 * MINUTE)
    assert states(house.firings(schedule)) == [STARTED, SKIPPED, SKIPPED, SKIPPED, STARTED]


def test_queue(house: Timed) -> None:
    schedule = house.schedule(trigger=every(600), overlap=Overlap.QUEUE)
    house.tick(after=10 * MINUTE)
    stuck = house.job(house.firings(schedule)[0])
    house.run(stuck, committed=1)
    house.pass_time(30 * MINUTE)
    assert states(house.firings(schedule)) == [STARTED, WAITING, WAITING, WAITING]
    house.context.store.jobs.wish(stuck.id, Want.CANCEL)
    house.tick(after=SECOND)
    assert states(house.firings(schedule)) == [STARTED, WAITING, WAITING, WAITING]
    # Its holder sees the wish.
    lease = house.claim_of(stuck)
    assert house.context.store.jobs.end_if_current(lease, JobState.CANCELLED)
    for done in range(2, 5):
        house.tick(after=SECOND)
        house.tick(after=SECOND)
        assert states(house.firings(schedule)) == [STARTED] * done + [WAITING] * (4 - done)
        house.end_jobs(schedule)
    dues = [each.due for each in house.firings(schedule)]
    assert dues == [T0 + number * 10 * MINUTE for number in range(1, 5)]


def test_cancel(house: Timed) -> None:
    schedule = house.schedule(trigger=every(600), overlap=Overlap.CANCEL)
    house.tick(after=10 * MINUTE)
    stuck = house.job(house.firings(schedule)[0])
    house.run(stuck, committed=1)
    house.tick(after=10 * MINUTE)
    assert house.again(stuck).want == "cancel"
    assert states(house.firings(schedule)) == [STARTED, WAITING]
    house.pass_time(10 * MINUTE)
    assert states(house.firings(schedule)) == [STARTED, SKIPPED, WAITING]
    assert "later due time" in house.firings(schedule)[1].message
    assert house.context.store.jobs.end_if_current(house.claim_of(stuck), JobState.CANCELLED)
    house.tick(after=SECOND)
    assert states(house.firings(schedule)) == [STARTED, SKIPPED, STARTED]
    # One that nobody holds is cancelled at once, and the next tick starts the one in its place.
    house.tick(after=10 * MINUTE)
    house.tick(after=SECOND)
    assert states(house.firings(schedule)) == [STARTED, SKIPPED, STARTED, STARTED]
    assert house.firings(schedule)[2].job_state is JobState.CANCELLED
    told = [entry.action for entry in house.context.store.audit.list()]
    assert told.count("job.cancel") == 3


def test_a_job_that_somebody_paused_is_in_the_way(house: Timed) -> None:
    schedule = house.schedule(trigger=every(600))
    house.tick(after=10 * MINUTE)
    job = house.job(house.firings(schedule)[0])
    house.context.store.jobs.wish(job.id, Want.PAUSE)
    house.tick(after=10 * MINUTE)
    assert house.firings(schedule)[1].message == f"{job.id} is paused."


def test_an_output_that_somebody_else_writes_is_in_the_way(house: Timed) -> None:
    output = {"output": {"path": f"{house.folder}/data/out", "mode": "overwrite"}}
    other = house.submit(**output)
    skips = house.schedule("skips", trigger=every(600), spec=output)
    waits = house.schedule("waits", trigger=every(600), overlap=Overlap.QUEUE, spec=output)
    house.tick(after=10 * MINUTE)
    assert states(house.firings(skips)) == [SKIPPED]
    assert states(house.firings(waits)) == [WAITING]
    assert other.id in house.firings(waits)[0].message
    house.tick(after=SECOND)
    house.finish(other)
    house.tick(after=SECOND)
    assert states(house.firings(waits)) == [STARTED]


def test_a_job_that_comes_while_another_is_prepared_is_in_the_way(
    house: Timed, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = house.schedule(trigger=every(600))
    before = submission.new_job

    def new_job(*words: Any) -> Any:
        monkeypatch.setattr(submission, "new_job", before)
        schedules.run(house.context, house.here, "nightly")
        return before(*words)

    monkeypatch.setattr(submission, "new_job", new_job)
    assert house.tick(after=10 * MINUTE) == 0
    assert house.tick() == 1
    found = {each.origin: each.state for each in house.firings(schedule)}
    assert found == {Origin.RUN: STARTED, Origin.DUE: SKIPPED}
    assert len(house.context.store.jobs.list()) == 1


# Down for three days


@pytest.mark.parametrize(
    ("catch_up", "told"),
    [
        (CatchUp.SKIP, []),
        (CatchUp.LAST, [("29 01:00", "started", "late")]),
        (CatchUp.ALL, [(f"{day} 01:00", "started", "late") for day in (27, 28, 29)]),
    ],
)
def test_down_for_three_days(house: Timed, catch_up: CatchUp, told: list[Any]) -> None:
    output = {"path": f"{house.folder}/data/{{{{ due | date }}}}"}
    schedule = house.schedule(
        trigger=NIGHTLY, catch_up=catch_up, overlap=Overlap.QUEUE, spec={"output": output}, next_due=T0 + DAY + HOUR
    )
    house.tick(after=3 * DAY + 12 * HOUR)
    for _ in range(4):
        house.end_jobs(schedule)
        house.tick(after=SECOND)
    assert house.told(schedule) == told
    house.pass_time(DAY, HOUR)
    assert house.told(schedule) == [*told, ("30 01:00", "started", "due")]
    outputs = [house.job(each).output for each in house.firings(schedule)]
    assert outputs == [f"{house.folder}/data/2026-11-{each.due.day}" for each in house.firings(schedule)]


# People


def wanted(house: Timed, **changes: Any) -> AddSchedule:
    words: dict[str, Any] = {
        "name": "nightly",
        "spec": {"model": "churn@champion", "input": {"path": [f"{house.folder}/data/{{{{ due - 1d | date }}}}"]}},
        "trigger": {"kind": "cron", "cron": "0 2 * * *", "timezone": "Europe/Berlin"},
    }
    return AddSchedule.model_validate({**words, **changes})


def test_pause_and_resume(house: Timed) -> None:
    schedule = house.schedule(trigger=every(1), overlap=Overlap.QUEUE)
    house.pass_time(3 * SECOND, SECOND)
    assert states(house.firings(schedule)) == [STARTED, WAITING, WAITING]
    for _ in range(2):
        assert schedules.pause(house.context, house.here, "nightly").paused
    house.end_jobs(schedule)
    house.pass_time(10 * SECOND, SECOND)
    assert len(house.firings(schedule)) == 3
    for _ in range(2):
        resumed = schedules.resume(house.context, house.here, schedule.id)
    assert not resumed.paused
    now = house.context.store.schedules.now()
    assert resumed.next_due is not None and now - MINUTE < resumed.next_due < now + MINUTE
    assert [entry.action for entry in house.context.store.audit.list()] == ["schedule.resume", "schedule.pause"]


def test_a_pause_is_felt_by_a_server_that_has_looked_already(house: Timed) -> None:
    due = house.schedule("due", trigger=every(600))
    queued = house.schedule("queued", trigger=every(600), overlap=Overlap.QUEUE)
    house.tick(after=10 * MINUTE)
    house.tick(after=10 * MINUTE)
    house.end_jobs(queued)
    ((_, waiting),) = house.context.store.firings.ready(limit=9)
    seen = house.context.store.schedules.get("default", due.id)
    house.now += 10 * MINUTE
    for name in ("due", "queued"):
        schedules.pause(house.context, house.here, name)
    assert firing.fire_due(house.context, seen, house.now) == 0
    assert not firing.start_waiting(house.context, queued, waiting, house.now)
    schedules.remove(house.context, house.here, "due")
    assert firing.fire_due(house.context, seen, house.now) == 0
    schedules.resume(house.context, house.here, "queued")
    assert firing.start_waiting(house.context, queued, waiting, house.now)
    assert not firing.start_waiting(house.context, queued, waiting, house.now)


def test_run_now(house: Timed) -> None:
    schedule = house.schedule(trigger=NIGHTLY, paused=True)
    fired = schedules.run(house.context, house.here, "nightly", idempotency_key="k")
    assert (fired.state, fired.origin) == (STARTED, Origin.RUN)
    assert schedules.run(house.context, house.here, "nightly", idempotency_key="k").job_id == fired.job_id
    with pytest.raises(WrongState, match=f"{fired.job_id} is queued"):
        schedules.run(house.context, house.here, "nightly")
    house.end_jobs(schedule)
    again = schedules.run(house.context, house.here, "nightly", idempotency_key="other")
    assert again.job_id != fired.job_id and again.due > fired.due
    assert len(house.firings(schedule)) == len(house.context.store.jobs.list()) == 2


def test_run_now_in_a_queue(house: Timed) -> None:
    schedule = house.schedule(trigger=NIGHTLY, overlap=Overlap.QUEUE)
    fired = [schedules.run(house.context, house.here, "nightly").state for _ in range(3)]
    assert fired == [STARTED, WAITING, WAITING]
    house.end_jobs(schedule)
    house.tick()
    assert states(house.firings(schedule)) == [STARTED, STARTED, WAITING]


def test_run_now_says_why_not(house: Timed) -> None:
    schedule = house.schedule(spec={"model": "churn@7"})
    with pytest.raises(NotFound, match="churn"):
        schedules.run(house.context, house.here, "nightly")
    assert house.firings(schedule) == []


def test_what_is_added(house: Timed) -> None:
    who, _ = house.key()
    added, is_new = schedules.add(house.context, who, wanted(house), idempotency_key="k")
    assert is_new and added.next_due is not None
    assert (added.tenant, added.key_id, added.created_by) == (who.tenant, who.id, who.name)
    assert schedules.add(house.context, who, wanted(house), idempotency_key="k") == (added, False)
    with pytest.raises(KeyReused):
        schedules.add(house.context, who, wanted(house, paused=True), idempotency_key="k")
    with pytest.raises(Refused, match="nightly"):
        schedules.add(house.context, who, wanted(house))
    stranger, _ = house.key(tenant="acme")
    with pytest.raises(NotFound):
        schedules.get(house.context, stranger, added.id)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"trigger": {"kind": "cron", "cron": "0 25 * * *"}}, InvalidSpec, "Bad hour"),
        ({"trigger": {"kind": "cron", "cron": "0 2 * * *", "timezone": "Mars/Sea"}}, InvalidSpec, "Mars/Sea"),
        ({"trigger": {"kind": "interval", "every": "1.5s"}}, InvalidSpec, "whole number"),
        ({"trigger": {"kind": "interval", "every": "9000d"}}, InvalidSpec, "cannot be kept"),
        ({"spec": {"model": "churn@7", "input": {"path": ["/x"]}}}, NotFound, "churn"),
        ({"spec": {"model": "churn@1", "input": {"path": ["/{{ now }}"]}}}, InvalidSpec, "{{ now }}"),
        ({"spec": {"model": "churn@1", "input": {"path": ["in/x"]}}}, NotFound, "absolute"),
        ({"spec": {"model": "churn@1", "input": {"path": ["/etc/{{ due }}"]}}}, NotAllowed, "/etc"),
        ({"spec": {"model": "churn@1", "input": {"path": ["-"]}}}, InvalidSpec, "standard input"),
        ({"spec": {"model": "churn@1", "input": {"path": ["upload:x"]}, "priority": 5}}, NotAllowed, "priority"),
    ],
)
def test_what_is_refused_when_it_is_added(
    house: Timed, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    who, _ = house.key()
    with pytest.raises(error, match=said):
        schedules.add(house.context, who, wanted(house, **changes))
    assert schedules.list_schedules(house.context, who).items == []


def test_a_schedule_has_the_rights_of_its_key(house: Timed) -> None:
    who, _ = house.key()
    schedule = house.schedule(trigger=every(600), key_id=who.id, created_by=who.name)
    house.tick(after=10 * MINUTE)
    assert house.job(house.firings(schedule)[0]).owner == who.id
    house.end_jobs(schedule)
    keys.revoke(house.context, house.here, str(who.id))
    house.tick(after=10 * MINUTE)
    refused = house.firings(schedule)[1]
    assert (refused.state, refused.reason and refused.reason["code"]) == (REFUSED, NotAllowed.code)
    assert str(who.id) in refused.message and "revoked" in refused.message
    assert refused.reason and "Remove the schedule" in refused.reason["remedy"]
    viewer, _ = house.key(Role.VIEWER)
    house.schedule("viewed", trigger=every(600), key_id=viewer.id, created_by=viewer.name)
    with pytest.raises(NotAllowed, match="viewer"):
        schedules.run(house.context, house.here, "viewed")


def test_next(house: Timed) -> None:
    house.schedule(
        trigger=NIGHTLY,
        spec={
            "input": {"path": ["/in/{{ due - 1d | date }}"]},
            "output": {"path": "/out/{{ due | date('%Y-%m') }}"},
        },
    )
    found = schedules.next_due_times(house.context, house.here, "nightly", 10)
    assert len(found.items) == 10
    first = found.items[0]
    assert first.local.endswith((" 02:00:00 CET", " 02:00:00 CEST"))
    assert first.output is not None and first.local.startswith(first.output.removeprefix("/out/"))
    assert [each.input for each in found.items[1:]] == [[f"/in/{each.due:%Y-%m-%d}"] for each in found.items[:-1]]
    assert "refused" in found.warnings[0] and "/out/" in found.warnings[0]
    assert "catch-up" in found.warnings[1]


@pytest.mark.parametrize(
    "words",
    [
        {"spec": {"output": {"path": "/out/x", "mode": "append"}}},
        {"spec": {"output": {"path": "/out/{{ due | date }}"}}, "catch_up": CatchUp.ALL},
        {"spec": {}},
    ],
)
def test_no_warning_without_need(house: Timed, words: dict[str, Any]) -> None:
    schedule = house.schedule(trigger=NIGHTLY, **words)
    assert schedules.describe(house.context, schedule).warnings == []


def test_input_that_does_not_stay_is_warned_of(house: Timed) -> None:
    schedule = house.schedule(spec={"input": {"path": ["upload:upload_0123456789abcdef"]}})
    (warning,) = schedules.describe(house.context, schedule).warnings
    assert "Uploads are removed" in warning


def test_what_fired_long_ago_is_forgotten(house: Timed) -> None:
    schedule = house.schedule(trigger=every(600))
    house.tick(after=10 * MINUTE)
    house.end_jobs(schedule)
    kept = timedelta(days=house.context.policy.firing_days)
    assert retention.sweep(house.context, T0 + kept)["firings"] == 0
    assert retention.sweep(house.context, T0 + kept + HOUR)["firings"] == 1
    assert house.firings(schedule) == []


def asked(first: int, last: int, **words: Any) -> BackfillRequest:
    return BackfillRequest(first=date(2025, 11, first), last=date(2025, 11, last), **words)


def test_backfill(house: Timed) -> None:
    output = {"path": f"{house.folder}/data/{{{{ due | date }}}}"}
    schedule = house.schedule(trigger=NIGHTLY, spec={"output": output})
    looked = schedules.backfill(house.context, house.here, "nightly", asked(3, 6, dry_run=True))
    assert [(each.local[:10], each.state, each.starts) for each in looked.items] == [
        (f"2025-11-0{day}", "missing", True) for day in (3, 4, 5, 6)
    ]
    assert looked.started == 0 and house.firings(schedule) == []
    filled = schedules.backfill(house.context, house.here, "nightly", asked(4, 5))
    assert filled.started == 2
    house.tick()
    assert states(house.firings(schedule)) == [STARTED, WAITING]
    done = house.finish(house.job(house.firings(schedule)[0]))
    house.tick()
    failed = house.fail(house.job(house.firings(schedule)[1]))
    again = schedules.backfill(house.context, house.here, "nightly", asked(3, 6))
    assert [(each.state, each.starts, each.job_id) for each in again.items] == [
        ("missing", True, None),
        ("done", False, done.id),
        ("failed", True, failed.id),
        ("missing", True, None),
    ]
    assert house.again(failed).state is JobState.CANCELLED
    assert schedules.backfill(house.context, house.here, "nightly", asked(3, 6)).started == 0
    for _ in range(3):
        house.tick()
        house.end_jobs(schedule)
    finished = schedules.backfill(house.context, house.here, "nightly", asked(3, 6))
    assert [each.state for each in finished.items] == ["done"] * 4
    outputs = {house.job(each).output for each in house.firings(schedule)}
    assert outputs == {f"{house.folder}/data/2025-11-0{day}" for day in (3, 4, 5, 6)}
    assert {each.origin for each in house.firings(schedule)} == {Origin.BACKFILL}
    everything = schedules.backfill(house.context, house.here, "nightly", asked(3, 3, states=["done"]))
    assert everything.started == 1


def test_backfill_is_a_line_of_its_own(house: Timed) -> None:
    schedule = house.schedule(trigger=every(600, T0 - 900 * DAY), overlap=Overlap.SKIP)
    schedules.backfill(house.context, house.here, "nightly", asked(3, 3))
    house.tick(after=SECOND)
    house.tick(after=10 * MINUTE)
    fired = [each for each in house.firings(schedule) if each.state is STARTED]
    assert [each.origin for each in fired] == [Origin.BACKFILL, Origin.DUE]


def test_backfill_waits_while_the_schedule_is_paused(house: Timed) -> None:
    schedule = house.schedule(trigger=NIGHTLY, paused=True)
    filled = schedules.backfill(house.context, house.here, "nightly", asked(3, 4))
    assert (filled.started, filled.paused) == (2, True)
    house.tick()
    assert states(house.firings(schedule)) == [WAITING, WAITING]
    schedules.resume(house.context, house.here, "nightly")
    house.tick()
    assert states(house.firings(schedule)) == [STARTED, WAITING]


def test_a_failed_job_that_was_forgotten_is_filled_in(house: Timed) -> None:
    schedule = house.schedule(trigger=NIGHTLY)
    schedules.backfill(house.context, house.here, "nightly", asked(3, 3))
    house.tick()
    failed = house.fail(house.job(house.firings(schedule)[0]))
    assert house.context.store.history.forget_if_ended(failed.id)
    assert schedules.backfill(house.context, house.here, "nightly", asked(3, 3)).started == 1


def test_what_cannot_be_filled_in(house: Timed) -> None:
    house.schedule(trigger=Cron(expression="* * * * *"))
    with pytest.raises(InvalidSpec, match="before the first"):
        schedules.backfill(house.context, house.here, "nightly", asked(4, 3))
    with pytest.raises(TooLarge, match="1,000 times"):
        schedules.backfill(house.context, house.here, "nightly", asked(3, 4))
    ahead = BackfillRequest(first=date(9000, 1, 1), last=date(9000, 1, 2))
    assert schedules.backfill(house.context, house.here, "nightly", ahead).items == []


def test_an_output_that_is_there_already_is_told(house: Timed) -> None:
    place = Path(f"{house.folder}/data/out")
    place.mkdir()
    (place / "x.parquet").write_bytes(b"x")
    schedule = house.schedule(trigger=every(600), spec={"output": {"path": str(place)}})
    house.tick(after=10 * MINUTE)
    (refused,) = house.firings(schedule)
    assert refused.reason is not None and refused.reason["code"] == OutputExists.code


def test_removed(house: Timed) -> None:
    schedule = house.schedule(trigger=every(600))
    house.tick(after=10 * MINUTE)
    assert schedules.remove(house.context, house.here, "nightly") == _as_it_is(house, schedule)
    assert house.tick(after=HOUR) == 0
    with pytest.raises(NotFound):
        schedules.remove(house.context, house.here, "nightly")
    assert len(house.context.store.jobs.list()) == 1


def _as_it_is(house: Timed, schedule: Schedule) -> Schedule:
    return Schedule(**{**vars(schedule), "next_due": T0 + 20 * MINUTE, "checked_at": T0 + 10 * MINUTE})
