"""What every executor must do. Subclass `ExecutorContract` and give the fixture `executor`: one that may keep a
gigabyte of idle scorers."""

from __future__ import annotations

from tidemill.testing.executor.interpreter import InterpreterContract
from tidemill.testing.executor.rig import (
    ENTRIES,
    collect,
    done_with,
    ended,
    finish,
    get_ready,
    make_run,
    pids_in,
    process_lives,
    process_runs,
    scorer_spec,
    wait_until,
)
from tidemill.testing.executor.scorers import ScorerContract
from tidemill.testing.executor.sessions import SessionContract
from tidemill.testing.executor.tasks import TaskContract
from tidemill.testing.executor.warm import WarmContract

__all__ = [
    "ENTRIES",
    "ExecutorContract",
    "collect",
    "done_with",
    "ended",
    "finish",
    "get_ready",
    "make_run",
    "pids_in",
    "process_lives",
    "process_runs",
    "scorer_spec",
    "wait_until",
]


class ExecutorContract(TaskContract, ScorerContract, SessionContract, WarmContract, InterpreterContract):
    """All of it."""
