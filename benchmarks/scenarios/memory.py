"""Memory must not grow with the data: peak of a small and of a big job."""

from __future__ import annotations

from benchmarks.scenarios import jobs
from benchmarks.scenarios.report import Ratio, Report
from benchmarks.workloads.boosted import lightgbm_model
from benchmarks.workloads.rows import input_folder

TREES = 10


def run(*, rows: int, times: int, rounds: int) -> Report:
    """`rows` and `times` as many rows with a model of a few trees, so that data flow as fast as they can."""
    report = Report(
        scenario="memory",
        question="does the peak stay where it is when the data grow?",
        sizes={"rows": rows, "times": times, "columns": 36, "trees": TREES, "rounds": rounds},
    )
    model = lightgbm_model(trees=TREES, leaves=31)
    for _ in range(rounds):
        for size in (rows, rows * times):
            one = jobs.score(model, input_folder(size))
            if one["rows"] != size:
                raise SystemExit(f"{one['rows']:,} rows came out of {size:,}.")
            report.add(f"{size:,} rows", one)
    small, big = f"{rows:,} rows", f"{rows * times:,} rows"
    report.ratios = [
        Ratio(name="peak memory, big / small", value=report.median_of_ratios(big, small, "peak_pss_bytes"), target=1.2)
    ]
    return report
