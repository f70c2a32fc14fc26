"""How the cores of a machine are best shared out, by class of model: the figures behind the flavors' constants.

    python -m benchmarks.scenarios.layouts                            every class, every layout, a few batch sizes
    python -m benchmarks.scenarios.layouts lightgbm --rounds 7

For each class and layout a fresh process loads the model as a scorer does and predicts rows that lie in memory, with
one batch size after the other, each warmed up with one batch. Layouts: one thread; threads that share one model;
processes with one each.
Prints microseconds of CPU and of time for each row, medians, and how much faster each layout is than one thread.
On a machine that is busy with other things only the CPU means something.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pickle
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.harness.places import FOLDER as BENCH
from benchmarks.harness.places import ROOT
from benchmarks.workloads import rows
from benchmarks.workloads.boosted import lightgbm_model
from tidemill import registry
from tidemill.executors.children import LAZY_ARENAS, ONE_THREAD
from tidemill.ports.flavor import Model

FOLDER = BENCH / "layouts"
LAYOUTS = ("one", "threads", "processes")
BATCH_ROWS = (1_024, 4_096, 16_384, 65_536)
MEMORY_ROWS = 131_072
FEATURES = list(rows.FEATURES)
SOURCE = str(ROOT / "src")
ENVIRONMENT = {**LAZY_ARENAS, **os.environ, **ONE_THREAD, "PYTHONPATH": SOURCE}

PYTHON = '''
"""A loop over rows, as people write it."""
import pyarrow as pa


class Rule:
    inputs = {f"f{i:02}": "double" for i in range(20)}
    outputs = {"prediction": "double"}

    def predict(self, batch):
        values = []
        for row in zip(*(column.to_pylist() for column in batch.columns)):
            score = sum(value * value if value > 0 else -value for value in row)
            values.append(score - 1.0 if score > 3 else score)
        return pa.array(values)
'''


def _rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """20 features without nulls (float32 values), and what to learn of them."""
    matrix = np.random.default_rng(seed).normal(size=(20_000, len(FEATURES))).astype(np.float32).astype(np.float64)
    return matrix, np.sin(matrix[:, :6]).sum(axis=1) + matrix[:, 7] * matrix[:, 8]


def _pickled(estimator: Any) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(pickle.dumps(estimator))


def _xgboost(path: Path) -> None:
    import xgboost

    matrix, target = _rows(1)
    rows = xgboost.DMatrix(matrix, target, feature_names=FEATURES)
    xgboost.train({"max_depth": 6, "eta": 0.05}, rows, num_boost_round=200).save_model(path)


def _scikit(kind: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        import pandas as pd
        from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        matrix, target = _rows(2)
        frame = pd.DataFrame(matrix, columns=FEATURES)
        if kind == "linear":
            estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, target > 0)
        elif kind == "boosting":
            estimator = HistGradientBoostingRegressor(max_iter=100).fit(frame, target)
        else:
            estimator = RandomForestRegressor(50, max_depth=12, n_jobs=1).fit(frame, target)
        _pickled(estimator)(path)

    return make


def _onnx(path: Path) -> None:
    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPRegressor

    matrix, target = _rows(3)
    narrow = matrix.astype(np.float32)
    network = MLPRegressor(hidden_layer_sizes=(128, 64), max_iter=5).fit(narrow, target)
    path.write_bytes(to_onnx(network, narrow[:1]).SerializeToString())


def _torch(path: Path) -> None:
    import torch
    from torch import nn

    layers = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))
    torch.jit.save(torch.jit.script(layers.eval()), str(path))


CLASSES: dict[str, tuple[str, str, int, Callable[[Path], None]]] = {
    "lightgbm": ("lightgbm", "lightgbm.txt", 65_536, lambda path: path.write_bytes(_lightgbm().read_bytes())),
    "xgboost": ("xgboost", "xgboost.ubj", 131_072, _xgboost),
    "sklearn linear": ("pickle", "linear.pkl", 524_288, _scikit("linear")),
    "sklearn boosting": ("pickle", "boosting.pkl", 65_536, _scikit("boosting")),
    "sklearn forest": ("pickle", "forest.pkl", 32_768, _scikit("forest")),
    "onnx network": ("onnx", "network.onnx", 262_144, _onnx),
    "torch network": ("torch", "network.pt", 262_144, _torch),
    "python loop": ("python", "rule.py", 32_768, lambda path: path.write_text(PYTHON)),
}
"""Class -> flavor, file, rows for one core, what makes the file."""


def _lightgbm() -> Path:
    return lightgbm_model(trees=200, leaves=63)


def _model_path(name: str) -> str:
    flavor, file, _, make = CLASSES[name]
    path = FOLDER / file
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        make(path)
    return f"{path}:Rule" if flavor == "python" else str(path)


def _load(name: str, threads: int) -> Model:
    options = {"probabilities": False, "threshold": None, "features": FEATURES, "threads": threads}
    return registry.flavors.get(CLASSES[name][0])().load(_model_path(name), {**options, "accelerate": False})


def _batches(model: Model, batch_rows: int) -> list[pa.RecordBatch]:
    """Rows as the engine hands them over; a model that takes one list of numbers gets that."""
    matrix = np.random.default_rng(4).normal(size=(MEMORY_ROWS, len(FEATURES))).astype(np.float32)
    types = [field.type for field in model.info.inputs]
    if len(types) == len(FEATURES):
        wide = "float" if types[0] == "float" else "double"
        columns = [pa.array(np.ascontiguousarray(matrix[:, k])).cast(wide) for k in range(len(FEATURES))]
    else:
        columns = [pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), len(FEATURES))]
    names = [field.name for field in model.info.inputs] or ["x"]
    whole = pa.RecordBatch.from_arrays(columns, names=names)
    return [whole.slice(start, batch_rows) for start in range(0, MEMORY_ROWS, batch_rows)]


def predict(name: str, layout: str, sizes: list[int], cores: int) -> None:
    """What a fresh process does; prints {"seconds", "cpu_seconds", "rows"} for each batch size."""
    rows = CLASSES[name][2]
    if layout == "processes":
        _in_processes(name, sizes, rows, cores)
        return
    threads = cores if layout == "threads" else 1
    model = _load(name, threads)
    for size in sizes:
        print(json.dumps(_timed(model, _warm(model, size), rows * threads, threads)))


def _warm(model: Model, batch_rows: int) -> list[pa.RecordBatch]:
    batches = _batches(model, batch_rows)
    model.predict(batches[0])
    return batches


def _timed(model: Model, batches: list[pa.RecordBatch], rows: int, threads: int) -> dict[str, float]:
    todo = iter(range(-(-rows // batches[0].num_rows)))
    lock = threading.Lock()
    done = [0] * threads

    def work(number: int) -> None:
        while True:
            with lock:
                k = next(todo, None)
            if k is None:
                return
            done[number] += model.predict(batches[k % len(batches)]).columns.num_rows

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    started, cpu_started = time.monotonic(), time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "rows": sum(done)}


def _in_processes(name: str, sizes: list[int], rows: int, cores: int) -> None:
    """Children are forked before anything is loaded, and begin with each batch size together."""
    start = multiprocessing.get_context("fork")
    together = start.Barrier(cores)
    answers: Any = start.SimpleQueue()

    def work() -> None:
        model = _load(name, 1)
        for size in sizes:
            batches = _warm(model, size)
            together.wait()
            answers.put((size, _timed(model, batches, rows, 1)))

    children = [start.Process(target=work) for _ in range(cores)]
    for child in children:
        child.start()
    found = [answers.get() for _ in range(cores * len(sizes))]
    for child in children:
        child.join()
    for size in sizes:
        own = [one for of, one in found if of == size]
        summed = {key: sum(one[key] for one in own) for key in ("cpu_seconds", "rows")}
        print(json.dumps({**summed, "seconds": max(one["seconds"] for one in own)}))


def measure(name: str, layout: str, sizes: Sequence[int], cores: int) -> list[dict[str, float]]:
    """One fresh process: microseconds of time and of CPU for each row, by batch size."""
    words = [sys.executable, "-m", "benchmarks.scenarios.layouts", name, "--predict", layout, "--cores", str(cores)]
    for size in sizes:
        words += ["--batch-rows", str(size)]
    told = subprocess.run(words, env=ENVIRONMENT, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found = [json.loads(line) for line in told.stdout.splitlines()[-len(sizes) :]]
    return [{key: 1e6 * one[f"{key}seconds"] / one["rows"] for key in ("", "cpu_")} for one in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classes", nargs="*", metavar="CLASS", help=f"of {', '.join(CLASSES)}")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured, in turns")
    parser.add_argument("--batch-rows", type=int, action="append", help=f"rows of a call; by default {BATCH_ROWS}")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--predict", choices=LAYOUTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.predict:
        predict(args.classes[0], args.predict, args.batch_rows, args.cores)
        return
    for name in args.classes or CLASSES:
        _model_path(name)
        _show(name, args.batch_rows or BATCH_ROWS, args.cores, args.rounds)


def _show(name: str, sizes: Sequence[int], cores: int, rounds: int) -> None:
    runs: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    for _ in range(rounds):
        for layout in LAYOUTS:
            for size, found in zip(sizes, measure(name, layout, sizes, cores), strict=True):
                runs[layout, size].append(found)
    print(f"\n{name}, median of {rounds}, load {os.getloadavg()[0]:.1f} on {cores} cores")
    for size in sizes:
        times, cpus = (
            {layout: statistics.median(run[key] for run in runs[layout, size]) for layout in LAYOUTS}
            for key in ("", "cpu_")
        )
        shown = "  ".join(
            f"{layout} {cpus[layout]:6.2f} us CPU, {times['one'] / times[layout]:4.2f}x" for layout in LAYOUTS
        )
        print(f"  {size:>6,} rows a call: {shown}", flush=True)


if __name__ == "__main__":
    main()
