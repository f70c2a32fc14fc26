"""A big job: how near to the floor, and against what people write themselves."""

from __future__ import annotations

import math
import statistics

import contestants
import data
from report import Ratio, Report


def run(*, rows: int, rounds: int, trees: int) -> Report:
    """Tidemill, the floor, a pandas script and a pyarrow loop on the same files, in turns."""
    report = Report(
        scenario="throughput",
        question="how much more than decoding, predicting and encoding?",
        sizes={"rows": rows, "columns": 36, "features": len(data.FEATURES), "trees": trees, "rounds": rounds},
    )
    model, source = data.model_file(trees=trees, leaves=63), data.input_folder(rows)
    takes = {
        "tidemill": lambda: contestants.tidemill(model, source, "--accelerate", "off"),
        "tidemill, kernel": lambda: contestants.tidemill(model, source, "--accelerate", "strict"),
        "floor": lambda: contestants.floor(model, source),
        "pandas script": lambda: contestants.peer("pandas_script", model, source),
        "pyarrow loop": lambda: contestants.peer("pyarrow_loop", model, source),
    }
    names = list(takes)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            report.add(name, takes[name]())
    _check(report, rows)
    report.ratios = _ratios(report)
    return report


def _check(report: Report, rows: int) -> None:
    """Whoever is fast must also be right."""
    expected = report.runs["floor"][0]["sum_of_predictions"]
    for name, runs in report.runs.items():
        for one in runs:
            if one["rows"] != rows or not math.isclose(one["sum_of_predictions"], expected, rel_tol=1e-9):
                raise SystemExit(f"{name} gave {one['rows']:,} rows that add up to {one['sum_of_predictions']}.")


def _kernel_ratios(report: Report) -> list[Ratio]:
    """The whole job with a kernel against nothing but the library's predict calls, side by side in all cores."""
    pairs = list(zip(report.runs["tidemill, kernel"], report.runs["floor"], strict=True))
    cpu = [own["cpu_seconds"] / low["stages"]["predict"] for own, low in pairs]
    wall = [own["wall_seconds"] / (low["stages"]["predict"] / low["threads"]) for own, low in pairs]
    return [
        Ratio(
            name="CPU of all with the kernel / CPU of the library's predict", value=statistics.median(cpu), target=1 / 3
        ),
        Ratio(name="wall with the kernel / library's predict alone", value=statistics.median(wall), target=1 / 3),
    ]


def _ratios(report: Report) -> list[Ratio]:
    pairs = list(zip(report.runs["tidemill"], report.runs["floor"], strict=True))
    cpu = [(own["cpu_seconds"] - low["import_cpu_seconds"]) / low["cpu_seconds"] for own, low in pairs]
    wall = [own["wall_seconds"] / (low["wall_seconds"] + low["import_wall_seconds"]) for own, low in pairs]
    beside = [own["wall_seconds"] / (low["measured_wall_seconds"] + low["import_wall_seconds"]) for own, low in pairs]
    return [
        Ratio(name="CPU less one import / floor's CPU", value=statistics.median(cpu), target=1.15),
        Ratio(name="wall / (floor's CPU / cores + one import)", value=statistics.median(wall), target=1.2),
        Ratio(name="wall / the floor's own wall, on this machine as busy as it was", value=statistics.median(beside)),
        Ratio(name="peak memory, GB", value=report.median("tidemill", "peak_pss_bytes") / 1e9, target=0.7),
        *_kernel_ratios(report),
        *(
            Ratio(name=f"{what} / {peer}'s", value=report.median_of_ratios("tidemill", peer, key), target=target)
            for peer, wall_target in (("pandas script", 1.0), ("pyarrow loop", None))
            for what, key, target in (
                ("wall", "wall_seconds", wall_target),
                ("CPU", "cpu_seconds", None),
                ("peak memory", "peak_pss_bytes", None),
            )
        ),
        Ratio(
            name="CPU of the worker process / CPU of all",
            value=statistics.median(own["root_cpu_seconds"] / own["cpu_seconds"] for own, _ in pairs),
        ),
    ]
