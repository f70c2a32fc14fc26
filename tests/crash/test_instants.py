"""SIGKILL at seeded instants of a job's life, then the same command until it is done."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from tests.crash.rig import tree
from tests.crash.rig.job import CrashJob, new_job, once, write_inputs
from tests.crash.rig.strike import Point, check_visible, finish_and_check, judge, strike

SEEDS = int(os.environ.get("TIDEMILL_CRASH_SEEDS", "20"))
PHASES = {
    "worker": ("start", "running", "committing", "planning", "running"),
    "group": ("running", "start", "planning", "committing", "running"),
    "scorer": ("running",),
    "zygote": ("running", "planning", "running"),
    "planner": ("planning",),
}
SEEN = {
    "start": {"start": 0.05, "store": 0.05, "claim": 0.05, "planned": 0.05, "scored": 0.05, "assembled": 0.003},
    "planning": {"planning": 0.05, "listed": 0.003},
    "committing": {"committing": 0.003, "journalled": 0.003, "shown": 0.003},
}
"""What of a phase is waited for, and how long after that it goes on for certain, in seconds."""
EARLY_AGAIN = ("start", "again", "again")
MODES = ("error", "error", "overwrite", "append")
"""Outputs that replace or extend another are tried for whoever publishes."""


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> CrashJob:
    """A finished job of another input, whose output others overwrite or extend."""
    folder = tmp_path_factory.mktemp("older")
    job = new_job(folder, write_inputs(folder / "in", rows=(3000, 1500), first=70), sleep=0.0)
    ran = once(job)
    assert ran.code in (0, 3), ran
    return job


def choose(target: str, seed: int, rng: random.Random, *, recovery: bool = False) -> Point:
    """The instant of a blow: soon after something is seen of the job, so that a slow machine hits it as well.

    A recovery of a job that had got to committing is over soon: half of them early.
    """
    phases = PHASES[target]
    phase = phases[seed % len(phases)]
    if recovery and seed % 2:
        return Point(phase=rng.choice(EARLY_AGAIN), delay=rng.uniform(0, 0.03))
    if phase == "running":
        return Point(phase=phase, chunks_done=rng.randrange(24), delay=rng.uniform(0, 0.03))
    seen, longest = rng.choice(list(SEEN[phase].items()))
    return Point(phase=seen, delay=rng.uniform(0, longest))


def replaced(job: CrashJob, older: CrashJob, target: str, seed: int) -> tuple[CrashJob, tuple[Path, ...]]:
    """The job with a mode by seed, and the inputs whose predictions lie at its output already."""
    mode = MODES[(seed // len(PHASES[target])) % len(MODES)] if target in ("worker", "group") else "error"
    if mode == "error":
        return job, ()
    shutil.copytree(older.output.parent, job.output.parent, dirs_exist_ok=True)
    return job.but(mode=mode), older.inputs


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("target", PHASES)
def test_every_row_once_after_sigkill(target: str, seed: int, job: CrashJob, older: CrashJob) -> None:
    """Kill, sometimes kill the recovery too, go on: each row once, nothing committed scored again."""
    rng = random.Random(f"{target} {seed}")
    job, before = replaced(job, older, target, seed)
    blows = [strike(job, 0, target, choose(target, seed, rng))]
    check_visible(job, blows[0].look.state if blows[0].ran.code not in (0, 3) else "succeeded", before)
    if seed % 3 == 0 and blows[0].ran.code not in (0, 3):
        second = rng.choice(("worker", "group"))
        blows.append(strike(job, 1, second, choose(second, seed // 3, rng, recovery=True)))
        check_visible(job, blows[1].look.state if blows[1].ran.code not in (0, 3) else "succeeded", before)
    runs = finish_and_check(job, len(blows), before=before, again=seed % 4 == 1)
    assert not tree.marked(job.mark)
    judge(job, blows, target, seed, runs)
