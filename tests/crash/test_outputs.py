"""Whose output is it? Two at once, something else, the first one still at work."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import checker
from tests.crash.rig import tree
from tests.crash.rig.gate import Gate
from tests.crash.rig.job import SUCCESS, CrashJob, Ran, ended, new_job, once, start
from tests.crash.rig.ledger import Window
from tests.crash.rig.life import Life
from tests.crash.rig.strike import Point, check

SEEDS = int(os.environ.get("TIDEMILL_CRASH_SEEDS", "20"))
RACES = 5
"""So many seeds share a pair of homes."""


@pytest.mark.parametrize("first", range(0, SEEDS, RACES))
def test_two_homes_one_output(first: int, tmp_path: Path, inputs: tuple[Path, ...], store: Path) -> None:
    """Started at once from two homes: one ends the job, the other is refused and says who holds it."""
    job, rival = (new_job(tmp_path / name, inputs[:1], store=store, scorers=1, sleep=0.0) for name in ("one", "two"))
    rival = rival.but(mark=job.mark)
    try:
        for seed in range(first, first + RACES):
            output = tmp_path / f"place-{seed}" / "scores"
            pair = (job.but(output=output), rival.but(output=output))
            _race(pair if seed % 2 else pair[::-1], seed, Gate(tmp_path / f"gate-{seed}"))
    finally:
        tree.end_all(job.mark)


def _race(pair: tuple[CrashJob, ...], seed: int, gate: Gate) -> None:
    """The winner waits with its work until the other was refused."""
    processes = [start(gate.before(one), seed) for one in pair]
    while all(process.poll() is None for process in processes):
        time.sleep(0.01)
    gate.open()
    ran = [ended(one, seed, process) for one, process in zip(pair, processes, strict=True)]
    loser, winner = (0, 1) if ran[0].code == 2 else (1, 0)
    assert ran[winner].code in SUCCESS and ran[loser].code == 2, (seed, ran)
    assert str(processes[winner].pid) in ran[loser].stderr, (seed, ran[loser])
    check(pair[winner])


def _other_model(job: CrashJob) -> CrashJob:
    return job.but(model="keymodel:OtherModel")


def _other_input(job: CrashJob) -> CrashJob:
    return job.but(inputs=job.inputs[:-1])


def _touched_input(job: CrashJob) -> CrashJob:
    name = job.logs / job.inputs[0].name
    shutil.copyfile(job.inputs[0], name)
    return job.but(inputs=(name, *job.inputs[1:]))


def _other_spec(job: CrashJob) -> CrashJob:
    return job.but(rows_per_chunk=900)


CHANGES: tuple[tuple[Callable[[CrashJob], CrashJob], str], ...] = (
    (_other_model, "model"),
    (_other_input, "input"),
    (_touched_input, "input"),
    (_other_spec, "rows_per_chunk"),
)


def test_changed_jobs_are_refused_with_the_difference(job: CrashJob) -> None:
    """Over an unfinished job and over a finished one; the first goes on as if nothing had been."""
    life = Life(job=job, suite="outputs")
    assert life.strike("worker", Point(phase="running", chunks_done=5, delay=0), case="other commands").hit
    for change, word in CHANGES:
        _check_refused(life.once_as(change(job)), word)
    life.finish()
    done = check(job)
    for change, word in CHANGES:
        _check_refused(life.once_as(change(job)), word)
    assert check(job) == done


def _check_refused(ran: Ran, word: str) -> None:
    """It says what differs."""
    assert ran.code == 2, ran
    _, differs, difference = " ".join(ran.stderr.split()).partition("this command differs:")
    assert differs and word in difference.replace("-", "_"), ran


def test_restart_discards_the_unfinished_job(job: CrashJob) -> None:
    """With --restart the other spec wins and nothing of the first stays."""
    life = Life(job=job, suite="outputs")
    assert life.strike("worker", Point(phase="running", chunks_done=5, delay=0), case="restarted").hit
    other = _other_spec(job)
    ran = life.once_as(other, extra=("--restart",))
    assert ran.code in SUCCESS, ran
    checker.check(other.inputs, other.output)


def test_a_live_job_is_not_taken_over(job: CrashJob) -> None:
    """The same command while the first runs, same home: refused, naming the process."""
    slow = job.but(sleep=0.2)
    first = start(slow, 0)
    with Window(job.database) as window:
        window.wait("running", running=lambda: first.poll() is None, chunks_done=1)
    second = once(slow, 1)
    assert second.code == 2, second
    assert str(first.pid) in second.stderr, second
    assert ended(slow, 0, first).code in SUCCESS
    check(job)


def test_an_interrupted_run_keeps_what_is_done(job: CrashJob) -> None:
    """Ctrl-C once: in-flight chunks are kept, exit 130, the same command ends the job, and then has nothing to do."""
    life = Life(job=job.but(sleep=0.05), suite="outputs")
    with Window(job.database) as window:
        assert life.reach(window, "worker", Point(phase="running", chunks_done=3, delay=0))
    assert life.process is not None
    os.kill(life.process.pid, signal.SIGINT)
    assert life.end() == 130
    checker.check_nothing_visible(job.output)
    assert not tree.marked(job.mark)
    life.finish(again=True)
