"""SIGKILL at seeded instants of a job's life, again and again, then the same command until it is done."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from tests.crash.rig.job import CrashJob
from tests.crash.rig.life import Life
from tests.crash.rig.strike import Point

SEEDS = int(os.environ.get("TIDEMILL_CRASH_SEEDS", "20"))
PHASES = {
    "worker": ("start", "running", "committing", "planning", "running"),
    "group": ("running", "start", "planning", "committing", "running"),
    "scorer": ("running",),
    "zygote": ("running", "planning", "running"),
    "planner": ("planning",),
}
SEEN = {
    "start": {"start": 0.05, "claim": 0.05, "planned": 0.05, "scored": 0.05, "assembled": 0.003},
    "planning": {"planning": 0.05, "listed": 0.003},
    "committing": {"committing": 0.003, "journalled": 0.003, "shown": 0.003},
}
"""What of a phase is waited for, and how long after that it goes on for certain, in seconds."""
EARLY = ("start", "claim", "planning", "listed")
"""Where nothing has come to stay but the job itself: the next run passes there again."""
ORDER = (*EARLY, "planned", "scored", "running", "assembled", "committing", "journalled", "shown")
BLOWS = 5
"""So many fall on one job. One that was committing is struck once more, as it is taken up again."""
MODES = ("error", "overwrite", "error", "append")


@dataclass(frozen=True, kw_only=True)
class Blow:
    """What is killed, and when."""

    target: str
    seed: int
    point: Point


def choose(target: str, seed: int) -> Blow:
    """An instant soon after something is seen of the job, so that a slow machine hits it as well."""
    rng = random.Random(f"{target} {seed}")
    phases = PHASES[target]
    phase = phases[seed % len(phases)]
    if phase == "running":
        point = Point(phase=phase, chunks_done=rng.randrange(24), delay=rng.uniform(0, 0.03))
    else:
        seen, longest = rng.choice(list(SEEN[phase].items()))
        point = Point(phase=seen, delay=rng.uniform(0, longest))
    return Blow(target=target, seed=seed, point=point)


def lives(seeds: int) -> list[list[Blow]]:
    """Each seed of each target, dealt out to jobs: early blows to some, in any order, and later ones to others."""
    every = [choose(target, seed) for seed in range(seeds) for target in PHASES]
    early = [blow for blow in every if blow.point.phase in EARLY]
    late = [blow for blow in every if blow.point.phase not in EARLY]
    return [*_dealt(early), *(sorted(blows, key=_place) for blows in _dealt(late))]


def _dealt(blows: Sequence[Blow]) -> Iterator[list[Blow]]:
    for first in range(0, len(blows), BLOWS):
        yield list(blows[first : first + BLOWS])


def _place(blow: Blow) -> tuple[int, int]:
    return ORDER.index(blow.point.phase), blow.point.chunks_done


LIVES = lives(SEEDS)


def test_every_target_meets_every_mode() -> None:
    """No seed is left out, and no target by an output that replaces or extends another."""
    every = [(blow.target, blow.seed, MODES[n % len(MODES)]) for n, life in enumerate(LIVES) for blow in life]
    assert sorted((target, seed) for target, seed, _ in every) == sorted(
        (target, seed) for target in PHASES for seed in range(SEEDS)
    )
    assert {(target, mode) for target, _, mode in every} == {(target, mode) for target in PHASES for mode in MODES}


@pytest.mark.parametrize("number", range(len(LIVES)))
def test_every_row_once_after_sigkills(number: int, job: CrashJob, older: CrashJob) -> None:
    """Killed, gone on with, killed again, to the end: each row once, nothing committed scored again."""
    mode, rng = MODES[number % len(MODES)], random.Random(f"life {number}")
    if LIVES[number][0].point.phase in EARLY:
        # It makes its store itself.
        job.database.unlink()
    if mode != "error":
        shutil.copytree(older.output.parent, job.output.parent, dirs_exist_ok=True)
    life = Life(job=job.but(mode=mode), suite="instants", before=() if mode == "error" else older.inputs)
    for blow in LIVES[number]:
        struck = life.strike(blow.target, blow.point, case=f"{blow.target}, {mode}", seed=blow.seed)
        if struck.hit and struck.look.state == "committing":
            point = Point(phase=rng.choice(("start", "again", "again")), delay=rng.uniform(0, 0.03))
            life.strike(rng.choice(("worker", "group")), point, case=f"recovery, {mode}", seed=blow.seed)
    life.finish(again=number < len(MODES))
