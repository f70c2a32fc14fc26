"""What every executor must do. Subclass it and give the fixture `executor`: one that may keep a gigabyte
of idle scorers."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tidemill.domain.errors import (
    ChildDied,
    EnvironmentUnusable,
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
        """Also one that is about to be ready: what lies behind the run of another could wait for long."""
        scorers = executor.lease(scorer_spec(tmp_path, "one by one"), 2, stall_seconds=600)
        scorers.submit(make_run("linger-1"))
        collect(scorers, lambda events: len(events) == 1)
        scorers.submit(make_run("done-2"))
        (tmp_path / "go").touch()
        assert ended(finish(scorers, 1)) == ["done-2"]
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


def done_with(executor: Executor, folder: Path, *attempts: str, **more: Any) -> ScorerSet:
    """A set of one scorer that has done these runs ("done-1" if none is named)."""
    scorers = executor.lease(scorer_spec(folder, **more), 1, stall_seconds=30)
    for attempt in attempts or ("done-1",):
        scorers.submit(make_run(attempt))
        finish(scorers, 1)
    return scorers


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


class ExecutorContract(TaskContract, ScorerContract, SessionContract, WarmContract, InterpreterContract):
    """All of it."""


def _has_text(path: Path) -> bool:
    return path.exists() and bool(path.read_text(encoding="utf-8"))
