"""Deaths in words."""

from __future__ import annotations

import pytest

from tidemill.executors.death import Death, describe, explain
from tidemill.executors.log import quote


@pytest.mark.parametrize(
    "code, words",
    [
        (0, "exited with code 0"),
        (3, "exited with code 3"),
        (-11, "killed by SIGSEGV (segmentation fault)"),
        (-6, "killed by SIGABRT (aborted)"),
        (-9, "killed by SIGKILL (somebody killed it, perhaps the kernel because memory ran out)"),
        (-200, "killed by signal 200"),
    ],
)
def test_exit_codes_in_words(code: int, words: str) -> None:
    assert describe(code) == words


@pytest.mark.parametrize(
    "code, log, oom_kills, kind, words",
    [
        (-9, "", 0, "died", "killed by SIGKILL"),
        (-9, "", 1, "memory", "the machine ran out of memory"),
        (-6, "terminate called after throwing an instance of 'std::bad_alloc'\n", 0, "memory", "may use 2 MiB"),
        (-6, "check failed: tree.size > 0\n", 0, "died", "SIGABRT"),
        (70, "Traceback ...\nMemoryError\n", 0, "memory", "may use 2 MiB"),
        (70, "MemoryError in epoch 3\n" + "all is well\n" * 200, 0, "died", "exited with code 70"),
        (0, "MemoryError\n", 0, "died", "exited with code 0"),
        (-11, "", 5, "died", "SIGSEGV"),
    ],
)
def test_hunger_is_told_from_other_deaths(code: int, log: str, oom_kills: int, kind: str, words: str) -> None:
    death = explain(code, log=log, memory_bytes=2 * 2**20, oom_kills=oom_kills)
    assert death == Death(kind=kind, cause=death.cause, log=log, outside=code == -9 and kind == "died")
    assert words in death.cause


def test_quote_leaves_out_frames_that_say_nothing() -> None:
    log = (
        "loading\n"
        "Traceback (most recent call last):\n"
        '  File "/x/tidemill/executors/child.py", line 9, in work\n'
        "    result = load_entry()\n"
        '  File "/home/me/model.py", line 3, in predict\n'
        "    return 1 / 0\n"
        "ZeroDivisionError: division by zero\n"
    )
    assert quote(log).splitlines() == [
        "",
        "It printed last:",
        "  loading",
        "  Traceback (most recent call last):",
        '    File "/home/me/model.py", line 3, in predict',
        "      return 1 / 0",
        "  ZeroDivisionError: division by zero",
    ]
    assert quote(" \n\n") == ""
