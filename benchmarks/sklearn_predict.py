"""What scikit-learn's predict alone costs: frames in memory, a process per core, the best of several batch sizes.

    python benchmarks/sklearn_predict.py MODEL FOLDER

Prints JSON: wall and CPU seconds of the predict calls, at the batch size that took the least wall time.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

BATCH_ROWS = (16_384, 65_536, 262_144)


def predict(model: Any, frame: pd.DataFrame, batch_rows: int, told: Connection) -> None:
    """Tell (CPU seconds, wall seconds, rows, how many are of the second class)."""
    model.predict_proba(frame.head(100))
    cpu, wall, second = time.process_time(), time.monotonic(), 0
    for start in range(0, len(frame), batch_rows):
        second += int(np.count_nonzero(model.predict_proba(frame.iloc[start : start + batch_rows])[:, 1] > 0.5))
    told.send((time.process_time() - cpu, time.monotonic() - wall, len(frame), second))


def side_by_side(model: Any, frames: list[pd.DataFrame], batch_rows: int) -> dict[str, Any]:
    """One process for each frame."""
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in frames]
    children = [
        context.Process(target=predict, args=(model, frame, batch_rows, told))
        for frame, (_, told) in zip(frames, pipes, strict=True)
    ]
    for child in children:
        child.start()
    answers = [heard.recv() for heard, _ in pipes]
    for child in children:
        child.join()
    cpu, wall, rows, second = zip(*answers, strict=True)
    return {
        "batch_rows": batch_rows,
        "cpu_seconds": sum(cpu),
        "wall_seconds": max(wall),
        "rows": sum(rows),
        "sum_of_predictions": sum(second),
    }


def main() -> None:
    model, folder = joblib.load(sys.argv[1]), Path(sys.argv[2])
    names = list(model.feature_names_in_)
    frame = pd.concat([pq.read_table(path, columns=names).to_pandas() for path in sorted(folder.glob("*.parquet"))])
    cores = len(os.sched_getaffinity(0))
    step = -(-len(frame) // cores)
    frames = [frame.iloc[start : start + step] for start in range(0, len(frame), step)]
    runs = [side_by_side(model, frames, batch_rows) for batch_rows in BATCH_ROWS]
    print(json.dumps(min(runs, key=lambda run: run["wall_seconds"])))


if __name__ == "__main__":
    main()
