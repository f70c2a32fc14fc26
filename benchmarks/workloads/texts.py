"""W5: a classifier of texts that others trained: the two joblib files in the package `alt-profanity-check`.

Its vectorizer and its model are put into one pipeline, unchanged. They were written by an older scikit-learn, as such
files often are; what counts is that every contestant loads them with the same version and gives the same labels.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.workloads.line_ups import MAIN
from benchmarks.workloads.workload import Prepared, Workload, made

ROWS_PER_FILE = 50_000


def _published() -> tuple[Any, Any]:
    import joblib

    spec = importlib.util.find_spec("profanity_check")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "data"
    with warnings.catch_warnings():
        # It says which version of scikit-learn wrote the files.
        warnings.simplefilter("ignore")
        return joblib.load(folder / "vectorizer.joblib"), joblib.load(folder / "model.joblib")


def model_file() -> Path:
    """Vectorizer and model in one pipeline, as joblib."""

    def make(folder: Path) -> None:
        import joblib
        from sklearn.pipeline import make_pipeline

        joblib.dump(make_pipeline(*_published()), folder / "model.joblib")

    return made("profanity-check", make) / "model.joblib"


def input_folder(rows: int) -> Path:
    """Texts of 1 to some 300 words, most of them short, of the words that the model knows."""

    def make(folder: Path) -> None:
        words = np.array(sorted(_published()[0].vocabulary_))
        for number, start in enumerate(range(0, rows, ROWS_PER_FILE)):
            path, wanted = folder / f"{number:05}.parquet", min(ROWS_PER_FILE, rows - start)
            if number >= 4 and wanted == ROWS_PER_FILE:
                os.link(folder / f"{number % 4:05}.parquet", path)
                continue
            rng = np.random.default_rng(number)
            lengths = np.minimum(rng.lognormal(2.5, 1.0, wanted).astype(int) + 1, 300)
            drawn = words[rng.integers(0, len(words), lengths.sum())]
            texts = [" ".join(part) for part in np.split(drawn, np.cumsum(lengths)[:-1])]
            ids = np.arange(start, start + wanted)
            pq.write_table(pa.table({"id": ids, "text": texts}), path, row_group_size=25_000)

    return made(f"texts-{rows}", make)


def _prepared(rows: int) -> Prepared:
    return Prepared(
        model=model_file(), source=input_folder(rows), small=input_folder(1_000), features=("text",), trust=True
    )


WORKLOADS = (
    Workload(
        name="W5-texts",
        title="alt-profanity-check's classifier over texts of mixed length",
        rows=600_000,
        quick_rows=20_000,
        make=_prepared,
        tolerance=0.0,
        contestants=(*MAIN, "tidemill-1-scorer"),
        family="text",
    ),
)
