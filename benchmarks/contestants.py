"""Who runs: Tidemill, the floor and the peers, each in a fresh process, each result looked at afterwards."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from data import FOLDER
from measure import Measured, measure

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {
    "TIDEMILL_HOME": str(FOLDER / "home"),
    "PYTHONPATH": str(HERE.parent / "src"),
    "PYTHONDONTWRITEBYTECODE": "",
}


def tidemill(model: Path, source: Path, *flags: str) -> dict[str, Any]:
    """One `tidemill run --keep id` to a folder. `summary` is what it says of its own work."""
    output = _fresh("tidemill")
    command = ["-m", "tidemill", "run", str(model), str(source), "-o", str(output), "--keep", "id", "--json", *flags]
    measured = _python(*command)
    run = _with_result(measured, sorted(output.glob("*.parquet")))
    _fresh("tidemill")
    return {**run, "summary": _told(measured.stdout)}


def floor(model: Path, source: Path) -> dict[str, Any]:
    """The floor; wall and CPU are what it accounts for itself, without its imports. Memory is of its process."""
    measured = _python(str(HERE / "floor.py"), str(model), str(source))
    told = json.loads(measured.stdout)
    return {**_costs(measured), **told}


def peer(script: str, model: Path, source: Path) -> dict[str, Any]:
    """A plain script of benchmarks/peers."""
    output = _fresh("peer").with_suffix(".parquet")
    measured = _python(str(HERE / "peers" / f"{script}.py"), str(model), str(source), str(output))
    run = _with_result(measured, [output])
    output.unlink()
    return run


def library(model: Path, source: Path) -> dict[str, Any]:
    """scikit-learn's predict alone; wall and CPU are what it accounts for itself."""
    measured = _python(str(HERE / "sklearn_predict.py"), str(model), str(source))
    return {**_costs(measured), **json.loads(measured.stdout)}


def tidemill_start() -> dict[str, Any]:
    """What the command costs before it does anything."""
    return _costs(_python("-m", "tidemill", "jobs", "list", "--json"))


def _python(*words: str) -> Measured:
    measured = measure([sys.executable, *words], env=ENVIRONMENT)
    if measured.exit_code != 0:
        raise SystemExit(f"{' '.join(words)} ended with {measured.exit_code}.")
    return measured


def _fresh(name: str) -> Path:
    """A place for output where nothing of an earlier run is left."""
    output = FOLDER / "out" / name
    output.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(output, ignore_errors=True)
    shutil.rmtree(output.with_name(f"{name}.rejected"), ignore_errors=True)
    for leftover in (output.with_name(f"{name}.manifest.json"), output.with_suffix(".parquet")):
        leftover.unlink(missing_ok=True)
    return output


def _costs(measured: Measured) -> dict[str, Any]:
    costs = asdict(measured)
    del costs["stdout"], costs["exit_code"]
    return costs


def _with_result(measured: Measured, files: Sequence[Path]) -> dict[str, Any]:
    rows, total = 0, 0.0
    for path in files:
        predictions = pq.read_table(path, columns=["prediction"])["prediction"]
        rows += len(predictions)
        total += pc.sum(predictions).as_py() or 0.0
    return {**_costs(measured), "rows": rows, "sum_of_predictions": total}


def _told(stdout: str) -> dict[str, Any]:
    """What `run --json` says of its work; the rest of it names folders of this machine."""
    told = json.loads(stdout)
    return {"seconds": told["seconds"], "chunks": told["job"]["chunks"]["total"], "usage": told["job"]["usage"]}
