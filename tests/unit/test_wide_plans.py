"""Plans of tables so wide that fewer rows than the model would take make a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.domain.plan import PlanSummary
from tidemill.domain.signature import Field, ModelInfo
from tidemill.engine import acceleration, planner
from tidemill.wire.spec import ComputeSpec, InputSpec, JobSpec, OutputSpec

ROWS = 20_000
OUTPUTS = (Field(name="prediction", type="double"),)


def planned(folder: Path, columns: int, compute: ComputeSpec) -> PlanSummary:
    """A plan of a file of so many columns of eight bytes, all one array, for a model that need not be loaded."""
    zeros = np.zeros(ROWS)
    table = pa.table({f"f{number}": zeros for number in range(columns)})
    pq.write_table(table, folder / "wide.parquet")
    for name in ("plan", "parts", "spool"):
        (folder / name).mkdir()
    spec = JobSpec(
        model="model.txt",
        input=InputSpec(path=[str(folder / "wide.parquet")]),
        output=OutputSpec(path=str(folder / "scores"), format="parquet"),
        compute=compute,
    )
    inputs = tuple(Field(name=name, type="double") for name in table.schema.names)
    info = ModelInfo(flavor="lightgbm", inputs=inputs, outputs=OUTPUTS, batch_rows=16_384)
    request = {
        "brief": spec.brief().to_json(),
        "staging": str(folder),
        "epoch": 1,
        "model": {"digest": "0" * 64},
        "info": info.to_json(),
    }
    return PlanSummary.from_json(planner.plan(request, lambda told: None)["plan"])


@pytest.mark.parametrize(
    "columns, asked, batch_rows, looked_through",
    [
        (2, "auto", 16_384, 20_000),
        (150, "auto", 8_192, 20_000),
        (600, "auto", 2_048, 8_192),
        (600, 3_000, 3_000, 12_000),
    ],
)
def test_batches_of_wide_tables(tmp_path: Path, columns: int, asked: int, batch_rows: int, looked_through: int) -> None:
    plan = planned(tmp_path, columns, ComputeSpec(batch_rows=asked))
    assert plan.batch_rows == batch_rows
    # Of a kernel's check: what it looks through is in memory at once.
    heads = list(acceleration._heads(plan, tmp_path))
    assert sum(head.rows for head in heads) == looked_through
