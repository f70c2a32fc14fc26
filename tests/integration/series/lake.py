"""A folder that files come into, a service beside it, and a judge of what was scored."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.children import opened_here
from tests.homes import furnish
from tidemill.bootstrap.worker import pool_options
from tidemill.config import Settings
from tidemill.domain.access import Principal
from tidemill.domain.job import Job
from tidemill.service import submission
from tidemill.service.context import Context
from tidemill.service.work import Pool
from tidemill.wire.spec import JobSpec

MODEL = f"{Path(__file__).parent / 'models' / 'steady.py'}:Steady"
WHO = Principal(name="tester")
ROWS = 50
MOVING = ("queued", "planning", "running", "committing")
PATIENCE_SECONDS = 120.0


@dataclass(kw_only=True)
class Lake:
    """Files with (name, edition, row, value): an edition is one content of a file."""

    folder: Path

    def __post_init__(self) -> None:
        self.input = self.folder / "in"
        self.input.mkdir(parents=True)

    def write(self, name: str, edition: int = 1, *, value: float = 1.0, at: float | None = None) -> Path:
        """Bring a file, or change it; `at` is when, in seconds since 1970."""
        path = self.input / name
        path.parent.mkdir(exist_ok=True)
        columns = {"name": [name] * ROWS, "edition": [edition] * ROWS, "row": range(ROWS), "value": [value] * ROWS}
        new = self.folder / ".coming"
        pq.write_table(pa.table(columns), new)
        if at is not None:
            os.utime(new, (at, at))
        new.rename(path)
        return path

    def spec(self, output: str | Path, **words: Any) -> JobSpec:
        """A job of the series `lake` over everything."""
        series = {"name": "lake", **words.pop("series", {})}
        given = {"path": [str(self.input)], "series": series}
        there = {"path": str(self.folder / output), "mode": words.pop("mode", "error")}
        base = {"model": MODEL, "input": given, "output": there, "keep": "all", "limits": {"rejected": 0}}
        return JobSpec.model_validate({**base, "compute": {"scorers": 1, "rows_per_chunk": 60}, **words})

    def scored(self, *outputs: str | Path) -> Counter[tuple[str, int]]:
        """How often each edition of a file is in the outputs; its rows must be there equally often, and rightly
        predicted."""
        rows: Counter[tuple[str, int, int]] = Counter()
        for output in outputs:
            for part in sorted((self.folder / output).glob("*.parquet")):
                table = pq.read_table(part)
                assert table["prediction"].to_pylist() == [2 * value for value in table["value"].to_pylist()]
                rows.update(zip(*(table[column].to_pylist() for column in ("name", "edition", "row")), strict=True))
        times = {(name, edition): rows[name, edition, 0] for name, edition, _ in rows}
        for (name, edition), count in times.items():
            assert [rows[name, edition, row] for row in range(ROWS)] == [count] * ROWS, (name, edition)
        return Counter(times)


@contextmanager
def working(lake: Lake, store: str | None, **words: Any) -> Iterator[Context]:
    """A service on this store with a worker that takes jobs."""
    with opened_here(Settings(home=furnish(lake.folder / "home"), store=store, cores=2, **words)) as context:
        pool = Pool(context, pool_options(Settings(home=lake.folder / "home", cores=2, jobs_at_once=2)))
        pool.start()
        try:
            yield context
        finally:
            pool.stop()
            pool.join(PATIENCE_SECONDS)


def submit(context: Context, spec: JobSpec) -> Job:
    return submission.submit(context, WHO, spec)[0]


def ended(context: Context, job: Job) -> Job:
    """The job when it rests."""
    return _when(context, job.id, lambda now: now.state not in MOVING)


def until_planned(context: Context, job_id: str) -> None:
    """Wait until what the job scores is decided."""
    _when(context, job_id, lambda now: now.plan is not None)


def _when(context: Context, job_id: str, happened: Callable[[Job], bool]) -> Job:
    watch = context.store.watch()
    try:
        for _ in range(round(PATIENCE_SECONDS / 0.5)):
            now = context.store.jobs.get(job_id)
            if happened(now):
                return now
            watch.wait(0.5)
    finally:
        watch.close()
    raise AssertionError(f"{job_id} did not get so far")


def scores(context: Context, spec: JobSpec) -> Job:
    """Submit it, and it succeeds."""
    job = ended(context, submit(context, spec))
    assert job.error is None, job.error
    assert job.state.startswith("succeeded")
    return job
