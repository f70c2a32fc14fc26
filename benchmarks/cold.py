"""A tiny job in a cold process: what the house costs when there is nearly nothing to do."""

from __future__ import annotations

import statistics

import contestants
import data
from report import Ratio, Report


def run(*, rows: int, rounds: int) -> Report:
    """Tidemill against bare Python that reads, predicts and writes the same rows."""
    report = Report(
        scenario="cold",
        question="how much more than bare Python doing the same?",
        sizes={"rows": rows, "trees": 200, "rounds": rounds},
    )
    model, source = data.model_file(trees=200, leaves=63), data.input_folder(rows)
    for _ in range(rounds):
        report.add("tidemill", contestants.tidemill(model, source))
        report.add("bare python", contestants.peer("pyarrow_loop", model, source))
    pairs = list(zip(report.runs["tidemill"], report.runs["bare python"], strict=True))
    if any(own["sum_of_predictions"] != bare["sum_of_predictions"] for own, bare in pairs):
        raise SystemExit("Tidemill and bare Python differ.")
    report.ratios = [
        Ratio(
            name=f"{what} seconds more than bare Python",
            value=statistics.median(own[key] - bare[key] for own, bare in pairs),
            target=target,
        )
        for what, key, target in (("CPU", "cpu_seconds", 1.0), ("wall", "wall_seconds", None))
    ]
    return report
