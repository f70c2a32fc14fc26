"""Power loss: the job lives on an ext4 image, and at an instant only what had reached the image is left."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests import checker
from tests.crash.rig import ledger, mounts, record, tree
from tests.crash.rig.again import rescored
from tests.crash.rig.job import new_job
from tests.crash.rig.ledger import FINISHED, Look, Window
from tests.crash.rig.life import Life
from tests.crash.rig.strike import Point

SEEDS = int(os.environ.get("TIDEMILL_CRASH_SEEDS", "20"))
PHASES = ("planning", "running", "running", "committing", "ended")
"""So the seeds that share a job cut its power: each cut befalls the run that goes on after the one before."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[mounts.Disk]:
    with mounts.disk(tmp_path) as made:
        yield made


@pytest.mark.parametrize("first", range(0, SEEDS, len(PHASES)))
def test_power_cuts(first: int, disk: mounts.Disk, tmp_path: Path, inputs: tuple[Path, ...]) -> None:
    """What the store had acknowledged is there after each cut, and the same command ends the job."""
    rng = random.Random(f"power {first}")
    job = new_job(disk.path, inputs, logs=tmp_path / "logs", sleep=0.01)
    job.logs.mkdir()
    life, cuts = Life(job=job, suite="power"), []
    chunks = iter(sorted(rng.sample(range(1, 24), PHASES.count("running"))))
    try:
        for seed, phase in enumerate(PHASES, start=first):
            point = Point(phase=phase, chunks_done=next(chunks) if phase == "running" else 0, delay=0)
            cuts.append(_cut(life, disk, tmp_path / f"cut-{seed}.img", point))
            disk.swap(tmp_path / f"cut-{seed}.img")
            _check_cut(life, cuts[-1], f"seed {seed}, {point}")
        life.finish()
        _judge(life, cuts, first)
    finally:
        tree.end_all(job.mark)


def _cut(life: Life, disk: mounts.Disk, copy: Path, point: Point) -> Look:
    """Stop every process of the job at an instant of its next run, note what its store says, copy the image, kill
    all."""
    if point.phase == "ended":
        life.run()
    with Window(life.job.database) as window:
        if point.phase != "ended":
            life.reach(window, "worker", point)
        for pid in tree.marked(life.job.mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        acknowledged = window.look(chunks=True)
        disk.cut(copy)
    tree.end_all(life.job.mark)
    life.end()
    life.over = False
    return acknowledged


def _judge(life: Life, cuts: Sequence[Look], first: int) -> None:
    """Records of the cuts. No chunk that was acknowledged at one went through the model after it."""
    for run, (phase, acknowledged) in enumerate(zip(PHASES, cuts, strict=True)):
        cost = rescored(life.job, acknowledged, range(run + 1, life.runs))
        record.write(
            record.Kill(
                suite="power",
                case="cut",
                seed=first + run,
                point=phase,
                target="everything",
                state=acknowledged.state,
                hit=None if phase == "ended" else acknowledged.live,
                recovery=run > 0,
                chunks_total=acknowledged.chunks_total,
                chunks_done=len(acknowledged.committed),
                scored_again=cost.again,
                scored_after=cost.after,
                runs=life.runs,
            )
        )
        assert not cost.again, f"{cost.again} chunks that were acknowledged at {phase} were scored again"


def _check_cut(life: Life, acknowledged: Look, when: str) -> None:
    """Nothing that was acknowledged is lost, and no manifest stands without its files."""
    job, left = life.job, ledger.look(life.job.database)
    if acknowledged.job_id:
        assert left.job_id == acknowledged.job_id, f"acknowledged {acknowledged}, after the cut {left}: {when}"
        assert left.phase >= acknowledged.phase, f"acknowledged {acknowledged}, after the cut {left}: {when}"
        assert left.committed >= acknowledged.committed, f"lost {acknowledged.committed - left.committed}: {when}"
    if checker.manifest_path(job.output).exists():
        checker.check_manifest(job.output, checker.read_manifest(job.output))
    if left.state in FINISHED:
        assert checker.manifest_path(job.output).exists(), f"{left.state}, but there is no manifest"
    if left.state == "running":
        _check_parts(life, left)


def _check_parts(life: Life, left: Look) -> None:
    """Every committed chunk's parts are whole: in their place, or moved where the output is assembled."""
    staging = ledger.staging(life.job.database, left.job_id)
    moved = {_digest(path) for path in (staging / "out").rglob("*") if path.is_file()}
    assert not moved or left.chunks_done == left.chunks_total, "the output was assembled before its last chunk was"
    for receipt in ledger.receipts(life.job.database, left.job_id).values():
        for part in json.loads(receipt)["parts"]:
            path = staging / part["name"]
            found = {_digest(path)} if path.exists() else moved
            assert part["sha256"] in found, f"{part['name']} is not what was committed"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
