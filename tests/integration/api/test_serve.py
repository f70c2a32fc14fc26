"""`tidemill serve` as a process: ready, answering, ending in time, taking nothing that it should not."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import httpx2
import pytest

from tests import checker
from tests.crash.rig.job import write_inputs
from tests.integration.api.house import opened_house
from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.job import JobState
from tidemill.stores.sql.store import open_store

MOST_SECONDS = 60.0
POOLED = Path(__file__).resolve().parents[2] / "crash" / "models" / "pooled.py"


@contextmanager
def serving(home: Path, *options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its URL."""
    process = start(home, "--port", "0", *options, **environment)
    lines: Queue[str] = Queue()
    assert process.stdout is not None
    stdout = process.stdout
    threading.Thread(target=lambda: [lines.put(line) for line in stdout], daemon=True).start()
    try:
        line = lines.get(timeout=MOST_SECONDS)
        found = re.fullmatch(r"Tidemill serves (http://127\.0\.0\.1:\d+)\n", line)
        assert found, line
        yield process, found[1]
    finally:
        process.kill()
        process.wait()


def start(home: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    own = {"TIDEMILL_HOME": str(home), "TIDEMILL_DRAIN_SECONDS": "5", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "tidemill", "serve", *options],
        env={**os.environ, **own}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_it_says_when_it_is_ready_and_ends_in_time_with_a_stream_open(tmp_path: Path) -> None:
    with opened_house(tmp_path) as house:
        house.model()
        job = house.submit()
    with serving(tmp_path / "home", "--no-jobs") as (process, url):
        assert httpx2.get(f"{url}/health").json()["status"] == "ok"
        assert httpx2.get(f"{url}/api/v1/jobs/{job.id}").json()["queue"]["reason"] == "no_worker"
        with httpx2.stream("GET", f"{url}/api/v1/jobs/{job.id}/events", timeout=MOST_SECONDS) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("retry:")
            process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            assert "event: state" in list(lines)
        assert process.wait(MOST_SECONDS) == 0
        assert time.monotonic() - started < 30


def test_its_worker_is_seen_and_withdrawn(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with serving(home) as (process, url):
        stop = time.monotonic() + MOST_SECONDS
        while not httpx2.get(f"{url}/api/v1/service").json()["workers"]:
            assert time.monotonic() < stop
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(MOST_SECONDS) == 0
    settings = Settings(home=home)
    store = open_store(home, lease_seconds=settings.lease_seconds, heartbeat_seconds=settings.heartbeat_seconds)
    try:
        assert store.workers.list_live() == []
    finally:
        store.close()


def client_of(url: str) -> httpx2.Client:
    return httpx2.Client(base_url=url, timeout=MOST_SECONDS)


def until(happened: Callable[[], bool]) -> None:
    stop = time.monotonic() + MOST_SECONDS
    while not happened():
        assert time.monotonic() < stop, "it did not happen in time"
        time.sleep(0.05)


def test_sigterm_and_a_restart_lose_nothing(tmp_path: Path) -> None:
    """While its job ends a chunk the server answers, but is not ready; the next one goes on from there."""
    home, gate, output = tmp_path / "home", tmp_path / "gate", tmp_path / "out" / "scores"
    inputs = write_inputs(tmp_path / "in", rows=(700, 500))
    words = {
        "model": f"{POOLED}:Pooled",
        "input": {"path": [str(path) for path in inputs]},
        "output": {"path": str(output)},
        "keep": ["file_no", "row_no", "note"],
        "predict": {"options": {"gate": str(gate)}},
        "compute": {"scorers": 1, "rows_per_chunk": 150, "batch_rows": 150},
        "limits": {"rejected": "none"},
    }

    with serving(home, "--json", TIDEMILL_DRAIN_SECONDS="200") as (process, url), client_of(url) as client:
        job_id = client.post("/api/v1/jobs", json=words).json()["id"]
        until(lambda: bool(client.get(f"/api/v1/jobs/{job_id}").json()["chunks_done"]))
        assert client.get("/ready").status_code == 200
        process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/ready").status_code == 503)
        assert client.get("/ready").json()["detail"] == "This server is about to end."
        assert client.get(f"/api/v1/jobs/{job_id}").json()["state"] == "running"
        gate.touch()
        assert process.wait(MOST_SECONDS) == 0
        assert process.stderr is not None
        logged = [json.loads(line)["message"] for line in process.stderr]
        assert any(line.startswith(f"took {job_id}") for line in logged), logged
    with opened(Settings(home=home), children=False) as context:
        handed = context.store.jobs.get(job_id)
    assert handed.state is JobState.QUEUED
    assert handed.chunks_done >= 2
    with serving(home) as (_, url), client_of(url) as client:
        until(lambda: client.get(f"/api/v1/jobs/{job_id}").json()["state"].startswith("succeeded"))
        # Staging and claim go after the store has said that the job is done.
        until(lambda: not list(output.parent.glob(".*")))
    checker.check(inputs, output)
    checker.check_store(home / "tidemill.db", output)


def refused(process: subprocess.Popen[str]) -> str:
    _, err = process.communicate(timeout=MOST_SECONDS)
    assert process.returncode == 2, err
    return " ".join(err.split())


def test_another_address_without_keys_is_refused(tmp_path: Path) -> None:
    told = refused(start(tmp_path / "home", "--host", "0.0.0.0", "--port", "0"))
    assert "everybody who reaches 0.0.0.0" in told
    assert "tidemill keys add" in told


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = refused(start(tmp_path / "home", "--port", str(port)))
    assert f"Port {port} of 127.0.0.1 cannot be listened on" in told


def test_a_head_without_end_is_cut_off(tmp_path: Path) -> None:
    with serving(tmp_path / "home", "--no-jobs") as (_, url):
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=MOST_SECONDS) as line:
            line.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ")
            with pytest.raises(OSError):
                for _ in range(20_000):
                    line.sendall(b"a" * 4096)
        assert httpx2.get(f"{url}/health").status_code == 200
        head = {"X-Long": "a" * 30_000}
        assert httpx2.get(f"{url}/health", headers=head).status_code == 200
