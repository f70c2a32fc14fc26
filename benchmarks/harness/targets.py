"""What the product promises against floor and peers, as ratios, and whether one run of the benchmark kept it."""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.harness.contest import REFERENCE, Part
from benchmarks.harness.contestants import CONTESTANTS
from benchmarks.harness.places import BENCHMARKS

OWN, LIBRARY, ALONE = "tidemill", "tidemill-library", "predict-alone"
LONG_SECONDS = 30.0
"""From here on a job is long: what it costs to start hardly counts."""

NATIVE = frozenset({"lightgbm", "xgboost", "onnx"})
"""Models of libraries that predict without Python's lock."""

SCRIPTS = ("pandas", "dask", "daft")
CLUSTERS = ("ray", "spark")
KEYS = {"wall": "wall_seconds", "CPU": "cpu_seconds", "peak memory": "peak_pss_bytes"}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`value` should be at most `at_most`; nobody promised anything if that is None."""

    workload: str
    name: str
    value: float
    at_most: float | None

    @property
    def missed(self) -> bool:
        return self.at_most is not None and self.value > self.at_most

    @property
    def key(self) -> str:
        """How `reasons.toml` names it."""
        return f"{self.workload}: {self.name}"


def median(part: Part, name: str, key: str) -> float:
    return statistics.median(float(run[key]) for run in part.runs[name])


def ratio(part: Part, top: str, bottom: str, key: str) -> float:
    """The median of the rounds' ratios: what the machine did to one it did to its neighbour."""
    pairs = zip(part.runs[top], part.runs[bottom], strict=False)
    return statistics.median(float(a[key]) / float(b[key]) for a, b in pairs)


def used_kernel(part: Part) -> bool:
    """Whether a kernel predicted in Tidemill's run as a user would have it."""
    return any(run.get("kernel_rows", 0) > 0 for run in part.runs.get(OWN, []))


def verdicts(part: Part) -> list[Verdict]:
    """All that can be said of a part, with what was promised."""
    found = [*_against_floor(part), *_against_library(part), *_against_peers(part), *_of_its_own(part)]
    return [Verdict(workload=part.workload, name=name, value=value, at_most=limit) for name, value, limit in found]


def reasons() -> dict[str, str]:
    """Why targets were missed, by `Verdict.key`."""
    text = (BENCHMARKS / "reasons.toml").read_text(encoding="utf-8")
    return {f"{workload}: {name}": why for workload, each in tomllib.loads(text).items() for name, why in each.items()}


_Found = Iterator[tuple[str, float, float | None]]


def _against_floor(part: Part) -> _Found:
    if not part.small_job and {LIBRARY, REFERENCE} <= set(part.runs):
        long = part.family in NATIVE and median(part, LIBRARY, "wall_seconds") >= LONG_SECONDS
        yield "wall without kernels / floor", ratio(part, LIBRARY, REFERENCE, "wall_seconds"), 1.1 if long else None


def _against_library(part: Part) -> _Found:
    """The whole job, cold, against the calls of predict alone: the better of two ways to use all cores for them."""
    if part.kernel_target is None or not {OWN, REFERENCE, ALONE} <= set(part.runs):
        return
    for what in ("wall", "CPU"):
        key = KEYS[what]
        rounds = zip(part.runs[OWN], part.runs[REFERENCE], part.runs[ALONE], strict=False)
        found = [own[key] / min(floor[f"predict_{key}"], alone[key]) for own, floor, alone in rounds]
        yield f"{what} with kernels / library's predict alone", statistics.median(found), 1 / part.kernel_target


def _against_peers(part: Part) -> _Found:
    """With kernels where there are any, as a user would have it."""
    kernel = used_kernel(part)
    for name in part.runs:
        engine = CONTESTANTS[name].environment
        title = CONTESTANTS[name].title
        if engine == "pyarrow" and not part.small_job:
            if LIBRARY in part.runs:
                yield f"CPU without kernels / {title}", ratio(part, LIBRARY, name, "cpu_seconds"), 1.1
            if kernel:
                yield f"CPU with kernels / {title}", ratio(part, OWN, name, "cpu_seconds"), 1 / 3
        if engine in (*SCRIPTS, *CLUSTERS) and OWN in part.runs:
            limit = _limit(engine, warm=name.endswith("-warm"), kernel=kernel)
            for what in ("wall", "CPU"):
                yield f"{what} / {title}", ratio(part, OWN, name, KEYS[what]), limit
        if engine in ("daft", *CLUSTERS) and OWN in part.runs:
            yield f"peak memory / {title}", ratio(part, OWN, name, KEYS["peak memory"]), 1 / 2


def _limit(engine: str, *, warm: bool, kernel: bool) -> float:
    if engine in SCRIPTS:
        return 1 / 1.3
    return 1 / 1.3 if warm and not kernel else 1 / 3


def _of_its_own(part: Part) -> _Found:
    if part.small_job and {OWN, "pyarrow"} <= set(part.runs):
        pairs = zip(part.runs[OWN], part.runs["pyarrow"], strict=False)
        more = statistics.median(own["cpu_seconds"] - bare["cpu_seconds"] for own, bare in pairs)
        yield "CPU seconds more than bare Python (the pyarrow loop)", more, 1.0
    if {OWN, "tidemill-1-scorer"} <= set(part.runs):
        yield "wall / one scorer's", ratio(part, OWN, "tidemill-1-scorer", "wall_seconds"), 1 / 1.85
    if {LIBRARY, "tidemill-killed"} <= set(part.runs):
        for what in ("wall", "CPU"):
            yield (
                f"{what} killed and resumed / uninterrupted",
                ratio(part, "tidemill-killed", LIBRARY, KEYS[what]),
                1.05,
            )
