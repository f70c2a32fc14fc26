"""The scorer's life: it takes one job after another and runs its chunks. Runs in children; only messages leave."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from tidemill.engine.careful import run_carefully
from tidemill.engine.chunkout import Meter
from tidemill.engine.chunkscorer import ChunkScorer, ModelKeeper
from tidemill.engine.pipeline import TELL_SECONDS, Pipeline, Send, as_error
from tidemill.ports.executor import ChunkRun


class _Pulse:
    """Says now and then that the model still answers: a batch can take many calls until it is through."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._said = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._said >= TELL_SECONDS:
            self._said = now
            self._send({"op": "alive"})


class _Service:
    """What a scorer does for one job after the other, the model staying where it can."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.keeper = ModelKeeper()
        self.folder = os.getcwd()
        self.scorer: ChunkScorer | None = None
        self.pipeline: Pipeline | None = None
        self.meter = Meter()

    def take_job(self, job: Mapping[str, Any]) -> None:
        if job.get("gpus") is not None:
            # Libraries read it when they first look for a GPU, which is when the model is loaded.
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(job["gpus"])
        self.scorer = ChunkScorer(job, self.keeper, self.meter, _Pulse(self.send))
        self.pipeline = Pipeline(self.scorer, self.send)
        self.pipeline.start()
        self.send({"op": "ready"})

    def take_run(self, run: ChunkRun) -> None:
        assert self.scorer is not None and self.pipeline is not None, "a run belongs to a job"
        if not run.alone:
            self.pipeline.submit(run)
            return
        try:
            run_carefully(self.scorer, run, self.send)
        except MemoryError:
            raise
        except Exception as exc:
            self.send({"op": "failed", "attempt": run.attempt, "error": as_error(exc).to_json()})

    def rest(self) -> bool:
        """Let go of everything of the job but the model; say what is held now. False if there is nothing
        worth keeping."""
        if self.pipeline is not None:
            self.pipeline.end()
        if not self.keeper.may_be_kept:
            return False
        self.scorer = self.pipeline = None
        os.chdir(self.folder)
        _give_memory_back()
        self.send({"op": "rested", "memory_bytes": held_bytes()})
        self.meter.lap()
        _forget_peak()
        return True


def _give_memory_back() -> None:
    gc.collect()
    pa.default_memory_pool().release_unused()
    # Only glibc has it; elsewhere the allocator decides itself.
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def held_bytes() -> int:
    """Memory of this process, what it shares with others counted by its share."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _forget_peak() -> None:
    """Measure the peak of memory from now on: until now it was another job's."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def serve(receive: Callable[[], dict[str, Any] | None], send: Send, job: Mapping[str, Any]) -> None:
    """The scorer's life: load, say ready, take runs until told to stop or the worker is gone; in between
    perhaps rest and take another job."""
    service = _Service(send)
    service.take_job(job)
    while (message := receive()) is not None and message["op"] != "stop":
        if message["op"] == "rest":
            if not service.rest():
                return
        elif message["op"] == "job":
            service.take_job(message["job"])
        else:
            service.take_run(ChunkRun.from_json(message["run"]))
