"""SIGKILL at the durable system calls themselves: strace kills the process that enters the N-th one.

The worker's own thread, in a first run and in those that go on; the planner and a scorer at what they write.
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
from tests.crash.rig.job import SUCCESS, CrashJob, new_job, start
from tests.crash.rig.ledger import Look
from tests.crash.rig.life import Life
from tests.crash.rig.strike import Struck, log_bytes, nobody_left

CALLS = (
    *("rename", "renameat2", "fsync", "fdatasync", "pwrite64", "unlink", "unlinkat", "mkdir", "link", "linkat"),
    *("write", "ftruncate", "rmdir", "openat"),
)
WRITES = ("openat", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "rename", "close")
"""What a child does with a file."""
ALL = os.environ.get("TIDEMILL_CRASH_ALL_POINTS") == "1"
SHARDS = 60 if ALL else 6
"""`make test` tries some points of each call, `make test-long` all of them."""

Point = tuple[str, int]


def points(trace: Sequence[strace.Made]) -> list[Point]:
    """Every (call, N), in a shuffled but fixed order. Of opening files only each 25th: most are imports."""
    counts = Counter(made.call for made in trace)
    every = [(call, n) for call in CALLS for n in range(1, counts[call] + 1, 25 if call == "openat" else 1)]
    random.Random("calls").shuffle(every)
    return every


def sample(trace: Sequence[strace.Made]) -> list[Point]:
    """Some of each call, spread over its range, in the order in which they are made."""
    counts, chosen = Counter(made.call for made in trace), set()
    for call in CALLS:
        wanted = min(counts[call], 3 if call in ("rename", "renameat2", "fsync", "pwrite64") else 1)
        chosen |= {(call, 1 + (2 * i + 1) * counts[call] // (2 * wanted)) for i in range(wanted)}
    return [(made.call, made.n) for made in trace if (made.call, made.n) in chosen]


def lives(first: Sequence[strace.Made], again: Sequence[strace.Made]) -> list[list[Point]]:
    """At which points each job is struck, the first in a first run. In `make test` at an early one of those, then at
    one from the middle and at a late one of a run that goes on; in `make test-long` at each, two to a job."""
    if ALL:
        firsts, later = points(first), points(again)
        count = max(len(firsts), len(later))
        return [[firsts[i % len(firsts)], later[i % len(later)]] for i in range(count)]
    firsts, later = sample(first), sample(again)
    third = -(-len(later) // 3)
    return [[firsts[i], *later[third + i :: third]] for i in range(third)]


def in_the_middle(points: Sequence[Point]) -> list[Point]:
    """One point of each kind of call that makes a file what it is to be."""
    kinds = [[point for point in points if point[0] == call] for call in ("write", "fsync", "rename")]
    return [kind[len(kind) // 2] for kind in kinds if kind]


def _traced(life: Life) -> list[strace.Made]:
    """The calls of an undisturbed run."""
    log = life.job.logs / "calls.strace"
    ran = life.run(prefix=strace.prefix(log, CALLS))
    assert ran.code in SUCCESS, ran
    return list(strace.read(log))


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, inputs: tuple[Path, ...], store: Path) -> list[list[Point]]:
    """Where each job is struck, by the calls of an undisturbed job and of one that goes on."""
    first = Life(job=new_job(tmp_path_factory.mktemp("traced"), inputs, sleep=0.0), suite="calls")
    begun = new_job(tmp_path_factory.mktemp("again"), inputs, store=store, sleep=0.0, scorers=1)
    again = Life(job=begun, suite="calls")
    assert again.strike_commit(2, case="traced").hit
    return lives(_traced(first), _traced(again))


@pytest.mark.timeout(1500 if ALL else 300)
@pytest.mark.xdist_group("calls")
@pytest.mark.parametrize("shard", range(SHARDS))
def test_killed_at_durable_calls(
    shard: int, planned: list[list[Point]], inputs: tuple[Path, ...], tmp_path: Path
) -> None:
    """The first run dies at a point, those that go on do at others: nothing half visible, nothing committed lost, and
    the same command ends the job with each row once."""
    jobs, hits = planned[shard::SHARDS], []
    assert jobs
    for number, chosen in enumerate(jobs):
        life = Life(job=new_job(tmp_path / f"{number}", inputs, sleep=0.0), suite="calls")
        committed: frozenset[int] = frozenset()
        for call, n in chosen:
            if not life.over:
                blow = life.strike_call(call, n, case=f"{call}, again" if life.runs else call)
                assert blow.look.committed >= committed, life.blows
                committed = blow.look.committed
                hits.append(blow.hit)
        life.finish()
    # Of so few in `make test`, one may be missed; `judge.py` looks at all of them.
    assert sum(hits) >= min(len(hits) - 1, record.LEAST_HIT * len(hits)), f"{hits} of {jobs}"


@pytest.mark.timeout(3000 if ALL else 300)
def test_the_planner_is_killed_at_its_writes(inputs: tuple[Path, ...], tmp_path: Path, store: Path) -> None:
    """At each call of the plan's files: opened, written, synced, closed. Each time another plans anew."""

    def fresh(name: str) -> Life:
        job = new_job(tmp_path / name, inputs[:2], store=store, sleep=0.0, scorers=1)
        return Life(job=job, suite="calls")

    chosen = _child_points(fresh("clean"), "planner")
    for first in range(0, len(chosen), 5):
        life = fresh(f"{first}")
        for call, n in chosen[first : first + 5]:
            _kill_child(life, "planner", call, n)
        life.finish()


@pytest.mark.timeout(3000 if ALL else 300)
def test_a_scorer_is_killed_at_its_writes(inputs: tuple[Path, ...], tmp_path: Path, store: Path) -> None:
    """At each call of its parts' files. No row of what it left half is counted or seen, no chunk that it had finished
    is scored again, and the run goes on."""

    def fresh(name: str) -> Life:
        job = new_job(tmp_path / name, inputs[:2], store=store, sleep=0.0, scorers=1)
        return Life(job=job, suite="calls")

    for call, n in _child_points(fresh("clean"), "scorer"):
        life = fresh(f"{call}-{n}")
        _kill_child(life, "scorer", call, n)
        assert life.over, life.blows
        life.finish()


def _child_points(life: Life, role: str) -> list[Point]:
    log = _with_child_watched(life, role)
    every = sorted({(made.call, made.n) for made in strace.read(log)})
    assert {"openat", "write", "fsync", "close"} <= {call for call, _ in every}, every
    return every if ALL else in_the_middle(every)


def _kill_child(life: Life, role: str, call: str, n: int) -> None:
    log = _with_child_watched(life, role, call, n)
    assert strace.killed(log), f"{call} {n} of the {role} was not reached"


def _with_child_watched(life: Life, role: str, call: str = "", n: int = 0) -> Path:
    """Run the command with strace at its planner or its scorer from the moment that it makes the model, and kill that
    at its N-th such call, if one is named. Gives the log."""
    job, run = life.job, life.runs
    gate, log = Gate(job.logs / f"gate-{run}"), job.logs / f"child.{run}.strace"
    life.process, life.number, life.runs = start(gate.before(job), run), run, run + 1
    process = life.process
    pid = gate.next(lambda: process.poll() is None)
    if role == "scorer":
        gate.let_in(pid)
        pid = gate.next(lambda: process.poll() is None)
    found = ledger.look(job.database)
    assert found.state == {"planner": "planning", "scorer": "running"}[role], found
    inject = [f"{call}:signal=KILL:when={n}"] if call else []
    with strace.attached(pid, log, _written_by(role, job, pid), WRITES, *inject) as tracer:
        gate.open()
        life.end()
        tracer.wait(timeout=60)
    nobody_left(job)
    if call:
        life.note(_child_blow(life, role, pid, found, strace.killed(log), call, n))
    return log


def _child_blow(life: Life, role: str, pid: int, found: Look, hit: bool, call: str, n: int) -> Struck:
    done = _finished_by(life.job, pid) if role == "scorer" else frozenset()
    look = Look(state=found.state, job_id=found.job_id, epoch=found.epoch, chunks_done=len(done), committed=done)
    return Struck(
        case=f"{role} {call}",
        seed=n,
        target=role,
        point=f"{call} {n}",
        look=look,
        hit=hit,
        run=life.runs - 1,
        log_bytes=_log_of(life.job, pid) if role == "scorer" else log_bytes(life.job, life.runs - 1),
    )


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
