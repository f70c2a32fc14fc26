"""SIGKILL at every step of publishing: renames, exchanges, syncs, the store's last word, cleaning up."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.crash.rig import record, strace
from tests.crash.rig.job import SUCCESS, CrashJob, new_job, once, write_inputs
from tests.crash.rig.strike import Struck, check_visible, finish_and_check, judge, strike_call

ALL = os.environ.get("TIDEMILL_CRASH_ALL_POINTS") == "1"
CALLS = ("rename", "renameat2", "fsync", "fdatasync", "pwrite64", "unlink", "unlinkat", "rmdir", "link", "ftruncate")
BEGINS = re.compile(r"rename\(.*/out/\.?manifest\.json")
"""The step with which publishing begins: the manifest is staged."""
DATA = re.compile(r'renameat2\(.*/out/data".*/scores"')
"""The data gets its place."""
MODES = ("error", "overwrite", "append")
CORE = ("renameat2",)
"""Calls that are all tried in `make test` too; of the others one in 40."""


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> CrashJob:
    """A finished output that is replaced or extended."""
    folder = tmp_path_factory.mktemp("older")
    job = new_job(folder, write_inputs(folder / "in", rows=(1500, 800), first=70), sleep=0.0)
    assert once(job).code in SUCCESS
    return job


def _make(folder: Path, inputs: tuple[Path, ...], older: CrashJob, mode: str) -> CrashJob:
    job = new_job(folder, inputs, mode=mode, sleep=0.0)
    if mode != "error":
        shutil.copytree(older.output.parent, job.output.parent, dirs_exist_ok=True)
    return job


def _traced(job: CrashJob, run: int) -> list[strace.Made]:
    """The calls of an undisturbed run."""
    log = job.logs / "clean.strace"
    ran = once(job, run, prefix=strace.prefix(log, CALLS))
    assert ran.code in SUCCESS, ran
    return list(strace.read(log))


def _at(made: Sequence[strace.Made], step: re.Pattern[str]) -> int:
    return next(i for i, each in enumerate(made) if step.search(each.text))


@pytest.mark.timeout(1500 if ALL else 300)
@pytest.mark.parametrize("mode", MODES)
def test_killed_at_every_step_of_publishing(
    mode: str, inputs: tuple[Path, ...], older: CrashJob, tmp_path: Path
) -> None:
    """Readers see nothing or old, then all of the new; the same command completes it, once."""
    made = _traced(_make(tmp_path / "clean", inputs[:2], older, mode), 0)
    every = made[_at(made, BEGINS) :]
    others = [step for step in every if step.call not in CORE]
    chosen = every if ALL else [step for step in every if step.call in CORE] + others[::40]
    assert len(chosen) >= 4, every
    committing = 0
    for step in chosen:
        job = _make(tmp_path / f"{step.call}-{step.n}", inputs[:2], older, mode)
        blow = strike_call(job, 0, step.call, step.n)
        committing += blow.look.state == "committing"
        _completed(job, [blow], older, mode)
    assert committing >= 2


@pytest.mark.timeout(6000 if ALL else 300)
@pytest.mark.parametrize("mode", MODES)
def test_the_recovery_of_publishing_is_killed_at_its_steps(
    mode: str, inputs: tuple[Path, ...], older: CrashJob, tmp_path: Path
) -> None:
    """The first run dies as it is about to rename the data, the second at each of its own steps.

    In `make test` at two steps: when the second run has the data in place, and one after that.
    """
    made = _traced(_make(tmp_path / "clean", inputs[:2], older, mode), 0)
    rename = made[_at(made, DATA)]
    again = _make(tmp_path / "again", inputs[:2], older, mode)
    _struck_at_rename(again, rename)
    every = _traced(again, 1)
    placed = _at(every, DATA) + 1
    chosen = every if ALL else [every[placed], every[(placed + len(every)) // 2]]
    hit = 0
    for step in chosen:
        job = _make(tmp_path / f"{step.call}-{step.n}", inputs[:2], older, mode)
        blows = [_struck_at_rename(job, rename), strike_call(job, 1, step.call, step.n)]
        _completed(job, blows, older, mode)
        hit += blows[1].hit
    assert hit >= record.LEAST_HIT * len(chosen), f"{hit} of {chosen} were reached"


def _struck_at_rename(job: CrashJob, rename: strace.Made) -> Struck:
    """Everything is staged and in the store, and nothing is in place."""
    blow = strike_call(job, 0, rename.call, rename.n)
    assert blow.hit and blow.look.state == "committing", blow
    assert list(job.output.parent.glob(".scores.tidemill/*/journal.json"))
    return blow


def _completed(job: CrashJob, blows: list[Struck], older: CrashJob, mode: str) -> None:
    """What readers see after the last blow, and that the same command completes the job and scores nothing twice."""
    before = older.inputs if mode != "error" else ()
    last = blows[-1]
    try:
        check_visible(job, last.look.state, before)
        runs = finish_and_check(job, len(blows), before=before)
        judge(job, blows, mode, int(str(last.point).split()[1]), runs, suite="publish")
    except AssertionError as problem:
        raise AssertionError(f"killed at {last.point} while {last.look.state}: {problem}") from problem
