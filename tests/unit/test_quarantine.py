"""Quarantine against a pretended scorer: killing rows are found, and nothing else is blamed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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


SMALL, FULL = 10, 100


@dataclass(kw_only=True)
class Hungry:
    """Scores a chunk of 1,000 rows. A call takes so much memory, and dies if that is more than its bound."""

    takes: Callable[[list[int]], int]
    reading_takes: int = 0
    raises_if_small: bool = False
    """Whether it raises, instead of dying, where the bound is small."""
    kinds: dict[int, str] = field(default_factory=lambda: {SMALL: "memory", FULL: "memory"})
    """How it dies within each bound."""
    deaths: dict[int, int] = field(default_factory=lambda: {SMALL: 0, FULL: 0})

    def run(self, run: ChunkRun, bound: int) -> ScorerLost | None:
        if self.reading_takes > bound:
            return self._die(run, bound, Step(stage="read"))
        poison = {row for row, _, _ in run.poison}
        for said, start, stop in self._calls(run):
            rows = sorted({*range(start, stop)} - poison) if run.probe is None else [*range(start, stop)]
            if rows and self.takes(rows) > bound and not (self.raises_if_small and bound == SMALL):
                return self._die(run, bound, Step(stage="model", row_start=said[0], row_stop=said[1]))
        return None

    def _calls(self, run: ChunkRun) -> list[tuple[tuple[int, int], int, int]]:
        if run.probe is not None:
            return [(run.probe, *run.probe)]
        calls = []
        for number, start in enumerate(range(0, ROWS, BATCH_ROWS)):
            stop = min(start + BATCH_ROWS, ROWS)
            piece = run.splits.get(number, BATCH_ROWS)
            calls += [((start, stop), first, min(first + piece, stop)) for first in range(start, stop, piece)]
        return calls

    def _die(self, run: ChunkRun, bound: int, step: Step) -> ScorerLost:
        self.deaths[bound] += 1
        return ScorerLost(runs=(run,), kind=self.kinds[bound], cause=f"more than {bound}", step=step)


def feed(scorer: Hungry, most: int = 500) -> ChunkRun:
    """Until the chunk came through: its last run, which has the full bound like every one that writes."""
    numbers = count()
    quarantine = Quarantine(BATCH_ROWS, lambda: f"a{next(numbers)}")
    quarantine.add(7)
    for _ in range(most):
        bound = SMALL if quarantine.small else FULL
        run = quarantine.next_run()
        assert run.probe is not None or bound == FULL
        lost = scorer.run(run, bound)
        if lost is not None:
            quarantine.died(lost, run)
        elif quarantine.came_through(run):
            return run
    raise AssertionError("quarantine never ends")


def poison(run: ChunkRun) -> list[int]:
    assert all(text == f"this row alone: more than {FULL}" for _, _, text in run.poison)
    return sorted(row for row, _, _ in run.poison)


def test_a_row_that_eats_memory_fills_the_full_bound_only_to_be_accused_and_convicted() -> None:
    scorer = Hungry(takes=lambda rows: 1_000 * (777 in rows))
    run = feed(scorer)
    assert (poison(run), run.splits) == ([777], {})
    assert scorer.deaths[FULL] == 2 and scorer.deaths[SMALL] >= 3


def test_a_row_that_needs_more_than_the_small_bound_is_no_poison() -> None:
    scorer = Hungry(takes=lambda rows: 50 * (620 in rows) + 1_000 * (777 in rows))
    run = feed(scorer)
    assert (poison(run), run.splits) == ([777], {})


def test_a_model_that_needs_more_than_the_small_bound_for_any_row() -> None:
    scorer = Hungry(takes=lambda rows: 50 + 1_000 * (777 in rows))
    run = feed(scorer)
    assert (poison(run), run.splits) == ([777], {})
    assert scorer.deaths[SMALL] < 10


def test_a_reader_that_needs_more_than_the_small_bound() -> None:
    scorer = Hungry(takes=lambda rows: 1_000 * (777 in rows), reading_takes=50)
    run = feed(scorer)
    assert (poison(run), run.splits, run.unreadable) == ([777], {}, ())
    assert scorer.deaths[SMALL] == 1


def test_what_only_the_full_bound_kills_is_looked_for_there() -> None:
    scorer = Hungry(takes=lambda rows: 1_000 * (777 in rows), raises_if_small=True)
    run = feed(scorer)
    assert (poison(run), run.splits) == ([777], {})


def test_pieces_are_no_smaller_than_the_full_bound_wants_them() -> None:
    scorer = Hungry(takes=len)
    run = feed(scorer)
    assert (poison(run), set(run.splits.values())) == ([], {BATCH_ROWS // 8})


def test_where_a_scorer_cannot_start_with_so_little_there_is_no_small_bound() -> None:
    quarantine = Quarantine(BATCH_ROWS, lambda: "a")
    quarantine.add(1)
    step = Step(stage="model", row_start=0, row_stop=300)
    run = quarantine.next_run()
    quarantine.died(ScorerLost(runs=(run,), kind="memory", cause="why", step=step), run)
    assert quarantine.small
    quarantine.small_is_too_small()
    assert not quarantine.small
    assert quarantine.next_run().probe == (0, 37)


def test_a_row_that_eats_so_slowly_that_it_seems_to_hang() -> None:
    scorer = Hungry(takes=lambda rows: 1_000 * (777 in rows), kinds={SMALL: "memory", FULL: "hung"})
    run = feed(scorer)
    assert [(row, error) for row, error, _ in run.poison] == [(777, "ScorerHung")]
    assert scorer.deaths[FULL] == 2


def test_a_row_that_hangs_is_convicted_where_it_hung() -> None:
    """A bound makes allocations fail; it makes nobody wait."""
    scorer = Hungry(takes=lambda rows: 1_000 * (777 in rows), kinds={SMALL: "hung", FULL: "hung"})
    run = feed(scorer)
    assert [(row, error) for row, error, _ in run.poison] == [(777, "ScorerHung")]
    assert scorer.deaths[FULL] == 1


def test_what_died_of_something_else_has_the_full_bound() -> None:
    quarantine = Quarantine(BATCH_ROWS, lambda: "a")
    quarantine.add(1)
    step = Step(stage="model", row_start=0, row_stop=300)
    run = quarantine.next_run()
    quarantine.died(ScorerLost(runs=(run,), kind="died", cause="why", step=step), run)
    assert quarantine.next_run().probe == (0, 37) and not quarantine.small
