"""Power loss: the job lives on an ext4 image, and at an instant only what had reached the image is left."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import checker
from tests.crash.rig import ledger, mounts, record, tree
from tests.crash.rig.again import rescored
from tests.crash.rig.job import CrashJob, ended, new_job, start
from tests.crash.rig.ledger import FINISHED, Look, Window
from tests.crash.rig.strike import finish_and_check

SEEDS = int(os.environ.get("TIDEMILL_CRASH_SEEDS", "20"))
PHASES = ("running", "committing", "running", "planning", "ended", "running", "committing")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[mounts.Disk]:
    with mounts.disk(tmp_path) as made:
        yield made


@pytest.mark.parametrize("seed", range(SEEDS))
def test_power_cut(seed: int, disk: mounts.Disk, tmp_path: Path, inputs: tuple[Path, ...]) -> None:
    """What the store had acknowledged is there after the cut, and the same command ends the job."""
    rng, phase = random.Random(f"power {seed}"), PHASES[seed % len(PHASES)]
    job = new_job(disk.path, inputs, logs=tmp_path / "logs", sleep=0.01)
    job.logs.mkdir()
    try:
        acknowledged = _cut(job, disk, tmp_path / "cut.img", rng, phase)
        disk.swap(tmp_path / "cut.img")
        _check_cut(job, acknowledged)
        runs = finish_and_check(job, 1)
        cost = rescored(job, acknowledged, range(1, runs))
    finally:
        tree.end_all(job.mark)
    record.write(
        record.Kill(
            suite="power",
            case="cut",
            seed=seed,
            point=phase,
            target="everything",
            state=acknowledged.state,
            hit=None if phase == "ended" else acknowledged.live,
            chunks_total=acknowledged.chunks_total,
            chunks_done=len(acknowledged.committed),
            scored_again=cost.again,
            scored_after=cost.after,
            runs=runs,
        )
    )
    assert not cost.again, f"{cost.again} chunks that were acknowledged were scored again"


def _cut(job: CrashJob, disk: mounts.Disk, copy: Path, rng: random.Random, phase: str) -> Look:
    """Stop every process of the job at an instant, note what its store says, copy the image, kill all."""
    process = start(job, 0)
    with Window(job.database) as window:
        chunks = rng.randrange(1, 24) if phase == "running" else 0
        window.wait(phase, running=lambda: process.poll() is None, chunks_done=chunks)
        if phase == "ended":
            ended(job, 0, process)
        for pid in tree.marked(job.mark):
            os.kill(pid, signal.SIGSTOP)
        acknowledged = window.look(chunks=True)
        disk.cut(copy)
    tree.end_all(job.mark)
    process.wait(timeout=20)
    return acknowledged


def _check_cut(job: CrashJob, acknowledged: Look) -> None:
    """Nothing that was acknowledged is lost, and no manifest stands without its files."""
    left = ledger.look(job.database)
    if acknowledged.job_id:
        assert left.job_id == acknowledged.job_id, f"acknowledged {acknowledged}, after the cut {left}"
        assert left.phase >= acknowledged.phase, f"acknowledged {acknowledged}, after the cut {left}"
        assert left.committed >= acknowledged.committed, f"lost {acknowledged.committed - left.committed}"
    if checker.manifest_path(job.output).exists():
        checker.check_manifest(job.output, checker.read_manifest(job.output))
    if left.state in FINISHED:
        assert checker.manifest_path(job.output).exists(), f"{left.state}, but there is no manifest"
    if left.state == "running":
        _check_parts(job, left)


def _check_parts(job: CrashJob, left: Look) -> None:
    """Every committed chunk's parts are whole."""
    staging = ledger.staging(job.database, left.job_id)
    for receipt in ledger.receipts(job.database, left.job_id).values():
        for part in json.loads(receipt)["parts"]:
            data = (staging / part["name"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == part["sha256"], f"{part['name']} is not what was committed"
