"""Where the benchmarks keep things."""

from __future__ import annotations

import shutil
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
ROOT = BENCHMARKS.parent
PEERS = BENCHMARKS / "peers"
RESULTS = BENCHMARKS / "results"
FOLDER = ROOT / "build" / "bench"
"""Inputs, models, environments of the peers and outputs: made when they are first needed, ignored by git."""


def empty_output() -> Path:
    """A folder to be made by whoever scores; nothing of an earlier run is left at it or beside it."""
    output = FOLDER / "out" / "scores"
    output.parent.mkdir(parents=True, exist_ok=True)
    for left in output.parent.glob(f"*{output.name}*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return output
