"""A store, jobs in it, and pools that run them in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests import checker
from tests.crash.rig.job import write_inputs
from tidemill.bootstrap.wiring import opened
from tidemill.bootstrap.worker import pool_options
from tidemill.config import Settings
from tidemill.domain.access import Principal
from tidemill.domain.admission import Needs
from tidemill.domain.job import Job, JobState
from tidemill.ports.executor import Executor
from tidemill.ports.observer import Observer
from tidemill.service import submission
from tidemill.service.context import Context
from tidemill.service.work import Pool
from tidemill.wire.spec import ComputeSpec, InputSpec, JobSpec, LimitsSpec, OutputSpec, PredictSpec

MODEL = Path(__file__).resolve().parents[1] / "crash" / "models" / "pooled.py"
WHO = Principal(name="tester")
ROWS = (700, 500)
CHUNK_ROWS = 300
CHUNKS = 4
PATIENCE_SECONDS = 200.0
"""Only a failure waits for so long."""
MOVING = (JobState.QUEUED, JobState.PLANNING, JobState.RUNNING, JobState.COMMITTING)


@dataclass(kw_only=True)
class Workshop:
    """One home; `open` gives another process's view of it, as far as the store can tell."""

    folder: Path
    executor: Executor
    pools: list[Pool] = field(default_factory=list)
    views: list[AbstractContextManager[Context]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inputs = tuple(write_inputs(self.folder / "in", rows=ROWS))
        self.context = self.open()

    def open(self, **settings: Any) -> Context:
        """A context with a worker id of its own; children are shared out by one executor, to save time."""
        view = opened(Settings(home=self.folder / "home", cores=2, **settings), children=False)
        context = view.__enter__()
        self.views.append(view)
        return replace(context, executor=self.executor.session(context.worker_id))

    def close(self) -> None:
        for pool in self.pools:
            pool.stop()
        for pool in self.pools:
            pool.join(PATIENCE_SECONDS)
        for view in reversed(self.views):
            view.__exit__(None, None, None)

    def pool(
        self,
        context: Context | None = None,
        *,
        jobs_at_once: int = 2,
        drain_seconds: float = PATIENCE_SECONDS,
        gpus: int = 0,
        observers: Sequence[Observer] = (),
    ) -> Pool:
        """A pool that takes jobs from now on."""
        options = pool_options(Settings(home=self.folder, cores=2, jobs_at_once=jobs_at_once, gpus=gpus))
        options = replace(options, drain_seconds=drain_seconds)
        made = Pool(context or self.context, options, observers)
        self.pools.append(made)
        made.start()
        return made

    def output(self, name: str) -> Path:
        """Each in a folder of its own, so that nothing else may lie there."""
        return self.folder / "out" / name / "scores"

    def spec(self, name: str, *, mode: str = "error", **options: Any) -> JobSpec:
        output = OutputSpec(path=str(self.output(name)), mode=mode)  # type: ignore[arg-type]
        return JobSpec(
            name=name,
            model=f"{MODEL}:Pooled",
            input=InputSpec(path=[str(path) for path in self.inputs]),
            output=output,
            keep=["file_no", "row_no", "note"],
            predict=PredictSpec(options=options),
            compute=ComputeSpec(scorers=1, rows_per_chunk=CHUNK_ROWS, batch_rows=150),
            limits=LimitsSpec(rejected="none"),
        )

    def submit(self, name: str, *, mode: str = "error", needs: Needs | None = None, **options: Any) -> Job:
        """A queued job whose model gets these options."""
        spec = self.spec(name, mode=mode, **options)
        if needs is not None:
            taken = {"scorers": needs.cpus, "gpus": needs.gpus}
            spec = spec.model_copy(update={"compute": spec.compute.model_copy(update=taken)})
        return submission.submit(self.context, WHO, spec)[0]

    def get(self, job: Job) -> Job:
        return self.context.store.jobs.get(job.id)

    def ended(self, *jobs: Job) -> list[Job]:
        """Wait until they rest and no pool has anything to do with them any more."""
        until(lambda: all(self.get(job).state not in MOVING for job in jobs))
        until(lambda: not {job.id for job in jobs} & {held for pool in self.pools for held in pool.running})
        return [self.get(job) for job in jobs]

    def check(self, job: Job) -> None:
        """The independent judge on a finished job."""
        checker.check(self.inputs, Path(job.output))
        checker.check_store(self.folder / "home" / "tidemill.db", Path(job.output))

    def works_on(self, name: str) -> bool:
        """Whether the model of this job was called more than once: with a gate, it waits there."""
        return Path(self.log_path(name)).exists() and len(self.chunks_called(name)) > 1

    def log_path(self, name: str) -> str:
        return str(self.folder / f"{name}.calls")

    def chunks_called(self, name: str) -> list[int]:
        """The chunk of each predict call on a whole batch; halves of it are for finding rejected rows."""
        first = {number: sum(ROWS[:number]) for number in range(len(ROWS))}
        chunks = []
        for line in Path(self.log_path(name)).read_text().splitlines():
            file_no, row_no, _ = map(int, line.split())
            chunks.append((first[file_no] + row_no) // CHUNK_ROWS)
        return chunks


def until(happened: Callable[[], bool]) -> None:
    stop = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < stop, "it did not happen in time"
        time.sleep(0.02)
