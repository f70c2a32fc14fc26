"""Scorers that are kept for the next job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tidemill.domain.errors import (
    NotTrusted,
)
from tidemill.ports.executor import (
    Done,
    Executor,
    ScorerLost,
)
from tidemill.testing.executor.rig import (
    collect,
    done_with,
    ended,
    finish,
    get_ready,
    make_run,
    pids_in,
    process_runs,
    scorer_spec,
    wait_until,
)


class WarmContract:
    """Scorers that are kept for another job."""

    def test_released_scorer_serves_the_next_job(self, executor: Executor, tmp_path: Path) -> None:
        first, second = tmp_path / "a", tmp_path / "b"
        first.mkdir()
        second.mkdir()
        session = executor.session("job_1")
        done_with(session, first, warm_key="k").release()
        session.close()
        scorers = done_with(executor.session("job_2"), second, "done-1", "done-2", warm_key="k")
        assert pids_in(second) == pids_in(first) == pids_in(second, "ready")
        assert all(process_runs(pid) for pid in pids_in(first))
        scorers.release()
        done_with(executor, first, warm_key="k").release()
        assert len(pids_in(first)) == 1

    def test_only_an_equal_spec_takes_it_over(self, executor: Executor, tmp_path: Path) -> None:
        done_with(executor, tmp_path, warm_key="k").release()
        others: list[dict[str, Any]] = [
            {},
            {"warm_key": "other"},
            {"warm_key": "k", "memory_bytes": 2**30},
            {"warm_key": "k", "preload": ("colorsys",)},
        ]
        for number, other in enumerate(others):
            done_with(executor, tmp_path, **other).kill()
            assert len(pids_in(tmp_path)) == number + 2

    def test_set_without_a_key_keeps_nobody(self, executor: Executor, tmp_path: Path) -> None:
        done_with(executor, tmp_path).release()
        assert not any(process_runs(pid) for pid in pids_in(tmp_path))

    @pytest.mark.parametrize(
        "what",
        ["failed", "careful", "probe", "died", "hung", "cancelled", "killed"],
    )
    def test_nobody_is_kept_of_a_set_with_a_blemish(self, executor: Executor, tmp_path: Path, what: str) -> None:
        scorers = executor.lease(scorer_spec(tmp_path, warm_key="k"), 2, stall_seconds=30)
        scorers.submit(make_run("done-0"))
        finish(scorers, 1)
        if what == "hung":
            scorers.stall_seconds = 0.5
        attempt = {"failed": "fail-1", "died": "segfault-1", "hung": "stall-1", "cancelled": "linger-1"}.get(
            what, "done-1"
        )
        ways: dict[str, dict[str, Any]] = {"careful": {"careful": True}, "probe": {"probe": (0, 1)}}
        scorers.submit(make_run(attempt, **ways.get(what, {})))
        if what == "cancelled":
            collect(scorers, lambda events: len(events) == 1)
            scorers.cancel(attempt)
        else:
            assert ended(finish(scorers, 1)) == [attempt]
        scorers.submit(make_run("done-2"))
        finish(scorers, 1)
        scorers.kill() if what == "killed" else scorers.release()
        assert not any(process_runs(pid) for pid in pids_in(tmp_path))

    def test_job_gets_as_many_scorers_as_it_asks_for(self, executor: Executor, tmp_path: Path) -> None:
        first, second, third = (tmp_path / name for name in "abc")
        for folder in (first, second, third):
            folder.mkdir()
        done_with(executor, first, warm_key="k").release()
        scorers = executor.lease(scorer_spec(second, warm_key="k"), 3, stall_seconds=30)
        assert scorers.free == 6
        for number in range(6):
            scorers.submit(make_run(f"slow-{number}"))
        finish(scorers, 6)
        get_ready(scorers, second, 3)
        assert pids_in(first) < pids_in(second) == pids_in(second, "ready")
        scorers.release()
        fewer = executor.lease(scorer_spec(third, warm_key="k"), 2, stall_seconds=30)
        for number in range(4):
            fewer.submit(make_run(f"slow-{number}"))
        finish(fewer, 4)
        get_ready(fewer, third, 2)
        assert pids_in(third) < pids_in(second)
        fewer.kill()
        assert sum(process_runs(pid) for pid in pids_in(second)) == 1

    def test_scorers_that_joined_later_are_kept_as_well(self, executor: Executor, tmp_path: Path) -> None:
        first, more, second, again = (tmp_path / name for name in "abcd")
        for folder in (first, more, second, again):
            folder.mkdir()
        scorers = done_with(executor, first, warm_key="k")
        scorers.grow(scorer_spec(more, warm_key="other"), 1)
        get_ready(scorers, more, 1)
        scorers.release()
        scorers = done_with(executor, second, warm_key="k")
        scorers.grow(scorer_spec(again, warm_key="other"), 2)
        get_ready(scorers, again, 2)
        assert pids_in(second) == pids_in(first)
        assert pids_in(more) < pids_in(again)
        scorers.kill()

    @pytest.mark.parametrize("how", ["refuse", "die", "blunder"])
    def test_one_that_cannot_be_handed_over_is_made_good(self, executor: Executor, tmp_path: Path, how: str) -> None:
        done_with(executor, tmp_path, warm_key="k").release()
        scorers = executor.lease(scorer_spec(tmp_path, f"{how} the second time", warm_key="k"), 1, stall_seconds=30)
        scorers.submit(make_run("done-2"))
        (done,) = finish(scorers, 1)
        assert isinstance(done, Done)
        assert len(pids_in(tmp_path)) == 2
        scorers.kill()

    def test_refusal_of_a_fresh_scorer_counts(self, executor: Executor, tmp_path: Path) -> None:
        done_with(executor, tmp_path, warm_key="k").release()
        scorers = executor.lease(scorer_spec(tmp_path, "refuse", warm_key="k"), 1, stall_seconds=30)
        with pytest.raises(NotTrusted, match=r"model\.pkl can run code"):
            collect(scorers, lambda events: False)
        assert len(pids_in(tmp_path)) == 2
        scorers.kill()

    def test_one_that_died_idle_is_not_given_away(self, executor: Executor, tmp_path: Path) -> None:
        done_with(executor, tmp_path, warm_key="k").release()
        (pid,) = pids_in(tmp_path)
        os.kill(pid, 9)
        wait_until(lambda: not process_runs(pid))
        done_with(executor, tmp_path, warm_key="k").release()
        assert len(pids_in(tmp_path)) == 2

    def test_what_it_printed_for_one_job_is_not_told_in_another(self, executor: Executor, tmp_path: Path) -> None:
        scorers = done_with(executor, tmp_path, warm_key="k")
        scorers.release()
        scorers = executor.lease(scorer_spec(tmp_path, warm_key="k"), 1, stall_seconds=30)
        scorers.submit(make_run("segfault-1"))
        (lost,) = finish(scorers, 1)
        assert isinstance(lost, ScorerLost)
        assert "Segmentation fault" in lost.log
        assert "secret" not in lost.log
        assert len(pids_in(tmp_path)) == 1
        scorers.kill()

    def test_kill_and_close_end_idle_scorers(self, executor: Executor, tmp_path: Path) -> None:
        done_with(executor, tmp_path, warm_key="k").release()
        executor.kill()
        wait_until(lambda: not any(process_runs(pid) for pid in pids_in(tmp_path)))
        done_with(executor, tmp_path, warm_key="k").release()
        assert len(pids_in(tmp_path)) == 2
        executor.close()
        assert not any(process_runs(pid) for pid in pids_in(tmp_path))
