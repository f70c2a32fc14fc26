"""Children of another interpreter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tidemill.domain.errors import (
    EnvironmentUnusable,
)
from tidemill.ports.executor import (
    Executor,
)
from tidemill.testing.executor.rig import ENTRIES, done_with, pids_in, scorer_spec


class InterpreterContract:
    """Children of another interpreter: here the same one, called by its path."""

    def test_tasks_and_scorers_run_there(self, executor: Executor, tmp_path: Path) -> None:
        answer = executor.call("tidemill.testing.children:interpreter", {}, python=sys.executable)
        assert answer["python"] == sys.executable
        assert not answer["pythonpath"]
        done_with(executor, tmp_path, python=sys.executable).release()
        assert pids_in(tmp_path, "stopped") == pids_in(tmp_path)

    def test_interpreter_that_is_not_there_is_named(self, executor: Executor, tmp_path: Path) -> None:
        missing = str(tmp_path / "python")
        with pytest.raises(EnvironmentUnusable, match="cannot be started: No such file"):
            executor.call(f"{ENTRIES}:echo", {}, python=missing)
        with pytest.raises(EnvironmentUnusable, match="cannot be started"):
            executor.lease(scorer_spec(tmp_path, python=missing), 1, stall_seconds=30)
        assert executor.call(f"{ENTRIES}:echo", {"a": 1})["request"] == {"a": 1}
