"""Twenty thousand files (a million with TIDEMILL_TEST_LONG): planned with progress, the worker no larger."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.acceptance.terminal import Terminal

FEW = 1_000
MANY = 1_000_000 if os.environ.get("TIDEMILL_TEST_LONG") else 20_000
FILES_PER_FOLDER = 5_000
SLACK_KB = 6_400
"""What a third of a kilobyte for each of twenty thousand files would come to."""


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder in memory, where a million files cost no disk."""
    folder = Path(tempfile.mkdtemp(prefix="tidemill-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    yield folder
    shutil.rmtree(folder)


def fill(folder: Path, count: int) -> Path:
    """`count` CSV files of one row: x is the number of the file."""
    for number in range(count):
        if number % FILES_PER_FOLDER == 0:
            inner = folder / f"{number // FILES_PER_FOLDER:04d}"
            inner.mkdir(parents=True)
        with open(inner / f"{number:07d}.csv", "wb") as file:
            file.write(b"x\n%d\n" % number)
    return folder


@pytest.mark.timeout(3600)
def test_memory_of_the_worker_does_not_grow_with_files(terminal: Terminal, shelf: Path) -> None:
    small = terminal.run("wild:OnlyX", fill(shelf / "few", FEW), "-o", "few", watch=True).done()
    large = terminal.run("wild:OnlyX", fill(shelf / "many", MANY), "-o", "many", watch=True, seconds=3000).done()
    assert f"{MANY:,} = {MANY:,} predicted + 0 rejected" in large.err
    found = pq.read_table(terminal.work / "many")["prediction"].to_numpy()
    assert found.tolist() == [2.0 * number + 1 for number in range(MANY)]
    assert small.own_peak_kb > 0
    assert large.own_peak_kb < small.own_peak_kb + SLACK_KB, (small.own_peak_kb, large.own_peak_kb)
    assert "planning: " in large.err and " files" in large.err
