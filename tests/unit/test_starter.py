"""The thread that starts processes."""

from __future__ import annotations

import threading

import pytest

from tidemill.executors.starter import Starter


def test_all_runs_in_one_thread_that_outlives_the_callers() -> None:
    starter = Starter()
    seen: list[int] = []
    for _ in range(3):
        caller = threading.Thread(target=lambda: seen.append(starter.run(threading.get_ident)))
        caller.start()
        caller.join()
    assert len(set(seen)) == 1
    assert seen[0] not in (threading.get_ident(), None)
    assert any(thread.ident == seen[0] for thread in threading.enumerate())
    starter.end()
    assert not any(thread.ident == seen[0] for thread in threading.enumerate())


def test_what_was_raised_comes_back_and_the_thread_lives() -> None:
    starter = Starter()
    with pytest.raises(ZeroDivisionError):
        starter.run(lambda: 1 // 0)
    assert starter.run(lambda: 42) == 42
    starter.end()
    with pytest.raises(RuntimeError, match="was ended"):
        starter.run(lambda: 42)
    starter.end()
