"""`tidemill worker`, as somebody starts and ends it."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.terminal import Terminal
from tests.acceptance.workshop import PATIENCE_SECONDS, Workshop, until
from tidemill.bootstrap.preloads import PRELOAD
from tidemill.domain.job import JobState
from tidemill.executors.local import LocalExecutor

ENDED = JobState.SUCCEEDED_WITH_REJECTIONS


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    """The home of `terminal`, seen from this process; here no job is run."""
    executor = LocalExecutor(preload=PRELOAD, eager=False)
    made = Workshop(folder=tmp_path, executor=executor)
    yield made
    made.close()
    executor.close()


@pytest.fixture
def started(terminal: Terminal) -> Iterator[list[subprocess.Popen[str]]]:
    """Workers that a test starts; none outlives it."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait(timeout=PATIENCE_SECONDS)


def start(terminal: Terminal, started: list[subprocess.Popen[str]], *words: str) -> subprocess.Popen[str]:
    # Longer than anybody here is waited for: who ends before was told to.
    process = terminal.start("worker", *words, TIDEMILL_DRAIN_SECONDS="1000")
    started.append(process)
    return process


def draining(shop: Workshop) -> bool:
    return any(live.facts.draining for live in shop.context.store.workers.list_live())


def test_says_when_it_is_ready_runs_jobs_and_ends(
    terminal: Terminal, shop: Workshop, started: list[subprocess.Popen[str]]
) -> None:
    job = shop.submit("run")
    process = start(terminal, started, "--json", "--jobs", "1")
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    assert ready["jobs_at_once"] == 1
    assert ready["store"] == shop.context.store.url
    until(lambda: [live.facts.id for live in shop.context.store.workers.list_live()] == [ready["worker"]])
    [ended] = shop.ended(job)
    assert ended.state is ENDED, ended.error
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err
    lines = [json.loads(line) for line in err.splitlines()]
    assert any(job.id in line["message"] and line["level"] == "info" for line in lines)
    assert not shop.context.store.workers.list_live()
    shop.check(job)


def test_hands_over_at_sigterm_and_ends_at_once_at_the_second(
    terminal: Terminal, shop: Workshop, started: list[subprocess.Popen[str]]
) -> None:
    gate = shop.folder / "gate"
    job = shop.submit("handed", log=shop.log_path("handed"), gate=str(gate))
    first = start(terminal, started)
    until(lambda: shop.works_on("handed"))
    first.send_signal(signal.SIGTERM)
    until(lambda: draining(shop))
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=PATIENCE_SECONDS)
    assert first.returncode == 0
    assert shop.get(job).state is JobState.RUNNING

    calls = len(shop.chunks_called("handed"))
    second = start(terminal, started)
    until(lambda: len(shop.chunks_called("handed")) > calls)
    second.send_signal(signal.SIGTERM)
    until(lambda: draining(shop))
    gate.touch()
    second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 0
    handed = shop.get(job)
    assert handed.state in (JobState.QUEUED, ENDED)
    assert handed.epoch == 2

    start(terminal, started)
    assert shop.ended(job)[0].state is ENDED
    until(lambda: not list(Path(job.output).parent.glob(".*")))
    shop.check(job)


def test_refuses_a_store_of_a_newer_version(terminal: Terminal, shop: Workshop) -> None:
    with sqlite3.connect(terminal.home / "tidemill.db") as db:
        db.execute("INSERT INTO schema_version (version, applied_at_ms) VALUES (99, 0)")
    terminal.say("worker").refused("schema 99", "Upgrade")
