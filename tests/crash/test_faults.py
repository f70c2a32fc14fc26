"""Full disks and broken ones: the reason is told, what was committed stays, the same command goes on."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests import checker
from tests.crash.rig import ledger, mounts, record
from tests.crash.rig.again import rescored
from tests.crash.rig.job import SUCCESS, CrashJob, Ran, new_job, once, say, write_inputs
from tests.crash.rig.ledger import FINISHED, Look
from tests.crash.rig.record import Kill
from tests.crash.rig.strike import Point, check, finish_and_check, strike
from tests.crash.rig.syscalls import failed_calls, failing

FULL = re.compile(r"no space left|disk is full|database or disk is full", re.IGNORECASE)
BROKEN = re.compile(r"input/output error|disk i/o error", re.IGNORECASE)
REASON = {"ENOSPC": FULL, "EIO": BROKEN}


def test_output_on_a_full_disk(tmp_path: Path) -> None:
    """ENOSPC half way; with more space the same command finishes, no committed chunk scored again."""
    inputs = write_inputs(tmp_path / "in", note_bytes=300)
    size_bytes = 2_500_000
    with mounts.small(tmp_path / "small", size_bytes) as place:
        job = new_job(tmp_path, inputs, output=place.path / "out" / "scores", sleep=0.0)
        job.output.parent.mkdir()
        left = _refused(job, once(job), FULL)
        assert left.committed, "the disk was full before the first chunk: nothing was tried"
        _check_parts(job, left)
        place.resize(64 << 20)
        _judge(job, left, range(1, finish_and_check(job, 1)), _full_disk("output", size_bytes))


def test_store_on_a_full_disk(tmp_path: Path, inputs: tuple[Path, ...]) -> None:
    """The store's disk fills up while chunks are committed."""
    with mounts.small(tmp_path / "small", 64 << 20) as place:
        job = new_job(tmp_path, inputs, home=place.path / "home", sleep=0.0)
        job.home.mkdir()
        assert say("jobs", "list", "--json", home=job.home).code == 0
        size_bytes = place.used_bytes() + (48 << 10)
        place.resize(size_bytes)
        left = _refused(job, once(job), FULL)
        place.resize(64 << 20)
        _check_parts(job, left)
        _judge(job, left, range(1, finish_and_check(job, 1)), _full_disk("store", size_bytes))


@pytest.mark.parametrize("free_kb", [0, 4, 40])
def test_a_store_that_cannot_even_begin(free_kb: int, tmp_path: Path, inputs: tuple[Path, ...]) -> None:
    """No room for a database: refused with the reason, nothing is left; with room it works."""
    with mounts.small(tmp_path / "small", (free_kb or 4) << 10) as place:
        job = new_job(tmp_path, inputs, home=place.path / "home", sleep=0.0)
        if free_kb:
            job.home.mkdir()
        else:
            (place.path / "ballast").write_bytes(b"x" * 4096)
        ran = once(job)
        assert ran.code in (1, 2), ran
        assert FULL.search(ran.stderr) and "Traceback" not in ran.stderr, ran
        place.resize(64 << 20)
        finish_and_check(job, 1)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A system call that fails, and what must come of it."""

    name: str
    call: str
    path: str
    """Whose call: {home}; {place} of the output; {hidden} there; {staging} of the job; {part}, the fifth chunk's
    without its kind; {pid} of the worker."""
    error: str = "EIO"
    when: str = "1"
    """The number of that call on that path in its thread; with "+" all from there on."""
    anywhere: bool = False
    """Whether any thread or child makes that call; else the worker's first thread."""
    resumed: bool = False
    """Whether it is made to fail in a run that goes on with another."""
    harmless: str = ""
    """Why the job may succeed all the same. Empty: it must not, and must say why."""

    @property
    def point(self) -> str:
        return f"{self.call} {self.when} of {self.path}: {self.error}"

    @property
    def follows_another(self) -> bool:
        """Only a job that has begun is known by its id."""
        return self.resumed or "{staging}" in self.path or "{part}" in self.path

    @property
    def target(self) -> str:
        return "planner" if "/plan" in self.path else "scorer" if "part" in self.path else "worker"


PART = "{part}.predictions.parquet"
MANIFEST = "{staging}/out/.manifest.json.{pid}.tmp"
WAL = "{home}/tidemill.db-wal"
PARTS = (
    Fault(name="part-written", call="write", path=PART, anywhere=True),
    Fault(name="part-full", call="write", path=PART, error="ENOSPC", when="2+", anywhere=True),
    Fault(name="part-synced", call="fsync", path=PART, anywhere=True),
    # The second in the scorer; the worker's own second one would come after all parts.
    Fault(name="part-named", call="fsync", path="{staging}/parts", when="2", anywhere=True),
)
PLAN = (
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
OUTPUT = (
    Fault(name="claim-synced", call="fsync", path="{hidden}/.claim.json.{pid}.tmp"),
    Fault(name="data-assembled", call="fsync", path="{staging}/out/data"),
    Fault(name="manifest-written", call="write", path=MANIFEST),
    Fault(name="manifest-full", call="write", path=MANIFEST, error="ENOSPC"),
    Fault(name="manifest-synced", call="fsync", path=MANIFEST),
    Fault(name="journal-synced", call="fsync", path="{staging}/.journal.json.{pid}.tmp"),
    # Three of these come before: for the hidden folder, the claim, and for the hidden folder once more.
    Fault(name="data-published", call="fsync", path="{place}", when="4"),
    Fault(name="rejected-published", call="fsync", path="{place}", when="5"),
    Fault(name="manifest-published", call="fsync", path="{place}", when="6+"),
    Fault(
        name="manifest-published-at-the-second-try",
        call="fsync",
        path="{place}",
        when="6",
        harmless="it is synced again before the store hears of it",
    ),
    Fault(
        name="cleaned-up",
        call="fsync",
        path="{place}",
        when="7",
        harmless="all is published and stored; a claim that comes back is known to be over",
    ),
)
STORE = (
    Fault(name="home-synced", call="fsync", path="{home}"),
    Fault(name="store-begun", call="fdatasync", path="{home}/tidemill.db-journal"),
    Fault(name="store-written", call="pwrite64", path=WAL, when="1+"),
    Fault(name="store-full", call="pwrite64", path=WAL, when="60+", error="ENOSPC"),
    Fault(name="store-synced", call="fdatasync", path=WAL),
    Fault(name="plan-stored", call="fdatasync", path=WAL, when="5"),
    Fault(name="chunks-stored", call="fdatasync", path=WAL, when="6+"),
    Fault(
        name="checkpoint-written",
        call="pwrite64",
        path="{home}/tidemill.db",
        anywhere=True,
        resumed=True,
        harmless="the log that is copied when the store is closed stays, and is read next time",
    ),
    Fault(
        name="checkpoint-synced",
        call="fdatasync",
        path="{home}/tidemill.db",
        anywhere=True,
        resumed=True,
        harmless="the log that is copied when the store is closed stays, and is read next time",
    ),
)


@pytest.mark.parametrize("fault", (*PLAN, *PARTS, *OUTPUT, *STORE), ids=lambda fault: fault.name)
def test_a_call_fails(fault: Fault, tmp_path: Path) -> None:
    """Whoever's call fails, the run ends with the reason and the next one ends the job; or it was harmless."""
    inputs = write_inputs(tmp_path / "in", rows=(2600, 2100))
    job = new_job(tmp_path, inputs, sleep=0.0, scorers=1, rows_per_chunk=500)
    begun = _begin(job) if fault.follows_another else Look()
    log = tmp_path / "strace.log"
    path = _path(fault, job, begun)
    words = f"error={fault.error}:when={fault.when}"
    ran = once(job, 1, prefix=failing(log, path, fault.call, words, anywhere=fault.anywhere))
    hits = failed_calls(log)
    assert hits, f"nothing failed at {path}: {ran}"
    assert all(re.fullmatch(re.escape(path).replace(r"\$\$", r"\d+"), hit) for hit in hits), hits
    if fault.harmless:
        left = ledger.look(job.database)
        assert ran.code in SUCCESS and left.state in FINISHED, ran
        check(job)
        runs = 2
    else:
        left = _refused(job, ran, REASON[fault.error])
        assert len(left.committed) >= (4 if "{part}" in fault.path else 0), left
        _check_parts(job, left)
        runs = finish_and_check(job, 2)
    kill = Kill(
        suite="fault",
        case=fault.name,
        seed=int(fault.when.rstrip("+")),
        point=fault.point,
        target=fault.target,
        state="",
        hit=bool(hits),
    )
    _judge(job, left, range(2, runs), kill)


def _begin(job: CrashJob) -> Look:
    """A run that is killed early: from then on the job's id is known."""
    assert strike(job, 0, "group", Point(phase="planning", delay=0)).hit
    return ledger.look(job.database)


def _path(fault: Fault, job: CrashJob, begun: Look) -> str:
    """The path in words that a shell completes. One scorer takes chunks in order, and attempts are counted."""
    staging = ledger.staging(job.database, begun.job_id) if begun.job_id else Path()
    missing = [chunk for chunk in range(10) if chunk not in begun.committed]
    return fault.path.format(
        home=job.home,
        place=job.output.parent,
        hidden=job.output.with_name(f".{job.output.name}.tidemill"),
        staging=staging,
        part=staging / "parts" / f"{missing[4]:07d}.e{begun.epoch + 1}-5",
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
