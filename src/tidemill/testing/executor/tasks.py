"""`Executor.call`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tidemill.domain.errors import (
    ChildDied,
    InvalidSpec,
    JobFailed,
    OutputUnwritable,
    Stopped,
)
from tidemill.ports.executor import (
    Executor,
)
from tidemill.testing.executor.rig import ENTRIES, process_runs


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


def _has_text(path: Path) -> bool:
    return path.exists() and bool(path.read_text(encoding="utf-8"))
