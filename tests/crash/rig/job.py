"""A small job whose every prediction proves its row, and how to start it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[3]
SOURCE = Path(os.environ.get("TIDEMILL_CRASH_SRC", ROOT / "src"))
"""The code under test; mutation tests point it at a mutated copy."""
MODELS = ROOT / "tests" / "crash" / "models"
FILE_ROWS = (5200, 4900, 5150, 4750, 5000)
ROWS_PER_CHUNK = 1000
BATCH_ROWS = 500
SUCCESS = (0, 3)


def write_inputs(folder: Path, *, rows: Sequence[int] = FILE_ROWS, first: int = 0, note_bytes: int = 12) -> list[Path]:
    """Parquet files with several row groups; `first` is the number of the first file."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, count in enumerate(rows, start=first):
        rng = np.random.default_rng(number)
        notes = [rng.bytes(note_bytes // 2).hex() for _ in range(count)]
        table = pa.table(
            {
                "file_no": np.full(count, number, dtype=np.int64),
                "row_no": np.arange(count, dtype=np.int64),
                "note": pa.array(notes, pa.string()),
            }
        )
        path = folder / f"input-{number:03d}.parquet"
        pq.write_table(table, path, row_group_size=700)
        paths.append(path)
    return paths


@dataclass(frozen=True, kw_only=True)
class CrashJob:
    """One job of the suite: where it lies and what is run."""

    inputs: tuple[Path, ...]
    home: Path
    output: Path
    logs: Path
    model: str = "keymodel:KeyModel"
    scorers: int = 2
    mode: str = "error"
    sleep: float = 0.02
    rows_per_chunk: int = ROWS_PER_CHUNK
    batch_rows: int = BATCH_ROWS
    keep: str = "file_no,row_no,note"
    extra: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    """In the environment of every process of this job: /proc tells them apart by it."""

    @property
    def database(self) -> Path:
        return self.home / "tidemill.db"

    @property
    def temporary(self) -> Path:
        """Its TMPDIR: nothing may stay there."""
        return self.logs / "tmp"

    def command(self) -> list[str]:
        """The command line, the same each time."""
        return [
            *tidemill("run", self.model, *map(str, self.inputs)),
            *("-o", str(self.output), "--scorers", str(self.scorers), "--mode", self.mode),
            *("--rows-per-chunk", str(self.rows_per_chunk), "--batch-rows", str(self.batch_rows)),
            *("--keep", self.keep, "--max-rejected", "none", *self.extra),
        ]

    def environ(self, run: int = 0) -> dict[str, str]:
        """The environment; predict calls of different runs are logged apart."""
        return {
            **os.environ,
            "PYTHONPATH": f"{SOURCE}:{MODELS}",
            "TIDEMILL_HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "CRASH_MARK": self.mark,
            "CRASH_LOG": str(self.log(run)),
            "CRASH_SLEEP": str(self.sleep),
            **self.environment,
        }

    def log(self, run: int) -> Path:
        return self.logs / f"{self.mark}.{run}.log"

    def but(self, **changes: object) -> CrashJob:
        """The same job with something else."""
        return replace(self, **changes)  # type: ignore[arg-type]


def new_job(folder: Path, inputs: Sequence[Path], *, store: Path | None = None, **changes: object) -> CrashJob:
    """A job with a fresh home and output under `folder`. Its store is a copy of `store`, or yet to be made."""
    for name in ("home", "place", "logs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    job = CrashJob(inputs=tuple(inputs), home=folder / "home", output=folder / "place" / "scores", logs=folder / "logs")
    job = job.but(**changes)
    if store is not None:
        job.home.mkdir(exist_ok=True)
        shutil.copyfile(store, job.database)
    return job


def tidemill(*words: str) -> list[str]:
    return [sys.executable, "-m", "tidemill", *words]


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One finished run of the command."""

    code: int
    stdout: str
    stderr: str


def start(
    job: CrashJob, run: int = 0, *, prefix: Sequence[str] = (), extra: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Start the job's command in a session of its own; its output goes to files beside the logs."""
    job.temporary.mkdir(exist_ok=True)
    out = (job.logs / f"{job.mark}.{run}.out").open("w")
    err = (job.logs / f"{job.mark}.{run}.err").open("w")
    with out, err:
        return subprocess.Popen(
            [*prefix, *job.command(), *extra],
            env=job.environ(run),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            text=True,
            start_new_session=True,
            cwd=job.logs,
        )


def ended(job: CrashJob, run: int, process: subprocess.Popen[str], seconds: float = 120) -> Ran:
    """Wait for a started run."""
    code = process.wait(timeout=seconds)
    read = [(job.logs / f"{job.mark}.{run}.{kind}").read_text(errors="replace") for kind in ("out", "err")]
    return Ran(code=code, stdout=read[0], stderr=read[1])


def once(job: CrashJob, run: int = 0, *, prefix: Sequence[str] = (), extra: Sequence[str] = ()) -> Ran:
    """Run the command to its end."""
    return ended(job, run, start(job, run, prefix=prefix, extra=extra))


def then_done(job: CrashJob, run: int) -> Ran:
    """Run the same command once more: that must do."""
    ran = once(job, run)
    if ran.code not in SUCCESS:
        raise AssertionError(f"run {run} did not end the job: exit {ran.code}\n{ran.stdout}\n{ran.stderr}")
    return ran
