"""Processes of a suite's own, to be raced against and killed. `_PROGRAMS` maps names to what they run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from tidemill.domain.job import LEASED, Idempotency, JobFilter, JobState
from tidemill.domain.receipt import Usage
from tidemill.ports.store import Store
from tidemill.testing.store.factories import LONG, SHORT, new_job, new_plan, new_receipt
from tidemill.testing.store.suite import claim_next, claimed_id, open_by

SUBMITTED_WITH_KEYS = 20
"""Jobs that each child of `submit_with_keys` submits, with the same keys."""


@contextmanager
def running_child(opener: str, url: str, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a program of this module with the store; killed at the end of the block."""
    code = "import sys; from tidemill.testing.store.children import run_child; run_child(*sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, opener, url, program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def stream(stream: IO[str] | None) -> IO[str]:
    """The stream, which is there."""
    assert stream is not None
    return stream


def next_line(child: subprocess.Popen[str]) -> str:
    """The next line that a child says."""
    return stream(child.stdout).readline().strip()


def lines_until(child: subprocess.Popen[str], end: str) -> list[str]:
    """What a child says before that line."""
    lines = []
    while (line := next_line(child)) != end:
        assert line, "the child died"
        lines.append(line)
    return lines


def say(child: subprocess.Popen[str], word: str) -> None:
    """Send a child a line."""
    stdin = stream(child.stdin)
    stdin.write(f"{word}\n")
    stdin.flush()


def kill(child: subprocess.Popen[str]) -> None:
    """Kill a child and wait for its end."""
    child.send_signal(signal.SIGKILL)
    child.wait()


def tell(word: object) -> None:
    """Say a line to the test, from a child."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def run_child(opener: str, url: str, program: str, *arguments: str) -> None:
    """What the suite's child processes run."""
    _PROGRAMS[program](opener, url, arguments)


def _claim_all(opener: str, url: str, arguments: Sequence[str]) -> None:
    store = open_by(opener, url, LONG)
    store.workers.register(arguments[0])
    tell("ready")
    sys.stdin.readline()
    while (claimed := claim_next(store, arguments[0])) is not None:
        tell(f"{claimed[0].id} {claimed[1].epoch}")
    tell("done")
    # The jobs stay held until the other child has looked, too.
    sys.stdin.readline()


def _open_and_submit(opener: str, url: str, arguments: Sequence[str]) -> None:
    tell("ready")
    sys.stdin.readline()
    store = open_by(opener, url, LONG)
    tell(store.jobs.submit(new_job(f"job_of_{arguments[0]}"))[0].id)
    store.close()


def _submit_with_keys(opener: str, url: str, arguments: Sequence[str]) -> None:
    store = open_by(opener, url, LONG)
    tell("ready")
    sys.stdin.readline()
    for number in range(SUBMITTED_WITH_KEYS):
        promise = Idempotency(key=f"key-{number}", request_digest="a" * 64)
        tell(store.jobs.submit(new_job(f"job_{number:03d}_{arguments[0]}"), promise)[0].id)
    tell("done")


def _claim_within_limits(opener: str, url: str, arguments: Sequence[str]) -> None:
    """Claim and give back, and say how many were seen to run at once."""
    store = open_by(opener, url, LONG)
    store.workers.register(arguments[0])
    tell("ready")
    sys.stdin.readline()
    while (claimed := claim_next(store, arguments[0])) is not None or _is_left(store):
        if claimed is None:
            time.sleep(0.01)
            continue
        running = store.jobs.list(JobFilter(owner="key_1", states=tuple(LEASED)))
        tell(f"{len(running)} {claimed[0].id}")
        assert store.jobs.end_if_current(claimed[1], JobState.CANCELLED)
    tell("done")


def _is_left(store: Store) -> bool:
    return bool(store.jobs.list(JobFilter(states=(JobState.QUEUED,)), limit=1))


def _claim_and_hang(opener: str, url: str, arguments: Sequence[str]) -> None:
    store = open_by(opener, url, LONG)
    worker_id, *wanted = arguments
    store.workers.register(worker_id)
    claimed = store.jobs.claim(wanted[0], worker_id) if wanted else claim_next(store, worker_id)
    tell(claimed_id(claimed))
    sys.stdin.readline()


def _commit_for_ever(opener: str, url: str, arguments: Sequence[str]) -> None:
    store = open_by(opener, url, SHORT)
    store.workers.register(arguments[0])
    claimed = claim_next(store, arguments[0])
    assert claimed is not None
    store.ledger.record_plan_if_current(claimed[1], new_plan(1_000_000))
    chunk = 0
    while True:
        receipts = [
            new_receipt(number, rejected=number % 4, usage=Usage(input_bytes=number))
            for number in (chunk, chunk + 1, chunk + 2)
        ]
        assert store.ledger.commit_chunks_if_current(claimed[1], receipts)
        chunk += 3
        tell(chunk - 1)


_PROGRAMS: dict[str, Callable[[str, str, Sequence[str]], None]] = {
    "claim_all": _claim_all,
    "open_and_submit": _open_and_submit,
    "submit_with_keys": _submit_with_keys,
    "claim_within_limits": _claim_within_limits,
    "claim_and_hang": _claim_and_hang,
    "commit_for_ever": _commit_for_ever,
}
