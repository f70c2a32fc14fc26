"""The library's own predict and nothing else, as it uses all cores by itself.

    python predict_alone.py [--features A,B] MODEL INPUT OUTPUT

The rows of each file lie in memory as the library wants them; it is called with all of them. Only the calls are
timed; imports and loading are not. Prints JSON.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from scoring import OUTPUT, Scorer, asked


def main() -> None:
    job = asked()
    scorer = Scorer(job.model, job.features)
    Path(job.target).mkdir()
    cpu_seconds = wall_seconds = 0.0
    for path in sorted(Path(job.source).iterdir()):
        table = ds.dataset(path, format=path.suffix[1:]).to_table(columns=["id", *scorer.columns])
        rows = scorer.rows_of(table)
        cpu, wall = time.process_time(), time.monotonic()
        values = scorer.predict(rows)
        cpu_seconds += time.process_time() - cpu
        wall_seconds += time.monotonic() - wall
        scored = pa.table([table["id"], pa.array(values)], schema=OUTPUT)
        pq.write_table(scored, f"{job.target}/{path.stem}.parquet")
    print(json.dumps({"cpu_seconds": cpu_seconds, "wall_seconds": wall_seconds}))


main()
