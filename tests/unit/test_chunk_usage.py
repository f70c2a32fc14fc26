"""What a chunk says that it used: busy time by the clock, CPU time by stage."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.integration.results.inprocess import run_job
from tidemill.domain.receipt import Receipt, Usage
from tidemill.engine.chunkout import Stopwatch
from tidemill.testing.store import new_receipt

SLEEP_SECONDS = 0.3
SLOW = f"""
import time
import pyarrow as pa

class Slow:
    def predict(self, batch):
        time.sleep({SLEEP_SECONDS})
        return pa.array([1.0] * len(batch["n"]))
"""


def test_a_stopwatch_tells_waiting_from_working() -> None:
    watch = Stopwatch()
    time.sleep(SLEEP_SECONDS)
    waited = watch.read()
    assert waited.seconds >= SLEEP_SECONDS > waited.cpu_seconds
    while watch.read().cpu_seconds < waited.cpu_seconds + 0.05:
        pass
    assert watch.read().seconds > waited.seconds


def test_a_model_that_sleeps_uses_no_cpu(tmp_path: Path) -> None:
    """It is busy all that time, and costs nothing for it."""
    model = tmp_path / "slow.py"
    model.write_text(SLOW)
    pq.write_table(pa.table({"n": [1.0, 2.0, 3.0]}), tmp_path / "in.parquet")
    seen: list[Usage] = []
    run_job(
        {
            "model": f"{model}:Slow",
            "features": ["n"],
            "input": {"path": str(tmp_path / "in.parquet")},
            "output": {"path": str(tmp_path / "out")},
        },
        seen=seen,
    )
    (used,) = seen
    assert used.model_seconds >= SLEEP_SECONDS > used.model_cpu_seconds > 0
    assert used.write_seconds >= used.write_cpu_seconds > 0
    assert used.model_cpu_seconds + used.write_cpu_seconds <= used.cpu_seconds


def test_receipts_of_an_older_version_are_read() -> None:
    data = new_receipt(0, usage=Usage(model_seconds=2.0, cpu_seconds=1.0)).to_json()
    since = ("kernel_rows", *(name for name in data["usage"] if name.endswith("_cpu_seconds")))
    data["usage"] = {name: value for name, value in data["usage"].items() if name not in since}
    assert len(data["usage"]) == 7
    usage = Receipt.from_json(data).usage
    assert (usage.model_seconds, usage.cpu_seconds, usage.model_cpu_seconds) == (2.0, 1.0, 0.0)
    assert asdict(usage + usage)["cpu_seconds"] == 2.0
