"""How a job stands: figures that people act upon."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.integration.api.house import House, opened_house
from tidemill.domain.access import Principal, Role
from tidemill.domain.admission import Needs
from tidemill.domain.cost import RateCard
from tidemill.domain.errors import NotFound
from tidemill.domain.job import Counts, JobEvent, JobState, Want
from tidemill.domain.receipt import Usage
from tidemill.ports.store import WorkerFacts
from tidemill.service import status
from tidemill.testing.store import new_plan, new_receipt

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
S = JobState


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with opened_house(tmp_path) as opened:
        opened.model(alias="champion")
        yield opened


def history(*steps: tuple[float, JobState]) -> list[JobEvent]:
    return [
        JobEvent(number=number, job_id="job_1", at=NOON + timedelta(seconds=second), state=state)
        for number, (second, state) in enumerate(steps)
    ]


@pytest.mark.parametrize(
    ("steps", "now", "expected"),
    [
        ([(0, S.QUEUED)], 50, None),
        ([(0, S.QUEUED), (10, S.PLANNING)], 50, None),
        ([(0, S.QUEUED), (10, S.PLANNING), (20, S.RUNNING)], 30, 9.0),
        # Paused for an hour, and the time of committing does not count.
        ([(0, S.RUNNING), (10, S.PAUSED), (3610, S.QUEUED), (3611, S.RUNNING)], 3631, 3.0),
        ([(0, S.RUNNING), (30, S.COMMITTING), (90, S.SUCCEEDED)], 5000, 3.0),
    ],
)
def test_rows_a_second_are_over_the_time_of_running(
    steps: list[tuple[float, JobState]], now: float, expected: float | None
) -> None:
    counts = Counts(total=200, predicted=80, rejected=10)
    assert status.rows_per_second(counts, history(*steps), NOON + timedelta(seconds=now)) == expected


def test_no_rows_have_no_rate() -> None:
    assert status.rows_per_second(Counts(total=9), history((0, S.RUNNING)), NOON + timedelta(hours=1)) is None


def test_a_queued_job_says_why_it_waits(house: House) -> None:
    house.submit()
    told = status.status(house.context, house.submit(model="churn@champion", name="second"))
    assert told.queue is not None
    assert (told.queue.reason, told.state, told.percent) == ("no_worker", "queued", 0.0)
    assert told.queue.place == 2
    facts = WorkerFacts(
        id=house.context.worker_id, host="h", pid=1, version="1", capacity=Needs(cpus=2), free=Needs(cpus=2)
    )
    house.context.store.workers.announce(facts)
    jobs = house.context.store.jobs.list()
    summaries = status.summary(house.context, jobs)
    assert [(each.queue.place, each.queue.reason) for each in summaries if each.queue] == [(2, "behind"), (1, "next")]
    assert [each.model for each in summaries] == ["churn@1", "churn@1"]


def test_a_running_job(house: House) -> None:
    job = house.submit(name="nightly", labels={"a": "b"})
    lease = house.claim(job)
    ledger = house.context.store.ledger
    ledger.record_plan_if_current(lease, new_plan(4))
    usage = Usage(
        cpu_seconds=2.0, model_seconds=1.5, peak_memory_bytes=900, input_bytes=10**9, output_bytes=10**8, kernel_rows=7
    )
    ledger.commit_chunks_if_current(lease, [new_receipt(0, usage=usage), new_receipt(1, rejected=4, usage=usage)])
    told = status.status(house.context, house.again(job))
    assert told.counts.model_dump() == {"total": 40, "predicted": 16, "rejected": 4, "remaining": 20}
    assert (told.state, told.percent, told.chunks_done, told.chunks_total) == ("running", 50.0, 2, 4)
    assert told.rows_per_second is not None
    assert told.eta_seconds == pytest.approx(20 / told.rows_per_second, abs=0.1)
    assert told.queue is None
    assert list(told.timestamps) == ["created", "queued", "planning", "running"]
    assert told.timestamps["created"] <= told.timestamps["planning"] <= told.timestamps["running"]
    assert [row.row for row in told.rejections] == [0, 1, 2, 3]
    assert told.worker == house.context.worker_id
    used = told.usage
    assert (used.cpu_seconds, used.peak_memory_bytes, used.kernel_rows, used.cost) == (4.0, 900, 14, None)
    assert set(told.links) == {"self", "events", "logs"}
    assert told.links["self"] == f"/api/v1/jobs/{job.id}"


def test_cost_is_by_the_rate_card(house: House) -> None:
    job = house.submit()
    lease = house.run(job, committed=0)
    usage = Usage(cpu_seconds=1800.0, input_bytes=2 * 10**9, output_bytes=10**9)
    house.context.store.ledger.commit_chunks_if_current(lease, [new_receipt(0, usage=usage)])
    card = RateCard(currency="EUR", per_cpu_hour=0.1, per_gb_read=0.01, per_gb_written=0.02, per_job=1.0)
    report = status.usage_report(replace(house.context, rates=card), house.again(job))
    assert report.cost is not None
    assert (report.cost.amount, report.cost.currency) == (pytest.approx(1.0 + 0.05 + 0.02 + 0.02), "EUR")


def test_at_most_twenty_rejections_are_shown(house: House) -> None:
    job = house.submit()
    lease = house.run(job, chunks=3, committed=0)
    receipts = [new_receipt(chunk, rejected=9) for chunk in range(3)]
    house.context.store.ledger.commit_chunks_if_current(lease, receipts)
    told = status.status(house.context, house.again(job))
    assert (len(told.rejections), told.counts.rejected) == (20, 27)


def test_a_finished_job_says_where_its_result_is_and_how_long(house: House) -> None:
    job = house.finish(house.submit(), rejected=2)
    told = status.status(house.context, job)
    assert (told.state, told.percent, told.eta_seconds) == ("succeeded_with_rejections", 100.0, None)
    assert job.finished_at is not None
    assert told.expires_at == job.finished_at + timedelta(days=30)
    assert set(told.links) == {"self", "events", "logs", "result", "download", "rejected"}
    assert told.output is None
    assert told.spec["output"] is None
    assert set(told.timestamps) == {
        "created", "queued", "planning", "running", "committing", "succeeded_with_rejections",
    }  # fmt: skip


def test_a_result_that_others_keep_does_not_expire(house: House) -> None:
    target = str(house.folder / "scores")
    told = status.status(house.context, house.finish(house.submit(output={"path": target})))
    assert (told.output, told.expires_at) == (target, None)
    assert told.spec["output"]["path"] == target


def test_a_failed_job_says_why_and_what_to_do(house: House) -> None:
    told = status.status(house.context, house.fail(house.submit()))
    assert told.error is not None
    assert (told.error.code, told.error.message, told.error.remedy) == ("model_unusable", "It broke.", "Mend it.")


def test_percent_stays_below_100_until_the_result_is_there(house: House) -> None:
    job = house.submit()
    lease = house.run(job)
    assert status.percent(house.again(job)) == 99.99
    house.context.store.ledger.begin_commit_if_current(lease, {"files": []}, {})
    assert status.percent(house.again(job)) == 99.99
    house.context.store.jobs.end_if_current(lease, S.SUCCEEDED)
    assert status.percent(house.again(job)) == 100.0


def test_events_after_a_number_and_only_of_ones_own(house: House) -> None:
    job = house.submit()
    house.context.store.jobs.wish(job.id, Want.CANCEL)
    told = status.events(house.context, house.here, job.id)
    assert [event.state for event in told] == [S.QUEUED, S.CANCELLED]
    assert [event.state for event in status.events(house.context, house.here, job.id, told[0].number)] == [S.CANCELLED]
    with pytest.raises(NotFound):
        status.events(house.context, Principal(name="x", tenant="red", role=Role.ADMIN, id="k"), job.id)
