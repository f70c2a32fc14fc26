"""Nobody outlives the worker, whatever the model is doing."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.crash.rig import tree
from tests.crash.rig.job import CrashJob, start
from tests.crash.rig.strike import nobody_left

SEEDS = int(os.environ.get("TIDEMILL_CRASH_SEEDS", "20"))
KILLS = 5
"""So many seeds share a job, which never gets further: each kills the worker of the next run."""


@pytest.mark.parametrize("first", range(0, SEEDS, KILLS))
def test_no_descendant_lives_one_second_after_sigkill_while_a_model_spins_in_c(job: CrashJob, first: int) -> None:
    """The model sleeps in C for 10 minutes and holds the interpreter lock: no Python code of it can run."""
    job = job.but(inputs=job.inputs[:2], environment={"CRASH_SPIN": "600"}, scorers=1 + first // KILLS % 3)
    for run in range(KILLS):
        process = start(job, run)
        below = _spinning(job, process.pid, run)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        nobody_left(job, below)


def test_no_scorer_lives_one_second_after_the_zygote(job: CrashJob) -> None:
    """The zygote's children die with it; the worker may start another."""
    job = job.but(environment={"CRASH_SPIN": "600"})
    process = start(job)
    scorers = set(_spinning(job, process.pid, 0)) - {process.pid}
    zygote = tree.find(process.pid, "zygote")
    assert zygote is not None
    forked = [pid for pid in tree.children(zygote) if pid in scorers]
    assert forked
    os.kill(zygote, signal.SIGKILL)
    time.sleep(1)
    assert not [pid for pid in forked if tree.alive(pid)]
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=10)


def test_no_scorer_outlives_worker_and_zygote(job: CrashJob) -> None:
    """Both die at one instant, so nobody is left to kill the scorers: the kernel must."""
    job = job.but(environment={"CRASH_SPIN": "600"})
    process = start(job)
    below = _spinning(job, process.pid, 0)
    zygote = tree.find(process.pid, "zygote")
    assert zygote is not None
    scorers = [pid for pid in tree.children(zygote) if pid in below]
    assert scorers
    for pid in (process.pid, zygote):
        os.kill(pid, signal.SIGSTOP)
    for pid in (zygote, process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait(timeout=10)
    time.sleep(1)
    assert not [pid for pid in scorers if tree.alive(pid)]


def _spinning(job: CrashJob, worker: int, run: int) -> list[int]:
    """Wait until a scorer of that run is inside the model; every process below the worker."""
    stop = time.monotonic() + 60
    while not job.log(run).exists() and tree.alive(worker) and time.monotonic() < stop:
        time.sleep(0.01)
    time.sleep(0.2)
    below = tree.descendants(worker)
    assert job.log(run).exists() and len(below) >= 2, [tree.words(pid) for pid in below]
    return below
