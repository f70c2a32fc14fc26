"""How the suites drive an executor and look at its children."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tidemill.ports.executor import (
    ChunkRun,
    Event,
    Executor,
    Progress,
    ScorerLost,
    ScorerSet,
    ScorerSpec,
)

ENTRIES = "tidemill.testing.children"
PATIENCE_SECONDS = 180.0
"""Only a failure waits for so long."""


def scorer_spec(folder: Path, start: str = "well", **more: Any) -> ScorerSpec:
    """A spec of the shipped scorer, which keeps its records in `folder`."""
    return ScorerSpec(entry=f"{ENTRIES}:score", job={"folder": str(folder), "start": start}, **more)


def make_run(attempt: str, **more: Any) -> ChunkRun:
    """A run whose attempt says what the shipped scorer does with it."""
    return ChunkRun(chunk=len(attempt), attempt=attempt, **more)


def collect(scorers: ScorerSet, enough: Callable[[list[Event]], bool]) -> list[Event]:
    """Poll until `enough` of the events so far."""
    events: list[Event] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not enough(events):
        assert time.monotonic() < deadline, f"only {events}"
        events += scorers.poll(0.2)
    return events


def ended(events: list[Event]) -> list[str]:
    """Attempts that came to an end, in order, as often as they were reported."""
    found: list[str] = []
    for event in events:
        if isinstance(event, ScorerLost):
            found += [run.attempt for run in event.runs]
        elif not isinstance(event, Progress):
            found.append(event.run.attempt)
    return found


def finish(scorers: ScorerSet, attempts: int) -> list[Event]:
    """Poll until so many attempts have ended."""
    return collect(scorers, lambda events: len(ended(events)) >= attempts)


def get_ready(scorers: ScorerSet, folder: Path, count: int) -> None:
    """Poll a set that has nothing in hand until so many of its scorers are ready, and it knows."""
    wait_until(lambda: scorers.poll(0.01) == [] and len(pids_in(folder, "ready")) == count)
    assert scorers.poll(0.0) == []


def process_lives(pid: int) -> bool:
    """Whether a process of this machine exists, a zombie too."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def process_runs(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for what must come true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pids_in(folder: Path, what: str = "started") -> set[int]:
    """Pids of the scorers that wrote this record."""
    return {int(path.name.partition("-")[2]) for path in folder.glob(f"{what}-*")}


def done_with(executor: Executor, folder: Path, *attempts: str, **more: Any) -> ScorerSet:
    """A set of one scorer that has done these runs ("done-1" if none is named)."""
    scorers = executor.lease(scorer_spec(folder, **more), 1, stall_seconds=30)
    for attempt in attempts or ("done-1",):
        scorers.submit(make_run(attempt))
        finish(scorers, 1)
    return scorers
