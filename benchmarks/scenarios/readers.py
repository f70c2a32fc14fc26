"""What reading CSV costs: 21 of 36 columns as numbers, by reader, in turns, each time in a fresh process.

    python -m benchmarks.scenarios.readers [ROWS]

Prints CPU of one row (all threads, without imports) and times ours; what is not installed is named.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness.places import ROOT
from benchmarks.workloads import rows as data

ROUNDS = 5
COLUMNS = ["id", *data.FEATURES]


def _tidemill(path: str) -> Callable[[], int]:
    from tidemill.sources.csv import CsvSource
    from tidemill.testing.source import pin, segment

    source, file = CsvSource({}, Path(tempfile.gettempdir())), pin(Path(path))

    def read() -> int:
        # Finding records is part of it: whoever reads a file at once does that, too.
        facts = source.examine(file)
        types = {"id": "int64"} | dict.fromkeys(data.FEATURES, "double")
        part = segment(file, facts, 0, facts.rows)
        return sum(rows.batch.num_rows for rows in source.read(part, COLUMNS, types, 65_536))

    return read


def _tidemill_once(path: str) -> Callable[[], int]:
    from tidemill.sources.csv import CsvSource
    from tidemill.testing.source import pin, segment

    source, file = CsvSource({}, Path(tempfile.gettempdir())), pin(Path(path))
    facts = source.examine(file)
    types = {"id": "int64"} | dict.fromkeys(data.FEATURES, "double")
    part = segment(file, facts, 0, facts.rows)
    return lambda: sum(rows.batch.num_rows for rows in source.read(part, COLUMNS, types, 65_536))


def _tidemill_library(path: str) -> Callable[[], int]:
    from tidemill.kernels import library

    library._found = lambda: "not asked for"  # type: ignore[assignment]
    return _tidemill(path)


def _pyarrow(path: str) -> Callable[[], int]:
    from pyarrow import csv

    types = {"id": "int64"} | dict.fromkeys(data.FEATURES, "double")
    options = csv.ConvertOptions(include_columns=COLUMNS, column_types=types)
    return lambda: sum(batch.num_rows for batch in csv.open_csv(path, convert_options=options))


def _pandas(path: str) -> Callable[[], int]:
    import pandas

    return lambda: len(pandas.read_csv(path, usecols=COLUMNS, engine="c", float_precision="round_trip"))


def _polars(path: str) -> Callable[[], int]:
    import polars

    types = {"id": polars.Int64} | dict.fromkeys(data.FEATURES, polars.Float64)
    return lambda: len(polars.read_csv(path, columns=COLUMNS, schema_overrides=types))


def _duckdb(path: str) -> Callable[[], int]:
    import duckdb

    types = {"id": "BIGINT"} | dict.fromkeys(data.FEATURES, "DOUBLE")
    asked = f"select {', '.join(COLUMNS)} from read_csv('{path}', types={types!r})"
    return lambda: int(duckdb.sql(asked).to_arrow_table().num_rows)


READERS = {
    "Tidemill: finding records and reading": _tidemill,
    "Tidemill: reading": _tidemill_once,
    "Tidemill without its kernel: finding records and reading": _tidemill_library,
    "Polars": _polars,
    "pyarrow, streaming, types given": _pyarrow,
    "pandas, engine c, exact": _pandas,
    "DuckDB": _duckdb,
}


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] in READERS:
        read = READERS[sys.argv[1]](sys.argv[2])
        cpu, wall = time.process_time(), time.perf_counter()
        rows = read()
        print(json.dumps([(time.process_time() - cpu) / rows, (time.perf_counter() - wall) / rows]))
        return
    folder = data.csv_folder(int(sys.argv[1]) if len(sys.argv) == 2 else 500_000)
    path = str(min(folder.iterdir()))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in READERS}
    for _ in range(ROUNDS):
        for name in READERS:
            words = [sys.executable, "-m", "benchmarks.scenarios.readers", name, path]
            done = subprocess.run(
                words,
                capture_output=True,
                text=True,
                check=False,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(
                        [str(ROOT / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
                    ),
                },
            )
            if done.returncode == 0:
                cpu, wall = json.loads(done.stdout.splitlines()[-1])
                found[name].append((cpu * 1e6, wall * 1e6))
    for name, costs in found.items():
        if costs:
            cpu, wall = (statistics.median(column) for column in zip(*costs, strict=True))
            print(f"{name:60} {cpu:5.2f} CPU us, {wall:5.2f} us by the clock")
        else:
            print(f"{name:60} not installed, or it failed")


if __name__ == "__main__":
    main()
