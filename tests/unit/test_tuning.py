"""What a job begins with, by what a job like it showed before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tidemill.domain.admission import Needs
from tidemill.domain.receipt import Usage
from tidemill.engine.layout import Compute, Host, Layout, Shown
from tidemill.engine.recall import Recent
from tidemill.engine.tuning import LEAST_ROWS, Tuning
from tidemill.testing.store.factories import new_plan
from tidemill.wire.spec import ComputeSpec

GB = 1 << 30
ROWS = 20_000_000
ALONE = Host(compute=Compute(cores=8, memory_bytes=18 * GB, stall_seconds=30.0, preload=()), jobs_running=None)
PLAN = replace(new_plan(64), rows=ROWS)
PLAN = replace(PLAN, model=replace(PLAN.model, layout="threads"))
EIGHT = Layout(scorers=7, threads=1, memory_bytes=2 * GB)
NOTHING = Shown(rows_left=ROWS)


def chunk(read: float, model: float, *, rows: int = 100_000, start: float = 0.4, peak: int = GB // 2) -> Shown:
    """One chunk, in microseconds of CPU a row."""
    used = Usage(
        read_cpu_seconds=rows * read / 1e6,
        model_cpu_seconds=rows * model / 1e6,
        model_seconds=rows * model / 1e6,
        cpu_seconds=rows * (read + model) / 1e6 + start,
        peak_memory_bytes=peak,
    )
    return NOTHING.after(rows, used, ROWS - rows)


READS, PREDICTS = chunk(1.0, 0.1), chunk(0.1, 20.0)


def tuning(recent: Recent[Shown], **more: Any) -> Tuning:
    facts = {"host": ALONE, "plan": PLAN, "asked": ComputeSpec(), "needs": Needs(), "key": "k", **more}
    return Tuning(recent=recent, **facts)


def knows(shown: Shown) -> Recent[Shown]:
    recent = Recent[Shown]()
    recent.put("k", shown)
    return recent


def test_the_next_job_begins_with_what_the_first_one_came_to() -> None:
    recent = Recent[Shown]()
    assert tuning(recent).more(NOTHING) is None
    assert tuning(recent).more(READS) == EIGHT
    assert tuning(recent).more(NOTHING) == EIGHT
    assert tuning(recent, key="other").more(NOTHING) is None


def test_where_the_model_keeps_all_cores_busy_the_next_job_begins_as_ever() -> None:
    recent = Recent[Shown]()
    assert tuning(recent).more(PREDICTS) is None
    assert tuning(recent).more(NOTHING) is None


def test_without_a_key_every_job_is_the_first() -> None:
    recent = Recent[Shown]()
    assert tuning(recent, key=None).more(READS) == EIGHT
    assert tuning(recent, key=None).more(NOTHING) is None


MODEL = PLAN.model


@pytest.mark.parametrize(
    "job, words",
    [
        ({"plan": replace(PLAN, rows=1_000_000)}, "a small job is over before they had started"),
        ({"plan": replace(PLAN, chunks=1)}, "there is nothing to share out"),
        ({"plan": replace(PLAN, model=replace(MODEL, layout="processes"))}, "it has a process for each core"),
        ({"plan": replace(PLAN, model=replace(MODEL, on_gpu=True))}, "each would load it there"),
        ({"asked": ComputeSpec(scorers=1)}, "it has what it asked for"),
        ({"asked": ComputeSpec.model_validate({"memory_per_scorer": "1GiB"})}, "it has what it asked for"),
        ({"host": replace(ALONE, jobs_running=8)}, "one core is its share"),
        ({"host": replace(ALONE, compute=replace(ALONE.compute, memory_bytes=GB))}, "two do not fit"),
    ],
)
def test_whatever_is_remembered_this_job_is_asked(job: dict[str, Any], words: str) -> None:
    """It has the scorers that it would have in a process that has just started."""
    of = tuning(knows(READS), **job)
    assert of.more(Shown(rows_left=of.plan.rows)) is None, words
    assert of.lay_out(1_000) == tuning(Recent(), **job).lay_out(1_000)


def test_few_rows_that_are_left_need_no_more() -> None:
    """A job that goes on is as small as what is left of it."""
    assert tuning(knows(READS)).more(Shown(rows_left=ROWS)) == EIGHT
    assert tuning(knows(READS)).more(Shown(rows_left=1_000_000)) is None


def test_it_is_decided_for_the_share_of_the_cores_that_the_job_has() -> None:
    host = replace(ALONE, jobs_running=2)
    assert tuning(knows(READS), host=host).more(NOTHING) == Layout(scorers=3, threads=1, memory_bytes=2 * GB)


def test_newer_measurements_replace_older_ones() -> None:
    recent = knows(READS)
    assert tuning(recent).more(PREDICTS) is None
    assert tuning(recent).more(NOTHING) is None
    assert tuning(recent).more(READS) == EIGHT
    assert tuning(recent).more(NOTHING) == EIGHT


def test_a_handful_of_rows_replaces_nothing() -> None:
    recent = knows(READS)
    few = chunk(0.1, 20.0, rows=LEAST_ROWS - 1)
    assert tuning(recent).more(few) is None
    assert recent.get("k") == READS
    assert tuning(recent).more(few.after(1, few.used, ROWS)) is None
    assert recent.get("k") != READS


def test_a_warm_scorer_does_not_make_starts_cheap() -> None:
    """Measured by one that was there already, eight would be worth it for half a million rows."""
    warm = chunk(1.0, 0.1, start=0.0)
    small = replace(PLAN, rows=1_000_000)
    assert tuning(Recent(), plan=small).more(replace(warm, rows_left=900_000)) is not None
    recent = knows(READS)
    assert tuning(recent, plan=small).more(replace(warm, rows_left=900_000)) is None
    assert tuning(recent, plan=small).more(Shown(rows_left=1_000_000)) is None


def test_memory_is_that_of_the_process_that_was_measured() -> None:
    recent = knows(chunk(1.0, 0.1, peak=2 * GB))
    assert tuning(recent).more(NOTHING) == Layout(scorers=2, threads=3, memory_bytes=18 * GB // 4)
