"""The local executor: what every executor must do, and what its processes must withstand."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tidemill.domain.errors import ChildDied
from tidemill.executors import children
from tidemill.executors.children import Brood, Child, Zygote
from tidemill.executors.local import LocalExecutor
from tidemill.executors.scorers import LocalScorerSet
from tidemill.ports.executor import Done, Event, ScorerLost
from tidemill.testing.children import RESTING_BYTES
from tidemill.testing.executor import (
    ENTRIES,
    ExecutorContract,
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

LOCAL = "tests.contract.local_entries"


class Clock:
    """The seconds of this machine, and those that a test adds."""

    def __init__(self) -> None:
        self._added = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._added

    def leap(self, seconds: float = 10_000.0) -> None:
        self._added += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def executor() -> Iterator[LocalExecutor]:
    it = LocalExecutor(warm_bytes=2**30)
    yield it
    it.close()


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that a user's modules lie in."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


class TestLocalExecutor(ExecutorContract):
    """What every executor must do."""


def zygote_of(executor: LocalExecutor) -> int:
    zygote: Zygote = executor._nursery.zygote()
    assert zygote.pid is not None
    return zygote.pid


def kill(pid: int) -> None:
    """kill -9, and wait until it has happened."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not process_runs(pid))


def descendants() -> set[int]:
    """Children of this process, of every thread, and theirs; zombies too."""
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            try:
                new = {int(word) for word in task.read_text().split()}
            except OSError:
                continue
            found |= new
            waiting += new
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def idle_files(zygote: int) -> int:
    """Open files of a zygote that has closed what belonged to its last child: it has none and sleeps."""
    children = Path(f"/proc/{zygote}/task/{zygote}/children")
    wait_until(lambda: children.read_text() == "" and process_state(zygote) == "S")
    return len(os.listdir(f"/proc/{zygote}/fd"))


def run_until(scorers: LocalScorerSet, names: list[str], disturb: Callable[[int], None]) -> tuple[list[str], int]:
    """Score until every name is done, submitting lost ones again; done names in order, and the losses.

    `disturb` is called with the number of done runs after each event."""
    queued, in_flight, done, losses = list(names), set[str](), list[str](), 0
    while len(done) < len(names):
        while queued and scorers.free > 0:
            in_flight.add(queued[0])
            scorers.submit(make_run(queued.pop(0)))
        for event in scorers.poll(0.05):
            assert isinstance(event, Done | ScorerLost)
            for attempt in ended([event]):
                in_flight.remove(attempt)
            if isinstance(event, Done):
                done.append(event.run.attempt)
            else:
                assert event.kind == "died"
                queued += [run.attempt for run in event.runs]
                losses += 1
            disturb(len(done))
    assert in_flight == set()
    return done, losses


class TestWhatChildrenAreGiven:
    def test_a_child_is_shielded_and_owns_nothing_of_the_zygote(
        self, executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 2, stall_seconds=30)
        wait_until(lambda: len(scorers.pids) == 2 or bool(scorers.poll(0.05)))
        seen = executor.call(f"{LOCAL}:look", {})
        scorers.kill()
        own = int(Path("/proc/self/oom_score_adj").read_text())
        assert seen["sigint_ignored"]
        assert seen["leads_its_session"]
        assert seen["oom_score_adj"] == min(1000, own + 500)
        assert seen["core_bytes"] == [0, 0]
        assert seen["stdin"] == ""
        assert (seen["sockets"], seen["fds"]) == (1, 4)
        assert seen["main"] == "tidemill.executors.zygote"

    def test_libraries_get_one_thread_and_the_environment_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        monkeypatch.setenv("PYTHONPATH", "/somewhere")
        monkeypatch.setenv("MINE", "x")
        executor = LocalExecutor()
        names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONPATH", "MINE"]
        seen = executor.call(f"{LOCAL}:look", {"environment": names})["environment"]
        executor.close()
        assert seen == {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": "/somewhere", "MINE": "x"}

    def test_modules_in_the_current_folder_can_be_imported(
        self, executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "own_model.py").write_text("def run(request, progress): return {'double': 2 * request['x']}\n")
        (tmp_path / "csv.py").write_text("raise RuntimeError('a file beside the data stands in for a library')\n")
        (tmp_path / "csv_user.py").write_text("import csv\ndef run(request, progress): return {'csv': csv.__file__}\n")
        monkeypatch.chdir(tmp_path)
        assert executor.call("own_model:run", {"x": 21}) == {"double": 42}
        assert not executor.call("csv_user:run", {})["csv"].startswith(str(tmp_path))
        assert executor.call(f"{LOCAL}:look", {})["folder"] == str(tmp_path)

    def test_modules_that_this_process_can_import_can_be_imported(self, executor: LocalExecutor, modules: Path) -> None:
        (modules / "late_model.py").write_text("def run(request, progress): return {'late': True}\n")
        assert executor.call("late_model:run", {}) == {"late": True}


def hanging_module(modules: Path) -> Path:
    """A module "hanging" whose import never ends; a file with a letter for each import that has begun."""
    begun = modules / "begun"
    begun.touch()
    code = f"import ctypes; open({str(begun)!r}, 'a').write('x'); ctypes.PyDLL(None).sleep(600)"
    (modules / "hanging.py").write_text(code)
    return begun


class TestPreload:
    def test_modules_are_there_before_the_child_asks(self, modules: Path) -> None:
        for name in ("heavy_one", "heavy_two", "heavy_three"):
            (modules / f"{name}.py").touch()
        executor = LocalExecutor(preload=("heavy_one",))
        request = {"modules": ["heavy_one", "heavy_two", "heavy_three"]}
        assert executor.call(f"{LOCAL}:look", request)["modules"] == ["heavy_one"]
        assert executor.call(f"{LOCAL}:look", request, preload=("heavy_two",))["modules"] == ["heavy_one", "heavy_two"]
        kill(zygote_of(executor))
        assert executor.call(f"{LOCAL}:look", request)["modules"] == ["heavy_one", "heavy_two"]
        executor.close()

    def test_modules_can_be_asked_for_ahead_of_any_child(self, modules: Path) -> None:
        for name in ("heavy_one", "heavy_two"):
            (modules / f"{name}.py").touch()
        executor = LocalExecutor(preload=("heavy_one",))
        executor.preload(("heavy_two", "no_such_module"))
        request = {"modules": ["heavy_one", "heavy_two"]}
        assert executor.call(f"{LOCAL}:look", request)["modules"] == ["heavy_one", "heavy_two"]
        executor.close()
        with pytest.raises(ChildDied, match="closed"):
            executor.preload(("heavy_two",))

    def test_closing_waits_for_no_import_that_nobody_needs(
        self, modules: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(children, "END_SECONDS", 3_600.0)
        begun = hanging_module(modules)
        executor = LocalExecutor()
        pid = zygote_of(executor)
        executor.preload(("hanging",))
        while not begun.read_text():
            time.sleep(0.01)
        executor.close()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    @pytest.mark.parametrize("code", ["raise ValueError('broken')", "import sys; sys.exit(3)", "import nowhere_to_be"])
    def test_module_that_fails_is_no_failure(self, modules: Path, code: str) -> None:
        (modules / "failing.py").write_text(code)
        executor = LocalExecutor(preload=("failing", "no_such_module", "colorsys"))
        before = zygote_of(executor)
        seen = executor.call(f"{LOCAL}:look", {"modules": ["failing", "colorsys"]})
        assert (seen["modules"], seen["parent"]) == (["colorsys"], before)
        executor.close()

    def test_module_that_kills_is_left_out_next_time(self, modules: Path) -> None:
        (modules / "deadly.py").write_text("import os; os.abort()")
        executor = LocalExecutor(preload=("colorsys", "deadly", "wave"))
        seen = executor.call(f"{LOCAL}:look", {"modules": ["colorsys", "wave"]})
        assert seen["modules"] == ["colorsys", "wave"]
        with pytest.raises(ChildDied, match="SIGABRT"):
            executor.call("deadly:run", {})
        executor.close()

    def test_module_that_hangs_is_left_out_next_time(self, modules: Path, tmp_path: Path, clock: Clock) -> None:
        begun = hanging_module(modules)
        executor = LocalExecutor(preload=("hanging",), clock=clock)
        leaps: list[int] = []

        def leap_at_each() -> bool:
            if len(begun.read_text()) > len(leaps):
                leaps.append(1)
                clock.leap()
            return False

        answer = executor.call(f"{ENTRIES}:echo", {"a": 1}, should_stop=leap_at_each)
        assert (answer["request"], len(leaps)) == ({"a": 1}, 1)
        kill(zygote_of(executor))
        scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=30)
        scorers.submit(make_run("done-1"))
        assert ended(finish(scorers, 1)) == ["done-1"]
        assert begun.read_text() == "x"
        executor.close()

    def test_scorers_wait_out_a_hanging_import_too(self, modules: Path, tmp_path: Path, clock: Clock) -> None:
        begun = hanging_module(modules)
        executor = LocalExecutor(clock=clock)
        scorers = executor.lease(scorer_spec(tmp_path, preload=("hanging",)), 2, stall_seconds=30)
        scorers.submit(make_run("done-1"))
        collect(scorers, lambda _: begun.read_text() != "")
        clock.leap()
        assert ended(finish(scorers, 1)) == ["done-1"]
        assert begun.read_text() == "x"
        executor.close()

    def test_scorer_that_never_gets_ready_is_killed(self, tmp_path: Path, clock: Clock) -> None:
        executor = LocalExecutor(start_seconds=100, clock=clock)
        scorers = executor.lease(scorer_spec(tmp_path, "hang"), 1, stall_seconds=200)
        hung: set[int] = set()

        def leap_at_each(_: list[Event]) -> bool:
            begun = pids_in(tmp_path) & set(scorers.pids)
            if not begun <= hung:
                hung.update(begun)
                clock.leap()
            return False

        with pytest.raises(Exception, match="3 times before they could start: not ready after 100 s"):
            collect(scorers, leap_at_each)
        assert len(hung) == 3
        scorers.kill()
        executor.close()


class TestMisuse:
    @pytest.mark.parametrize(
        "garbage", [b"\xff" * 100, b"\0\0\0\x02[]", b"\0\0\0\x03{x}", b"\0\0\1\0" + b"[" * 256], ids=repr
    )
    def test_bytes_that_are_no_message_end_the_child(self, executor: LocalExecutor, garbage: bytes) -> None:
        with pytest.raises(ChildDied, match="killed because it sent what is no message"):
            executor.call(f"{LOCAL}:garble", {"bytes": garbage.hex()})

    def test_child_that_closes_its_channel_is_killed(self, executor: LocalExecutor) -> None:
        seen: list[Mapping[str, Any]] = []
        with pytest.raises(ChildDied, match="lost"):
            executor.call(f"{LOCAL}:deafen", {}, on_progress=seen.append)
        assert not process_runs(seen[0]["pid"])

    @pytest.mark.parametrize("die", [False, True])
    def test_what_a_child_started_goes_with_it(self, executor: LocalExecutor, die: bool) -> None:
        seen: list[Mapping[str, Any]] = []
        if die:
            with pytest.raises(ChildDied, match="exited with code 5"):
                executor.call(f"{LOCAL}:breed", {"die": True}, on_progress=seen.append)
        else:
            executor.call(f"{LOCAL}:breed", {"die": False}, on_progress=seen.append)
        assert len(seen[0]["pids"]) == 2
        wait_until(lambda: not any(process_runs(pid) for pid in seen[0]["pids"]))

    def test_ten_mebibytes_go_both_ways(self, executor: LocalExecutor) -> None:
        text = "grün " * (2 * 2**20 // 2)
        assert executor.call(f"{ENTRIES}:echo", {"text": text})["request"] == {"text": text}

    def test_threads_may_call_at_once(self, executor: LocalExecutor, tmp_path: Path) -> None:
        answers: dict[int, list[int]] = {}

        def ask(caller: int) -> None:
            answers[caller] = [
                executor.call(f"{ENTRIES}:echo", {"n": caller * 100 + n})["request"]["n"] for n in range(10)
            ]

        threads = [threading.Thread(target=ask, args=(caller,)) for caller in range(6)]
        for thread in threads:
            thread.start()
        scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=30)
        done, losses = run_until(scorers, [f"slow-{n}" for n in range(10)], lambda _: None)
        for thread in threads:
            thread.join()
        assert (len(done), losses) == (10, 0)
        assert answers == {caller: [caller * 100 + n for n in range(10)] for caller in range(6)}


class TestDeathOfTheZygote:
    def test_idle_executor_does_not_notice(self, executor: LocalExecutor) -> None:
        for number in range(5):
            assert executor.call(f"{ENTRIES}:echo", {"n": number})["request"] == {"n": number}
            kill(zygote_of(executor))

    def test_running_task_is_lost_and_says_why(self, executor: LocalExecutor, tmp_path: Path) -> None:
        pids: list[int] = []

        def strike(report: Mapping[str, Any]) -> None:
            pids.append(report["pid"])
            kill(zygote_of(executor))

        with pytest.raises(ChildDied, match="forked from, which was killed by SIGKILL"):
            executor.call(f"{LOCAL}:hold", {"file": str(tmp_path / "never")}, on_progress=strike)
        assert not process_runs(pids[0])

    def test_runs_in_flight_are_reported_once_and_work_goes_on(self, executor: LocalExecutor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 2, stall_seconds=30)
        for number in range(4):
            scorers.submit(make_run(f"stall-{number}"))
        scorers_before = collect_pids(scorers, tmp_path, 2)
        kill(zygote_of(executor))
        events = finish(scorers, 4)
        assert sorted(ended(events)) == [f"stall-{number}" for number in range(4)]
        assert all(isinstance(event, ScorerLost) and "forked from" in event.cause for event in events)
        assert not any(process_runs(pid) for pid in scorers_before)
        scorers.submit(make_run("done-1"))
        assert ended(finish(scorers, 1)) == ["done-1"]
        scorers.release()

    def test_three_deaths_with_nothing_done_are_enough(self, executor: LocalExecutor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=30)
        for number in range(2):
            scorers.submit(make_run(f"stall-{number}"))
            collect_pids(scorers, tmp_path, number + 1)
            kill(zygote_of(executor))
            assert ended(finish(scorers, 1)) == [f"stall-{number}"]
        scorers.submit(make_run("stall-9"))
        collect_pids(scorers, tmp_path, 3)
        kill(zygote_of(executor))
        assert ended(finish(scorers, 1)) == ["stall-9"]
        with pytest.raises(ChildDied, match="died 3 times with nothing done in between: killed by SIGKILL"):
            scorers.poll(5)
        scorers.kill()
        assert executor.call(f"{ENTRIES}:echo", {"a": 1})["request"] == {"a": 1}

    def test_kills_on_purpose_do_not_count(self, executor: LocalExecutor, tmp_path: Path) -> None:
        for _ in range(5):
            scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=30)
            before = zygote_of(executor)
            executor.kill()
            assert not process_runs(before)
            scorers.kill()
        assert executor.call(f"{ENTRIES}:echo", {"a": 1})["request"] == {"a": 1}


class TestKillFromAnotherThread:
    def test_running_task_is_lost(self, executor: LocalExecutor, tmp_path: Path) -> None:
        pids: list[int] = []
        threads: list[threading.Thread] = []

        def strike(report: Mapping[str, Any]) -> None:
            pids.append(report["pid"])
            threads.append(threading.Thread(target=executor.kill))
            threads[0].start()

        with pytest.raises(ChildDied, match="lost"):
            executor.call(f"{LOCAL}:hold", {"file": str(tmp_path / "never")}, on_progress=strike)
        threads[0].join()
        assert not process_runs(pids[0])

    def test_nobody_lives_when_it_returns(self, executor: LocalExecutor, tmp_path: Path) -> None:
        scorers = executor.lease(scorer_spec(tmp_path), 2, stall_seconds=30)
        for number in range(2):
            scorers.submit(make_run(f"stall-{number}"))
        pids = collect_pids(scorers, tmp_path, 2)
        thread = threading.Thread(target=executor.kill)
        thread.start()
        thread.join()
        wait_until(lambda: not any(process_runs(pid) for pid in pids))
        assert len(finish(scorers, 2)) == 2
        scorers.kill()


class TestRandomKills:
    @pytest.mark.parametrize("seed", range(2))
    def test_each_of_200_runs_is_told_once_and_done_in_the_end(
        self, executor: LocalExecutor, tmp_path: Path, seed: int
    ) -> None:
        chance = random.Random(seed)
        scorers = executor.lease(scorer_spec(tmp_path), 3, stall_seconds=30)
        names = [f"{chance.choice(['done', 'slow'])}-{number}" for number in range(200)]
        next_strike = [5]
        strikes = 0

        def strike(done: int) -> None:
            nonlocal strikes
            if done < next_strike[0] or not scorers.pids:
                return
            victim = zygote_of(executor) if strikes % 6 == 5 else chance.choice(scorers.pids)
            if process_runs(victim):
                os.kill(victim, signal.SIGKILL)
            next_strike[0] = done + chance.randint(1, 8)
            strikes += 1

        done, losses = run_until(scorers, names, strike)
        scorers.release()
        assert sorted(done) == sorted(names)
        assert strikes >= 20
        assert losses >= 5


class TestNothingIsLeftBehind:
    def test_calls_and_sets_leak_no_descriptor(self, executor: LocalExecutor, tmp_path: Path) -> None:
        def work(number: int) -> None:
            assert executor.call(f"{ENTRIES}:echo", {"n": number})["request"] == {"n": number}
            if number % 10 == 0:
                with pytest.raises(ChildDied):
                    executor.call(f"{ENTRIES}:leave", {"code": 3})
                scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=30)
                scorers.submit(make_run("segfault-1"))
                finish(scorers, 1)
                scorers.kill() if number % 20 else scorers.release()
            if number % 25 == 0:
                kill(zygote_of(executor))

        work(0)
        before, fresh = open_files(), 0
        for number in range(100):
            work(number)
            if number == 76:
                fresh = idle_files(zygote_of(executor))
        assert open_files() == before
        assert idle_files(zygote_of(executor)) == fresh

    def test_no_process_is_left_after_close(self, tmp_path: Path) -> None:
        before = descendants()
        files = open_files()
        executor = LocalExecutor(preload=("colorsys",))
        scorers = executor.lease(scorer_spec(tmp_path), 2, stall_seconds=30)
        for number in range(4):
            scorers.submit(make_run(f"stall-{number}"))
        collect_pids(scorers, tmp_path, 2)
        during = descendants() - before
        assert len(during) == 3
        executor.close()
        assert not any(process_lives(pid) for pid in during)
        assert descendants() == before
        scorers.kill()
        executor.close()
        assert open_files() <= files  # Fewer, where what came before was still being closed.

    def test_dead_children_are_reaped_at_once(self, executor: LocalExecutor) -> None:
        pid = executor.call(f"{ENTRIES}:echo", {})["pid"]
        wait_until(lambda: not process_lives(pid))

    def test_closed_executor_says_so(self) -> None:
        executor = LocalExecutor()
        executor.close()
        with pytest.raises(ChildDied, match="The executor is closed"):
            executor.call(f"{ENTRIES}:echo", {})

    def test_close_ends_a_call_of_another_thread(self, tmp_path: Path) -> None:
        executor = LocalExecutor()
        started = threading.Event()
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                executor.call(f"{LOCAL}:hold", {"file": str(tmp_path / "never")}, on_progress=lambda _: started.set())
            except ChildDied as exc:
                errors.append(exc)

        thread = threading.Thread(target=ask)
        thread.start()
        assert started.wait(60)
        executor.close()
        thread.join(60)
        assert len(errors) == 1


def rested(executor: LocalExecutor, count: int) -> list[int]:
    """Pids of the idle scorers, the longest idle first, when there are so many and each has said what it holds."""
    seen: list[tuple[int, int | None]] = []

    def look() -> bool:
        seen[:] = executor._nursery.warm.held
        return [size for _, size in seen] == [RESTING_BYTES] * count

    wait_until(look)
    return [pid for pid, _ in seen]


def folders(tmp_path: Path, count: int) -> list[Path]:
    made = [tmp_path / str(number) for number in range(count)]
    for folder in made:
        folder.mkdir()
    return made


class TestBoundsOfIdleScorers:
    def test_least_recently_used_go_when_there_is_too_much(self, tmp_path: Path) -> None:
        executor = LocalExecutor(warm_bytes=3 * RESTING_BYTES)
        a, b, c, d = folders(tmp_path, 4)
        for folder in (a, b, c):
            done_with(executor, folder, warm_key=folder.name).release()
        assert rested(executor, 3) == [*pids_in(a), *pids_in(b), *pids_in(c)]
        done_with(executor, a, warm_key=a.name).release()
        done_with(executor, d, warm_key=d.name).release()
        assert rested(executor, 3) == [*pids_in(c), *pids_in(a), *pids_in(d)]
        wait_until(lambda: not any(process_runs(pid) for pid in pids_in(b)))
        executor.close()

    def test_one_that_is_larger_than_the_bound_is_not_kept(self, tmp_path: Path) -> None:
        executor = LocalExecutor(warm_bytes=RESTING_BYTES - 1)
        done_with(executor, tmp_path, warm_key="k").release()
        wait_until(lambda: not any(process_runs(pid) for pid in pids_in(tmp_path)))
        assert executor._nursery.warm.held == []
        executor.close()

    def test_nothing_is_kept_by_default(self, tmp_path: Path) -> None:
        executor = LocalExecutor()
        done_with(executor, tmp_path, warm_key="k").release()
        assert not any(process_runs(pid) for pid in pids_in(tmp_path))
        executor.close()

    def test_those_that_nobody_wants_for_long_end(self, tmp_path: Path, clock: Clock) -> None:
        executor = LocalExecutor(warm_bytes=2**30, idle_seconds=1_000, clock=clock)
        older, newer = folders(tmp_path, 2)
        done_with(executor, older, warm_key="older").release()
        assert rested(executor, 1) == [*pids_in(older)]
        clock.leap(1_001)
        done_with(executor, newer, warm_key="newer").release()
        assert rested(executor, 1) == [*pids_in(newer)]
        wait_until(lambda: not any(process_runs(pid) for pid in pids_in(older)))
        assert all(process_runs(pid) for pid in pids_in(newer))
        executor.close()

    def test_one_whose_time_is_over_ends_though_nothing_happens(self, tmp_path: Path) -> None:
        executor = LocalExecutor(warm_bytes=2**30, idle_seconds=0.3)
        done_with(executor, tmp_path, warm_key="k").release()
        wait_until(lambda: executor._nursery.warm.held == [])
        wait_until(lambda: not any(process_runs(pid) for pid in pids_in(tmp_path)))
        executor.close()

    @pytest.mark.parametrize("how", ["die", "rave"])
    def test_one_that_does_not_rest_well_is_ended(self, tmp_path: Path, how: str) -> None:
        executor = LocalExecutor(warm_bytes=2**30)
        spec = scorer_spec(tmp_path, warm_key="k")
        scorers = executor.lease(replace(spec, job={**spec.job, "rests": how}), 1, stall_seconds=30)
        scorers.submit(make_run("done-1"))
        finish(scorers, 1)
        scorers.release()
        wait_until(lambda: executor._nursery.warm.held == [])
        wait_until(lambda: not any(process_runs(pid) for pid in pids_in(tmp_path)))
        done_with(executor, tmp_path, warm_key="k").kill()
        assert len(pids_in(tmp_path)) == 2
        executor.close()

    def test_handovers_leak_no_descriptor(self, executor: LocalExecutor, tmp_path: Path) -> None:
        done_with(executor, tmp_path, warm_key="k").release()
        files = open_files()
        for _ in range(20):
            with_session = executor.session("job")
            done_with(with_session, tmp_path, warm_key="k").release()
            with_session.close()
        assert len(pids_in(tmp_path)) == 1
        assert open_files() <= files  # Fewer, where what came before was still being closed.

    def test_zygotes_of_other_interpreters_end_when_nobody_uses_them(self, tmp_path: Path, clock: Clock) -> None:
        executor = LocalExecutor(idle_seconds=1_000, clock=clock)
        ask = partial(executor.call, f"{ENTRIES}:interpreter", {}, python=sys.executable)
        pid = ask()["parent"]
        assert ask()["parent"] == pid != zygote_of(executor)
        scorers = executor.lease(scorer_spec(tmp_path, python=sys.executable), 1, stall_seconds=30)
        clock.leap(1_001)
        executor.call(f"{ENTRIES}:echo", {})
        assert process_runs(pid)
        scorers.kill()
        executor.call(f"{ENTRIES}:echo", {})
        assert process_runs(pid)
        clock.leap(1_001)
        executor.call(f"{ENTRIES}:echo", {})
        assert not process_lives(pid)
        assert ask()["parent"] != pid
        executor.close()


class TestThreads:
    def test_children_outlive_the_thread_that_first_needed_them(self, tmp_path: Path) -> None:
        """The kernel ends a zygote with the thread that started it."""
        made: list[LocalExecutor] = []
        sets: list[LocalScorerSet] = []

        def begin() -> None:
            made.append(LocalExecutor())
            made[0].call(f"{ENTRIES}:echo", {}, python=sys.executable)
            for python in (None, sys.executable):
                sets.append(made[0].lease(scorer_spec(tmp_path, python=python), 1, stall_seconds=30))

        thread = threading.Thread(target=begin)
        thread.start()
        thread.join()
        time.sleep(0.2)
        for scorers in sets:
            scorers.submit(make_run("done-1"))
            assert all(isinstance(event, Done) for event in finish(scorers, 1))
        assert len(pids_in(tmp_path)) == 2
        made[0].close()

    def test_child_that_is_made_while_all_are_killed_is_killed_too(self, executor: LocalExecutor) -> None:
        brood = Brood("job_1")

        def fork() -> Child:
            child = executor._nursery.zygote().fork("tidemill.executors.child:run_task")
            brood.kill()
            return child

        child = brood.bear(fork)
        assert child.struck
        death = child.death()
        assert death is not None
        assert death.cause == "killed with all that ran for job_1"
        child.close()

    def test_sessions_may_be_killed_at_any_time(self, executor: LocalExecutor, tmp_path: Path) -> None:
        """Jobs in threads, each killed again and again by another; each run is told exactly once."""
        seeds = folders(tmp_path, 3)
        errors: list[BaseException] = []

        def work(folder: Path) -> None:
            chance = random.Random(folder.name)
            session = executor.session(folder.name)
            try:
                for number in range(15):
                    killer = threading.Timer(chance.random() * 0.05, session.kill)
                    killer.start()
                    scorers = session.lease(scorer_spec(folder, warm_key=folder.name), 2, stall_seconds=30)
                    names = [f"{number}-{each}" for each in range(4)]
                    for name in names:
                        scorers.submit(make_run(f"slow-{name}"))
                    assert sorted(ended(finish(scorers, 4))) == [f"slow-{name}" for name in names]
                    scorers.release() if number % 2 else scorers.kill()
                    killer.join()
                    assert session.call(f"{ENTRIES}:echo", {"n": number})["request"] == {"n": number}
                session.close()
            except BaseException as exc:
                errors.append(exc)

        threads = [threading.Thread(target=work, args=(folder,)) for folder in seeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        idle = {pid for pid, _ in executor._nursery.warm.held}
        started = {pid for folder in seeds for pid in pids_in(folder)}
        assert {pid for pid in started if process_runs(pid)} <= idle


WORKER = """
import sys, threading
from pathlib import Path
from tidemill.executors.local import LocalExecutor
from tidemill.testing.executor import done_with, make_run, scorer_spec

folder = Path(sys.argv[1])
executor = LocalExecutor(warm_bytes=2**30)
print("once", executor._nursery.zygote().pid, flush=True)
done_with(executor, folder / "idle", warm_key="k").release()
spec = scorer_spec(folder / "elsewhere", python=sys.executable)
elsewhere = executor.session("job_2").lease(spec, 1, stall_seconds=600)
elsewhere.submit(make_run("stall-9"))
scorers = executor.session("job_1").lease(scorer_spec(folder), 2, stall_seconds=600)
for number in range(4):
    scorers.submit(make_run(f"stall-{number}"))
pid_file = str(folder / "task")
request = {"pid_file": pid_file, "gil": True}
threading.Thread(target=executor.call, args=("tidemill.testing.children:hang", request), daemon=True).start()
while True:
    scorers.poll(0.2)
    elsewhere.poll(0.2)
"""
"""No guard, and no file: children must not need to import what started them."""


class TestDeathOfTheWorker:
    @pytest.mark.parametrize("by_interrupt", [False, True])
    def test_nobody_outlives_it_though_native_code_holds_the_lock(self, tmp_path: Path, by_interrupt: bool) -> None:
        others = [tmp_path / "idle", tmp_path / "elsewhere"]
        for other in others:
            other.mkdir()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        worker = subprocess.Popen(
            [sys.executable, "-", str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(WORKER)
        worker.stdin.close()
        word, zygote = worker.stdout.readline().split()
        task = tmp_path / "task"
        wait_until(lambda: len(pids_in(tmp_path)) == 2 and task.exists() and task.read_text() != "")
        wait_until(lambda: all(len(pids_in(other)) == 1 for other in others))
        everyone = {int(zygote), int(task.read_text()), *pids_in(tmp_path), *(p for o in others for p in pids_in(o))}
        everyone |= {parent_of(pid) for pid in pids_in(others[1])}
        time.sleep(0.2)
        assert all(process_runs(pid) for pid in everyone)
        worker.send_signal(signal.SIGINT if by_interrupt else signal.SIGKILL)
        worker.wait(60)
        assert (word, len(everyone)) == ("once", 7)
        wait_until(lambda: not any(process_runs(pid) for pid in everyone))
        assert worker.stdout.read() == ""
        worker.stdout.close()

    def test_stopped_worker_does_not_take_waiting_for_a_stall(self, tmp_path: Path, clock: Clock) -> None:
        executor = LocalExecutor(clock=clock)
        scorers = executor.lease(scorer_spec(tmp_path), 1, stall_seconds=30)
        get_ready(scorers, tmp_path, 1)
        scorers.submit(make_run("busy-5"))
        # As if the machine had been busy with something else: the messages lie there.
        wait_until((tmp_path / "answered-busy-5").exists)
        clock.leap()
        *_, done = finish(scorers, 1)
        assert isinstance(done, Done)
        scorers.submit(make_run("done-6"))
        assert ended(finish(scorers, 1)) == ["done-6"]
        assert len(pids_in(tmp_path)) == 1
        scorers.release()
        executor.close()


def collect_pids(scorers: LocalScorerSet, folder: Path, count: int) -> set[int]:
    """Poll until so many scorers have started and have their runs; all pids there were."""
    collect(scorers, lambda _: len(pids_in(folder)) >= count and all(s.runs for s in scorers._scorers))
    return pids_in(folder)
