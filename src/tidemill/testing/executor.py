"""What every executor must do. Subclass it and give the fixture `executor`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tidemill.domain.errors import (
    ChildDied,
    InvalidSpec,
    JobFailed,
    ModelUnusable,
    NotTrusted,
    OutputUnwritable,
    Stopped,
)
from tidemill.ports.executor import (
    ChunkRun,
    Done,
    Event,
    Executor,
    Failed,
    Progress,
    ScorerLost,
    ScorerSet,
    ScorerSpec,
    Step,
)
from tidemill.testing.children import STEP_ROWS

ENTRIES = "tidemill.testing.children"
PATIENCE_SECONDS = 60.0


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


class TaskContract:
    """`Executor.call`."""

    def test_answer_comes_back_as_it_was_given(self, executor: Executor) -> None:
        request = {"text": "grün \udc80 'x'", "numbers": [1, -2.5, 1e300], "nested": {"none": None, "yes": True}}
        assert executor.call(f"{ENTRIES}:echo", request)["request"] == request

    def test_each_call_has_a_child_of_its_own(self, executor: Executor) -> None:
        pids = {executor.call(f"{ENTRIES}:echo", {})["pid"] for _ in range(3)}
        assert len(pids | {os.getpid()}) == 4

    def test_progress_comes_in_order_before_the_answer(self, executor: Executor) -> None:
        seen: list[Mapping[str, Any]] = []
        answer = executor.call(f"{ENTRIES}:count", {"upto": 500, "fill": 0}, on_progress=seen.append)
        assert answer == {"counted": 500}
        assert seen == [{"number": number, "fill": ""} for number in range(500)]

    def test_all_that_a_child_said_before_its_end_is_heard(self, executor: Executor) -> None:
        seen: list[Mapping[str, Any]] = []

        def dawdle(report: Mapping[str, Any]) -> None:
            if not seen:
                time.sleep(0.5)
            seen.append(report)

        request = {"upto": 8, "fill": 18_000}
        assert executor.call(f"{ENTRIES}:count", request, on_progress=dawdle) == {"counted": 8}
        assert [report["number"] for report in seen] == list(range(8))

    def test_error_of_the_task_keeps_class_message_and_remedy(self, executor: Executor) -> None:
        with pytest.raises(OutputUnwritable) as caught:
            executor.call(f"{ENTRIES}:refuse", {})
        assert (caught.value.message, caught.value.remedy) == ("No room on /data.", "Free some.")

    def test_other_exceptions_become_job_failed_with_class_and_text(self, executor: Executor) -> None:
        with pytest.raises(JobFailed) as caught:
            executor.call(f"{ENTRIES}:blunder", {})
        assert type(caught.value) is JobFailed
        assert caught.value.message == "ValueError: row 3: 'x' is no number"
        assert any("about to blunder" in note and "in blunder" in note for note in caught.value.__notes__)

    def test_exception_without_a_text_is_reported(self, executor: Executor) -> None:
        with pytest.raises(JobFailed, match="Wordless"):
            executor.call(f"{ENTRIES}:blunder", {"wordless": True})

    def test_answers_that_cannot_be_sent_are_errors(self, executor: Executor) -> None:
        with pytest.raises(JobFailed, match=r"TypeError: .*not JSON serializable"):
            executor.call(f"{ENTRIES}:answer_nonsense", {})
        with pytest.raises(Exception, match=r"has 17,825,\d\d\d bytes; at most 16,777,216"):
            executor.call(f"{ENTRIES}:answer_too_much", {})

    def test_wrong_entry_points_are_named(self, executor: Executor) -> None:
        with pytest.raises(InvalidSpec, match="no function 'nothing'"):
            executor.call(f"{ENTRIES}:nothing", {})
        with pytest.raises(JobFailed, match="ModuleNotFoundError: No module named 'no_such_module'"):
            executor.call("no_such_module:run", {})
        with pytest.raises(InvalidSpec, match="'run' is no entry point"):
            executor.call("run", {})

    def test_segfault_is_a_death_in_words_with_the_last_words(self, executor: Executor) -> None:
        with pytest.raises(ChildDied) as caught:
            executor.call(f"{ENTRIES}:segfault", {})
        assert "killed by SIGSEGV (segmentation fault)" in caught.value.message
        assert "last words" in caught.value.message
        assert executor.call(f"{ENTRIES}:echo", {"a": 1})["request"] == {"a": 1}

    @pytest.mark.parametrize("politely", [False, True])
    def test_exit_is_a_death_with_its_code(self, executor: Executor, politely: bool) -> None:
        with pytest.raises(ChildDied, match="exited with code 3"):
            executor.call(f"{ENTRIES}:leave", {"code": 3, "politely": politely})

    def test_exit_without_an_answer_is_a_death_too(self, executor: Executor) -> None:
        with pytest.raises(ChildDied, match="exited with code 0"):
            executor.call(f"{ENTRIES}:leave", {"code": 0})

    def test_memory_bound_holds_and_is_named(self, executor: Executor) -> None:
        bound = 128 * 2**20
        with pytest.raises(ChildDied, match="ran out of memory: it may use 128 MiB") as caught:
            executor.call(f"{ENTRIES}:hog", {"mebibytes": 512}, memory_bytes=bound)
        assert caught.value.remedy
        answer = executor.call(f"{ENTRIES}:hog", {"mebibytes": 64}, memory_bytes=bound)
        assert answer == {"mebibytes": 64}

    def test_stop_kills_the_child(self, executor: Executor, tmp_path: Path) -> None:
        pid_file = tmp_path / "pid"
        with pytest.raises(Stopped):
            executor.call(
                f"{ENTRIES}:hang", {"pid_file": str(pid_file), "gil": True}, should_stop=lambda: _has_text(pid_file)
            )
        assert not process_runs(int(pid_file.read_text()))

    def test_error_of_should_stop_and_on_progress_goes_through(self, executor: Executor, tmp_path: Path) -> None:
        pid_file = tmp_path / "pid"

        def fail(*_: object) -> Any:
            raise LookupError("mine")

        with pytest.raises(LookupError, match="mine"):
            executor.call(f"{ENTRIES}:hang", {"pid_file": str(tmp_path / "other")}, should_stop=fail)
        with pytest.raises(LookupError, match="mine"):
            executor.call(f"{ENTRIES}:hang", {"pid_file": str(pid_file)}, on_progress=fail)
        assert not process_runs(int(pid_file.read_text()))

    def test_timeout_is_a_death(self, executor: Executor, tmp_path: Path) -> None:
        pid_file = tmp_path / "pid"
        with pytest.raises(ChildDied, match=r"took longer than 1\.5 s"):
            executor.call(f"{ENTRIES}:hang", {"pid_file": str(pid_file), "gil": True}, timeout_seconds=1.5)
        assert not pid_file.exists() or not process_runs(int(pid_file.read_text()))

    def test_noise_is_bounded_and_its_end_is_quoted(self, executor: Executor) -> None:
        with pytest.raises(ChildDied) as caught:
            executor.call(f"{ENTRIES}:shout", {"lines": 5_000})
        assert "\n  4999 xxx" in caught.value.message
        assert len(caught.value.message) < 10_000


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
        scorers = executor.lease(scorer_spec(tmp_path), 2, stall_seconds=30)
        for number in range(2):
            scorers.submit(make_run(f"busy-{number}"))
        events = [event for event in finish(scorers, 2) if isinstance(event, Done)]
        scorers.kill()
        assert len({event.receipt.rows for event in events if event.receipt}) == 2

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
        scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=1)
        start, stop = STEP_ROWS
        for attempt, kind in (("segfault-1", "died"), ("stall-2", "hung")):
            scorers.submit(make_run(attempt, careful=True))
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
        scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=1)
        run = make_run("busy-1")
        scorers.submit(run)
        *progress, done = finish(scorers, 1)
        assert isinstance(done, Done)
        assert progress[3] == Progress(run=run, rows=3, rejected=1, busy_seconds={"model": 0.5})
        assert len(progress) == 15
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
        wait_until(lambda: len(pids_in(tmp_path)) == 2)
        scorers.release()
        assert pids_in(tmp_path, "stopped") == pids_in(tmp_path)
        assert not any(process_runs(pid) for pid in pids_in(tmp_path))

    def test_two_sets_do_not_disturb_each_other(self, executor: Executor, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        first = executor.lease(scorer_spec(tmp_path / "a"), 1, stall_seconds=30)
        second = executor.lease(scorer_spec(tmp_path / "b"), 1, stall_seconds=30)
        second.submit(make_run("busy-1"))
        for _ in range(3):
            first.submit(make_run("segfault-1"))
            assert ended(finish(first, 1)) == ["segfault-1"]
        assert ended(finish(second, 1)) == ["busy-1"]
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


class ExecutorContract(TaskContract, ScorerContract):
    """All of it."""


def _has_text(path: Path) -> bool:
    return path.exists() and bool(path.read_text(encoding="utf-8"))
