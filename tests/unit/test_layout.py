"""How many scorers, threads and bytes a job gets, alone and among others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tidemill.domain.admission import Needs
from tidemill.domain.receipt import Usage
from tidemill.engine.layout import Compute, Host, Layout, Shown, probe_bytes
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


# ---- more scorers, by what the first chunks showed


def shown(read: float, model: float, write: float, *, clock: float | None = None, **more: Any) -> Shown:
    """Microseconds of CPU a row, and of the model by the clock; 100,000 rows by a scorer that started in 0.4 s."""
    rows, left, peak = 100_000, more.get("left", 10_000_000), more.get("peak", GB // 2)
    seconds = {"read": rows * read / 1e6, "model": rows * model / 1e6, "write": rows * write / 1e6}
    used = Usage(
        read_cpu_seconds=seconds["read"],
        model_cpu_seconds=seconds["model"],
        write_cpu_seconds=seconds["write"],
        model_seconds=seconds["model"] if clock is None else rows * clock / 1e6,
        cpu_seconds=sum(seconds.values()) + 0.4,
        peak_memory_bytes=peak,
    )
    return Shown(rows_left=0).after(rows, used, left)


def more(seen: Shown, *, host: Host = ALONE, of: Any = None, asked: ComputeSpec | None = None) -> Layout | None:
    big = replace(plan("threads"), rows=20_000_000, chunks=64) if of is None else of
    return host.more(big, asked or ComputeSpec(), Needs(), seen)


@pytest.mark.parametrize(
    "stages, scorers",
    [
        ((0.9, 2.2, 0.4), 3),  # 8 cores can do 2.3 rows a microsecond, and one reader 1.1
        ((0.4, 2.2, 0.9), 3),  # the same of a writer
        ((1.0, 0.1, 0.2), 8),
        ((1.0, 0.0, 0.0), 8),
    ],
)
def test_so_many_scorers_that_their_readers_and_writers_keep_up(stages: Any, scorers: int) -> None:
    found = more(shown(*stages))
    assert found is not None
    assert found.scorers + 1 == scorers
    assert found.threads == -(-8 // scorers)
    assert found.memory_bytes == 18 * GB // (scorers + 1)


@pytest.mark.parametrize(
    "seen, words",
    [
        (shown(0.9, 21.0, 0.4), "the model keeps all cores busy"),
        (shown(0.9, 2.2, 0.4, clock=20.0), "the model waits for something that more scorers do not have"),
        (shown(0.9, 2.2, 0.4, left=1_000_000), "it would take longer to start than it saves"),
        (shown(0.9, 2.2, 0.4, left=0), "nothing is left"),
        (shown(0.9, 2.2, 0.4, peak=4 * GB), "two do not fit with room to spare"),
        (Shown(rows_left=10_000_000), "nothing was measured"),
    ],
)
def test_one_scorer_stays_alone_where_more_would_not_help(seen: Shown, words: str) -> None:
    assert more(seen) is None, words


def test_as_many_scorers_as_fit_into_memory_and_have_a_chunk() -> None:
    seen = shown(1.0, 0.1, 0.2, peak=2 * GB)
    assert more(seen) == Layout(scorers=2, threads=3, memory_bytes=18 * GB // 4)
    few = replace(plan("threads"), rows=20_000_000, chunks=4)
    assert more(shown(1.0, 0.1, 0.2), of=few) == Layout(scorers=1, threads=4, memory_bytes=6 * GB)


def test_who_asked_for_scorers_or_memory_has_processes_or_a_gpu_gets_no_more() -> None:
    seen = shown(1.0, 0.1, 0.2)
    assert more(seen, asked=ComputeSpec(scorers=1)) is None
    assert more(seen, asked=ComputeSpec(memory_per_scorer=GB)) is None
    assert more(seen, of=replace(plan("processes"), rows=20_000_000, chunks=64)) is None
    big = replace(plan("threads"), rows=20_000_000, chunks=64)
    assert more(seen, of=big) is not None
    assert more(seen, of=replace(big, model=replace(big.model, on_gpu=True))) is None


def test_among_other_jobs_it_shares_what_is_its_own() -> None:
    assert more(shown(0.9, 2.2, 0.4), host=among(4)) is None
    assert more(shown(1.0, 0.1, 0.2), host=among(2)) == Layout(scorers=3, threads=1, memory_bytes=2 * GB)


def test_a_start_is_what_the_first_chunk_took_beside_its_stages() -> None:
    """Later chunks have some of it, too, which belongs to no start."""
    used = Usage(read_cpu_seconds=0.2, model_cpu_seconds=0.3, write_cpu_seconds=0.1, cpu_seconds=1.0)
    once = Shown(rows_left=30).after(10, used, 20)
    assert once.start_seconds == pytest.approx(0.4)
    later = replace(used, cpu_seconds=0.7)
    assert once.after(10, later, 10) == Shown(
        rows_left=10, rows=20, used=used + later, start_seconds=once.start_seconds
    )
