"""Power loss of a service: what the API had acknowledged is there, and a job ends as if nothing had been.

The service's home is an ext4 image. As soon as it has acknowledged an upload, a model, the trust in it or a job, its
processes stand still, and only what had reached the image then is left.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests import checker
from tests.crash.rig import mounts, tree
from tests.crash.rig.job import write_inputs
from tests.crash.rig.service import Process

ROWS = (1200,)
MODEL = b"\x80\x02cestimator\nKeyEstimator\n)\x81."
"""A pickle: an instance of estimator.KeyEstimator."""
STEPS = ("upload", "model", "trust", "job")
WAIT_SECONDS = 300.0


class Caller:
    """Somebody who goes through the steps and remembers what was acknowledged."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.key = uuid.uuid4().hex
        self.told: dict[str, dict[str, Any]] = {}

    def go(self, step: str, client: httpx2.Client) -> None:
        """Take a step; what the service says is acknowledged."""
        answer = self._take(step, client)
        assert answer.is_success, answer.text
        self.told[step] = answer.json()

    def _take(self, step: str, client: httpx2.Client) -> httpx2.Response:
        match step:
            case "upload":
                return client.put("/uploads/rows.parquet", content=self.source.read_bytes())
            case "model":
                return client.put("/models/keys/versions?filename=keys.pkl&alias=best", content=MODEL)
            case "trust":
                return client.post("/models/keys/versions/1/trust")
            case _:
                return self.submit(client)

    def submit(self, client: httpx2.Client) -> httpx2.Response:
        words = {
            "model": "keys@best",
            "input": {"path": [f"upload:{self.told['upload']['id']}"]},
            "keep": ["file_no", "row_no", "note"],
            "compute": {"scorers": 1, "rows_per_chunk": 400},
            "limits": {"rejected": "none"},
        }
        return client.post("/jobs", json=words, headers={"Idempotency-Key": self.key})

    def check(self, client: httpx2.Client) -> None:
        """All that was acknowledged is there, and nothing twice."""
        if "upload" in self.told:
            assert _got(client, f"/uploads/{self.told['upload']['id']}") == self.told["upload"]
        if "model" in self.told:
            model = _got(client, "/models/keys/versions/best")
            assert model["digest"] == hashlib.sha256(MODEL).hexdigest()
            assert model["trusted"] or "trust" not in self.told
        if "job" in self.told:
            again = self.submit(client)
            assert again.status_code == 202
            assert again.json()["id"] == self.told["job"]["id"]
            assert [job["id"] for job in _got(client, "/jobs")["items"]] == [self.told["job"]["id"]]


def _got(client: httpx2.Client, path: str) -> Any:
    answer = client.get(path)
    assert answer.status_code == 200, f"acknowledged, and lost: {path}: {answer.text}"
    return answer.json()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[mounts.Disk]:
    with mounts.disk(tmp_path) as made:
        yield made


@pytest.fixture
def mark() -> Iterator[str]:
    """Of all processes of a test."""
    made = uuid.uuid4().hex
    yield made
    tree.end_all(made)


def test_power_cuts_after_answers(disk: mounts.Disk, tmp_path: Path, mark: str) -> None:
    """Right after each answer, and all that was acknowledged before is there as well."""
    home = disk.path / "home"
    home.mkdir()
    [source] = write_inputs(tmp_path / "in", rows=ROWS)
    caller = Caller(source)
    for step in STEPS:
        with _serve(home, tmp_path / "logs", mark, "--no-jobs").client() as client:
            caller.check(client)
            caller.go(step, client)
            for pid in tree.marked(mark):
                os.kill(pid, signal.SIGSTOP)
            disk.cut(tmp_path / f"{step}.img")
        tree.end_all(mark)
        disk.swap(tmp_path / f"{step}.img")
    server = _serve(home, tmp_path / "logs", mark)
    with server.client() as client:
        caller.check(client)
        ended = _ended(client, caller.told["job"]["id"])
    assert server.end() == 0
    assert ended["state"].startswith("succeeded"), ended
    [sent] = home.glob(f"uploads/*/{caller.told['upload']['id']}/rows.parquet")
    assert sent.read_bytes() == source.read_bytes()
    found = checker.check([sent], home / "results" / ended["id"] / "predictions")
    assert found.rows == sum(ROWS)


def _serve(home: Path, logs: Path, mark: str, *options: str) -> Process:
    words = ("serve", "--port", "0", *options)
    return Process(home=home, logs=logs, words=words, environment={"CRASH_MARK": mark})


def _ended(client: httpx2.Client, job_id: str) -> Any:
    stop = time.monotonic() + WAIT_SECONDS
    while not (job := _got(client, f"/jobs/{job_id}?wait=20"))["state"].startswith(("succeeded", "failed")):
        assert time.monotonic() < stop, job
    return job
