"""Uploads by tus-js-client in node against a real `tidemill serve`: whoever dies, the same bytes arrive."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.api.test_tus_served import DATA, SHA256, Server

NODE = Path(__file__).resolve().parents[2] / "node"
KILLED_BYTES = 60_000_000
"""So much that a service is killed long before it has all."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("served") / "home")
    yield made
    made.kill()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "customers in node.bin"
    path.write_bytes(DATA)
    return path


class Sender:
    """A node process that sends a file, and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []

    def next(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it says no more; so far: {self.said}"
        self.said.append(json.loads(line))
        return self.said[-1]

    def until(self, word: str) -> Any:
        while word not in (told := self.next()):
            assert "failed" not in told, self.said
        return told[word]

    def finish(self) -> Any:
        """The upload's address, once all is sent and the process is at its end."""
        url = self.until("done")
        assert self.process.wait(30) == 0
        return url

    def patches(self) -> list[int]:
        """From where on each PATCH sent that the service answered."""
        return [int(told["from"]) for told in self.said if told.get("method") == "PATCH"]


@contextmanager
def sending(server: Server, path: Path, **words: Any) -> Iterator[Sender]:
    assert (NODE / "node_modules").exists(), "run `make test`: it installs tus-js-client"
    asked = {
        "endpoint": f"{server.url}/api/v1/tus",
        "path": str(path),
        "known": str(path.parent / "known.json"),
        **words,
    }
    command = ["node", "--no-warnings", str(NODE / "send.cjs"), json.dumps(asked)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Sender(process)
        finally:
            process.kill()


@pytest.mark.parametrize("size", [None, 1_000_000, 7_000_000])
def test_it_sends_a_file(server: Server, file: Path, size: int | None) -> None:
    """In one request and in pieces."""
    with sending(server, file, chunkSize=size) as sender:
        url = sender.finish()
    sent = server.sent()
    assert (sent["name"], sent["sha256"], sent["size_bytes"]) == (file.name, SHA256, len(DATA))
    assert url == f"{server.url}/api/v1/tus/{sent['id']}"
    step = size or len(DATA)
    assert sender.patches() == list(range(0, len(DATA), step))


def test_it_is_killed_and_another_process_goes_on(server: Server, file: Path) -> None:
    """Which upload it was, the first one wrote down for the second."""
    with sending(server, file, chunkSize=20_000) as first:
        assert first.until("known") == 0
        url = first.until("url")
        for _ in range(5):
            first.until("sent")
    assert first.process.returncode == -9, "it was not at its end"
    with sending(server, file, chunkSize=1_000_000) as second:
        assert second.until("known") == 1
        assert second.finish() == url
    assert second.said[1] == {"method": "HEAD", "status": 200, "from": None}
    assert second.patches()[0] >= 100_000
    sent = server.sent()
    assert (sent["sha256"], url.endswith(sent["id"])) == (SHA256, True)
    with sending(server, file) as third:
        assert third.until("known") == 0, "what is whole is forgotten"


def test_the_service_is_killed_in_the_middle_of_a_patch(tmp_path: Path) -> None:
    """Of the only one. The client asks where it stands until somebody answers, and goes on there."""
    path = tmp_path / "big.bin"
    digest = write_random(path, KILLED_BYTES)
    server = Server(tmp_path / "home")
    try:
        with sending(server, path, retryDelays=[200, *[1000] * 90]) as sender:
            sender.until("url")
            while arrived(server) < KILLED_BYTES // 20:
                pass
            server.kill()
            there = server.unfinished().stat().st_size
            assert KILLED_BYTES // 20 <= there < KILLED_BYTES
            assert sender.until("retry") == 0
            server.start()
            sender.finish()
        (start,) = sender.patches()
        assert start == there, "no byte was sent twice"
        sent = server.sent()
        assert (sent["sha256"], sent["size_bytes"]) == (digest, KILLED_BYTES)
        assert not list(server.home.glob("uploads/default/.unfinished/*"))
    finally:
        server.kill()


def arrived(server: Server) -> int:
    """How many bytes of the only unfinished upload are there; 0 if there is none."""
    found = [path for path in server.home.glob("uploads/default/.unfinished/*/*") if path.name[0] != "."]
    return found[0].stat().st_size if found else 0


def test_it_is_told_what_is_wrong(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "..hidden"
    path.write_bytes(b"x")
    with sending(server, path) as sender:
        while "failed" not in sender.next():
            pass
        assert sender.process.wait(30) == 1
    assert "response code: 422" in sender.said[-1]["failed"]
    assert "cannot be the name" in sender.said[-1]["failed"]


def write_random(path: Path, size: int) -> str:
    """Bytes of which no two blocks are alike; their SHA-256."""
    made, digest = random.Random(11), hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, 4_000_000):
            block = made.randbytes(min(4_000_000, size - start))
            digest.update(block)
            file.write(block)
    return digest.hexdigest()
