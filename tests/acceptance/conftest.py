"""Fixtures of the acceptance tests: a terminal for each test, and small inputs that many share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.acceptance.terminal import Terminal
from tests.postgres import postgres, postgres_database, postgres_url

__all__ = ["postgres", "postgres_database", "postgres_url"]

ROWS = 100_000


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """A fresh folder and a fresh home."""
    made = Terminal(folder=tmp_path)
    made.work.mkdir()
    return made


def numbered(start: int, stop: int) -> pa.Table:
    """Rows that carry their number, and two numbers to predict from."""
    n = np.arange(start, stop, dtype=np.int64)
    return pa.table({"n": n, "x": n * 0.5, "name": pa.array([f"row {k}" for k in n.tolist()])})


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """100,000 numbered rows in two files: 60,000 and 40,000."""
    folder = tmp_path_factory.mktemp("many")
    paths = folder / "a.parquet", folder / "b.parquet"
    pq.write_table(numbered(0, 60_000), paths[0], row_group_size=20_000)
    pq.write_table(numbered(60_000, ROWS), paths[1], row_group_size=20_000)
    return paths


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 numbered rows in a Parquet file."""
    path = tmp_path_factory.mktemp("few") / "few.parquet"
    pq.write_table(numbered(0, 1_000), path)
    return path
