"""A worker that is frozen longer than its lease changes nothing when it thaws."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import time

import pytest

from tests import checker
from tests.crash.rig import ledger, record, tree
from tests.crash.rig.job import SUCCESS, CrashJob, ended, start
from tests.crash.rig.ledger import Look, Window
from tests.crash.rig.strike import check, finish_and_check

SEEDS = int(os.environ.get("TIDEMILL_CRASH_SEEDS", "20"))
SHORT = {"TIDEMILL_LEASE_SECONDS": "1", "TIDEMILL_HEARTBEAT_SECONDS": "0.2"}
LONG = {"TIDEMILL_LEASE_SECONDS": "600", "TIDEMILL_HEARTBEAT_SECONDS": "0.2"}
PHASES = ("running", "committing", "running")


def _freeze(job: CrashJob, phase: str, rng: random.Random) -> tuple[subprocess.Popen[str], Look]:
    """Start the job and stop its worker in that phase."""
    process = start(job, 0)
    chunks = rng.randrange(1, 20) if phase == "running" else 0
    with Window(job.database) as window:
        window.wait(phase, running=lambda: process.poll() is None, chunks_done=chunks)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(process.pid, signal.SIGSTOP)
        return process, window.look(chunks=True)


@pytest.mark.parametrize("seed", range(0, SEEDS, 2))
def test_another_run_meets_a_frozen_worker(seed: int, job: CrashJob) -> None:
    """Its lease is over: the same command takes over or is refused naming it; in the end each row is there once."""
    rng = random.Random(f"meet {seed}")
    job = job.but(environment=SHORT)
    first, frozen = _freeze(job, PHASES[seed // 2 % 3], rng)
    time.sleep(1.2)
    second = start(job, 1)
    others = ended(job, 1, second)
    if others.code not in SUCCESS:
        assert others.code == 2, others
        assert str(first.pid) in others.stderr, others
    os.kill(first.pid, signal.SIGCONT)
    thawed = ended(job, 0, first)
    runs = 2 if {thawed.code, others.code} & set(SUCCESS) else finish_and_check(job, 2)
    check(job)
    assert not tree.marked(job.mark)
    _write(seed, "another run", frozen, runs)


@pytest.mark.parametrize("seed", range(1, SEEDS, 2))
def test_a_worker_that_lost_its_job_changes_nothing(seed: int, job: CrashJob) -> None:
    """While it is frozen somebody takes its job: no row, no counter, no output of its own after that.

    By its own clock its lease still holds when it thaws, so that nothing but the fence can stop it.
    """
    rng = random.Random(f"thief {seed}")
    job = job.but(environment=LONG)
    first, frozen = _freeze(job, PHASES[seed // 2 % 3], rng)
    taken = steal(job, first.pid)
    before = _stored(job)
    shown = job.output.exists()
    os.kill(first.pid, signal.SIGCONT)
    thawed = ended(job, 0, first)
    assert not tree.marked(job.mark)
    if taken:
        assert thawed.code == 1, thawed
        assert _stored(job) == before, "the one that lost the job changed the store"
        if taken.state == "running" and not shown:
            checker.check_nothing_visible(job.output)
    runs = finish_and_check(job, 1)
    _write(seed, "job taken", taken or frozen, runs)


def steal(job: CrashJob, holder: int) -> Look | None:
    """Take the job as a worker of another machine would: a new epoch and token, in one transaction.

    A holder that was frozen inside a transaction of its own gets a moment to end it. None if the job
    is over; else how it stood.
    """
    for _ in range(50):
        seen = ledger.look(job.database)
        if not seen.live:
            return None
        try:
            if _take(job, seen):
                return seen
        except sqlite3.OperationalError:
            os.kill(holder, signal.SIGCONT)
            time.sleep(0.003)
            os.kill(holder, signal.SIGSTOP)
    raise AssertionError("the store stays locked")


def _take(job: CrashJob, seen: Look) -> bool:
    with sqlite3.connect(job.database, timeout=0.2) as db:
        taken = db.execute(
            "UPDATE jobs SET epoch = epoch + 1, token = 'stolen', worker_id = 'worker_thief',"
            " lease_until_ms = lease_until_ms + 600000 WHERE id = ? AND state = ? AND epoch = ?",
            (seen.job_id, seen.state, seen.epoch),
        )
        return taken.rowcount == 1


def _stored(job: CrashJob) -> list[object]:
    """Everything the store knows of jobs and chunks."""
    with sqlite3.connect(f"file:{job.database}?mode=ro", uri=True) as db:
        return [
            db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in ("jobs", "chunks", "documents")
        ]


def _write(seed: int, case: str, frozen: Look, runs: int) -> None:
    record.write(
        record.Kill(
            suite="freeze",
            case=case,
            seed=seed,
            point=PHASES[seed // 2 % 3],
            target="worker",
            state=frozen.state,
            hit=frozen.live,
            chunks_total=frozen.chunks_total,
            chunks_done=len(frozen.committed),
            runs=runs,
        )
    )


def test_the_thief_is_seen_by_this_file(job: CrashJob) -> None:
    """The instrument works: after `steal` the epoch is another."""
    first, frozen = _freeze(job, "running", random.Random(1))
    try:
        assert frozen.live
        taken = steal(job, first.pid)
        assert taken
        assert ledger.look(job.database).epoch == taken.epoch + 1
    finally:
        first.kill()
        first.wait(timeout=10)
