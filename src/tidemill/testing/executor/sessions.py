"""`Executor.session`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tidemill.domain.errors import (
    ChildDied,
)
from tidemill.ports.executor import (
    Executor,
    ScorerLost,
)
from tidemill.testing.executor.rig import (
    ENTRIES,
    collect,
    done_with,
    ended,
    finish,
    make_run,
    pids_in,
    process_runs,
    scorer_spec,
    wait_until,
)


class SessionContract:
    """`Executor.session`."""

    def test_session_does_what_its_executor_does(self, executor: Executor, tmp_path: Path) -> None:
        session = executor.session("job_1")
        assert session.call(f"{ENTRIES}:echo", {"a": 1})["request"] == {"a": 1}
        done_with(session, tmp_path).release()
        assert pids_in(tmp_path, "stopped") == pids_in(tmp_path)

    def test_kill_ends_its_own_children_and_no_other(self, executor: Executor, tmp_path: Path) -> None:
        folders = [tmp_path / name for name in ("mine", "theirs", "nobody's")]
        holders = [executor.session("mine"), executor.session("theirs"), executor]
        sets = []
        for folder, holder in zip(folders, holders, strict=True):
            folder.mkdir()
            sets.append(holder.lease(scorer_spec(folder), 2, stall_seconds=30))
            for number in range(2):
                sets[-1].submit(make_run(f"linger-{number}"))
            collect(sets[-1], lambda events: len(events) == 2)
        holders[0].kill()
        assert not any(process_runs(pid) for pid in pids_in(folders[0]))
        assert all(process_runs(pid) for folder in folders[1:] for pid in pids_in(folder))
        lost = finish(sets[0], 2)
        assert all(
            isinstance(event, ScorerLost) and "killed with all that ran for mine" in event.cause for event in lost
        )
        sets[0].submit(make_run("done-9"))
        assert ended(finish(sets[0], 1)) == ["done-9"]
        for scorers in sets:
            scorers.kill()

    def test_kill_ends_the_wait_of_another_thread(self, executor: Executor, tmp_path: Path) -> None:
        session, other = executor.session("job_1"), executor.session("job_2")
        threads: list[threading.Thread] = []

        def strike(report: Mapping[str, Any]) -> None:
            threads.append(threading.Thread(target=session.kill))
            threads[0].start()

        request = {"pid_file": str(tmp_path / "pid"), "gil": True}
        with pytest.raises(ChildDied, match="killed with all that ran for job_1"):
            session.call(f"{ENTRIES}:hang", request, on_progress=strike)
        threads[0].join()
        assert not process_runs(int((tmp_path / "pid").read_text()))
        scorers = session.lease(scorer_spec(tmp_path), 1, stall_seconds=30)
        scorers.submit(make_run("linger-1"))
        collect(scorers, lambda events: len(events) == 1)
        killer = threading.Timer(0.2, session.kill)
        killer.start()
        assert ended(finish(scorers, 1)) == ["linger-1"]
        killer.join()
        scorers.kill()
        assert other.call(f"{ENTRIES}:echo", {"a": 1})["request"] == {"a": 1}

    def test_kill_before_a_child_is_born_ends_it_too(self, executor: Executor, tmp_path: Path) -> None:
        session = executor.session("job_1")
        scorers = session.lease(scorer_spec(tmp_path), 3, stall_seconds=30)
        session.kill()
        scorers.kill()
        executor.call(f"{ENTRIES}:echo", {})
        assert not any(process_runs(pid) for pid in pids_in(tmp_path))

    def test_kill_of_the_executor_ends_every_session(self, executor: Executor, tmp_path: Path) -> None:
        sets = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            sets.append(executor.session(name).lease(scorer_spec(tmp_path / name), 1, stall_seconds=30))
            sets[-1].submit(make_run("linger-1"))
            collect(sets[-1], lambda events: len(events) == 1)
        executor.kill()
        wait_until(lambda: not any(process_runs(pid) for name in ("a", "b") for pid in pids_in(tmp_path / name)))
        for scorers in sets:
            assert ended(finish(scorers, 1)) == ["linger-1"]
            scorers.kill()

    def test_session_of_a_session_ends_with_it(self, executor: Executor, tmp_path: Path) -> None:
        outer = executor.session("outer")
        scorers = outer.session("inner").lease(scorer_spec(tmp_path), 1, stall_seconds=30)
        scorers.submit(make_run("linger-1"))
        collect(scorers, lambda events: len(events) == 1)
        outer.kill()
        assert not any(process_runs(pid) for pid in pids_in(tmp_path))
        scorers.kill()

    def test_closed_session_starts_nothing_and_disturbs_nobody(self, executor: Executor, tmp_path: Path) -> None:
        session = executor.session("job_1")
        scorers = done_with(session, tmp_path)
        session.close()
        assert not any(process_runs(pid) for pid in pids_in(tmp_path))
        with pytest.raises(ChildDied, match="job_1 is closed"):
            session.call(f"{ENTRIES}:echo", {})
        with pytest.raises(ChildDied, match="job_1 is closed"):
            session.lease(scorer_spec(tmp_path), 1, stall_seconds=30)
        scorers.kill()
        assert executor.session("job_1").call(f"{ENTRIES}:echo", {"a": 1})["request"] == {"a": 1}
