"""A worker that is frozen longer than its lease changes nothing when it thaws.

Two tests share the seeds, half for each: their cases last longest, because leases must run out. Only the worker
that is frozen has a short lease: others would lose theirs on a busy machine.
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
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import checker
from tests.crash.rig import ledger, strace, tree
from tests.crash.rig.job import SUCCESS, CrashJob, Ran, ended, new_job, once, start
from tests.crash.rig.ledger import Look, Window
from tests.crash.rig.strike import Struck, check, finish_and_check, judge, log_bytes, stopping

SEEDS = int(os.environ.get("TIDEMILL_CRASH_SEEDS", "20"))
SHORT = {"TIDEMILL_LEASE_SECONDS": "1", "TIDEMILL_HEARTBEAT_SECONDS": "0.2"}
BRIEF = {"TIDEMILL_LEASE_SECONDS": "3", "TIDEMILL_HEARTBEAT_SECONDS": "0.3"}
"""Of a run that has a way to go before it is stopped."""
LONG = {"TIDEMILL_LEASE_SECONDS": "600", "TIDEMILL_HEARTBEAT_SECONDS": "0.2"}
PHASES = ("running", "committing", "running")


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A worker that is stopped."""

    pid: int
    point: str
    look: Look
    log_bytes: int

    def thawed(self, ran: Ran) -> Struck:
        """What is known of it in the end."""
        return Struck(
            target="worker",
            point=self.point,
            look=self.look,
            hit=self.look.live,
            run=0,
            log_bytes=self.log_bytes,
            ran=ran,
        )


def _frozen(job: CrashJob, pid: int, point: str) -> Frozen:
    return Frozen(pid=pid, point=point, look=ledger.look(job.database), log_bytes=log_bytes(job, 0))


def _freeze(job: CrashJob, phase: str, rng: random.Random) -> tuple[subprocess.Popen[str], Frozen]:
    """Start the job and stop its worker in that phase."""
    process = start(job, 0)
    chunks = rng.randrange(1, 20) if phase == "running" else 0
    with Window(job.database) as window:
        window.wait(phase, running=lambda: process.poll() is None, chunks_done=chunks)
    time.sleep(rng.uniform(0, 0.02))
    os.kill(process.pid, signal.SIGSTOP)
    return process, _frozen(job, process.pid, phase)


def _outlast_lease(job: CrashJob) -> None:
    """Wait until the lease is over that the store holds."""
    with sqlite3.connect(f"file:{job.database}?mode=ro", uri=True) as db:
        (until_ms,) = db.execute("SELECT max(lease_until_ms) FROM jobs").fetchone()
    time.sleep(max(0.0, (until_ms or 0) / 1000 - time.time()) + 0.05)


@pytest.mark.parametrize("seed", range(0, SEEDS, 2))
def test_another_run_meets_a_frozen_worker(seed: int, job: CrashJob) -> None:
    """Its lease is over: the same command takes over or is refused naming it; in the end each row is there once."""
    first, frozen = _freeze(job.but(environment=SHORT), PHASES[seed // 2 % 3], random.Random(f"meet {seed}"))
    _outlast_lease(job)
    others = once(job, 1)
    if others.code not in SUCCESS:
        assert others.code == 2, others
        assert str(first.pid) in others.stderr, others
    os.kill(first.pid, signal.SIGCONT)
    thawed = ended(job, 0, first)
    runs = 2 if {thawed.code, others.code} & set(SUCCESS) else finish_and_check(job, 2)
    check(job)
    assert not tree.marked(job.mark)
    judge(job, [frozen.thawed(thawed)], "another run", seed, runs, suite="freeze")


@pytest.mark.parametrize("seed", range(1, SEEDS, 2))
def test_a_worker_that_lost_its_job_changes_nothing(seed: int, job: CrashJob) -> None:
    """While it is frozen somebody takes its job: no row, no counter, no output of its own after that.

    By its own clock its lease still holds when it thaws, so that nothing but the fence can stop it.
    """
    job = job.but(environment=LONG)
    first, frozen = _freeze(job, PHASES[seed // 2 % 3], random.Random(f"thief {seed}"))
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
    judge(job, [frozen.thawed(thawed)], "job taken", seed, runs, suite="freeze")


PLACES = {
    "checked": ("rename", re.compile(r"rename\(.*/journal\.json\"\)")),
    "data in place": ("renameat2", re.compile(r"renameat2\(.*/out/data\".*/scores\"")),
}
"""After these calls a worker stops: it has seen that the job is its own and written down what it is about to
rename, and nothing is renamed; or the data is, and the manifest is not."""


@pytest.fixture(scope="session")
def numbers(tmp_path_factory: pytest.TempPathFactory, inputs: tuple[Path, ...]) -> dict[str, int]:
    """Which of a job's calls those are."""
    job = new_job(tmp_path_factory.mktemp("traced"), inputs[:2], sleep=0.0)
    log = job.logs / "clean.strace"
    assert once(job, prefix=strace.prefix(log, [call for call, _ in PLACES.values()])).code in SUCCESS
    made = list(strace.read(log))
    return {place: next(each.n for each in made if text.search(each.text)) for place, (_, text) in PLACES.items()}


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_frozen_between_check_and_rename(place: str, taken: bool, numbers: dict[str, int], job: CrashJob) -> None:
    """It holds the output's lock and stands between its look at the lease and a rename, longer than the lease.

    Whoever comes meanwhile is refused. Then its job may be taken: when it thaws it does make the rename, because
    nobody else can have published under its lock, but it has no say any more; its successor finds the output
    complete and publishes nothing. The places are certain, so seeds would only repeat them.
    """
    job = job.but(inputs=job.inputs[:2], sleep=0.0)
    stops = stopping(job.but(environment=BRIEF), 0, PLACES[place][0], str(numbers[place]))
    assert stops.wait(), "it ended before it came to the place"
    frozen = _frozen(job, stops.worker, place)
    assert frozen.look.state == "committing"
    assert _standing(job) == place
    _outlast_lease(job)
    refused = once(job, 1)
    assert refused.code == 2 and str(frozen.pid) in refused.stderr, refused
    # A heartbeat that was frozen while it wrote keeps the store locked: then nobody can take the job.
    stolen = taken and _take_if_free(job, frozen.look)
    before = _stored(job)
    assert _standing(job) == place
    stops.go_on()
    thawed = ended(job, 0, stops.tracer)
    assert not tree.marked(job.mark)
    if stolen:
        assert thawed.code == 1, thawed
        assert _stored(job) == before, "the one that lost the job changed the store"
    shown = _inodes(job)
    runs = finish_and_check(job, 2, again=True)
    assert _inodes(job) == shown, "it was published twice"
    case = "job taken" if stolen else "another run"
    judge(job, [frozen.thawed(thawed)], f"{case}, {place}", 0, runs, suite="freeze")


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


def test_the_thief_is_seen_by_this_file(job: CrashJob) -> None:
    """The instrument works: after `steal` the epoch is another."""
    first, frozen = _freeze(job, "running", random.Random(1))
    try:
        assert frozen.look.live
        taken = steal(job, first.pid)
        assert taken
        assert ledger.look(job.database).epoch == taken.epoch + 1
    finally:
        first.kill()
        first.wait(timeout=10)
