"""SIGKILL at every step of publishing: renames, exchanges, syncs, the store's last word, cleaning up."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash.rig import record, strace, tree
from tests.crash.rig.job import SUCCESS, CrashJob, new_job, write_inputs
from tests.crash.rig.life import Life

ALL = os.environ.get("TIDEMILL_CRASH_ALL_POINTS") == "1"
CALLS = ("rename", "renameat2", "fsync", "fdatasync", "pwrite64", "unlink", "unlinkat", "rmdir", "link", "ftruncate")
BEGINS = re.compile(r"rename\(.*/out/\.?manifest\.json")
"""The step with which publishing begins: the manifest is staged."""
MOVE = re.compile(r'renameat2\(.*/out/(data|rejected|manifest\.json)".*/scores')
"""Something gets its place: a run that finds it there does not make this call again."""
MODES = ("error", "overwrite", "append")
ROWS = (1300, 1200)
"""Three chunks: what is published is the same, however much it is."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The calls of publishing, in order."""

    first: tuple[strace.Made, ...]
    """Of a run that has scored all."""
    again: tuple[strace.Made, ...]
    """Of the whole run that completes what was killed as it was about to move the data."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return tuple(write_inputs(tmp_path_factory.mktemp("small"), rows=ROWS))


class Places:
    """Makes jobs whose output has something to replace or extend, by their mode."""

    def __init__(self, folder: Path, inputs: tuple[Path, ...], older: CrashJob, store: Path) -> None:
        self.folder, self.inputs, self.older, self.store = folder, inputs, older, store

    def life(self, name: str, mode: str) -> Life:
        job = new_job(self.folder / name, self.inputs, store=self.store, mode=mode, sleep=0.0)
        if mode == "error":
            return Life(job=job, suite="publish")
        shutil.copytree(self.older.output.parent, job.output.parent, dirs_exist_ok=True)
        return Life(job=job, suite="publish", before=self.older.inputs)

    def steps(self, mode: str) -> Steps:
        """Traced, not disturbed; the second run after a blow at the first move."""
        first = _traced(self.life("clean", mode))
        first = first[next(i for i, made in enumerate(first) if BEGINS.search(made.text)) :]
        move = next(made for made in first if MOVE.search(made.text))
        life = self.life("again", mode)
        struck = life.strike_call(move.call, move.n, case=mode)
        assert struck.hit and struck.look.state == "committing", struck
        assert list(life.job.output.parent.glob(".scores.tidemill/*/journal.json"))
        return Steps(first=tuple(first), again=tuple(_traced(life)))


@pytest.fixture
def places(tmp_path: Path, small: tuple[Path, ...], older: CrashJob, store: Path) -> Places:
    return Places(tmp_path, small, older, store)


def _traced(life: Life) -> list[strace.Made]:
    """The calls of an undisturbed run."""
    log = life.job.logs / "clean.strace"
    ran = life.run(prefix=strace.prefix(log, CALLS))
    assert ran.code in SUCCESS, ran
    assert not tree.marked(life.job.mark)
    return list(strace.read(log))


def lives(steps: Steps) -> Iterator[tuple[strace.Made, list[int]]]:
    """Where the first blow falls on each job, and at which positions of a run that completes it later ones do.

    In `make test`: as the journal gets its name, at a move, at the last one, after that; then two, between those of
    the other jobs. In `make test-long` every step is met, in a first run and in one that completes it.
    """
    moves = _moves(steps.first)
    unfinished, finished = steps.first[: moves[-1] + 1], steps.first[moves[-1] + 1 :]
    if ALL:
        for i in range(max(len(unfinished), len(steps.again))):
            yield unfinished[i % len(unfinished)], [i % len(steps.again)]
        yield from ((step, []) for step in finished)
        return
    begin = next(i for i, made in enumerate(steps.again) if BEGINS.search(made.text))
    left = len(steps.again) - begin
    for number, first in enumerate((moves[0] - 2, moves[1], moves[-1])):
        yield unfinished[first], [begin + left * (3 * k + number) // 6 for k in range(2)]
    yield finished[1], []


def number_of(steps: Sequence[strace.Made], position: int, done: int) -> int:
    """Which of its calls of that name a step is for a run that finds those moves made that come before `done`."""
    call = steps[position].call
    return steps[position].n - sum(steps[i].call == call for i in _moves(steps) if i < min(done, position))


def _moved(steps: Steps, step: strace.Made) -> int:
    """Up to where, in a run that completes what was killed at a step of a first run, the moves are made already."""
    made = sum(i < steps.first.index(step) for i in _moves(steps.first))
    return _moves(steps.again)[made - 1] + 1 if made else 0


def _moves(steps: Sequence[strace.Made]) -> list[int]:
    return [i for i, made in enumerate(steps) if MOVE.search(made.text)]


@pytest.mark.timeout(9000 if ALL else 300)
@pytest.mark.parametrize("mode", MODES)
def test_killed_at_steps_of_publishing(mode: str, places: Places) -> None:
    """The first run dies at a step, and so do two that complete it, the second one further on. Readers see nothing or
    old, then all of the new; the last run completes it, once."""
    steps = places.steps(mode)
    last = _moves(steps.again)[-1]
    committing, hits = 0, []
    for number, (step, positions) in enumerate(lives(steps)):
        life = places.life(f"{number}", mode)
        blow = life.strike_call(step.call, step.n, case=mode)
        committing += blow.look.state == "committing"
        hits.append(blow.hit)
        done = _moved(steps, step)
        for position in positions:
            # Who finds the manifest in place makes none of the calls that would come before.
            if done <= last and not life.over:
                n = number_of(steps.again, position, done)
                hits.append(life.strike_call(steps.again[position].call, n, case=f"{mode}, again").hit)
                done = position
        life.finish()
    assert committing >= 2
    assert len(hits) >= 8
    assert sum(hits) >= record.LEAST_HIT * len(hits), f"{sum(hits)} of {len(hits)} were reached"
