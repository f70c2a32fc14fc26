"""A job whose single scorer leaves cores idle gets more of them, and the same output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from tidemill.ports.executor import ScorerSpec
from tidemill.service import submission
from tidemill.wire.spec import ComputeSpec, InputSpec, JobSpec, OutputSpec

ROWS, COLUMNS, CORES = 400_000, 12, 8
CHUNKS = 16


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    executor = LocalExecutor(preload=PRELOAD)
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


def test_more_scorers_for_who_reads_most_of_the_time(
    shop: Workshop, model: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown: list[tuple[int, int]] = []
    grow = LocalScorerSet.grow

    def watched(self: LocalScorerSet, spec: ScorerSpec, scorers: int) -> None:
        grown.append((scorers, spec.job["threads"]))
        grow(self, spec, scorers)

    monkeypatch.setattr(LocalScorerSet, "grow", watched)
    # As on a host with many cores, where more scorers pay at once.
    monkeypatch.setattr(layout, "WORTH", 0)
    compute = replace(shop.context.compute, cores=CORES, memory_bytes=16 << 30)
    shop.pool(replace(shop.context, compute=compute))
    once = digests(shop, "grown", model, table)
    ((more, threads),) = grown
    assert 1 <= more < CORES
    assert threads == -(-CORES // (more + 1))
    assert sum(rows for _, rows, _ in once) == ROWS
    monkeypatch.setattr(layout, "WORTH", 1e9)
    assert digests(shop, "alone", model, table) == once
    assert len(grown) == 1
