"""The side of a peer that is no engine: what its command line says, and the model with the library's own predict.

All peers share it, so that they differ in what carries rows to the model and predictions away, and in nothing else.
A script is called as `script.py [--VARIANT] [--features A,B] [--warm FOLDER] MODEL INPUT OUTPUT`.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

CORES = len(os.sched_getaffinity(0))
OUTPUT = pa.schema([("id", pa.int64()), ("prediction", pa.float64())])
BATCH_ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one run is asked for. `source` and `warm` are folders of Parquet or CSV files with a column `id`."""

    model: str
    source: str
    target: str
    features: tuple[str, ...]
    warm: str | None
    variant: str

    @property
    def csv(self) -> bool:
        return any(name.endswith(".csv") for name in os.listdir(self.source))


def asked(*variants: str) -> Asked:
    """From the command line. `variants` are flags of which one may stand there; the first is the default."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--features", type=lambda text: tuple(text.split(",")), default=())
    parser.add_argument("--warm")
    for name in variants:
        parser.add_argument(f"--{name}", dest="variant", action="store_const", const=name)
    parser.set_defaults(variant=variants[0] if variants else "")
    return Asked(**vars(parser.parse_args()))


def run(job: Asked, score: Callable[[str, str], None]) -> None:
    """Score the input; with `--warm` a small one before, and the clock runs only from then on.

    `score(source, target)` is called with folders. Whoever measures reads `ready`, answers, and reads `done`.
    """
    if job.warm is None:
        score(job.source, job.target)
        return
    score(job.warm, f"{job.target}.warm")
    print("ready", flush=True)
    sys.stdin.readline()
    score(job.source, job.target)
    print("done", flush=True)


class Scorer:
    """A model file and the columns it wants. `threads` of one predict call; None is the library's own choice."""

    def __init__(self, path: str, features: Sequence[str] = (), threads: int | None = None) -> None:
        self.columns, self._predict, self._takes_frames = _load(path, tuple(features), threads)

    def rows_of(self, batch: pa.RecordBatch | pa.Table) -> Any:
        """Rows of Arrow as the library wants them: a matrix or a frame of the model's columns."""
        wanted = batch.select(list(self.columns))
        return wanted.to_pandas() if self._takes_frames else matrix_of(wanted)

    def predict(self, rows: Any) -> np.ndarray:
        """float64 predictions for what `rows_of` gave."""
        return np.asarray(self._predict(rows), dtype=np.float64).reshape(-1)

    def of_arrow(self, batch: pa.RecordBatch | pa.Table) -> np.ndarray:
        """float64 predictions for rows of Arrow."""
        return self.predict(self.rows_of(batch))

    def of_frame(self, frame: Any) -> np.ndarray:
        """float64 predictions for a pandas DataFrame that has at least the columns."""
        wanted = frame[list(self.columns)]
        return self.predict(wanted if self._takes_frames else wanted.to_numpy(dtype=np.float64))

    def of_matrix(self, matrix: np.ndarray) -> np.ndarray:
        """float64 predictions for numbers in the order of the columns."""
        if not self._takes_frames:
            return self.predict(matrix)
        import pandas as pd

        return self.predict(pd.DataFrame(matrix, columns=list(self.columns)))

    def scored(self, batch: pa.RecordBatch | pa.Table) -> pa.RecordBatch:
        """Ids and predictions of rows of Arrow."""
        ids = batch.column("id")
        plain = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
        return pa.record_batch([plain, pa.array(self.of_arrow(batch))], schema=OUTPUT)


@functools.cache
def loaded(path: str, features: tuple[str, ...], threads: int | None = None) -> Scorer:
    """Once in each process. Engines can send functions of a script to others, but no caches: those stay in a module."""
    return Scorer(path, features, threads)


def matrix_of(batch: pa.RecordBatch | pa.Table) -> np.ndarray:
    """Columns of numbers as one float64 matrix in C order, filled by blocks that fit the cache."""
    columns = [column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
               for column in batch.columns]  # fmt: skip
    matrix = np.empty((batch.num_rows, len(columns)))
    for start in range(0, batch.num_rows, 4096):
        for number, column in enumerate(columns):
            matrix[start : start + 4096, number] = column[start : start + 4096]
    return matrix


_Loaded = tuple[tuple[str, ...], Callable[[Any], Any], bool]
"""The columns, what predicts, and whether that takes a frame rather than a matrix."""


def _load(path: str, features: tuple[str, ...], threads: int | None) -> _Loaded:
    """By the ending of the file. Libraries are imported here: a peer loads only what its model needs."""
    if path.endswith(".txt"):
        import lightgbm

        booster = lightgbm.Booster(model_file=path)
        return tuple(booster.feature_name()), lambda rows: booster.predict(rows, num_threads=threads or 0), False
    if path.endswith(".ubj"):
        import xgboost

        trees = xgboost.Booster({"nthread": threads} if threads else None, model_file=path)
        return tuple(trees.feature_names), lambda rows: trees.inplace_predict(rows, validate_features=False), False
    if path.endswith(".onnx"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (name,) = [each.name for each in session.get_inputs()]
        return features, lambda rows: session.run(None, {name: rows.astype(np.float32)})[0], False
    import joblib

    pipeline = joblib.load(path)
    if len(features) == 1:
        return features, lambda frame: pipeline.predict(frame[features[0]]), True
    return tuple(pipeline.feature_names_in_), pipeline.predict, True
