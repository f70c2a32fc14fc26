"""Scoring with pretended scorers: how many there are, and how much memory those have that look for the row to blame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from tidemill.domain.errors import ModelUnusable, TidemillError
from tidemill.domain.job import Lease
from tidemill.domain.receipt import Receipt, Usage
from tidemill.engine.layout import Shown
from tidemill.engine.scoring import Scoring, ScoringLimits
from tidemill.ports.executor import ChunkRun, Done, Event, ScorerLost, ScorerSet, ScorerSpec, Step
from tidemill.testing.store.factories import ROWS, new_plan, new_receipt

GB = 1 << 30
POISON = 4


@dataclass(kw_only=True)
class Pretended(ScorerSet):
    """Scorers that count as one, whose model eats memory where the row of chunk 1 is that `POISON` names."""

    stall_seconds: float = 30.0
    spec: ScorerSpec
    loading_takes: int
    runs: list[ChunkRun] = field(default_factory=list)
    added: list[tuple[int | None, int]] = field(default_factory=list)
    """(bound of memory, how many)."""

    def submit(self, run: ChunkRun) -> None:
        self.runs.append(run)

    def grow(self, spec: ScorerSpec, scorers: int) -> None:
        assert not self.runs
        self.added.append((spec.memory_bytes, scorers))

    @property
    def free(self) -> int:
        return 1 - len(self.runs)

    def poll(self, timeout_seconds: float) -> Sequence[Event]:
        if self.loading_takes > (self.spec.memory_bytes or 0):
            raise ModelUnusable("The model does not fit.")
        runs, self.runs = self.runs, []
        return [self._end(run) for run in runs]

    def _end(self, run: ChunkRun) -> Event:
        start, stop = run.probe or (0, ROWS)
        if run.chunk == 1 and start <= POISON < stop and not run.poison:
            step = Step(stage="model", row_start=start, row_stop=stop) if run.careful else None
            return ScorerLost(runs=(run,), kind="memory", cause="ran out of memory", step=step)
        return Done(run=run, receipt=None if run.probe else self._receipt(run))

    def _receipt(self, run: ChunkRun) -> Receipt:
        rejected = len(run.poison)
        receipt = new_receipt(run.chunk, rejected=rejected, usage=Usage(peak_memory_bytes=2 * GB))
        return replace(receipt, attempt=run.attempt)

    def cancel(self, attempt: str) -> None:
        raise AssertionError("nothing is cancelled")

    def kill(self) -> None:
        self.runs.clear()

    def release(self) -> None:
        assert not self.runs


@dataclass(kw_only=True)
class Bench:
    """A job of two chunks, and what is leased and committed for it."""

    loading_takes: int = 0
    bounds: list[int | None] = field(default_factory=list)
    more: int = 0
    """So many more scorers are right from the start."""
    shown: list[Shown] = field(default_factory=list)
    added: list[tuple[int | None, int]] = field(default_factory=list)
    committed: list[Receipt] = field(default_factory=list)

    def lease(self, spec: ScorerSpec, scorers: int, *, stall_seconds: float) -> ScorerSet:
        self.bounds.append(spec.memory_bytes)
        return Pretended(spec=spec, loading_takes=self.loading_takes, added=self.added)

    def tell(self, shown: Shown) -> tuple[ScorerSpec, int] | None:
        self.shown.append(shown)
        return (ScorerSpec(entry="none:none", job={}, memory_bytes=9 * GB), self.more) if self.more else None

    def scoring(self) -> Scoring:
        def while_ours(ask: Callable[[], Any]) -> Any:
            return ask()

        ledger = SimpleNamespace(committed_chunks=lambda job_id: [], commit_chunks_if_current=self._commit)
        job: Any = SimpleNamespace(id="j", counts=SimpleNamespace(predicted=0, rejected=0))
        fakes: dict[str, Any] = {
            "store": SimpleNamespace(ledger=ledger),
            "beat": SimpleNamespace(while_ours=while_ours),
            "executor": self,
        }
        return Scoring(
            job=job,
            plan=new_plan(2),
            lease=Lease(job_id="j", epoch=1, token="t"),
            spec=ScorerSpec(entry="none:none", job={"threads": 1}, memory_bytes=20 * GB),
            scorers=1,
            limits=ScoringLimits(max_rejected=100, stall_seconds=30.0),
            stop=lambda: None,
            on_progress=lambda progress: None,
            on_commit=lambda receipts: None,
            on_lost=lambda lost: None,
            more=self.tell,
            **fakes,
        )

    def _commit(self, lease: Lease, receipts: Sequence[Receipt]) -> bool:
        self.committed += receipts
        return True


def test_probes_have_a_bound_that_healthy_chunks_suggest_and_verdicts_the_full_one() -> None:
    bench = Bench()
    assert bench.scoring().run() is None
    # All scorers; the chunk alone; its pieces; the row that died among them; more pieces; the chunk without it.
    assert bench.bounds == [20 * GB, 20 * GB, 6 * GB, 20 * GB, 6 * GB, 20 * GB]
    assert sorted((receipt.chunk, receipt.rejected) for receipt in bench.committed) == [(0, 0), (1, 1)]


def test_a_model_that_does_not_fit_into_the_small_bound_is_probed_within_the_full_one() -> None:
    bench = Bench(loading_takes=8 * GB)
    assert bench.scoring().run() is None
    assert bench.bounds == [20 * GB, 20 * GB, 6 * GB, 20 * GB]
    assert sorted((receipt.chunk, receipt.rejected) for receipt in bench.committed) == [(0, 0), (1, 1)]


def test_a_model_that_fits_nowhere_fails_the_job() -> None:
    with pytest.raises(TidemillError, match="does not fit"):
        Bench(loading_takes=30 * GB).scoring().run()


def test_a_single_scorer_shows_each_chunk_that_it_did_itself() -> None:
    bench = Bench()
    bench.scoring().run()
    assert [(shown.rows, shown.rows_left) for shown in bench.shown] == [(0, 2 * ROWS), (ROWS, ROWS)]
    assert bench.added == []


def test_a_job_that_begins_with_several_shows_nothing_and_looks_for_rows_within_the_bound_of_the_first() -> None:
    bench = Bench(more=3)
    bench.scoring().run()
    assert [shown.rows for shown in bench.shown] == [0]
    assert bench.added == [(9 * GB, 3)]
    assert bench.bounds == [20 * GB, 20 * GB, 6 * GB, 20 * GB, 6 * GB, 20 * GB]
