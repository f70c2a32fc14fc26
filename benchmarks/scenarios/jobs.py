"""A Tidemill job by itself: what it costs and what came out."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness.checking import predictions
from benchmarks.harness.contestants import Run, tidemill
from benchmarks.harness.places import empty_output
from benchmarks.workloads.workload import Prepared


def score(model: Path, source: Path, *flags: str) -> Run:
    """One `tidemill run`, with the rows and the sum of what came out."""
    output = empty_output()
    run = tidemill(Prepared(model=model, source=source, small=source), output, *flags)
    _, values = predictions(output)
    empty_output()
    return {**run, "rows": len(values), "sum_of_predictions": float(values.sum())}
