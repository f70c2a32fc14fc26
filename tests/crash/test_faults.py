"""Full disks and broken ones: the reason is told, what was committed stays, the same command goes on."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from tests.crash.rig import ledger, mounts, record
from tests.crash.rig.job import SUCCESS, CrashJob, Ran, new_job, once, say, write_inputs
from tests.crash.rig.ledger import Look
from tests.crash.rig.strike import check, chunk_of, finish_and_check, scored

FULL = re.compile(r"no space left|disk is full|database or disk is full", re.IGNORECASE)
BROKEN = re.compile(r"input/output error|i/o error|malformed", re.IGNORECASE)


def test_output_on_a_full_disk(tmp_path: Path) -> None:
    """ENOSPC half way; with more space the same command finishes, no committed chunk scored again."""
    inputs = write_inputs(tmp_path / "in", note_bytes=300)
    with mounts.small(tmp_path / "small", 2_500_000) as place:
        job = new_job(tmp_path, inputs, output=place.path / "out" / "scores", sleep=0.0)
        job.output.parent.mkdir()
        left = _refused(job, once(job), FULL)
        assert left.committed, "the disk was full before the first chunk: nothing was tried"
        _check_parts(job, left)
        place.resize(64 << 20)
        _finish(job, left, "ENOSPC for parts")


def test_store_on_a_full_disk(tmp_path: Path, inputs: tuple[Path, ...]) -> None:
    """The store's disk fills up while chunks are committed."""
    with mounts.small(tmp_path / "small", 64 << 20) as place:
        job = new_job(tmp_path, inputs, home=place.path / "home", sleep=0.0)
        job.home.mkdir()
        assert say("jobs", "list", "--json", home=job.home).code == 0
        place.resize(place.used_bytes() + (48 << 10))
        left = _refused(job, once(job), FULL)
        place.resize(64 << 20)
        _check_parts(job, left)
        _finish(job, left, "ENOSPC for the store")


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


CALLS = [(call, n) for call, numbers in {"fsync": (1, 2, 3, 5, 8), "fdatasync": (1, 2, 4, 9)}.items() for n in numbers]


@pytest.mark.parametrize(("call", "n"), CALLS)
def test_a_sync_fails(call: str, n: int, job: CrashJob, tmp_path: Path) -> None:
    """EIO from the N-th sync of every thread of every process of the job."""
    job = job.but(sleep=0.0)
    _fail_at(job, f"{call}:error=EIO:when={n}", call, tmp_path, ())


@pytest.mark.parametrize(
    ("error", "path"), [("EIO", "manifest"), ("ENOSPC", "manifest"), ("EIO", "database"), ("ENOSPC", "database")]
)
@pytest.mark.parametrize("n", [1, 3])
def test_a_write_fails(error: str, path: str, n: int, job: CrashJob, tmp_path: Path) -> None:
    """A write fails: of the manifest beside the output, of the store's log."""
    job = job.but(sleep=0.0)
    target = _manifest_scratch(job) if path == "manifest" else f"{job.database}-wal"
    call = "write" if path == "manifest" else "pwrite64"
    _fail_at(job, f"{call}:error={error}:when={n}+", call, tmp_path, ("-P", target))


def _manifest_scratch(job: CrashJob) -> str:
    return str(job.output.with_name("scores.manifest.json"))


def _fail_at(job: CrashJob, inject: str, call: str, folder: Path, only: tuple[str, ...]) -> None:
    log = folder / "strace.log"
    prefix = ["strace", "-f", "-qq", "-o", str(log), *only, "-e", f"trace={call}", "-e", f"inject={inject}"]
    ran = once(job, prefix=prefix)
    injected = "(INJECTED)" in log.read_text(errors="replace")
    if ran.code in SUCCESS:
        check(job)
        left = ledger.look(job.database)
    else:
        assert injected, ran
        left = _refused(job, ran, re.compile(f"{FULL.pattern}|{BROKEN.pattern}", re.IGNORECASE))
        _check_parts(job, left)
        _finish(job, left, inject)
    record.write(
        record.Kill(
            suite="fault",
            case=call,
            seed=0,
            point=inject,
            target="write",
            state=left.state,
            hit=injected,
            chunks_done=len(left.committed),
        )
    )


def _refused(job: CrashJob, ran: Ran, reason: re.Pattern[str]) -> Look:
    """The run ended with the reason and no traceback."""
    assert ran.code in (1, 2), ran
    assert reason.search(ran.stderr), ran
    assert "Traceback" not in ran.stderr, ran
    return ledger.look(job.database)


def _check_parts(job: CrashJob, left: Look) -> None:
    """Committed chunks lie whole in staging, unless the job got further."""
    if left.state not in ("running", "paused", "failed") or not left.committed:
        return
    staging = ledger.staging(job.database, left.job_id)
    for receipt in ledger.receipts(job.database, left.job_id).values():
        for part in json.loads(receipt)["parts"]:
            path = next(
                path
                for path in (staging / part["name"], *staging.glob(f"out/**/*{Path(part['name']).name}*"))
                if path.exists()
            )
            assert hashlib.sha256(path.read_bytes()).hexdigest() == part["sha256"]


def _finish(job: CrashJob, left: Look, point: str) -> None:
    runs = finish_and_check(job, 1)
    where = chunk_of(job)
    again = {where[key] for run in range(1, runs) for key in scored(job, run)} & left.committed
    assert not again, f"{point}: scored again {again}"
