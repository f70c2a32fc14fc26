"""What the page on backups says, done: a store and its folders are lost while jobs run, and come back."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import tidemill
from tests import checker
from tests.acceptance.terminal import Terminal
from tests.crash.rig.job import write_inputs
from tests.postgres import Server
from tidemill.domain.errors import NotFound
from tidemill.domain.job import Job, JobState
from tidemill.stores.sql.store import open_store

DEMO = Path(tidemill.__file__).parent / "cli" / "demo_data"
POOLED = Path(__file__).resolve().parents[1] / "crash" / "models" / "pooled.py"
MOST_SECONDS = 240.0
FOLDERS = ("models", "results")

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A store, and how its page says to back it up and to restore it."""

    terminal: Terminal
    url: str | None
    back_up: Callable[[], None]
    restore: Callable[[], None]

    def job(self, job_id: str) -> Job:
        store = open_store(self.url or self.terminal.home, home=self.terminal.home)
        try:
            return store.jobs.get(job_id)
        finally:
            store.close()


@pytest.fixture(params=["sqlite", "postgres"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    quick = {"TIDEMILL_LEASE_SECONDS": "5", "TIDEMILL_HEARTBEAT_SECONDS": "0.5"}
    if request.param == "sqlite":
        terminal = Terminal(folder=tmp_path, environment=quick)
        copy = tmp_path / "backup" / "tidemill.db"
        yield Kept(
            terminal=terminal, url=None,
            back_up=lambda: terminal.say("db", "backup", copy).done() and None,
            restore=lambda: shutil.copy(copy, terminal.home / "tidemill.db") and None,
        )  # fmt: skip
        return
    url, server = request.getfixturevalue("postgres_url"), request.getfixturevalue("postgres")
    dump = tmp_path / "backup" / "tidemill.dump"
    yield Kept(
        terminal=Terminal(folder=tmp_path, environment={**quick, "TIDEMILL_STORE": url}), url=url,
        back_up=lambda: ran(server, "pg_dump", "--format=custom", f"--file={dump}", url),
        restore=lambda: ran(server, "pg_restore", "--clean", "--if-exists", "--no-owner", f"--dbname={url}", str(dump)),
    )  # fmt: skip


def ran(server: Server, *words: str) -> None:
    done = server.program(*words)
    assert done.returncode == 0, done.stderr


def until(happened: Callable[[], bool]) -> None:
    stop = time.monotonic() + MOST_SECONDS
    while not happened():
        assert time.monotonic() < stop, "it did not happen in time"
        time.sleep(0.3)


def gated(kept: Kept, inputs: list[Path], name: str) -> tuple[str, Path]:
    """A job that stops after its first chunk until the file `gate` is there; its id and output."""
    work = kept.terminal.work
    output = work / name / "scores"
    words = {
        "model": f"{POOLED}:Pooled",
        "input": {"path": [str(path) for path in inputs]},
        "output": {"path": str(output)},
        "keep": ["file_no", "row_no", "note"],
        "predict": {"options": {"gate": str(work / "gate")}},
        "compute": {"scorers": 1, "rows_per_chunk": 150, "batch_rows": 150},
        "limits": {"rejected": "none"},
    }
    (work / f"{name}.yaml").write_text(json.dumps(words))
    return kept.terminal.say("submit", f"{name}.yaml").done().out.strip(), output


def test_what_was_backed_up_comes_back_and_goes_on(kept: Kept, tmp_path: Path) -> None:
    terminal, home = kept.terminal, kept.terminal.home
    terminal.work.mkdir()
    (tmp_path / "backup").mkdir()
    inputs = list(write_inputs(tmp_path / "in", rows=(700, 500)))
    terminal.say("models", "add", "flights", DEMO / "model.txt").done()
    done = terminal.say("submit", "flights@latest", DEMO / "flights.parquet").done().out.strip()
    (going, output), (torn, _) = gated(kept, inputs, "going"), gated(kept, inputs, "torn")
    worker = terminal.start("worker", "--jobs", "3")
    try:
        until(lambda: kept.job(done).state is JobState.SUCCEEDED)
        until(lambda: min(kept.job(going).chunks_done, kept.job(torn).chunks_done) >= 1)
        kept.back_up()
        for name in FOLDERS:
            shutil.copytree(home / name, tmp_path / "backup" / name)
        late = terminal.say("submit", "flights@latest", DEMO / "flights.parquet", "--name", "late").done().out.strip()
    finally:
        worker.kill()
        worker.communicate()

    os.rename(home, tmp_path / "lost")
    shutil.rmtree(terminal.work / "torn" / ".scores.tidemill")
    home.mkdir()
    kept.restore()
    for name in FOLDERS:
        shutil.copytree(tmp_path / "backup" / name, home / name)
    assert "sound" in terminal.say("db", "check").done().err
    with pytest.raises(NotFound):
        kept.job(late)
    assert terminal.say("models", "check", "flights").done()
    assert terminal.say("results", "head", done).done().out

    (terminal.work / "gate").touch()
    worker = terminal.start("worker", "--jobs", "3")
    try:
        until(lambda: kept.job(going).finished_at is not None and kept.job(torn).finished_at is not None)
    finally:
        worker.kill()
        worker.communicate()
    assert kept.job(going).state in (JobState.SUCCEEDED, JobState.SUCCEEDED_WITH_REJECTIONS), kept.job(going).error
    checker.check(inputs, output, alone=False)
    ended = kept.job(torn)
    assert ended.state is JobState.FAILED and ended.error is not None
    assert str(terminal.work / "torn") in ended.error["message"], "its staging did not come back, and it says so"
