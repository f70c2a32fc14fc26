"""Killed at any moment, a file is scored once: the record is written with the job's success or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests import warm
from tests.children import opened_here
from tests.integration.series import killed
from tests.integration.series.lake import MODEL, Lake, ended, submit, working
from tidemill.config import Settings
from tidemill.domain.errors import NothingNew
from tidemill.domain.job import JobState

ROOT = Path(__file__).resolve().parents[3]
LONG = bool(os.environ.get("TIDEMILL_TEST_LONG"))
HERE_MOMENTS = killed.MOMENTS if LONG else ["commit after", "record inside"]
SERVICE_MOMENTS = killed.MOMENTS if LONG else ["record inside"]
LEASE = {"lease_seconds": 1.5, "heartbeat_seconds": 0.3}


def tidemill(
    lake: Lake, *words: str, moment: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "TIDEMILL_HOME": str(lake.folder / "home"), **environment}
    if moment is None:
        return warm.tidemill(words, cwd=ROOT, environ=environ, seconds=120)
    return subprocess.run(
        [sys.executable, "-m", killed.__name__, moment, *words],
        env=environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("moment", HERE_MOMENTS)
def test_a_run_that_was_killed(lake: Lake, moment: str) -> None:
    words = ("run", MODEL, str(lake.input), "-o", str(lake.folder / "all"), "--only-new", "--keep", "all", "--json")
    lake.write("a.parquet")
    lake.write("b.parquet")
    assert tidemill(lake, *words, moment=moment).returncode == -signal.SIGKILL
    lake.write("c.parquet")
    for _ in range(3):
        ran = tidemill(lake, *words)
        assert ran.returncode == 0, ran.stderr
        if '"nothing_new": true' in ran.stdout:
            break
    assert '"nothing_new": true' in ran.stdout
    assert lake.scored("all") == {(f"{name}.parquet", 1): 1 for name in "abc"}


@pytest.mark.parametrize("moment", SERVICE_MOMENTS)
def test_a_worker_that_was_killed(lake: Lake, store: str | None, moment: str) -> None:
    environment = {"TIDEMILL_" + name.upper(): str(value) for name, value in LEASE.items()}
    if store is not None:
        environment["TIDEMILL_STORE"] = store
    lake.write("a.parquet")
    with opened_here(Settings(home=lake.folder / "home", store=store, **LEASE)) as context:
        job = submit(context, lake.spec("out-1"))
    assert tidemill(lake, "worker", moment=moment, **environment).returncode == -signal.SIGKILL
    lake.write("b.parquet")
    with working(lake, store, **LEASE) as context:
        assert ended(context, job).state is JobState.SUCCEEDED
        # Killed before its plan was there, the job has planned anew, and taken what had come by then.
        with suppress(NothingNew):
            assert ended(context, submit(context, lake.spec("out-2"))).state is JobState.SUCCEEDED
        with pytest.raises(NothingNew):
            submit(context, lake.spec("out-3"))
    assert sum((lake.scored(output) for output in ("out-1", "out-2")), start=lake.scored()) == {
        ("a.parquet", 1): 1,
        ("b.parquet", 1): 1,
    }
