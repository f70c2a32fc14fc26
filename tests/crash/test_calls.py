"""SIGKILL at the durable system calls themselves: strace kills the process that enters the N-th one."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.rig import ledger, record
from tests.crash.rig.job import SUCCESS, CrashJob, new_job, once
from tests.crash.rig.strike import check_visible, finish_and_check

CALLS = (
    *(
        "rename",
        "renameat2",
        "fsync",
        "fdatasync",
        "pwrite64",
        "unlink",
        "unlinkat",
        "mkdir",
        "link",
        "linkat",
        "write",
    ),
    *("ftruncate", "rmdir", "openat"),
)
ALL = os.environ.get("TIDEMILL_CRASH_ALL_POINTS") == "1"
SHARDS = 60 if ALL else 4
"""`make test` tries some points of each call, `make test-long` all of them."""


def traced(job: CrashJob, log: Path, *, inject: str = "") -> list[str]:
    """The prefix that runs the worker's own thread under strace; children are left alone."""
    words = ["strace", "-qq", "-o", str(log), "-e", f"trace={','.join(CALLS)}"]
    return [*words, "-e", f"inject={inject}"] if inject else words


def count(log: Path) -> Counter[str]:
    """How often each call was made."""
    return Counter(
        found[1] for line in log.read_text(errors="replace").splitlines() if (found := re.match(r"(\w+)\(", line))
    )


def points(calls: Counter[str]) -> list[tuple[str, int]]:
    """Every (call, N), in a shuffled but fixed order. Of opening files only each 25th: most are imports."""
    every = [(call, n) for call in CALLS for n in range(1, calls[call] + 1, 25 if call == "openat" else 1)]
    random.Random("calls").shuffle(every)
    return every


def sample(calls: Counter[str]) -> list[tuple[str, int]]:
    """Some of each call, spread over its range."""
    chosen = []
    for call in CALLS:
        total = calls[call]
        wanted = min(total, 6 if call in ("rename", "renameat2", "fsync", "pwrite64") else 2)
        chosen += [(call, 1 + (2 * i + 1) * total // (2 * wanted)) for i in range(wanted)]
    return chosen


@pytest.fixture(scope="session")
def calls(tmp_path_factory: pytest.TempPathFactory, inputs: tuple[Path, ...]) -> Counter[str]:
    """The calls of an undisturbed job."""
    folder = tmp_path_factory.mktemp("traced")
    job = new_job(folder, inputs, sleep=0.0)
    ran = once(job, prefix=traced(job, folder / "strace.log"))
    assert ran.code in SUCCESS, ran
    counted = count(folder / "strace.log")
    assert counted["renameat2"] >= 1 and counted["fsync"] + counted["fdatasync"] >= 10, counted
    return counted


@pytest.mark.parametrize("shard", range(SHARDS))
def test_killed_at_durable_calls(shard: int, calls: Counter[str], inputs: tuple[Path, ...], tmp_path: Path) -> None:
    """At each point: killed there, nothing half visible, the same command ends with each row once."""
    chosen = points(calls) if ALL else sample(calls)
    killed = [one for call, n in chosen[shard::SHARDS] for one in strike_call(tmp_path, inputs, call, n)]
    assert len(killed) >= record.LEAST_HIT * len(chosen[shard::SHARDS]), killed


def strike_call(folder: Path, inputs: tuple[Path, ...], call: str, n: int) -> Iterator[str]:
    """One point; gives its name if the call was reached."""
    job = new_job(folder / f"{call}-{n}", inputs, sleep=0.0)
    log = folder / f"{call}-{n}.log"
    ran = once(job, prefix=traced(job, log, inject=f"{call}:signal=KILL:when={n}"))
    seen = ledger.look(job.database)
    hit = "killed by SIGKILL" in log.read_text(errors="replace")
    try:
        check_visible(job, seen.state, ())
        runs = finish_and_check(job, 1) if ran.code not in SUCCESS else 1
    except AssertionError as problem:
        raise AssertionError(f"killed at {call} number {n} while {seen.state}: {problem}") from problem
    record.write(
        record.Kill(
            suite="calls",
            case=call,
            seed=n,
            point=f"{call} {n}",
            target="worker",
            state=seen.state,
            hit=hit,
            chunks_total=seen.chunks_total,
            chunks_done=len(seen.committed),
            runs=runs,
        )
    )
    if hit:
        yield f"{call} {n}"
