"""What a job cannot cost less than: CPU of decoding the needed columns, predicting and encoding, in memory.

    python benchmarks/floor.py MODEL FOLDER [THREADS]

One thread per core takes file after file, since cores that work side by side are slower than one alone; each
counts its own CPU time by stage. Reading the file and building the matrix are shown but are not in the floor.
Prints JSON: seconds by stage, and the CPU and wall seconds of the imports that no scorer can do without.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from queue import Empty, SimpleQueue

IMPORTS_BEFORE = (time.process_time(), time.monotonic())

import lightgbm as lgb  # noqa: E402
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

IMPORTS = (time.process_time() - IMPORTS_BEFORE[0], time.monotonic() - IMPORTS_BEFORE[1])
BATCH_ROWS = 65_536
FLOOR_STAGES = ("decode", "predict", "encode")


class Stopwatch:
    """CPU seconds of this thread by stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._last = time.thread_time()

    def lap(self, stage: str) -> None:
        now = time.thread_time()
        self.seconds[stage] += now - self._last
        self._last = now


def matrix_of(batch: pa.RecordBatch) -> np.ndarray:
    columns = [column.to_numpy(zero_copy_only=False) for column in batch.columns]
    matrix = np.empty((batch.num_rows, len(columns)))
    for start in range(0, batch.num_rows, 4096):
        for number, column in enumerate(columns):
            matrix[start : start + 4096, number] = column[start : start + 4096]
    return matrix


def score_file(path: Path, booster: lgb.Booster, features: list[str], watch: Stopwatch) -> tuple[int, float]:
    content = pa.py_buffer(path.read_bytes())
    encoded = pa.BufferOutputStream()
    watch.lap("load")
    schema = pa.schema([("id", pa.int64()), ("prediction", pa.float64())])
    encodings = {"id": "DELTA_BINARY_PACKED", "prediction": "BYTE_STREAM_SPLIT"}
    rows, total = 0, 0.0
    with pq.ParquetWriter(
        encoded, schema, compression="zstd", use_dictionary=False, column_encoding=encodings
    ) as writer:
        file = pq.ParquetFile(pa.BufferReader(content), pre_buffer=False)
        for batch in file.iter_batches(BATCH_ROWS, columns=["id", *features], use_threads=False):
            watch.lap("decode")
            matrix = matrix_of(batch.select(features))
            watch.lap("matrix")
            values = np.asarray(booster.predict(matrix, num_threads=1))
            watch.lap("predict")
            writer.write_batch(pa.record_batch([batch["id"], pa.array(values)], schema=schema))
            watch.lap("encode")
            rows += len(values)
            total += float(values.sum())
            watch.lap("check")
    watch.lap("encode")
    return rows, total


def main(model: str, folder: str, threads: int) -> None:
    booster = lgb.Booster(model_file=model)
    todo: SimpleQueue[Path] = SimpleQueue()
    for path in sorted(Path(folder).iterdir()):
        todo.put(path)
    results: list[tuple[int, float]] = []
    watches = [Stopwatch() for _ in range(threads)]

    def work(number: int) -> None:
        watches[number] = Stopwatch()
        while True:
            try:
                path = todo.get_nowait()
            except Empty:
                return
            results.append(score_file(path, booster, booster.feature_name(), watches[number]))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    started = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    stages = {stage: sum(watch.seconds[stage] for watch in watches) for stage in (*FLOOR_STAGES, "load", "matrix")}
    cpu_seconds = sum(stages[stage] for stage in FLOOR_STAGES)
    print(
        json.dumps(
            {
                "rows": sum(rows for rows, _ in results),
                "sum_of_predictions": sum(total for _, total in results),
                "cpu_seconds": cpu_seconds,
                "wall_seconds": cpu_seconds / threads,
                "measured_wall_seconds": time.monotonic() - started,
                "import_cpu_seconds": IMPORTS[0],
                "import_wall_seconds": IMPORTS[1],
                "threads": threads,
                "stages": stages,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else len(os.sched_getaffinity(0)))
