"""A gate before the model: every process that makes it waits there until it is let in."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.crash.rig.job import CrashJob


class Gate:
    """A folder in which `keymodel` leaves a file named like its process; while that is there, it waits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def before(self, job: CrashJob) -> CrashJob:
        """The same job, with its model behind the gate."""
        return job.but(environment={**job.environment, "CRASH_GATE": str(self.folder)})

    def next(self, running: Callable[[], bool]) -> int:
        """The process that waits, as soon as one does."""
        while not (waiting := [int(path.name) for path in self.folder.iterdir()]):
            assert running(), "it ended before it made the model"
            time.sleep(0.005)
        return waiting[0]

    def let_in(self, pid: int) -> None:
        (self.folder / str(pid)).unlink()

    def open(self) -> None:
        """From now on nobody waits."""
        self.folder.rename(self.folder.with_suffix(".open"))
