"""An input, and a checker of models on it whose children are shared by all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.trials import Findings
from tidemill.service import trials
from tidemill.service.context import Context
from tidemill.wire.spec import InputSpec, JobSpec

LIARS = Path(__file__).with_name("liars.py")
ROWS = 90
"""Of the sample."""
STALL_SECONDS = 4.0

Check = Callable[..., Findings]


@pytest.fixture(scope="package")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    with opened(Settings(home=tmp_path_factory.mktemp("home"), stall_seconds=STALL_SECONDS)) as wired:
        yield wired


@pytest.fixture(scope="package")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 rows in row groups of 100: x = 0, 1, 2, ... plus a seventh of it."""
    path = tmp_path_factory.mktemp("numbers") / "numbers.parquet"
    pq.write_table(pa.table({"x": [k + k / 7 for k in range(1_000)]}), path, row_group_size=100)
    return path


@pytest.fixture(scope="package")
def check(context: Context, numbers: Path) -> Check:
    """Check one of the liars by its name."""

    def checked(name: str, path: Path = numbers, rows: int = ROWS) -> Findings:
        spec = JobSpec(model=f"{LIARS}:{name}", input=InputSpec(path=[str(path)]))
        return trials.check(context, spec, rows=rows, ask_trust=lambda model: False)

    return checked
