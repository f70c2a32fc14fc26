"""Whose output is it? Two at once, the same again, something else."""

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
from tests.crash.rig.strike import Point, check, judge, strike

SEEDS = int(os.environ.get("TIDEMILL_CRASH_SEEDS", "20"))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_two_homes_one_output(seed: int, job: CrashJob, tmp_path: Path, inputs: tuple[Path, ...]) -> None:
    """Started at once from two homes: one ends the job, the other is refused and says who holds it.

    The winner waits with its work until the other was refused.
    """
    rival = new_job(tmp_path / "rival", inputs, output=job.output, mark=job.mark, scorers=1)
    pair = (job, rival) if seed % 2 else (rival, job)
    gate = Gate(tmp_path / "gate")
    processes = [start(gate.before(one)) for one in pair]
    while all(process.poll() is None for process in processes):
        time.sleep(0.01)
    gate.open()
    ran = [ended(one, 0, process) for one, process in zip(pair, processes, strict=True)]
    loser, winner = (0, 1) if ran[0].code == 2 else (1, 0)
    assert ran[winner].code in SUCCESS and ran[loser].code == 2, ran
    assert str(processes[winner].pid) in ran[loser].stderr, ran[loser]
    check(pair[winner])


def test_the_same_command_after_success_is_up_to_date(job: CrashJob) -> None:
    """It scores nothing, changes nothing and ends well."""
    assert once(job, 0).code in SUCCESS
    before = check(job)
    ran = once(job, 1)
    assert ran.code in SUCCESS, ran
    assert "up to date" in (ran.stdout + ran.stderr).lower(), ran
    assert not job.log(1).exists()
    assert check(job) == before


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


@pytest.mark.parametrize(("change", "word"), CHANGES)
def test_a_changed_job_is_refused_with_the_difference(
    change: Callable[[CrashJob], CrashJob], word: str, job: CrashJob
) -> None:
    """Over an unfinished job and over a finished one; the first goes on as if nothing had been."""
    blow = strike(job, 0, "worker", Point(phase="running", chunks_done=5, delay=0))
    assert blow.hit
    _check_refused(once(change(job), 1), word)
    assert once(job, 2).code in SUCCESS
    done = check(job)
    judge(job, [blow], f"another {word}", 0, 3, suite="outputs")
    _check_refused(once(change(job), 3), word)
    assert check(job) == done


def _check_refused(ran: Ran, word: str) -> None:
    """It says what differs."""
    assert ran.code == 2, ran
    _, differs, difference = " ".join(ran.stderr.split()).partition("this command differs:")
    assert differs and word in difference.replace("-", "_"), ran


def test_restart_discards_the_unfinished_job(job: CrashJob) -> None:
    """With --restart the other spec wins and nothing of the first stays."""
    assert strike(job, 0, "worker", Point(phase="running", chunks_done=5, delay=0)).hit
    other = _other_spec(job)
    ran = once(other, 1, extra=("--restart",))
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
    """Ctrl-C once: in-flight chunks are kept, exit 130, the same command ends the job."""
    first = start(job.but(sleep=0.05), 0)
    with Window(job.database) as window:
        window.wait("running", running=lambda: first.poll() is None, chunks_done=3)
    os.kill(first.pid, signal.SIGINT)
    ran = ended(job, 0, first)
    assert ran.code == 130, ran
    checker.check_nothing_visible(job.output)
    assert not tree.marked(job.mark)
    assert once(job, 1).code in SUCCESS
    check(job)
