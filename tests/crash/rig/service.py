"""`tidemill serve` and `tidemill worker` as processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from tests.crash.rig.job import MODELS, SOURCE

START_SECONDS = 60.0
PREFIX = "/api/v1"


@dataclass(kw_only=True)
class Process:
    """One process; what it says goes to files in `logs`."""

    home: Path
    logs: Path
    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    program: Sequence[str] = ("-m", "tidemill")

    def __post_init__(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        name = f"{self.words[0]}-{len(list(self.logs.iterdir()))}"
        self.stdout, self.stderr = self.logs / f"{name}.out", self.logs / f"{name}.err"
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *self.program, *self.words],
                env={
                    **os.environ,
                    "PYTHONPATH": f"{SOURCE}:{MODELS}",
                    "TIDEMILL_HOME": str(self.home),
                    **self.environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.logs,
            )

    def says(self, pattern: str) -> str:
        """Wait for a line on its standard output; the line's first group."""
        stop = time.monotonic() + START_SECONDS
        while (found := re.search(pattern, self.stdout.read_text())) is None:
            assert self.process.poll() is None, self.stderr.read_text()
            assert time.monotonic() < stop, f"it does not say {pattern}: {self.stderr.read_text()}"
            time.sleep(0.02)
        return found[1]

    def client(self) -> httpx2.Client:
        """Of a server that answers: paths are those of the API."""
        url = self.says(r"Tidemill serves (http://\S+)\n")
        return httpx2.Client(base_url=url + PREFIX, timeout=START_SECONDS)

    def end(self) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=START_SECONDS)

    def kill(self) -> None:
        """At once. Safe to repeat."""
        self.process.kill()
        self.process.wait(timeout=START_SECONDS)
