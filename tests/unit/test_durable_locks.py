"""Locks that die with their process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tidemill.durable.locks import FileLock, is_locked

HOLD = (
    "import sys\nfrom tidemill.durable.locks import FileLock\n"
    "lock = FileLock(sys.argv[1]); print(lock.try_lock(), flush=True); sys.stdin.read()"
)


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "l"), FileLock(tmp_path / "l")
    assert not is_locked(tmp_path / "l")
    assert (first.try_lock(), first.try_lock(), second.try_lock()) == (True, True, False)
    assert (first.held, second.held, is_locked(tmp_path / "l")) == (True, False, True)
    first.unlock()
    first.unlock()
    assert not is_locked(tmp_path / "l")
    with second:
        assert second.try_lock()
    assert not second.held


def test_a_lock_that_was_unlinked_is_not_held_twice(tmp_path: Path) -> None:
    first, second, third = (FileLock(tmp_path / "l") for _ in range(3))
    assert first.try_lock()
    first.unlock(unlink=True)
    assert not (tmp_path / "l").exists()
    assert second.try_lock()
    assert not third.try_lock()
    (tmp_path / "l").unlink()
    assert third.try_lock()
    second.unlock()
    assert is_locked(tmp_path / "l")


def test_a_killed_process_frees_it_and_a_started_program_does_not_keep_it(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "l")], stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    assert is_locked(tmp_path / "l")
    process.kill()
    process.communicate()
    lock = FileLock(tmp_path / "l")
    assert lock.try_lock()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as other:
        lock.unlock()
        assert not is_locked(tmp_path / "l")
        other.kill()


def test_asking_makes_no_file(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "missing")
    assert os.listdir(tmp_path) == []
