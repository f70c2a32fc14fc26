"""Who can run: how each is called, and in which environment."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.environments import python_of
from benchmarks.harness.measure import LIMIT_SECONDS, Measured, measure
from benchmarks.harness.places import BENCHMARKS, FOLDER, PEERS, ROOT
from benchmarks.workloads.workload import Prepared

OWN = "own"
"""The environment that runs the benchmarks: Tidemill's and the floors'."""

ENVIRONMENT = {
    "TIDEMILL_HOME": str(FOLDER / "home"),
    "PYTHONPATH": str(ROOT / "src"),
    "PYTHONDONTWRITEBYTECODE": "",
}
Run = dict[str, Any]


class Failed(Exception):
    """A contestant did not get to its end; the text says why, for the table."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """`score(prepared, output, runs)` makes the folder `output`; `runs` are those of this contest so far."""

    name: str
    title: str
    environment: str
    score: Callable[[Prepared, Path, Mapping[str, list[Run]]], Run]

    def ensure(self, *, make: bool) -> None:
        """Raises Unavailable if its environment cannot be had."""
        if self.environment != OWN:
            python_of(self.environment, make=make)


def _peer(name: str, title: str, script: str, *flags: str, warm: bool = False) -> Contestant:
    engine = script.partition("/")[0]

    def score(prepared: Prepared, output: Path, runs: Mapping[str, list[Run]]) -> Run:
        words = [str(python_of(engine)), str(PEERS / script), *flags]
        if warm:
            words += ["--warm", str(prepared.small)]
        measured = measure(
            [*words, *_files(prepared, output)],
            env={"PYTHONPATH": str(PEERS / "shared"), "PYTHONDONTWRITEBYTECODE": ""},
            warm=warm,
        )
        return _costs(_good(measured))

    return Contestant(name=name, title=title, environment=engine, score=score)


def _floor(name: str, title: str, script: str) -> Contestant:
    """Its wall and CPU are what it accounts for itself. Memory is of its process."""

    def score(prepared: Prepared, output: Path, runs: Mapping[str, list[Run]]) -> Run:
        words = [sys.executable, str(BENCHMARKS / "floors" / script), *_files(prepared, output)]
        measured = _good(measure(words, env={**ENVIRONMENT, "PYTHONPATH": str(PEERS / "shared")}))
        return {**_costs(measured), **json.loads(measured.stdout)}

    return Contestant(name=name, title=title, environment=OWN, score=score)


def _tidemill(name: str, title: str, *flags: str) -> Contestant:
    def score(prepared: Prepared, output: Path, runs: Mapping[str, list[Run]]) -> Run:
        return tidemill(prepared, output, *flags)

    return Contestant(name=name, title=title, environment=OWN, score=score)


def _killed(name: str, title: str, *flags: str, whole: str) -> Contestant:
    """SIGKILL after half of the time that the last uninterrupted run took, then the same command again."""

    def score(prepared: Prepared, output: Path, runs: Mapping[str, list[Run]]) -> Run:
        if whole not in runs:
            raise Failed(f"there is no run of {whole} to take half of")
        command = tidemill_command(prepared, output, *flags)
        seconds = runs[whole][-1]["wall_seconds"] / 2
        killed = measure(["timeout", "-s", "KILL", f"{seconds:.2f}", *command], env=ENVIRONMENT)
        resumed = _good(measure(command, env=ENVIRONMENT))
        told = _told(resumed.stdout)
        if killed.exit_code == 0 or not told["resumed_chunks"]:
            raise Failed("it was killed before its first commit or after its end")
        first, then = _costs(killed), _costs(resumed)
        added = {key: first[key] + then[key] for key in ("wall_seconds", "cpu_seconds", "root_cpu_seconds")}
        peaks = {key: max(first[key], then[key]) for key in ("peak_pss_bytes", "peak_processes", "others_share")}
        return {**added, **peaks, **told}

    return Contestant(name=name, title=title, environment=OWN, score=score)


def tidemill(prepared: Prepared, output: Path, *flags: str) -> Run:
    """One `tidemill run` to a folder, and what it says of its own work. Raises Failed."""
    measured = _good(measure(tidemill_command(prepared, output, *flags), env=ENVIRONMENT))
    return {**_costs(measured), **_told(measured.stdout)}


def tidemill_start() -> Run:
    """What the command costs before it does anything."""
    return _costs(_good(measure([sys.executable, "-m", "tidemill", "jobs", "list", "--json"], env=ENVIRONMENT)))


def tidemill_command(prepared: Prepared, output: Path, *flags: str) -> list[str]:
    """One `tidemill run` to a folder."""
    words = [sys.executable, "-m", "tidemill", "run", str(prepared.model), str(prepared.source), "-o", str(output)]
    if prepared.features:
        words += ["--features", ",".join(prepared.features)]
    if prepared.trust:
        words.append("--trust")
    return [*words, "--keep", "id", "--json", *flags]


def _files(prepared: Prepared, output: Path) -> list[str]:
    features = ["--features", ",".join(prepared.features)] if prepared.features else []
    return [*features, str(prepared.model), str(prepared.source), str(output)]


def _good(measured: Measured) -> Measured:
    if measured.exit_code == -signal.SIGKILL:
        raise Failed(f"was killed: out of memory, or it took longer than {LIMIT_SECONDS:.0f} s")
    if measured.exit_code != 0:
        said = [line for line in (measured.stderr or measured.stdout).splitlines() if line.strip()]
        (FOLDER / "failed.log").write_text(measured.stderr + measured.stdout)
        raise Failed(f"ended with {measured.exit_code}: {said[-1].strip()[:200] if said else 'it said nothing'}")
    return measured


def _costs(measured: Measured) -> Run:
    costs = asdict(measured)
    del costs["stdout"], costs["stderr"], costs["exit_code"]
    return costs


def _told(stdout: str) -> Run:
    """What `run --json` says of its work; the rest of it names folders of this machine."""
    told = json.loads(stdout)
    usage = told["job"]["usage"]
    return {
        "resumed_chunks": told["resumed_chunks"],
        "chunks": told["job"]["chunks"]["total"],
        "kernel_rows": usage.get("kernel_rows", 0),
        "usage": usage,
    }


_LIBRARY = ("--accelerate", "off")

CONTESTANTS: dict[str, Contestant] = {
    each.name: each
    for each in (
        _floor("floor", "the floor: decode, predict, encode", "all_stages.py"),
        _floor("predict-alone", "the library's predict alone", "predict_alone.py"),
        _tidemill("tidemill", "Tidemill"),
        _tidemill("tidemill-library", "Tidemill, without kernels", *_LIBRARY),
        _tidemill("tidemill-1-scorer", "Tidemill, one scorer", "--scorers", "1"),
        _killed("tidemill-killed", "Tidemill, killed half way and resumed", *_LIBRARY, whole="tidemill-library"),
        _peer("pandas", "pandas script", "pandas/script.py"),
        _peer("pyarrow", "careful pyarrow loop", "pyarrow/loop.py"),
        _peer("dask", "Dask", "dask/frame.py"),
        _peer("daft", "Daft, class UDF", "daft/frame.py"),
        _peer("ray-tasks", "Ray Data, tasks", "ray/data.py", "--tasks"),
        _peer("ray-actors", "Ray Data, actors", "ray/data.py", "--actors"),
        _peer("ray-tasks-warm", "Ray Data, tasks, warm", "ray/data.py", "--tasks", warm=True),
        _peer("ray-actors-warm", "Ray Data, actors, warm", "ray/data.py", "--actors", warm=True),
        _peer("spark-arrow", "Spark, mapInArrow", "spark/local.py", "--arrow"),
        _peer("spark-udf", "Spark, predict_batch_udf", "spark/local.py", "--udf"),
        _peer("spark-mlflow", "Spark, MLflow's spark_udf", "spark/local.py", "--mlflow"),
        _peer("spark-arrow-warm", "Spark, mapInArrow, warm", "spark/local.py", "--arrow", warm=True),
        _peer("spark-udf-warm", "Spark, predict_batch_udf, warm", "spark/local.py", "--udf", warm=True),
        _peer("spark-mlflow-warm", "Spark, MLflow's spark_udf, warm", "spark/local.py", "--mlflow", warm=True),
    )
}
