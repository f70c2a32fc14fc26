"""The log of a job: what is in it, and that it stays small."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tidemill.domain.access import Principal
from tidemill.domain.errors import NotFound, OutputBusy
from tidemill.domain.job import Counts, Job, JobState, Want
from tidemill.domain.receipt import Receipt, Rejection
from tidemill.ports.observer import JobProgress
from tidemill.service import joblog
from tidemill.service.joblog import MOST_BYTES, JobLog

JOB = Job(
    id="job_1",
    name="scores",
    state=JobState.RUNNING,
    want=Want.RUN,
    spec={},
    spec_digest="s",
    model_digest="m",
    output="/out/scores",
    staging="/out/.scores.tidemill/job_1",
    foreground=False,
    priority=0,
    epoch=2,
    crashes=0,
    worker_id="worker_a",
    counts=Counts(total=2000, predicted=990, rejected=10),
    chunks_total=2,
    chunks_done=1,
    plan={"files": 3, "warnings": ["column x is missing in b.csv"]},
    error=None,
    usage={},
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    started_at=None,
    finished_at=None,
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(tmp_path: Path, clock: Clock) -> JobLog:
    return JobLog(tmp_path / "logs", JOB.id, "worker_a", clock=clock)


def lines(log: JobLog) -> list[str]:
    """Without the times."""
    return [line if line.startswith("  ") else line.split(" ", 1)[1] for line in log.path.read_text().splitlines()]


def test_tells_the_story_of_a_job(log: JobLog, clock: Clock) -> None:
    log.job_started(JOB, 1)
    log.job_planned(JOB)
    log.job_progress(JOB, JobProgress(stage="running", total=2000, predicted=990, rejected=10))
    clock.now += 4.9
    log.job_progress(JOB, JobProgress(stage="running", total=2000, predicted=1200, rejected=10))
    clock.now += 5.1
    log.job_progress(JOB, JobProgress(stage="running", total=2000, predicted=1990, rejected=10))
    log.scorer_lost(JOB, "segmentation fault", "loading\nFatal Python error\n")
    ended = replace(
        JOB, state=JobState.SUCCEEDED_WITH_REJECTIONS, counts=Counts(total=2000, predicted=1990, rejected=10)
    )
    log.job_ended(ended)
    assert lines(log) == [
        "taken by worker_a (epoch 2): 1 of 2 chunks (1,000 rows) are done",
        "planned: 2,000 rows in 2 chunks of 3 files",
        "warning: column x is missing in b.csv",
        "running",
        "2,000 of 2,000 rows, 10 rejected, 100 rows/s",
        "a scorer was lost: segmentation fault",
        "  loading",
        "  Fatal Python error",
        "published: 2,000 rows = 1,990 predicted + 10 rejected, at /out/scores",
    ]


def test_a_failure_says_what_to_do(log: JobLog) -> None:
    error = OutputBusy("/out/scores is held by job_2.", remedy="Wait for it.").to_json()
    log.job_ended(replace(JOB, state=JobState.FAILED, error=error))
    assert lines(log) == ["failed (output_busy): /out/scores is held by job_2.", "to do: Wait for it."]


def test_examples_of_rejected_rows_are_bounded(log: JobLog) -> None:
    rows = tuple(Rejection(file="a.csv", row=n, stage="model", error="ValueError", message="no") for n in range(15))
    receipt = Receipt(chunk=0, attempt="e1-1", rows=15, predicted=0, rejected=15, parts=(), rejections=rows)
    for _ in range(3):
        log.chunk_committed(JOB, receipt)
    said = lines(log)
    assert said[0] == "rejected: a.csv, row 0 (model): ValueError: no"
    assert len(said) == joblog.REJECTIONS + 1
    assert "not logged" in said[-1]


def test_stays_within_its_bound_and_keeps_the_end(log: JobLog) -> None:
    log.say("first")
    for n in range(2 * MOST_BYTES // 1000):
        log.say(f"{n:07d} " + "x" * 1000)
    log.say("y" * 100_000)
    log.say("last")
    assert log.path.stat().st_size <= MOST_BYTES + joblog.LINE_BYTES
    text = log.path.read_text()
    assert "first\n" not in text
    assert text.endswith(" last\n")
    assert "y" * joblog.LINE_BYTES in text
    assert "y" * (joblog.LINE_BYTES + 1) not in text
    assert "earlier lines were cut" in text


def context_of(log: JobLog, tenant: str = "default") -> Any:
    store = SimpleNamespace(jobs=SimpleNamespace(get=lambda job_id: replace(JOB, tenant=tenant)))
    return SimpleNamespace(store=store, places=SimpleNamespace(logs=log.path.parent))


def test_tail_reads_the_end(log: JobLog) -> None:
    for n in range(30_000):
        log.say(f"line {n}")
    who = Principal(name="local")
    found = joblog.tail(context_of(log), who, JOB.id, 3)
    assert [line.split(" ", 1)[1] for line in found.lines] == ["line 29997", "line 29998", "line 29999"]
    assert found.truncated
    many = joblog.tail(context_of(log), who, JOB.id, 10_000_000).lines
    assert len(many) == joblog.MOST_LINES
    assert many[0].endswith("line 20000")


def test_tail_of_a_short_log_and_of_none(log: JobLog) -> None:
    who = Principal(name="local")
    none = joblog.tail(context_of(log), who, JOB.id, 5)
    assert (none.lines, none.truncated) == ([], False)
    log.say("only")
    one = joblog.tail(context_of(log), who, JOB.id, 5)
    assert [line.split(" ", 1)[1] for line in one.lines] == ["only"]
    assert not one.truncated
    assert joblog.tail(context_of(log), who, JOB.id, 0).lines == []


def test_another_tenants_log_is_not_there(log: JobLog) -> None:
    log.say("secret")
    with pytest.raises(NotFound):
        joblog.tail(context_of(log, tenant="other"), Principal(name="local"), JOB.id)
