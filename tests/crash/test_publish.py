"""SIGKILL at every step of publishing: renames, exchanges, syncs, the store's last word, cleaning up."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.crash.rig import ledger, record
from tests.crash.rig.job import SUCCESS, CrashJob, new_job, once, write_inputs
from tests.crash.rig.strike import check_visible, finish_and_check

ALL = os.environ.get("TIDEMILL_CRASH_ALL_POINTS") == "1"
CALLS = ("rename", "renameat2", "fsync", "fdatasync", "pwrite64", "unlink", "unlinkat", "rmdir", "link", "ftruncate")
FIRST = re.compile(r"rename\(.*/out/\.?manifest\.json")
"""The step with which publishing begins: the manifest is staged."""
CORE = ("renameat2", "unlink")
"""Calls that are tried in `make test` too; of the others every twelfth."""


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


def _trace(log: Path, *inject: str) -> list[str]:
    """Only the worker's own thread is traced, and killed."""
    return ["strace", "-qq", "-o", str(log), "-e", f"trace={','.join(CALLS)}", *(f"-einject={each}" for each in inject)]


def steps(log: Path) -> list[tuple[str, int]]:
    """(call, its number in the whole run) of every call from the first step of publishing on."""
    counts: Counter[str] = Counter()
    found: list[tuple[str, int]] = []
    begun = False
    for line in log.read_text(errors="replace").splitlines():
        if not (call := re.match(r"(\w+)\(", line)):
            continue
        counts[call[1]] += 1
        begun = begun or bool(FIRST.search(line))
        if begun:
            found.append((call[1], counts[call[1]]))
    return found


@pytest.mark.timeout(1500 if ALL else 300)
@pytest.mark.parametrize("mode", ["error", "overwrite", "append"])
def test_killed_at_every_step_of_publishing(
    mode: str, inputs: tuple[Path, ...], older: CrashJob, tmp_path: Path
) -> None:
    """Readers see nothing or old, then all of the new; the same command completes it, once."""
    clean, log = _make(tmp_path / "clean", inputs[:2], older, mode), tmp_path / "clean.log"
    ran = once(clean, prefix=_trace(log))
    assert ran.code in SUCCESS, ran
    every = steps(log)
    others = [step for step in every if step[0] not in CORE]
    chosen = every if ALL else [step for step in every if step[0] in CORE] + others[::12]
    assert len(chosen) >= 6, every
    before = older.inputs if mode != "error" else ()
    committing = 0
    for call, n in chosen:
        job = _make(tmp_path / f"{call}-{n}", inputs[:2], older, mode)
        once(job, prefix=_trace(tmp_path / "kill.log", f"{call}:signal=KILL:when={n}"))
        seen = ledger.look(job.database)
        committing += seen.state == "committing"
        try:
            check_visible(job, seen.state, before)
            runs = finish_and_check(job, 1, before=before)
        except AssertionError as problem:
            raise AssertionError(f"killed at {call} number {n} of {every} while {seen.state}: {problem}") from problem
        record.write(
            record.Kill(
                suite="publish",
                case=mode,
                seed=n,
                point=f"{call} {n}",
                target="worker",
                state=seen.state,
                hit="killed by SIGKILL" in (tmp_path / "kill.log").read_text(errors="replace"),
                chunks_total=seen.chunks_total,
                chunks_done=len(seen.committed),
                runs=runs,
            )
        )
    assert committing >= 2
