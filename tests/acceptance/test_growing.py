"""A job whose single scorer leaves cores idle gets more of them, and the same output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import checker
from tests.acceptance.workshop import WHO, Workshop
from tidemill.bootstrap.preloads import PRELOAD
from tidemill.domain.job import JobState
from tidemill.engine import layout
from tidemill.executors.local import LocalExecutor
from tidemill.executors.scorers import LocalScorerSet
from tidemill.ports.executor import ChunkRun, ScorerSpec
from tidemill.service import submission
from tidemill.testing.executor import wait_until
from tidemill.wire.spec import ComputeSpec, InputSpec, JobSpec, OutputSpec

ROWS, COLUMNS, CORES = 400_000, 12, 4
CHUNKS = 16


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    executor = LocalExecutor(preload=PRELOAD, warm_bytes=8 << 30)
    made = Workshop(folder=tmp_path, executor=executor)
    yield made
    made.close()
    executor.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two small trees: a row takes longer to be read than to be predicted."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, COLUMNS))
    data = lightgbm.Dataset(rows, rows.sum(axis=1), feature_name=[f"c{n}" for n in range(COLUMNS)])
    path = tmp_path / "model.txt"
    lightgbm.train({"num_leaves": 4, "verbose": -1, "num_threads": 1}, data, num_boost_round=2).save_model(path)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    columns: dict[str, Any] = {"id": np.arange(ROWS), **{f"c{n}": rng.normal(size=ROWS) for n in range(COLUMNS)}}
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=ROWS // CHUNKS)
    return path


def digests(shop: Workshop, name: str, model: Path, table: Path) -> list[tuple[str, int, str]]:
    """Score it; what the manifest says of the files that were written: name, rows, checksum."""
    output = shop.output(name)
    spec = JobSpec(
        model=str(model),
        input=InputSpec(path=[str(table)]),
        output=OutputSpec(path=str(output)),
        id=["id"],
        compute=ComputeSpec(rows_per_chunk=ROWS // CHUNKS),
    )
    (job,) = shop.ended(submission.submit(shop.context, WHO, spec)[0])
    assert job.state is JobState.SUCCEEDED, job
    files = checker.read_manifest(output)["files"]
    return [(Path(entry["name"]).name, entry["rows"], entry["sha256"]) for entry in files]


@dataclass(frozen=True, kw_only=True)
class Had:
    """Scorers that a job was given at once."""

    scorers: int
    threads: int
    warm: int
    """How many of them another job had left."""
    begun: bool
    """Whether chunks had been handed out before."""


@pytest.fixture
def had(monkeypatch: pytest.MonkeyPatch) -> list[Had]:
    """All that are given to jobs, in order."""
    seen: list[Had] = []
    begun = WeakSet[LocalScorerSet]()
    grow, submit, release = LocalScorerSet.grow, LocalScorerSet.submit, LocalScorerSet.release

    def watched_grow(self: LocalScorerSet, spec: ScorerSpec, scorers: int) -> None:
        before = len(self._warm.held)
        grow(self, spec, scorers)
        warm = before - len(self._warm.held)
        seen.append(Had(scorers=scorers, threads=spec.job["threads"], warm=warm, begun=self in begun))

    def watched_submit(self: LocalScorerSet, run: ChunkRun) -> None:
        begun.add(self)
        submit(self, run)

    def patient_release(self: LocalScorerSet) -> None:
        """As at the end of a job that is long enough for more scorers to pay: all of them have started."""
        wait_until(lambda: self.poll(0.01) == [] and all(scorer.ready for scorer in self._scorers))
        release(self)

    monkeypatch.setattr(LocalScorerSet, "grow", watched_grow)
    monkeypatch.setattr(LocalScorerSet, "submit", watched_submit)
    monkeypatch.setattr(LocalScorerSet, "release", patient_release)
    return seen


def test_more_scorers_for_who_reads_most_of_the_time(
    shop: Workshop, model: Path, table: Path, had: list[Had], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first job by its own chunks, later ones from their start on; all of them write the same bytes."""
    # As on a host with many cores, where more scorers pay at once.
    monkeypatch.setattr(layout, "WORTH", 0)
    compute = replace(shop.context.compute, cores=CORES, memory_bytes=16 << 30)
    shop.pool(replace(shop.context, compute=compute))
    once = digests(shop, "grown", model, table)
    assert sum(rows for _, rows, _ in once) == ROWS
    first, more = had
    assert first == Had(scorers=1, threads=CORES, warm=0, begun=False)
    assert 1 <= more.scorers < CORES
    assert more == Had(scorers=more.scorers, threads=-(-CORES // (more.scorers + 1)), warm=0, begun=True)
    for name in ("second", "third"):
        had.clear()
        assert digests(shop, name, model, table) == once
        assert had == [replace(first, warm=1), replace(more, warm=more.scorers, begun=False)]
    # The same is remembered, and would not pay here.
    monkeypatch.setattr(layout, "WORTH", 1e9)
    had.clear()
    assert digests(shop, "alone", model, table) == once
    assert had == [replace(first, warm=1)]
