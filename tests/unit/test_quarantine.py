"""Quarantine against a pretended scorer: killing rows are found, and nothing else is blamed."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.errors import TooManyCrashes
from tidemill.engine.quarantine import MAX_KILLING_ROWS, Quarantine
from tidemill.ports.executor import ChunkRun, ScorerLost, Step

ROWS, BATCH_ROWS = 1_000, 300


class Pretended:
    """Scores a chunk of 1,000 rows; calls that hold a killing row, or too many rows, kill it."""

    def __init__(self, killing: set[int], most_rows: int = ROWS) -> None:
        self.killing, self.most_rows, self.runs = killing, most_rows, 0

    def run(self, run: ChunkRun) -> ScorerLost | None:
        self.runs += 1
        poison = {row for row, _, _ in run.poison}
        if run.probe is not None:
            return self._call(run, *run.probe, poison)
        for number, start in enumerate(range(0, ROWS, BATCH_ROWS)):
            stop = min(start + BATCH_ROWS, ROWS)
            piece = run.splits.get(number, BATCH_ROWS)
            for first in range(start, stop, piece):
                lost = self._call(run, first, min(first + piece, stop), poison, said=(start, stop))
                if lost is not None:
                    return lost
        return None

    def _call(
        self, run: ChunkRun, start: int, stop: int, poison: set[int], said: tuple[int, int] | None = None
    ) -> ScorerLost | None:
        rows = {*range(start, stop)} - poison
        if not rows & self.killing and len(rows) <= self.most_rows:
            return None
        first, last = said or (start, stop)
        step = Step(stage="model", row_start=first, row_stop=last)
        return ScorerLost(runs=(run,), kind="died", cause="segmentation fault", step=step)


def drive(scorer: Pretended, most: int = 2_000) -> ChunkRun:
    """Until the chunk came through: its last run."""
    numbers = count()
    quarantine = Quarantine(BATCH_ROWS, lambda: f"a{next(numbers)}")
    quarantine.add(7)
    for _ in range(most):
        run = quarantine.next_run()
        lost = scorer.run(run)
        if lost is not None:
            quarantine.died(lost, run)
        elif quarantine.came_through(run):
            assert not quarantine
            return run
    raise AssertionError("quarantine never ends")


@settings(deadline=None)
@given(st.sets(st.integers(0, ROWS - 1), max_size=MAX_KILLING_ROWS))
def test_exactly_the_killing_rows_are_poison(killing: set[int]) -> None:
    run = drive(Pretended(killing))
    assert sorted(row for row, _, _ in run.poison) == sorted(killing)
    assert run.chunk == 7 and run.careful and run.probe is None
    assert all(error == "ScorerCrashed" and "segmentation fault" in text for _, error, text in run.poison)
    assert run.splits == {}


def test_one_row_among_many_is_found_in_few_runs() -> None:
    scorer = Pretended({777})
    drive(scorer)
    assert scorer.runs < 40


def test_batches_that_are_too_large_are_scored_in_pieces() -> None:
    run = drive(Pretended(set(), most_rows=40))
    assert run.poison == ()
    assert set(run.splits) == {0, 1, 2, 3}
    assert all(rows <= 40 for rows in run.splits.values())


def test_too_many_killing_rows_end_the_job() -> None:
    with pytest.raises(TooManyCrashes, match="More than 32 rows"):
        drive(Pretended({*range(400)}))


def test_a_reader_that_dies_has_its_segment_left_out() -> None:
    numbers = count()
    quarantine = Quarantine(BATCH_ROWS, lambda: f"a{next(numbers)}")
    quarantine.add(3)
    run = quarantine.next_run()
    step = Step(stage="read", segment=2)
    quarantine.died(ScorerLost(runs=(run,), kind="died", cause="aborted", step=step), run)
    assert quarantine.next_run().unreadable == (2,)
    assert quarantine.came_through(quarantine.next_run())


@pytest.mark.parametrize("step", [None, Step(stage="load"), Step(stage="write")])
def test_deaths_that_nothing_explains_end_the_job_at_the_third(step: Step | None) -> None:
    numbers = count()
    quarantine = Quarantine(BATCH_ROWS, lambda: f"a{next(numbers)}")
    quarantine.add(3)
    for _ in range(2):
        run = quarantine.next_run()
        quarantine.died(ScorerLost(runs=(run,), kind="died", cause="killed", step=step), run)
    with pytest.raises(TooManyCrashes, match="no row is to blame"):
        quarantine.died(ScorerLost(runs=(run,), kind="died", cause="killed", step=step), run)


def test_names_of_deaths() -> None:
    for kind, error in (("hung", "ScorerHung"), ("memory", "ScorerOutOfMemory"), ("died", "ScorerCrashed")):
        quarantine = Quarantine(BATCH_ROWS, lambda: "a")
        quarantine.add(1)
        run = quarantine.next_run()
        step = Step(stage="model", row_start=5, row_stop=6)
        quarantine.died(ScorerLost(runs=(run,), kind=kind, cause="why", step=step), run)
        assert quarantine.next_run().poison == ((5, error, "this row alone: why"),)
