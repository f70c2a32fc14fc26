"""A worker that is frozen longer than its lease changes nothing when it thaws.

Only workers that are to be frozen have a short lease: others would lose theirs on a busy machine.
"""

from __future__ import annotations

import fcntl
import os
import random
import re
import signal
import sqlite3
import subprocess
import time

import pytest

from tests import checker
from tests.crash.rig import ledger, tree
from tests.crash.rig.job import SUCCESS, CrashJob, ended
from tests.crash.rig.ledger import Look
from tests.crash.rig.life import Life, stopping
from tests.crash.rig.strike import Point, Struck, log_bytes

SEEDS = int(os.environ.get("TIDEMILL_CRASH_SEEDS", "20"))
SHORT = {"TIDEMILL_LEASE_SECONDS": "3", "TIDEMILL_HEARTBEAT_SECONDS": "0.3"}
LONG = {"TIDEMILL_LEASE_SECONDS": "600", "TIDEMILL_HEARTBEAT_SECONDS": "0.2"}
MOMENTS = 4
"""So many seeds share a job: three while it is running, each further on, and one while it is committing."""


def moments(name: str, first: int) -> list[tuple[int, Point]]:
    """When each of the seeds from the first one on freezes its worker."""
    rng = random.Random(f"{name} {first}")
    chunks = sorted(rng.sample(range(1, 20), MOMENTS - 1))
    points = [Point(phase="running", chunks_done=each, delay=rng.uniform(0, 0.02)) for each in chunks]
    points.append(Point(phase="committing", delay=rng.uniform(0, 0.02)))
    return list(enumerate(points, start=first))


def _outlast_lease(job: CrashJob) -> None:
    """Wait until the lease is over that the store holds."""
    with sqlite3.connect(f"file:{job.database}?mode=ro", uri=True) as db:
        (until_ms,) = db.execute("SELECT max(lease_until_ms) FROM jobs").fetchone()
    time.sleep(max(0.0, (until_ms or 0) / 1000 - time.time()) + 0.05)


@pytest.mark.parametrize("first", range(0, SEEDS, MOMENTS))
def test_other_runs_meet_a_frozen_worker(first: int, job: CrashJob) -> None:
    """Its lease is over: the same command takes over or is refused naming it; when it thaws it goes on, or gives up.
    In the end each row is there once."""
    life = Life(job=job.but(environment=SHORT), suite="freeze")
    for seed, point in moments("meet", first):
        process = life.freeze(point, case="another run", seed=seed)
        _outlast_lease(job)
        with life.telling():
            other = life.once_as(job)
            if other.code not in SUCCESS:
                assert other.code == 2, other
                assert str(process.pid) in other.stderr, other
        process.send_signal(signal.SIGCONT)
        life.process = process
        if other.code in SUCCESS:
            life.end()
            life.over = True
            break
    life.job = job
    life.finish()


@pytest.mark.parametrize("first", range(0, SEEDS, MOMENTS))
def test_workers_that_lost_their_job_change_nothing(first: int, job: CrashJob) -> None:
    """While each is frozen somebody takes its job: no row, no counter, no output of its own after that.

    By its own clock its lease still holds when it thaws, so that nothing but the fence can stop it.
    """
    life = Life(job=job.but(environment=LONG), suite="freeze")
    for seed, point in moments("thief", first):
        process = life.freeze(point, case="job taken", seed=seed)
        with life.telling():
            life.over = not _robbed(life, process)
        if life.over:
            break
    life.job = job
    life.finish()


def _robbed(life: Life, process: subprocess.Popen[str]) -> bool:
    """Take the job of a frozen worker and let it go on. False if the job was over."""
    job = life.job
    taken = steal(job, process.pid)
    before = _stored(job)
    shown = job.output.exists()
    process.send_signal(signal.SIGCONT)
    thawed = ended(job, life.number, process)
    assert not tree.marked(job.mark)
    if taken is None:
        return thawed.code not in SUCCESS
    assert ledger.look(job.database).epoch == taken.epoch + 1
    assert thawed.code == 1, thawed
    assert _stored(job) == before, "the one that lost the job changed the store"
    if taken.state == "running" and not shown:
        checker.check_nothing_visible(job.output)
    return True


PLACES = {
    "checked": ("rename", re.compile(r"rename\(.*/journal\.json\"\)")),
    "data in place": ("renameat2", re.compile(r"renameat2\(.*/out/data\".*/scores\"")),
}
"""After these calls a worker stops: it has seen that the job is its own and written down what it is about to
rename, and nothing is renamed; or the data is, and the manifest is not."""


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_frozen_between_check_and_rename(place: str, taken: bool, job: CrashJob) -> None:
    """It holds the output's lock and stands between its look at the lease and a rename, longer than the lease.

    Whoever comes meanwhile is refused. Then its job may be taken: when it thaws it does make the rename, because
    nobody else can have published under its lock, but it has no say any more; its successor finds the output
    complete and publishes nothing. The places are certain, so seeds would only repeat them.
    """
    job = job.but(inputs=job.inputs[:2], sleep=0.0)
    life = Life(job=job, suite="freeze", runs=1)
    call, made = PLACES[place]
    stops = stopping(job.but(environment=SHORT), 0, call)
    assert stops.wait_for(made), "it ended before it came to the place"
    worker, look = stops.worker, ledger.look(job.database)
    assert look.state == "committing"
    assert _standing(job) == place
    _outlast_lease(job)
    refused = life.run()
    assert refused.code == 2 and str(worker) in refused.stderr, refused
    # A heartbeat that was frozen while it wrote keeps the store locked: then nobody can take the job.
    stolen = taken and _take_if_free(job, look)
    case = "job taken" if stolen else "another run"
    life.note(
        Struck(
            case=f"{case}, {place}",
            seed=0,
            target="worker",
            point=place,
            look=look,
            hit=look.live,
            run=0,
            log_bytes=log_bytes(job, 0),
        )
    )
    before = _stored(job)
    assert _standing(job) == place
    stops.go_on_to_the_end()
    thawed = ended(job, 0, stops.tracer)
    assert not tree.marked(job.mark)
    if stolen:
        assert thawed.code == 1, thawed
        assert _stored(job) == before, "the one that lost the job changed the store"
    shown = _inodes(job)
    life.over = thawed.code in SUCCESS
    life.finish()
    assert _inodes(job) == shown, "it was published twice"


def _standing(job: CrashJob) -> str:
    """Where in publishing a worker stands, by what lies there; its lock is held."""
    assert list(job.output.parent.glob(".scores.tidemill/*/journal.json"))
    assert not checker.manifest_path(job.output).exists()
    with (job.output.parent / ".scores.tidemill.lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return "data in place" if job.output.exists() else "checked"


def _inodes(job: CrashJob) -> list[int]:
    return [path.stat().st_ino for path in (job.output, checker.manifest_path(job.output))]


def _take_if_free(job: CrashJob, seen: Look) -> bool:
    try:
        return _take(job, seen)
    except sqlite3.OperationalError:
        return False


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
