"""A run on real flights that is killed half way and goes on. What was typed and shown stands in the README."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.harness.contestants import ENVIRONMENT
from benchmarks.harness.measure import Measured, measure
from benchmarks.harness.places import FOLDER, ROOT
from benchmarks.scenarios.report import Ratio, Report

EXAMPLE = ROOT / "examples" / "flights"
WORDS = ("tidemill", "run", "model.txt", "flights/", "-o", "scores/")
FLAGS = ("--keep", "time_hour,carrier,flight", "--rows-per-chunk", "20000")
SETTLED_SHARE = 0.6
"""The kill comes so far into the time of a whole run: half of its rows are committed about then."""

_STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run(*, rounds: int) -> Report:
    """An uninterrupted run against one that is killed and the same command again, which must give the same bytes."""
    folder = _flights()
    report = Report(
        scenario="resume",
        question="what does it cost to be killed half way and to go on?",
        sizes={"rows": 336_776, "rows_per_chunk": 20_000, "rounds": rounds},
    )
    for _ in range(rounds):
        whole = _typed(folder)
        report.add("whole", _run(folder, whole))
        seconds = round(SETTLED_SHARE * whole.wall_seconds, 1)
        killed = _typed(folder, f"timeout -s KILL {seconds}", again=False)
        resumed = _typed(folder, again=True)
        both = _run(folder, killed, resumed)
        report.add("killed and resumed", {**both, "transcript": _transcript(seconds, killed, resumed)})
    if len({run["sum_of_predictions"] for runs in report.runs.values() for run in runs}) > 1:
        raise SystemExit("Going on gave other predictions.")
    if not all("going on with" in run["transcript"] for run in report.runs["killed and resumed"]):
        raise SystemExit("A run was killed before its first commit or after its last.")
    names = {"wall_seconds": "wall", "cpu_seconds": "CPU"}
    report.ratios = [
        Ratio(
            name=f"{what} / an uninterrupted run's", value=report.median_of_ratios("killed and resumed", "whole", key)
        )
        for key, what in names.items()
    ]
    return report


def _flights() -> Path:
    """A folder with the flights in one file for each month and a model, as the demo has them."""
    folder = FOLDER / "flights"
    if not folder.is_dir():
        sys.path.insert(0, str(EXAMPLE))
        import flights

        scratch = folder.with_name("flights.making")
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "flights").mkdir(parents=True)
        frame = flights.load_flights().sort_values("month", kind="stable", ignore_index=True)
        for month, of_month in frame.groupby("month"):
            flights.write_flights(of_month, scratch / "flights" / f"2013-{month:02}.parquet")
        model = flights.train(frame[frame["month"] <= 6], trees=300, leaves=63)
        model.save_model(scratch / "model.txt")
        scratch.rename(folder)
    return folder


def _typed(folder: Path, before: str = "", *, again: bool = False) -> Measured:
    """The command on a terminal of its own; its `stdout` is all that was shown."""
    if not again:
        for path in (folder / "scores", folder / ".scores.tidemill"):
            shutil.rmtree(path, ignore_errors=True)
        (folder / "scores.manifest.json").unlink(missing_ok=True)
    words = [sys.executable, "-m", *WORDS, *FLAGS]
    return measure([*before.split(), *words], env=ENVIRONMENT, cwd=folder, terminal=True)


def _run(folder: Path, *measured: Measured) -> dict[str, Any]:
    predictions = pq.read_table(folder / "scores", columns=["prediction"])["prediction"].to_numpy()
    return {
        "wall_seconds": sum(each.wall_seconds for each in measured),
        "cpu_seconds": sum(each.cpu_seconds for each in measured),
        "peak_pss_bytes": max(each.peak_pss_bytes for each in measured),
        "rows": len(predictions),
        "sum_of_predictions": float(predictions.sum()),
    }


def _transcript(seconds: float, killed: Measured, resumed: Measured) -> str:
    command = shlex.join([*WORDS, *FLAGS])
    first = [f"$ timeout -s KILL {seconds} {command}", *_shown(killed.stdout, last_bar=True), "Killed"]
    return "\n".join([*first, f"$ {command}", *_shown(resumed.stdout, last_bar=False)])


def _shown(text: str, *, last_bar: bool) -> list[str]:
    """The lines that stay on the screen; of a bar that is drawn again and again only the last, or none."""
    lines, bar = [], ""
    for line in re.split(r"[\r\n]+", _STYLES.sub("", text)):
        if "━" in line:
            bar = line.rstrip()
        elif line.strip():
            lines.append(line.rstrip())
    return [*lines, bar] if last_bar and bar else lines
