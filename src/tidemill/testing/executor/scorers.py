"""`Executor.lease` and its sets of scorers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.domain.errors import (
    ModelUnusable,
    NotTrusted,
)
from tidemill.ports.executor import (
    ChunkRun,
    Done,
    Event,
    Executor,
    Failed,
    Progress,
    ScorerLost,
    Step,
)
from tidemill.testing.children import STEP_ROWS
from tidemill.testing.executor.rig import (
    ENTRIES,
    collect,
    ended,
    finish,
    get_ready,
    make_run,
    pids_in,
    process_runs,
    scorer_spec,
    wait_until,
)


class ScorerContract:
    """`Executor.lease` and what it gives."""

    def test_every_run_is_done_once(self, executor: Executor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 2, stall_seconds=30)
        names = [f"done-{number}" for number in range(40)]
        events: list[Event] = []
        queued = list(names)
        while len(ended(events)) < len(names):
            while queued and scorers.free > 0:
                scorers.submit(make_run(queued.pop(0)))
            events += scorers.poll(1.0)
        scorers.release()
        assert sorted(ended(events)) == sorted(names)
        for event in events:
            assert isinstance(event, Done)
            assert event.receipt is not None
            assert (event.receipt.attempt, event.receipt.chunk) == (event.run.attempt, event.run.chunk)

    def test_free_counts_one_ahead_for_each_scorer(self, executor: Executor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 2, stall_seconds=30)
        seen = [scorers.free]
        for number in range(4):
            scorers.submit(make_run(f"done-{number}"))
            seen.append(scorers.free)
        finish(scorers, 4)
        assert (seen, scorers.free) == ([4, 3, 2, 1, 0], 4)
        scorers.kill()

    def test_idle_scorers_are_used_before_one_gets_ahead(self, executor: Executor, tmp_path: Path) -> None:
        """Also one that is about to be ready: what lies behind the run of another could wait for long."""
        scorers = executor.lease(scorer_spec(tmp_path, "one by one"), 2, stall_seconds=600)
        scorers.submit(make_run("linger-1"))
        collect(scorers, lambda events: len(events) == 1)
        scorers.submit(make_run("done-2"))
        (tmp_path / "go").touch()
        assert ended(finish(scorers, 1)) == ["done-2"]
        scorers.kill()

    def test_more_scorers_join(self, executor: Executor, tmp_path: Path) -> None:
        first, more = tmp_path / "first", tmp_path / "more"
        first.mkdir()
        more.mkdir()
        scorers = executor.lease(scorer_spec(first, warm_key="k"), 1, stall_seconds=600)
        scorers.submit(make_run("linger-1"))
        collect(scorers, lambda events: len(events) == 1)
        scorers.grow(scorer_spec(more, warm_key="k"), 2)
        assert scorers.free == 5
        wait_until(lambda: scorers.poll(0.01) == [] and len(pids_in(more, "ready")) == 2)
        for number in (2, 3):
            scorers.submit(make_run(f"done-{number}"))
        assert sorted(ended(finish(scorers, 2))) == ["done-2", "done-3"]
        scorers.submit(make_run("segfault-4"))
        assert [type(event) for event in finish(scorers, 1)] == [ScorerLost]
        wait_until(lambda: scorers.poll(0.01) == [] and len(pids_in(more, "ready")) == 3)
        assert len(pids_in(first)) == 1
        scorers.kill()

    @pytest.mark.parametrize("how", ["refuse", "die", "starve"])
    def test_a_set_goes_on_without_those_that_cannot_join(self, executor: Executor, tmp_path: Path, how: str) -> None:
        """Also while the first one has not started yet."""
        first, more = tmp_path / "first", tmp_path / "more"
        first.mkdir()
        more.mkdir()
        (first / "claim").touch()
        scorers = executor.lease(scorer_spec(first, "one by one"), 1, stall_seconds=30)
        scorers.grow(scorer_spec(more, how), 2)
        wait_until(lambda: scorers.poll(0.01) == [] and scorers.free == 2)
        assert len(pids_in(more)) == (2 if how == "refuse" else 6)
        (first / "go").touch()
        for number in range(2):
            scorers.submit(make_run(f"done-{number}"))
        assert ended(finish(scorers, 2)) == ["done-0", "done-1"]
        scorers.kill()

    def test_alone_means_alone(self, executor: Executor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=30)
        scorers.submit(make_run("slow-1"))
        scorers.submit(make_run("segfault-2", careful=True))
        assert scorers.free == 0
        first, second = finish(scorers, 2)
        scorers.kill()
        assert isinstance(first, Done)
        assert isinstance(second, ScorerLost)
        assert [run.attempt for run in second.runs] == ["segfault-2"]

    def test_run_arrives_as_it_was_submitted(self, executor: Executor, tmp_path: Path) -> None:
        run = make_run("done-1", poison=((4, "Crash", "segfault"),), splits={7: 128}, unreadable=(2,), probe=(3, 9))
        assert ChunkRun.from_json(run.to_json()) == run
        scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=30)
        scorers.submit(run)
        assert finish(scorers, 1) == [Done(run=run, receipt=None)]
        scorers.kill()

    def test_failed_run_leaves_its_scorer_alive(self, executor: Executor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=30)
        scorers.submit(make_run("fail-1"))
        scorers.submit(make_run("done-2"))
        failed, done = finish(scorers, 2)
        assert isinstance(failed, Failed)
        assert failed.error["code"] == "output_unwritable"
        assert isinstance(done, Done)
        assert len(pids_in(tmp_path)) == 1
        scorers.kill()

    def test_death_takes_the_runs_in_flight_and_is_made_good(self, executor: Executor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=30)
        scorers.submit(make_run("segfault-1"))
        scorers.submit(make_run("done-2"))
        (lost,) = finish(scorers, 2)
        assert isinstance(lost, ScorerLost)
        assert (lost.kind, lost.cause) == ("died", "killed by SIGSEGV (segmentation fault)")
        assert "Segmentation fault" in lost.log
        assert lost.step is None
        scorers.submit(make_run("done-3"))
        assert ended(finish(scorers, 1)) == ["done-3"]
        assert len(pids_in(tmp_path)) == 2
        scorers.kill()

    def test_last_step_of_a_careful_run_is_told(self, executor: Executor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=600)
        start, stop = STEP_ROWS
        for attempt, kind in (("segfault-1", "died"), ("linger-2", "hung")):
            scorers.submit(make_run(attempt, careful=True))
            if kind == "hung":
                collect(scorers, lambda events: len(events) == 1)
                scorers.stall_seconds = 0.5
            (lost,) = finish(scorers, 1)
            assert isinstance(lost, ScorerLost)
            assert (lost.kind, lost.step) == (kind, Step(stage="model", row_start=start, row_stop=stop, segment=1))
        scorers.kill()

    def test_silent_scorer_is_killed(self, executor: Executor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=100)
        scorers.stall_seconds = 0.5
        scorers.submit(make_run("stall-1"))
        (lost,) = finish(scorers, 1)
        assert isinstance(lost, ScorerLost)
        assert (lost.kind, lost.cause) == ("hung", "no progress for 0.5 s")
        first, *_ = pids_in(tmp_path)
        assert not process_runs(first)
        scorers.kill()

    def test_progress_keeps_a_scorer_alive(self, executor: Executor, tmp_path: Path) -> None:
        """It takes longer than it may be silent."""
        scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=6)
        run = make_run("busy-80")
        scorers.submit(run)
        *progress, done = finish(scorers, 1)
        assert isinstance(done, Done)
        assert progress[3] == Progress(run=run, rows=3, rejected=1, busy_seconds={"model": 0.5})
        assert len(progress) == 80
        scorers.kill()

    def test_threads_of_a_scorer_may_speak_at_once(self, executor: Executor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=30)
        scorers.submit(make_run("crowd-1"))
        events = finish(scorers, 1)
        assert [type(event) for event in events] == [Progress] * 1000 + [Done]
        scorers.kill()

    def test_hunger_is_told_apart(self, executor: Executor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path, memory_bytes=512 * 2**20), 1, stall_seconds=30)
        scorers.submit(make_run("starve-1"))
        (lost,) = finish(scorers, 1)
        assert isinstance(lost, ScorerLost)
        assert (lost.kind, lost.cause) == ("memory", "ran out of memory: it may use 512 MiB")
        scorers.kill()

    def test_nonsense_is_a_death(self, executor: Executor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=30)
        scorers.submit(make_run("rave-1"))
        (lost,) = finish(scorers, 1)
        assert isinstance(lost, ScorerLost)
        assert lost.kind == "died"
        assert "not understood" in lost.cause
        scorers.kill()

    @pytest.mark.parametrize(
        "start, words",
        [
            ("die", "SIGABRT"),
            ("die", "the model file is cut off"),
            ("blunder", "KeyError: 'weights'"),
            ("starve", "ran out of memory"),
            ("die-later", "exited with code 4"),
        ],
    )
    def test_scorers_that_cannot_start_end_the_job(
        self, executor: Executor, tmp_path: Path, start: str, words: str
    ) -> None:
        scorers = executor.lease(scorer_spec(tmp_path, start), 2, stall_seconds=30)
        with pytest.raises(ModelUnusable) as caught:
            collect(scorers, lambda events: False)
        assert words in caught.value.message
        assert caught.value.remedy
        assert scorers.free == 0
        assert len(pids_in(tmp_path)) <= 6
        scorers.kill()

    def test_job_goes_on_with_the_scorers_that_can_start(self, executor: Executor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path, "crowded"), 3, stall_seconds=30)
        names = [f"slow-{number}" for number in range(100)]
        events: list[Event] = []
        queued = list(names)
        while len(ended(events)) < len(names):
            while queued and scorers.free > 0:
                scorers.submit(make_run(queued.pop(0)))
            events += scorers.poll(1.0)
        wait_until(lambda: scorers.poll(0.01) == [] and scorers.free == 2)
        scorers.release()
        assert sorted(ended(events)) == sorted(names)
        assert all(isinstance(event, Done) for event in events)
        assert (len(pids_in(tmp_path)), len(pids_in(tmp_path, "ready"))) == (7, 1)

    def test_refusal_at_the_start_is_passed_on_at_once(self, executor: Executor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path, "refuse"), 1, stall_seconds=30)
        scorers.submit(make_run("done-1"))
        with pytest.raises(NotTrusted, match=r"model\.pkl can run code"):
            collect(scorers, lambda events: False)
        assert len(pids_in(tmp_path)) == 1
        scorers.kill()

    def test_cancelled_run_is_never_reported_and_its_neighbour_is_lost(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=30)
        scorers.submit(make_run("done-0"))
        finish(scorers, 1)
        scorers.submit(make_run("stall-1"))
        scorers.submit(make_run("done-2"))
        scorers.poll(0.0)
        scorers.cancel("stall-1")
        assert not any(process_runs(pid) for pid in pids_in(tmp_path))
        (lost,) = finish(scorers, 1)
        assert isinstance(lost, ScorerLost)
        assert [run.attempt for run in lost.runs] == ["done-2"]
        assert lost.cause == "cancelled with its neighbour"
        scorers.submit(make_run("done-3"))
        assert ended(finish(scorers, 1)) == ["done-3"]
        scorers.kill()

    def test_cancelling_what_waits_or_is_unknown_disturbs_nobody(self, executor: Executor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=30)
        for number in range(2):
            scorers.submit(make_run(f"slow-{number}"))
        scorers.submit(make_run("done-2"))
        scorers.cancel("done-2")
        scorers.cancel("done-99")
        assert ended(finish(scorers, 2)) == ["slow-0", "slow-1"]
        assert scorers.poll(0.2) == []
        assert len(pids_in(tmp_path)) == 1
        scorers.kill()

    def test_nobody_lives_after_kill(self, executor: Executor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 2, stall_seconds=30)
        for number in range(2):
            scorers.submit(make_run(f"stall-{number}"))
        collect(scorers, lambda _: len(pids_in(tmp_path)) == 2)
        scorers.kill()
        assert not any(process_runs(pid) for pid in pids_in(tmp_path))
        assert scorers.free == 0
        scorers.kill()

    def test_kill_before_the_first_scorer_is_born(self, executor: Executor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 2, stall_seconds=30)
        scorers.submit(make_run("done-1"))
        scorers.kill()
        executor.call(f"{ENTRIES}:echo", {})
        assert not any(process_runs(pid) for pid in pids_in(tmp_path))

    def test_released_scorers_end_by_themselves(self, executor: Executor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 2, stall_seconds=30)
        for number in range(4):
            scorers.submit(make_run(f"slow-{number}"))
        finish(scorers, 4)
        get_ready(scorers, tmp_path, 2)
        scorers.release()
        assert pids_in(tmp_path, "stopped") == pids_in(tmp_path)
        assert not any(process_runs(pid) for pid in pids_in(tmp_path))

    def test_two_sets_do_not_disturb_each_other(self, executor: Executor, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        first = executor.lease(scorer_spec(tmp_path / "a"), 1, stall_seconds=30)
        second = executor.lease(scorer_spec(tmp_path / "b"), 1, stall_seconds=30)
        second.submit(make_run("busy-15"))
        for _ in range(3):
            first.submit(make_run("segfault-1"))
            assert ended(finish(first, 1)) == ["segfault-1"]
        assert ended(finish(second, 1)) == ["busy-15"]
        first.kill()
        second.submit(make_run("done-2"))
        assert ended(finish(second, 1)) == ["done-2"]
        second.release()

    def test_killed_executor_loses_what_runs_and_goes_on(self, executor: Executor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 2, stall_seconds=30)
        for number in range(2):
            scorers.submit(make_run(f"linger-{number}"))
        collect(scorers, lambda events: len(events) == 2)
        before = pids_in(tmp_path)
        executor.kill()
        wait_until(lambda: not any(process_runs(pid) for pid in before))
        events = finish(scorers, 2)
        assert all(isinstance(event, ScorerLost) and event.kind == "died" for event in events)
        scorers.submit(make_run("done-1"))
        assert ended(finish(scorers, 1)) == ["done-1"]
        scorers.kill()
