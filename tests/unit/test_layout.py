"""How many scorers, threads and bytes a job gets, alone and among others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tidemill.domain.admission import Needs
from tidemill.engine.layout import Compute, Host, Layout, probe_bytes
from tidemill.testing.store.factories import new_plan
from tidemill.wire.spec import ComputeSpec

GB = 1 << 30
COMPUTE = Compute(cores=8, memory_bytes=18 * GB, stall_seconds=30.0, preload=())
ALONE = Host(compute=COMPUTE, jobs_running=None)
PLAN = new_plan(20)
"""20 chunks of 10 rows, one batch."""


def plan(layout: str, *, batch_rows: int = 10) -> Any:
    return replace(PLAN, batch_rows=batch_rows, model=replace(PLAN.model, layout=layout, rows_per_chunk=10))


def lay_out(host: Host, of: Any, asked: ComputeSpec | None = None, **more: Any) -> Layout:
    return host.lay_out(of, asked or ComputeSpec(), more.get("needs", Needs()), more.get("model_bytes", 1000))


def among(jobs: int) -> Host:
    return replace(ALONE, jobs_running=jobs)


def test_alone_a_job_has_the_host() -> None:
    assert lay_out(ALONE, plan("threads")) == Layout(scorers=1, threads=8, memory_bytes=9 * GB)
    assert lay_out(ALONE, plan("processes")) == Layout(scorers=8, threads=1, memory_bytes=2 * GB)


def test_alone_a_small_job_has_the_bound_of_a_big_one() -> None:
    """A row that eats memory has no whole machine to fill because there is only one chunk."""
    assert lay_out(ALONE, replace(plan("processes"), chunks=1)) == Layout(scorers=1, threads=1, memory_bytes=2 * GB)
    assert lay_out(ALONE, plan("threads", batch_rows=65_536)).memory_bytes == 2 * GB
    assert lay_out(ALONE, plan("threads", batch_rows=65_536), model_bytes=GB // 2).memory_bytes == 5 * GB


@pytest.mark.parametrize("rows, scorers", [(1, 1), (65_536, 1), (65_537, 2), (200_000, 4), (10**9, 8)])
def test_a_small_job_starts_no_more_processes_than_pay(rows: int, scorers: int) -> None:
    """Though it has chunks for more of them."""
    small = replace(plan("processes"), rows=rows, chunks=20)
    of = replace(small, model=replace(small.model, rows_per_chunk=262_144))
    assert lay_out(ALONE, of).scorers == scorers
    assert lay_out(ALONE, of, ComputeSpec(scorers=3)).scorers == 3


def test_fewer_scorers_that_were_asked_for_have_more_memory() -> None:
    assert lay_out(ALONE, plan("processes"), ComputeSpec(scorers=2)).memory_bytes == 6 * GB


@pytest.mark.parametrize(
    "bound, peak, small", [(9, 0, 1), (9, 0.2, 1), (9, 2, 6), (9, 5, 9), (0.5, 0, 0.5), (None, 2, 6)]
)
def test_the_small_bound_for_probes(bound: float | None, peak: float, small: float) -> None:
    assert probe_bytes(None if bound is None else int(bound * GB), int(peak * GB)) == int(small * GB)


@pytest.mark.parametrize("jobs, cores", [(1, 8), (2, 4), (3, 2), (8, 1), (50, 1)])
def test_among_others_a_job_has_its_share(jobs: int, cores: int) -> None:
    assert lay_out(among(jobs), plan("threads")).threads == cores
    assert lay_out(among(jobs), plan("processes")).scorers == cores


def test_what_a_job_needs_is_its_least_share() -> None:
    assert lay_out(among(8), plan("processes"), needs=Needs(cpus=3)).scorers == 3
    assert lay_out(among(8), plan("processes"), needs=Needs(cpus=100)).scorers == 8


def test_what_is_asked_for_is_given() -> None:
    asked = ComputeSpec(scorers=5, memory_per_scorer="3GiB")  # type: ignore[arg-type]
    assert lay_out(among(4), plan("threads"), asked) == Layout(scorers=5, threads=1, memory_bytes=3 * GB)
    assert lay_out(ALONE, replace(plan("processes"), chunks=2), asked).scorers == 2


def test_small_jobs_are_alike_however_many_run() -> None:
    """One batch: one thread, and the same bound, so that scorers can be kept for the next such job."""
    small = plan("threads", batch_rows=65_536)
    found = {lay_out(among(jobs), small) for jobs in (1, 2, 5, 8)}
    assert len(found) == 1
    assert found.pop().threads == 1


def test_bounds_of_all_jobs_fit_and_a_big_model_gets_more() -> None:
    shares = [lay_out(among(4), plan("threads")).memory_bytes for _ in range(4)]
    assert sum(shares) <= COMPUTE.memory_bytes
    small = plan("threads", batch_rows=65_536)
    assert lay_out(among(4), small).memory_bytes == 2 * GB
    assert lay_out(among(4), small, model_bytes=GB // 2).memory_bytes == 5 * GB
    assert lay_out(among(4), small, model_bytes=100 * GB).memory_bytes == 9 * GB
