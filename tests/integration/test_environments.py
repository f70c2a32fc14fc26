"""Models that bring their own libraries: two versions of scikit-learn at once, and environments that cannot be made."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tidemill
from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.admission import Needs
from tidemill.domain.errors import EnvironmentUnusable, ModelUnusable
from tidemill.domain.job import Job, JobState
from tidemill.domain.model import Environment
from tidemill.domain.plan import PlanSummary
from tidemill.domain.receipt import Receipt
from tidemill.engine.environment_homes import digest_of, wanted_lines
from tidemill.executors.local import LocalExecutor
from tidemill.ports.executor import ChunkRun, Done, ScorerSpec
from tidemill.ports.observer import Observer
from tidemill.service import keys, registration, submission
from tidemill.service.work import Pool, PoolOptions
from tidemill.testing.executor import finish, wait_until
from tidemill.wire.spec import JobSpec

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("environments")]
"""pip runs in a fixture: once, for all of them."""

MAKE = "tidemill.engine.environments:environment"
TASKS = "tidemill.bootstrap.tasks"
OTHER = "1.8.0"
REQUIREMENTS = f"# of another team\nscikit-learn=={OTHER}\nskops\n"
MOST_SECONDS = 240.0
TRAIN = """
import sys, numpy, sklearn, skops.io
from sklearn.linear_model import LinearRegression
a = numpy.arange(10.0)
model = LinearRegression().fit(a.reshape(-1, 1), float(sys.argv[1]) * a)
skops.io.dump(model, sys.argv[2])
print(sklearn.__version__)
"""


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    it = LocalExecutor(preload=(TASKS, "tidemill.bootstrap.scorer", "tidemill.flavors.sklearn_library"))
    yield it
    it.close()


@pytest.fixture(scope="module")
def other(executor: LocalExecutor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An environment with another scikit-learn, asked for by two at once, where a service would keep it."""
    folder = tmp_path_factory.mktemp("home") / "environments"
    request = {"requirements": REQUIREMENTS, "folder": str(folder)}
    answers: list[dict[str, Any]] = []
    seen: list[dict[str, Any]] = []

    def make() -> None:
        answers.append(executor.call(MAKE, request, on_progress=lambda report: seen.append(dict(report))))

    os.environ["PIP_NO_COMPILE"] = "1"
    try:
        threads = [threading.Thread(target=make) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        del os.environ["PIP_NO_COMPILE"]
    assert [report["step"] for report in seen if "step" in report] == ["making", "installing", "checking"]
    assert answers[0] == answers[1]
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [Path(answers[0]["python"]).parts[-3]]
    return answers[0]


FACTORS = {"own": 2.0, "other": 3.0}


@pytest.fixture(scope="module")
def saved(other: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model that this scikit-learn saved, and one that the other did."""
    folder = tmp_path_factory.mktemp("models")
    paths = {name: folder / f"{name}.skops" for name in FACTORS}
    expected = {"own": version("scikit-learn"), "other": OTHER}
    for name, python in (("own", sys.executable), ("other", other["python"])):
        program = [python, "-I", "-c", TRAIN, str(FACTORS[name]), str(paths[name])]
        done = subprocess.run(program, capture_output=True, text=True)
        assert (done.returncode, done.stdout.strip()) == (0, expected[name]), done.stderr
    return paths


def planned(executor: LocalExecutor, folder: Path, model: Path, python: str | None) -> tuple[ScorerSpec, PlanSummary]:
    for name in ("parts", "plan"):
        (folder / "staging" / name).mkdir(parents=True)
    pq.write_table(pa.table({"a": [1.0, 2.0, 3.0]}), folder / "in.parquet")
    spec = {
        "model": str(model),
        "input": {"path": [str(folder / "in.parquet")]},
        "output": {"path": str(folder / "out"), "format": "parquet"},
        "features": ["a"],
    }
    found = executor.call(f"{TASKS}:identify", {"path": str(model)}, python=python)
    request = {
        "brief": JobSpec.model_validate(spec).brief().to_json(),
        "staging": str(folder / "staging"),
        "model": found,
    }
    plan = PlanSummary.from_json(executor.call(f"{TASKS}:plan", request, python=python)["plan"])
    job = {"staging": str(folder / "staging"), "plan_digest": plan.digest, "model": found, "threads": 1}
    return ScorerSpec(entry="tidemill.bootstrap.scorer:main", job={**job, "max_rejected": 0}, python=python), plan


def test_two_versions_of_scikit_learn_score_at_once(
    executor: LocalExecutor, other: dict[str, Any], saved: dict[str, Path], tmp_path: Path
) -> None:
    sets, parts = [], {}
    for name, python in (("own", None), ("other", other["python"])):
        folder = tmp_path / name
        folder.mkdir()
        spec, plan = planned(executor, folder, saved[name], python)
        assert dict(plan.libraries)["scikit-learn"] == (version("scikit-learn") if python is None else OTHER)
        assert not any("saved by" in note for note in plan.model.notes)
        sets.append(executor.session(name).lease(spec, 1, stall_seconds=30))
        parts[name] = folder / "staging"
    for scorers in sets:
        scorers.submit(ChunkRun(chunk=0, attempt="e1-1"))
    for scorers, (name, staging) in zip(sets, parts.items(), strict=True):
        factor = FACTORS[name]
        *_, done = finish(scorers, 1)
        assert isinstance(done, Done), name
        assert done.receipt is not None
        values = pq.read_table(staging / done.receipt.parts[0].name)["prediction"].to_pylist()
        assert values == pytest.approx([factor, 2 * factor, 3 * factor])
    for scorers in sets:
        scorers.release()


class Together(Observer):
    """Holds each of two jobs at its first committed chunk until the other has come to its own."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)
        self.met: set[str] = set()

    def chunk_committed(self, job: Job, receipt: Receipt) -> None:
        if job.id not in self.met:
            self.met.add(job.id)
            self.barrier.wait(MOST_SECONDS)


def test_one_service_runs_both_at_once(other: dict[str, Any], saved: dict[str, Path], tmp_path: Path) -> None:
    """Registered, submitted and run as users do, and each manifest says with which libraries."""
    home = Path(other["python"]).parents[3]
    environments = {"own": Environment(python=sys.executable), "other": Environment(requirements=REQUIREMENTS)}
    expected = {"own": version("scikit-learn"), "other": OTHER}
    pq.write_table(pa.table({"a": [1.0, 2.0, 3.0, 4.0]}), tmp_path / "in.parquet")
    together = Together()
    options = PoolOptions(jobs_at_once=2, host=Needs(cpus=2, memory_bytes=8 << 30), drain_seconds=5)
    with opened(Settings(home=home, cores=2)) as context:
        who = keys.person_here(context)
        for name, environment in environments.items():
            registration.add(context, who, name, str(saved[name]), environment=environment)
        jobs = {}
        for name in environments:
            spec = JobSpec.model_validate(
                {
                    "model": f"{name}@1",
                    "input": {"path": [str(tmp_path / "in.parquet")]},
                    "output": {"path": str(tmp_path / name)},
                    "features": ["a"],
                    "compute": {"rows_per_chunk": 1},
                }
            )
            jobs[name] = submission.submit(context, who, spec)[0].id
        pool = Pool(context, options, [together])
        pool.start()
        try:
            stop = time.monotonic() + MOST_SECONDS
            while any(context.store.jobs.get(job_id).finished_at is None for job_id in jobs.values()):
                assert time.monotonic() < stop
                time.sleep(0.05)
        finally:
            pool.stop()
            pool.join(30)
        assert together.met == set(jobs.values())
        assert not together.barrier.broken
        for name, job_id in jobs.items():
            ended = context.store.jobs.get(job_id)
            assert ended.state is JobState.SUCCEEDED, ended.error
            found = context.store.ledger.find_manifest(job_id)
            assert found is not None
            manifest = found[0]
            assert manifest["libraries"]["scikit-learn"] == expected[name]
            assert f"scikit-learn=={expected[name]}" in manifest["environment"]["lock"].splitlines()
            values = pq.read_table(tmp_path / name)["prediction"].to_pylist()
            assert values == pytest.approx([FACTORS[name] * n for n in (1, 2, 3, 4)])
    assert [path.name for path in (home / "environments").iterdir() if path.is_dir()] == [
        Path(other["python"]).parts[-3]
    ], "the environment was found and not made again"


def test_lock_names_every_package_and_nothing_of_the_service_leaks_in(
    executor: LocalExecutor, other: dict[str, Any]
) -> None:
    lock = other["lock"].splitlines()
    assert f"scikit-learn=={OTHER}" in lock
    assert {f"{name}=={version(name)}" for name in ("numpy", "pyarrow", "pydantic")} <= set(lock)
    wanted = {"scikit-learn": "-", "lightgbm": "-", "fastapi": "-", "pytest": "-"}
    found = executor.call(f"{TASKS}:versions", wanted, python=other["python"])
    assert found == {**wanted, "scikit-learn": OTHER}


def test_environment_is_found_again_without_pip(
    executor: LocalExecutor, other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(Path(other["python"]).parents[2])
    seen: list[Any] = []
    request = {"requirements": f"scikit-learn=={OTHER}\n\nskops", "folder": folder}
    assert executor.call(MAKE, request, on_progress=seen.append) == other
    assert seen == []
    assert executor.call(MAKE, {"python": other["python"], "folder": folder}) == other


def test_model_of_the_other_version_says_so_here(
    executor: LocalExecutor, saved: dict[str, Path], tmp_path: Path
) -> None:
    _, plan = planned(executor, tmp_path, saved["other"], None)
    assert any(f"saved by scikit-learn {OTHER}" in note for note in plan.model.notes)


@pytest.mark.parametrize(
    "requirements, words",
    [
        ("no-such-package-of-tidemill==1.0", "No matching distribution found for no-such-package-of-tidemill"),
        ("numpy<2\nnumpy>2", "Cannot install numpy<2 and numpy>2"),
    ],
)
def test_requirements_that_cannot_be_installed_leave_nothing(
    executor: LocalExecutor, tmp_path: Path, requirements: str, words: str
) -> None:
    with pytest.raises(EnvironmentUnusable, match=words) as caught:
        executor.call(MAKE, {"requirements": requirements, "folder": str(tmp_path)})
    assert caught.value.remedy
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_interpreters_that_will_not_do_are_named(executor: LocalExecutor, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    bare = str(tmp_path / "bare" / "bin" / "python")
    for python, words in (
        (str(tmp_path / "none"), "There is no interpreter"),
        ("python3", "There is no interpreter"),
        ("/bin/false", "/bin/false cannot be started"),
        (bare, "No module named '(pyarrow|numpy|pydantic)'"),
    ):
        with pytest.raises(EnvironmentUnusable, match=words) as caught:
            executor.call(MAKE, {"python": python, "folder": str(tmp_path)})
        assert caught.value.remedy
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho 3.10.14\n")
    old.chmod(0o755)
    with pytest.raises(EnvironmentUnusable, match=r"is Python 3\.10\.14; scorers need 3\.11"):
        executor.call(MAKE, {"python": str(old), "folder": str(tmp_path)})


def test_scorers_in_an_interpreter_without_libraries_fail_with_its_words(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    bare = str(tmp_path / "bare" / "bin" / "python")
    spec = ScorerSpec(entry="tidemill.bootstrap.scorer:main", job={}, python=bare)
    scorers = executor.lease(spec, 1, stall_seconds=30)
    with pytest.raises(ModelUnusable, match="No module named"):
        scorers.poll(30)
    scorers.kill()


def test_installation_ends_with_its_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip hangs (here it reads requirements from a pipe that nobody writes to) and its worker is killed."""
    pipe = tmp_path / "never"
    os.mkfifo(pipe)
    code = (
        "import sys; from tidemill.executors.local import LocalExecutor\n"
        f"LocalExecutor().call({MAKE!r}, {{'requirements': '-r {pipe}', 'folder': {str(tmp_path)!r}}})"
    )
    path = os.pathsep.join([str(Path(tidemill.__file__).parents[1]), *filter(None, sys.path)])
    worker = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    wait_until(lambda: any(str(tmp_path) in words and "pip" in words for words in command_lines()))
    worker.kill()
    worker.wait(60)
    wait_until(lambda: not any(str(tmp_path) in words for words in command_lines()))


def command_lines() -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def test_versions_of_the_service_are_taken_unless_the_requirements_name_them() -> None:
    own = {name: f"{name}=={version(name)}" for name in ("numpy", "pyarrow", "pydantic")}
    assert wanted_lines("") == list(own.values())
    named = ["PyArrow >= 20", "numpy[extra]<3 ; python_version > '3'", "pydantic-core"]
    assert wanted_lines("# x\n  " + "\n\n".join(named)) == [*named, own["pydantic"]]
    assert digest_of(wanted_lines("a\n# b\n\n")) == digest_of(wanted_lines("a"))
    assert digest_of(wanted_lines("a")) != digest_of(wanted_lines("b"))
