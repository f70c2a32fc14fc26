"""SIGKILL at the durable system calls themselves: strace kills the process that enters the N-th one.

The worker's own thread, in a first run and in one that goes on; the planner and a scorer at what they write.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest

from tests.crash.rig import ledger, record, strace
from tests.crash.rig.gate import Gate
from tests.crash.rig.job import SUCCESS, CrashJob, ended, new_job, once, start
from tests.crash.rig.ledger import Look
from tests.crash.rig.strike import (
    Struck,
    check_visible,
    finish_and_check,
    judge,
    nobody_left,
    strike_between_commits,
    strike_call,
)

CALLS = (
    *("rename", "renameat2", "fsync", "fdatasync", "pwrite64", "unlink", "unlinkat", "mkdir", "link", "linkat"),
    *("write", "ftruncate", "rmdir", "openat"),
)
WRITES = ("openat", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "rename", "close")
"""What a child does with a file."""
ALL = os.environ.get("TIDEMILL_CRASH_ALL_POINTS") == "1"
SHARDS = 60 if ALL else 1
"""`make test` tries some points of each call, `make test-long` all of them."""
SHARDS_AGAIN = 30 if ALL else 1
"""Of runs that go on: three runs to a point, so fewer of them in `make test`."""
DONE = 8
"""So many of the 25 chunks are committed when a run goes on."""

Counted = Counter[str]


def points(calls: Counted) -> list[tuple[str, int]]:
    """Every (call, N), in a shuffled but fixed order. Of opening files only each 25th: most are imports."""
    every = [(call, n) for call in CALLS for n in range(1, calls[call] + 1, 25 if call == "openat" else 1)]
    random.Random("calls").shuffle(every)
    return every


def sample(calls: Counted) -> list[tuple[str, int]]:
    """Some of each call, spread over its range."""
    chosen = []
    for call in CALLS:
        total = calls[call]
        wanted = min(total, 3 if call in ("rename", "renameat2", "fsync", "pwrite64") else 1)
        chosen += [(call, 1 + (2 * i + 1) * total // (2 * wanted)) for i in range(wanted)]
    return chosen


def spread(points: Sequence[tuple[str, int]], wanted: int) -> list[tuple[str, int]]:
    """So many of them, evenly."""
    return [points[(2 * i + 1) * len(points) // (2 * wanted)] for i in range(wanted)]


def in_the_middle(points: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """One point of each kind of call that makes a file what it is to be."""
    kinds = [[point for point in points if point[0] == call] for call in ("write", "fsync", "rename")]
    return [kind[len(kind) // 2] for kind in kinds if kind]


def _counted(job: CrashJob, run: int) -> Counted:
    """The calls of an undisturbed run."""
    log = job.logs / "counted.strace"
    ran = once(job, run, prefix=strace.prefix(log, CALLS))
    assert ran.code in SUCCESS, ran
    return Counter(made.call for made in strace.read(log))


@pytest.fixture(scope="session")
def calls(tmp_path_factory: pytest.TempPathFactory, inputs: tuple[Path, ...]) -> Counted:
    """The calls of an undisturbed job."""
    counted = _counted(new_job(tmp_path_factory.mktemp("traced"), inputs, sleep=0.0), 0)
    assert counted["renameat2"] >= 1 and counted["fsync"] + counted["fdatasync"] >= 10, counted
    return counted


@pytest.fixture(scope="session")
def calls_again(tmp_path_factory: pytest.TempPathFactory, inputs: tuple[Path, ...]) -> Counted:
    """The calls of a run that goes on with what a dead one left."""
    job = new_job(tmp_path_factory.mktemp("traced-again"), inputs, sleep=0.0, scorers=1)
    assert strike_between_commits(job, 0, DONE).hit
    counted = _counted(job, 1)
    assert counted["renameat2"] >= 1 and counted["fsync"] + counted["fdatasync"] >= 5, counted
    return counted


@pytest.mark.timeout(900)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_killed_at_durable_calls(shard: int, calls: Counted, inputs: tuple[Path, ...], tmp_path: Path) -> None:
    """At each point: killed there, nothing half visible, the same command ends with each row once."""
    chosen = (points(calls) if ALL else sample(calls))[shard::SHARDS]
    jobs = ((new_job(tmp_path / f"{call}-{n}", inputs, sleep=0.0), call, n) for call, n in chosen)
    hit = sum(_struck_once(job, call, n) for job, call, n in jobs)
    assert hit >= record.LEAST_HIT * len(chosen), f"{hit} of {chosen} were reached"


def _struck_once(job: CrashJob, call: str, n: int) -> bool:
    blow = strike_call(job, 0, call, n)
    _went_on(job, [blow], call, n)
    return blow.hit


@pytest.mark.timeout(900)
@pytest.mark.parametrize("shard", range(SHARDS_AGAIN))
def test_a_run_that_goes_on_is_killed_at_durable_calls(
    shard: int, calls_again: Counted, inputs: tuple[Path, ...], tmp_path: Path
) -> None:
    """The first run died with some chunks committed; the second dies at each point; nothing committed is lost."""
    every = points(calls_again)
    chosen = (every if ALL else spread(every, 2))[shard::SHARDS_AGAIN]
    hit = 0
    for call, n in chosen:
        job = new_job(tmp_path / f"{call}-{n}", inputs, sleep=0.0, scorers=1)
        blows = [strike_between_commits(job, 0, DONE), strike_call(job, 1, call, n)]
        assert blows[0].hit and blows[0].look.committed <= blows[1].look.committed, blows
        _went_on(job, blows, f"{call} again", n)
        hit += blows[1].hit
    assert hit >= record.LEAST_HIT * len(chosen), f"{hit} of {chosen} were reached"


def _went_on(job: CrashJob, blows: list[Struck], case: str, n: int) -> None:
    """Nothing half visible after the last blow; the same command ends the job and scores nothing twice."""
    last = blows[-1]
    try:
        check_visible(job, last.look.state, ())
        runs = finish_and_check(job, len(blows)) if last.ran.code not in SUCCESS else len(blows)
        judge(job, blows, case, n, runs, suite="calls")
    except AssertionError as problem:
        raise AssertionError(f"killed at {last.point} while {last.look.state}: {problem}") from problem


@pytest.mark.timeout(3000 if ALL else 300)
@pytest.mark.parametrize("role", ["planner", "scorer"])
def test_a_child_is_killed_at_its_writes(role: str, inputs: tuple[Path, ...], tmp_path: Path) -> None:
    """The planner at each call of the plan's files, a scorer at each of its parts': opened, written, synced, closed.

    No row of what it left half is counted or seen, and no chunk that it had finished is scored again. A scorer's
    death does not end the run.
    """
    _, log = _with_child_watched(new_job(tmp_path / "clean", inputs[:2], sleep=0.0, scorers=1), role)
    every = sorted({(made.call, made.n) for made in strace.read(log)})
    assert {"openat", "write", "fsync", "close"} <= {call for call, _ in every}, every
    chosen = every if ALL else in_the_middle(every)
    for call, n in chosen:
        job = new_job(tmp_path / f"{call}-{n}", inputs[:2], sleep=0.0, scorers=1)
        blow, log = _with_child_watched(job, role, f"{call}:signal=KILL:when={n}")
        assert strace.killed(log), f"{call} {n} was not reached: {every}"
        assert role == "planner" or blow.ran.code in SUCCESS, blow
        _went_on(job, [blow], f"{role} {call}", n)


def _with_child_watched(job: CrashJob, role: str, *inject: str) -> tuple[Struck, Path]:
    """Run the command with strace at its planner or its scorer from the moment that it makes the model."""
    gate, log = Gate(job.logs / "gate"), job.logs / "child.strace"
    process = start(gate.before(job))
    pid = gate.next(lambda: process.poll() is None)
    if role == "scorer":
        gate.let_in(pid)
        pid = gate.next(lambda: process.poll() is None)
    found = ledger.look(job.database)
    assert found.state == {"planner": "planning", "scorer": "running"}[role], found
    with strace.attached(pid, log, _written_by(role, job, pid), WRITES, *inject) as tracer:
        gate.open()
        ran = ended(job, 0, process)
        tracer.wait(timeout=60)
    nobody_left(job)
    done = _finished_by(job, pid)
    look = Look(state=found.state, job_id=found.job_id, epoch=found.epoch, chunks_done=len(done), committed=done)
    point = " ".join(inject)
    hit = strace.killed(log)
    return Struck(target=role, point=point, look=look, hit=hit, run=0, log_bytes=_log_of(job, pid), ran=ran), log


def _written_by(role: str, job: CrashJob, pid: int) -> list[Path]:
    """The files that a child may write, and their folder."""
    staging = ledger.staging(job.database, ledger.look(job.database).job_id)
    if role == "planner":
        names = ("files.arrow", "chunks.arrow", "plan.json", f".plan.json.{pid}.tmp")
        return [staging / "plan", *(staging / "plan" / name for name in names)]
    chunks, kinds = range(20), ("predictions", "rejected")
    names = tuple(f"{chunk:07d}.e1-{chunk + 1}.{kind}.parquet" for chunk, kind in product(chunks, kinds))
    return [staging / "parts", *(staging / "parts" / name for name in names)]


def _finished_by(job: CrashJob, scorer: int) -> frozenset[int]:
    """Chunks that a scorer had finished: their receipts name the attempt that the first scorer was given."""
    job_id = ledger.look(job.database).job_id
    receipts = ledger.receipts(job.database, job_id)
    return frozenset(chunk for chunk, text in receipts.items() if json.loads(text)["attempt"] == f"e1-{chunk + 1}")


def _log_of(job: CrashJob, pid: int) -> int:
    """The length of the log of predict calls up to the last one of this process."""
    text = job.log(0).read_bytes() if job.log(0).exists() else b""
    last = text.rfind(b"\n%d " % pid) + 1
    return text.index(b"\n", last) + 1 if text else 0
