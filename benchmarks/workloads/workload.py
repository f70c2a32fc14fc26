"""What a workload is: files, a model, and when predictions are the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.places import FOLDER


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A workload on the disk. `source` and `small` are folders of Parquet or CSV files with a column `id`."""

    model: Path
    source: Path
    small: Path
    features: tuple[str, ...] = ()
    """The model's columns, if it does not know them itself."""

    trust: bool = False
    """The model's file carries code."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """`make(rows)` makes or finds the files. Predictions are the same up to `tolerance` of the spread of all."""

    name: str
    title: str
    rows: int
    quick_rows: int
    make: Callable[[int], Prepared]
    tolerance: float
    contestants: tuple[str, ...]
    family: str
    """What the model is, for targets: `lightgbm`, `xgboost`, `linear`, `boosting`, `onnx`, `text`."""

    small_job: bool = False
    """Starting matters, not throughput."""

    kernel_target: float | None = None
    """How many times less than the library's predict alone the whole job should cost where a kernel predicts."""

    rounds: int = 3


def made(name: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills, kept once it is whole. A name stands for one content: change it with the maker."""
    folder = FOLDER / name
    if not folder.is_dir():
        scratch = folder.with_name(f"{folder.name}.making")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        make(scratch)
        scratch.rename(folder)
    return folder
