"""A linear pipeline: the whole job with the kernel, cold, against nothing but scikit-learn's own predict calls."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path

import contestants
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from data import FOLDER, ROWS_PER_FILE, ROWS_PER_GROUP
from report import Ratio, Report

NUMBERS = tuple(f"n{i}" for i in range(5))
WORDS = {"w0": 4, "w1": 12, "w2": 50, "w3": 200, "w4": 1_000}
"""Columns of categories, and how many each has."""
TRAINING_ROWS = 20_000


def run(*, rows: int, rounds: int) -> Report:
    """Tidemill with the kernel and without, and the library alone, in turns."""
    report = Report(
        scenario="linear",
        question="what does a folded pipeline save?",
        sizes={"rows": rows, "features": len(NUMBERS) + len(WORDS), "rounds": rounds},
    )
    model, source = model_file(), input_folder(rows)
    takes = {
        "tidemill": lambda: contestants.tidemill(model, source, "--trust", "--accelerate", "off"),
        "tidemill, kernel": lambda: contestants.tidemill(model, source, "--trust", "--accelerate", "strict"),
        "library": lambda: contestants.library(model, source),
    }
    for turn in range(rounds):
        for name in list(takes)[turn % len(takes) :] + list(takes)[: turn % len(takes)]:
            report.add(name, takes[name]())
    expected = report.runs["library"][0]["sum_of_predictions"]
    for name, runs in report.runs.items():
        if any((one["rows"], one["sum_of_predictions"]) != (rows, expected) for one in runs):
            raise SystemExit(f"{name} gave other predictions than the library.")
    report.ratios = [
        Ratio(name=f"{what} of all with the kernel / {what} of the library's predict", value=ratio, target=1 / 8)
        for what, ratio in (
            ("CPU", _ratio(report, "tidemill, kernel", "cpu_seconds")),
            ("wall", _ratio(report, "tidemill, kernel", "wall_seconds")),
        )
    ] + [
        Ratio(name="CPU of all without / CPU of the library's predict", value=_ratio(report, "tidemill", "cpu_seconds"))
    ]
    return report


def _ratio(report: Report, name: str, key: str) -> float:
    pairs = zip(report.runs[name], report.runs["library"], strict=True)
    return statistics.median(one[key] / alone[key] for one, alone in pairs)


def table(seed: int, rows: int) -> pa.Table:
    """Numbers with gaps and words, by the seed alone."""
    random = np.random.default_rng(seed)
    columns: dict[str, pa.Array] = {"id": pa.array(np.arange(seed * ROWS_PER_FILE, seed * ROWS_PER_FILE + rows))}
    for name in NUMBERS:
        columns[name] = pa.array(random.normal(size=rows), mask=random.random(rows) < 0.02)
    for name, count in WORDS.items():
        words = pa.array([f"{name} is {number}" for number in range(count)])
        columns[name] = words.take(pa.array(random.integers(0, count, rows)))
    return pa.table(columns)


def input_folder(rows: int) -> Path:
    """A folder of Parquet files with so many rows, made once."""
    folder = FOLDER / f"linear-{rows}"
    if not folder.is_dir():
        scratch = folder.with_name(folder.name + ".making")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        for number, start in enumerate(range(0, rows, ROWS_PER_FILE)):
            made = table(number, min(ROWS_PER_FILE, rows - start))
            pq.write_table(made, scratch / f"{number:05}.parquet", row_group_size=ROWS_PER_GROUP)
        scratch.rename(folder)
    return folder


def model_file() -> Path:
    """Imputed and scaled numbers, categories as ones and zeros, a logistic regression; made once."""
    path = FOLDER / "linear.joblib"
    if not path.exists():
        import joblib
        from sklearn.compose import ColumnTransformer
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        frame = table(1_000_000, TRAINING_ROWS).to_pandas()
        noise = np.random.default_rng(2).normal(size=len(frame))
        late = (frame[list(NUMBERS)].sum(axis=1) + 2 * (frame["w0"] == "w0 is 1") + noise > 0).astype(int)
        numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
        words = OneHotEncoder(handle_unknown="ignore")
        columns = ColumnTransformer([("numbers", numbers, list(NUMBERS)), ("words", words, list(WORDS))])
        model = make_pipeline(columns, LogisticRegression(max_iter=200))
        path.parent.mkdir(parents=True, exist_ok=True)
        joblib.dump(model.fit(frame[[*NUMBERS, *WORDS]], late), path)
    return path
