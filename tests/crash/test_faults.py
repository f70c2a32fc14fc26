"""Full disks and broken ones: the reason is told, what was committed stays, the same command goes on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests import checker
from tests.crash.rig import ledger, mounts, record
from tests.crash.rig.again import rescored
from tests.crash.rig.job import SUCCESS, CrashJob, Ran, new_job, once, write_inputs
from tests.crash.rig.ledger import FINISHED, Look
from tests.crash.rig.life import Life
from tests.crash.rig.record import Kill
from tests.crash.rig.strike import Point, check, finish_and_check
from tests.crash.rig.syscalls import failed_calls, failing

FULL = re.compile(r"no space left|disk is full|database or disk is full", re.IGNORECASE)
BROKEN = re.compile(r"input/output error|disk i/o error", re.IGNORECASE)
REASON = {"ENOSPC": FULL, "EIO": BROKEN}


def test_output_on_a_full_disk(tmp_path: Path, store: Path) -> None:
    """ENOSPC half way; with more space the same command finishes, no committed chunk scored again."""
    inputs = write_inputs(tmp_path / "in", note_bytes=300)
    size_bytes = 2_500_000
    with mounts.small(tmp_path / "small", size_bytes) as place:
        job = new_job(tmp_path, inputs, store=store, output=place.path / "out" / "scores", sleep=0.0)
        job.output.parent.mkdir()
        left = _refused(job, once(job), FULL)
        assert left.committed, "the disk was full before the first chunk: nothing was tried"
        _check_parts(job, left)
        place.resize(64 << 20)
        _judge(job, left, range(1, finish_and_check(job, 1)), _full_disk("output", size_bytes))


def test_store_on_a_full_disk(tmp_path: Path, store: Path, inputs: tuple[Path, ...]) -> None:
    """The store's disk fills up while chunks are committed."""
    with mounts.small(tmp_path / "small", 64 << 20) as place:
        job = new_job(tmp_path, inputs, store=store, home=place.path / "home", sleep=0.0)
        size_bytes = place.used_bytes() + (170 << 10)
        place.resize(size_bytes)
        left = _refused(job, once(job), FULL)
        assert left.committed, "the disk was full before the first chunk: nothing was tried"
        place.resize(64 << 20)
        _check_parts(job, left)
        _judge(job, left, range(1, finish_and_check(job, 1)), _full_disk("store", size_bytes))


def test_a_store_that_cannot_even_begin(tmp_path: Path, inputs: tuple[Path, ...]) -> None:
    """No room for a home, for a database, for its tables: refused with the reason; with room it works."""
    with mounts.small(tmp_path / "small", 4 << 10) as place:
        life = Life(job=new_job(tmp_path, inputs[:1], home=place.path / "home", sleep=0.0), suite="fault")
        ballast = place.path / "ballast"
        for free_kb in (0, 4, 40):
            place.resize(max(free_kb, 4) << 10)
            if not free_kb:
                ballast.write_bytes(b"x" * 4096)
            ran = life.run()
            ballast.unlink(missing_ok=True)
            assert ran.code in (1, 2), (free_kb, ran)
            assert FULL.search(ran.stderr) and "Traceback" not in ran.stderr, (free_kb, ran)
        place.resize(64 << 20)
        life.finish()


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A system call that fails, and what must come of it."""

    name: str
    call: str
    path: str
    """Whose call: {home}; {place} of the output; {hidden} there; {staging} of the job; {part}, the fifth chunk's
    of this run without its kind; {pid} of the worker."""
    error: str = "EIO"
    when: str = "1"
    """The number of that call on that path in its thread; with "+" all from there on."""
    anywhere: bool = False
    """Whether any thread or child makes that call; else the worker's first thread."""

    @property
    def point(self) -> str:
        return f"{self.call} {self.when} of {self.path}: {self.error}"

    @property
    def names_the_job(self) -> bool:
        """Whether its path does, so that there must be one."""
        return "{staging}" in self.path or "{part}" in self.path

    @property
    def target(self) -> str:
        return "planner" if "/plan" in self.path else "scorer" if "part" in self.path else "worker"


PART = "{part}.predictions.parquet"
MANIFEST = "{staging}/out/.manifest.json.{pid}.tmp"
WAL = "{home}/tidemill.db-wal"
PLAN = (
    Fault(name="claim-synced", call="fsync", path="{hidden}/.claim.json.{pid}.tmp"),
    Fault(name="job-claimed", call="fdatasync", path=WAL, when="2"),
    Fault(name="plan-stored", call="fdatasync", path=WAL, when="3"),
    Fault(name="plan-files-opened", call="openat", path="{staging}/plan/files.arrow", error="ENOSPC", anywhere=True),
    Fault(name="plan-files-written", call="write", path="{staging}/plan/files.arrow", anywhere=True),
    Fault(name="plan-files-synced", call="fsync", path="{staging}/plan/files.arrow", anywhere=True),
    Fault(
        name="plan-chunks-full",
        call="write",
        path="{staging}/plan/chunks.arrow",
        error="ENOSPC",
        when="2+",
        anywhere=True,
    ),
    Fault(name="plan-chunks-synced", call="fsync", path="{staging}/plan/chunks.arrow", anywhere=True),
    Fault(name="plan-sealed", call="fsync", path="{staging}/plan", anywhere=True),
)
PARTS = (
    Fault(name="part-synced", call="fsync", path=PART, anywhere=True),
    Fault(name="part-written", call="write", path=PART, anywhere=True),
    Fault(name="part-full", call="write", path=PART, error="ENOSPC", when="2+", anywhere=True),
    # The second in the scorer; the worker's own second one would come after all parts.
    Fault(name="part-named", call="fsync", path="{staging}/parts", when="2", anywhere=True),
    # The claim of the job comes before.
    Fault(name="chunks-stored", call="fdatasync", path=WAL, when="2+"),
)
OUTPUT = (
    Fault(name="data-assembled", call="fsync", path="{staging}/out/data"),
    Fault(name="manifest-written", call="write", path=MANIFEST),
    Fault(name="manifest-full", call="write", path=MANIFEST, error="ENOSPC"),
    Fault(name="manifest-synced", call="fsync", path=MANIFEST),
    Fault(name="journal-synced", call="fsync", path="{staging}/.journal.json.{pid}.tmp"),
)
PUBLISHED = (
    # Three of these come before: for the hidden folder, the claim, and for the hidden folder once more; later two.
    Fault(name="data-published", call="fsync", path="{place}", when="4"),
    Fault(name="rejected-published", call="fsync", path="{place}", when="4"),
    Fault(name="manifest-published", call="fsync", path="{place}", when="5+"),
)
STORE = (
    Fault(name="home-synced", call="fsync", path="{home}"),
    Fault(name="store-begun", call="fdatasync", path="{home}/tidemill.db-journal"),
    Fault(name="store-written", call="pwrite64", path=WAL, when="1+"),
    Fault(name="store-synced", call="fdatasync", path=WAL),
    Fault(name="store-full", call="pwrite64", path=WAL, when="60+", error="ENOSPC"),
    Fault(name="tables-stored", call="fdatasync", path=WAL, when="2"),
)
LIVES = {"plan": PLAN, "parts": PARTS, "output": OUTPUT, "published": PUBLISHED, "store": STORE}
"""Faults that come one after the other, each in the next run of a command."""


@pytest.mark.parametrize("name", LIVES)
def test_calls_fail(name: str, tmp_path: Path, store: Path) -> None:
    """Whoever's call fails, the run ends with the reason, and the next one goes on from what was committed."""
    job = _small(tmp_path, None if name == "store" else store)
    life = Life(job=job, suite="fault")
    left = []
    for fault in LIVES[name]:
        with _telling(fault):
            if fault.names_the_job and not ledger.look(job.database).chunks_total:
                # A job that fails without a plan leaves nothing, one that is killed stays.
                assert life.strike("group", Point(phase="planning", delay=0), case="begun").hit
            before = ledger.look(job.database)
            ran = _failing(life, fault, before)
            found = _refused(job, ran, REASON[fault.error])
            assert len(found.committed - before.committed) >= (4 if "{part}" in fault.path else 0), found
            assert found.committed >= before.committed
            _check_parts(job, found)
        left.append((fault, found, life.runs))
    life.finish()
    for fault, found, runs in left:
        if found.job_id == ledger.look(job.database).job_id:
            _judge(job, found, range(runs, life.runs), _kill(fault))
        else:
            record.write(replace(_kill(fault), state=found.state))


HARMLESS = (
    (
        Fault(name="manifest-published-at-the-second-try", call="fsync", path="{place}", when="6"),
        "it is synced again before the store hears of it",
    ),
    (
        Fault(name="cleaned-up", call="fsync", path="{place}", when="7"),
        "all is published and stored; a claim that comes back is known to be over",
    ),
    (
        Fault(name="checkpoint-written", call="pwrite64", path="{home}/tidemill.db", anywhere=True),
        "the log that is copied when the store is closed stays, and is read next time",
    ),
    (
        Fault(name="checkpoint-synced", call="fdatasync", path="{home}/tidemill.db", anywhere=True),
        "the log that is copied when the store is closed stays, and is read next time",
    ),
)
"""Calls that may fail, and why the job succeeds all the same."""


@pytest.mark.parametrize(("fault", "why"), HARMLESS, ids=lambda value: getattr(value, "name", ""))
def test_a_call_fails_and_nothing_comes_of_it(fault: Fault, why: str, tmp_path: Path, store: Path) -> None:
    job = _small(tmp_path, store)
    ran = _failing(Life(job=job, suite="fault"), fault, Look())
    left = ledger.look(job.database)
    assert ran.code in SUCCESS and left.state in FINISHED, (why, ran)
    check(job)
    _judge(job, left, range(1, 1), _kill(fault))


def _small(folder: Path, store: Path | None) -> CrashJob:
    """24 chunks, scored in order."""
    inputs = write_inputs(folder / "in", rows=(2600, 2100))
    return new_job(folder, inputs, store=store, sleep=0.0, scorers=1, rows_per_chunk=200)


def _failing(life: Life, fault: Fault, before: Look) -> Ran:
    """A run in which the call fails, and no other."""
    log = life.job.logs / f"{fault.name}.strace"
    path = _path(fault, life.job, before)
    words = f"error={fault.error}:when={fault.when}"
    ran = life.run(prefix=failing(log, path, fault.call, words, anywhere=fault.anywhere))
    hits = failed_calls(log)
    assert hits, f"nothing failed at {path}: {ran}"
    assert all(re.fullmatch(re.escape(path).replace(r"\$\$", r"\d+"), hit) for hit in hits), hits
    return ran


def _kill(fault: Fault) -> Kill:
    number = int(fault.when.rstrip("+"))
    return Kill(suite="fault", case=fault.name, seed=number, point=fault.point, target=fault.target, state="", hit=True)


@contextmanager
def _telling(fault: Fault) -> Iterator[None]:
    try:
        yield
    except AssertionError as problem:
        problem.add_note(f"The call that failed: {fault.name}, {fault.point}")
        raise


def _path(fault: Fault, job: CrashJob, before: Look) -> str:
    """The path in words that a shell completes. One scorer takes chunks in order, and attempts are counted."""
    staging = ledger.staging(job.database, before.job_id) if before.job_id else Path()
    missing = [chunk for chunk in range(24) if chunk not in before.committed]
    fifth = missing[4] if len(missing) > 4 else 0
    return fault.path.format(
        home=job.home,
        place=job.output.parent,
        hidden=job.output.with_name(f".{job.output.name}.tidemill"),
        staging=staging,
        part=staging / "parts" / f"{fifth:07d}.e{before.epoch + 1}-5",
        pid="$$",
    )


def _refused(job: CrashJob, ran: Ran, reason: re.Pattern[str]) -> Look:
    """The run ended with the reason and no traceback, and nobody says that the job is done."""
    assert ran.code in (1, 2), f"not refused: {ran}"
    assert reason.search(ran.stderr), ran
    assert "Traceback" not in ran.stderr, ran
    left = ledger.look(job.database)
    assert left.state not in FINISHED, f"refused, but the store says {left.state}: {ran}"
    return left


def _check_parts(job: CrashJob, left: Look) -> None:
    """Every committed part is there, whole: in staging, or where publishing has got it to."""
    if not left.committed:
        return
    staging = ledger.staging(job.database, left.job_id)
    places = (staging, job.output, checker.rejected_place(job.output))
    files = [path for place in places for path in place.rglob("*.parquet")]
    there = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    receipts = [json.loads(receipt) for receipt in ledger.receipts(job.database, left.job_id).values()]
    parts = [part for receipt in receipts for part in receipt["parts"] if part["rows"]]
    assert parts
    assert not [part["name"] for part in parts if part["sha256"] not in there]


def _full_disk(of: str, size_bytes: int) -> Kill:
    point = f"the disk has {size_bytes:,} bytes"
    return Kill(
        suite="fault", case=f"{of}-on-full-disk", seed=size_bytes, point=point, target="worker", state="", hit=True
    )


def _judge(job: CrashJob, left: Look, later: range, kill: Kill) -> None:
    """Later runs scored nothing that was committed; the record of it."""
    cost = rescored(job, left, later)
    record.write(
        replace(
            kill,
            state=left.state,
            chunks_total=left.chunks_total,
            chunks_done=len(left.committed),
            scored_again=cost.again,
            scored_after=cost.after,
            runs=later.stop,
        )
    )
    assert not cost.again, f"{cost.again} committed chunks were scored again after {kill.point}"
