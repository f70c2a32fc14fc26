"""A scorer that is handed from job to job: the model stays, everything else is the new job's."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.domain.errors import ModelUnusable, NotTrusted
from tidemill.domain.plan import PlanSummary
from tidemill.engine.modelkey import model_key
from tidemill.executors.local import LocalExecutor
from tidemill.ports.executor import ChunkRun, Done, ScorerSpec
from tidemill.testing.executor import finish, wait_until
from tidemill.wire.spec import JobSpec

TASKS = "tidemill.bootstrap.tasks"
MODEL = """
import os
import numpy as np

class Twice:
    n_features_in_ = 1

    def __init__(self, factor):
        self.factor = factor

    def __setstate__(self, state):
        self.__dict__.update(state)
        with open(__file__ + ".loads", "a") as loads:
            print(os.getpid(), file=loads)

    def predict(self, rows):
        return np.asarray(rows, dtype=float)[:, 0] * self.factor
"""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A job that can be scored, and what it should predict."""

    spec: ScorerSpec
    staging: Path
    expected: list[float]


class Mill:
    """Plans and scores jobs of one chunk."""

    def __init__(self, executor: LocalExecutor, folder: Path) -> None:
        self.executor, self.folder, self.jobs = executor, folder, 0

    def plan(self, model: Path, values: list[float], *, factor: float = 2.0, **spec: Any) -> Planned:
        self.jobs += 1
        place = self.folder / f"job{self.jobs}"
        for name in ("parts", "plan"):
            (place / "staging" / name).mkdir(parents=True)
        source = place / "in.parquet"
        pq.write_table(pa.table({"id": list(range(len(values))), "a": values}), source)
        words = {
            "model": str(model),
            "input": {"path": [str(source)]},
            "output": {"path": str(place / "out"), "format": "parquet"},
        }
        found = {**self.executor.call(f"{TASKS}:identify", {"path": str(model)}), "trusted": True}
        brief = JobSpec.model_validate({**words, "features": ["a"], **spec}).brief()
        request = {"brief": brief.to_json(), "staging": str(place / "staging"), "model": found}
        plan = PlanSummary.from_json(self.executor.call(f"{TASKS}:plan", request)["plan"])
        job = {
            "staging": str(place / "staging"),
            "plan_digest": plan.digest,
            "model": found,
            "threads": 1,
            "max_rejected": 0,
        }
        scorer = ScorerSpec(entry="tidemill.bootstrap.scorer:main", job=job, warm_key=model_key(found, plan, 1))
        return Planned(spec=scorer, staging=place / "staging", expected=[factor * value for value in values])

    def score(self, planned: Planned) -> tuple[int, dict[str, Any]]:
        """Pid of the scorer and its receipt; the predictions were right and the scorer is released."""
        scorers = self.executor.session("job").lease(planned.spec, 1, stall_seconds=30)
        scorers.submit(ChunkRun(chunk=0, attempt="e1-1"))
        *_, done = finish(scorers, 1)
        assert isinstance(done, Done)
        assert done.receipt is not None
        assert done.receipt.rejected == 0, done.receipt.rejections
        (part,) = done.receipt.parts
        table = pq.read_table(planned.staging / part.name)
        assert table["prediction"].to_pylist() == planned.expected
        (pid,) = scorers.pids
        scorers.release()
        return pid, done.receipt.to_json()


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    preload = ("pyarrow.parquet", TASKS, "tidemill.bootstrap.scorer", "tidemill.flavors.sklearn_library")
    it = LocalExecutor(preload=preload, warm_bytes=2**31)
    yield it
    it.close()


@pytest.fixture
def mill(executor: LocalExecutor, tmp_path: Path) -> Mill:
    executor._nursery.warm.clear()
    return Mill(executor, tmp_path)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pickle whose class lies in a module beside it."""
    return write_model(tmp_path, monkeypatch, 2.0)


def write_model(folder: Path, monkeypatch: pytest.MonkeyPatch, factor: float) -> Path:
    (folder / "twice.py").write_text(MODEL)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    import twice  # type: ignore[import-not-found]

    path = folder / "model.pkl"
    path.write_bytes(pickle.dumps(twice.Twice(factor), protocol=4))
    return path


def mapped_files(pid: int) -> str:
    files = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    return Path(f"/proc/{pid}/maps").read_text() + "\n".join(files)


def test_next_job_finds_the_model_and_nothing_else(mill: Mill, model: Path) -> None:
    first, second = mill.plan(model, [1.0, 2.0, 3.0]), mill.plan(model, [5.0] * 7)
    assert first.spec.warm_key == second.spec.warm_key
    pid, _ = mill.score(first)
    wait_until(lambda: [size for _, size in mill.executor._nursery.warm.held if size] != [])
    ((idle, held),) = mill.executor._nursery.warm.held
    assert (idle, os.readlink(f"/proc/{pid}/cwd")) == (pid, str(mill.folder))
    assert held is not None and 2**20 < held < 2**30
    assert "job1" not in mapped_files(pid)
    threads = threads_of(pid)
    again, after = mill.score(second)
    assert again == pid
    assert after["rows"] == 7
    assert (mill.folder / "twice.py.loads").read_text().split().count(str(pid)) == 1
    wait_until(lambda: mill.executor._nursery.warm.held[0][1] is not None)
    assert "job2" not in mapped_files(pid)
    wait_until(lambda: threads_of(pid) <= threads)


def threads_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def test_other_options_are_loaded_anew_whatever_the_key_says(mill: Mill, model: Path) -> None:
    first = mill.plan(model, [1.0])
    second = mill.plan(model, [1.0], factor=2.0, predict={"options": {"features": ["a"]}})
    assert first.spec.warm_key != second.spec.warm_key
    pid, _ = mill.score(first)
    again, _ = mill.score(replace(second, spec=replace(second.spec, warm_key=first.spec.warm_key)))
    assert again == pid


def test_model_that_changed_meanwhile_is_refused(mill: Mill, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = mill.plan(model, [1.0]), mill.plan(model, [1.0])
    pid, _ = mill.score(first)
    write_model(mill.folder, monkeypatch, 3.0)
    with pytest.raises(ModelUnusable, match="changed since this job was submitted"):
        mill.score(second)
    third = mill.plan(model, [1.0], factor=3.0)
    again, _ = mill.score(third)
    assert again != pid


def test_file_that_was_only_touched_is_loaded_and_checked_again(mill: Mill, model: Path) -> None:
    first, second = mill.plan(model, [1.0]), mill.plan(model, [4.0])
    pid, _ = mill.score(first)
    os.utime(model)
    assert mill.score(second)[0] == pid


def test_trust_is_asked_at_every_handover(mill: Mill, model: Path) -> None:
    first, second = mill.plan(model, [1.0]), mill.plan(model, [1.0])
    mill.score(first)
    distrusted = {**second.spec.job, "model": {**second.spec.job["model"], "trusted": False}}
    with pytest.raises(NotTrusted):
        mill.score(replace(second, spec=replace(second.spec, job=distrusted)))


def test_code_is_never_kept(mill: Mill, model: Path) -> None:
    (mill.folder / "own.py").write_text(
        "class Own:\n    inputs = ['a']\n    def predict(self, batch): return [2 * x for x in batch['a'].to_pylist()]\n"
    )
    planned = [mill.plan(Path(f"{mill.folder}/own.py:Own"), [1.0, 2.0]) for _ in range(3)]
    assert planned[0].spec.warm_key is None
    mill.score(planned[0])
    assert mill.executor._nursery.warm.held == []
    pids = {mill.score(replace(job, spec=replace(job.spec, warm_key="k")))[0] for job in planned[1:]}
    assert len(pids) == 2
    wait_until(lambda: mill.executor._nursery.warm.held == [])


def test_one_scorer_serves_many_jobs(mill: Mill, model: Path) -> None:
    pids = {mill.score(mill.plan(model, list(np.arange(count, dtype=float))))[0] for count in (1, 100, 10_000)}
    assert len(pids) == 1
