"""What a job cannot cost less than: CPU of decoding the needed columns, predicting and encoding, in memory.

    python all_stages.py [--features A,B] MODEL INPUT OUTPUT

One thread per core takes file after file, since cores that work side by side are slower than one alone; each
counts its own CPU time by stage. Reading the file and building the matrix or frame are shown but are not in the floor.
Prints JSON: seconds by stage, and the CPU and wall seconds of the imports that no scorer can do without. The
predictions, written when all clocks have stopped, are those that all contestants must give.
"""

from __future__ import annotations

import os

# The threads of a library would take CPU that no stopwatch here sees.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

BEFORE = (time.process_time(), time.monotonic())

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from pyarrow import csv  # noqa: E402
from scoring import BATCH_ROWS, CORES, OUTPUT, Scorer, asked  # noqa: E402

FLOOR_STAGES = ("decode", "predict", "encode")
ENCODINGS = {"id": "DELTA_BINARY_PACKED", "prediction": "BYTE_STREAM_SPLIT"}


class Stopwatch:
    """CPU seconds of this thread by stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._last = time.thread_time()

    def lap(self, stage: str) -> None:
        now = time.thread_time()
        self.seconds[stage] += now - self._last
        self._last = now


def decoded(path: Path, content: pa.Buffer, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches of a file that is in memory."""
    if path.suffix == ".csv":
        yield from csv.open_csv(
            pa.BufferReader(content),
            read_options=csv.ReadOptions(use_threads=False),
            convert_options=csv.ConvertOptions(include_columns=columns),
        )
        return
    file = pq.ParquetFile(pa.BufferReader(content), pre_buffer=False)
    yield from file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False)


def score_file(path: Path, scorer: Scorer, watch: Stopwatch) -> tuple[Path, pa.Buffer]:
    """The encoded predictions of one file."""
    content = pa.py_buffer(path.read_bytes())
    encoded = pa.BufferOutputStream()
    watch.lap("load")
    with pq.ParquetWriter(
        encoded, OUTPUT, compression="zstd", use_dictionary=False, column_encoding=ENCODINGS
    ) as writer:
        for batch in decoded(path, content, ["id", *scorer.columns]):
            watch.lap("decode")
            rows = scorer.rows_of(batch)
            watch.lap("matrix")
            values = scorer.predict(rows)
            watch.lap("predict")
            writer.write_batch(pa.record_batch([batch.column("id"), pa.array(values)], schema=OUTPUT))
            watch.lap("encode")
    watch.lap("encode")
    return path, encoded.getvalue()


def main() -> None:
    job = asked()
    scorer = Scorer(job.model, job.features, threads=1)
    imports = (time.process_time() - BEFORE[0], time.monotonic() - BEFORE[1])
    todo: SimpleQueue[Path] = SimpleQueue()
    for path in sorted(Path(job.source).iterdir()):
        todo.put(path)
    results: list[tuple[Path, pa.Buffer]] = []
    watches = [Stopwatch() for _ in range(CORES)]

    def work(number: int) -> None:
        watches[number] = Stopwatch()
        while True:
            try:
                path = todo.get_nowait()
            except Empty:
                return
            results.append(score_file(path, scorer, watches[number]))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(CORES)]
    started = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    beside_seconds = time.monotonic() - started
    stages = {stage: sum(watch.seconds[stage] for watch in watches) for stage in (*FLOOR_STAGES, "load", "matrix")}
    cpu_seconds = sum(stages[stage] for stage in FLOOR_STAGES)
    Path(job.target).mkdir()
    for path, content in results:
        (Path(job.target) / f"{path.stem}.parquet").write_bytes(content)
    told = {
        "cpu_seconds": cpu_seconds + imports[0],
        "wall_seconds": cpu_seconds / CORES + imports[1],
        "measured_wall_seconds": beside_seconds + imports[1],
        "import_cpu_seconds": imports[0],
        "import_wall_seconds": imports[1],
        "predict_cpu_seconds": stages["predict"],
        "predict_wall_seconds": stages["predict"] / CORES,
        "stages": stages,
    }
    print(json.dumps(told))


main()
