"""300 MB (5 GB with TIDEMILL_TEST_LONG) by PUT and by tus: the same bytes arrive, the service grows no larger."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.integration.api.test_serve import serving
from tests.integration.api.test_tus import MEDIA, VERSION

SIZE = 5_000_000_000 if os.environ.get("TIDEMILL_TEST_LONG") else 300_000_000
MORE_BYTES = 64 << 20
"""So much may the service grow while it takes a file of any size; a fifth of the smaller one."""
BLOCK = 1 << 20
PATIENCE = httpx2.Timeout(600)


def blocks() -> Iterator[bytes]:
    """All `SIZE` bytes; each block says where it stands."""
    filling = os.urandom(BLOCK - 16)
    for start in range(0, SIZE, BLOCK):
        yield (f"{start:016d}".encode() + filling)[: SIZE - start]


def hashed(digest: hashlib._Hash) -> Iterator[bytes]:
    for block in blocks():
        digest.update(block)
        yield block


class Watched:
    """The memory of a process and its children while something happens."""

    highest = 0

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def now(self) -> int:
        """What they take together: pages that several share count once."""
        return sum(each.memory_full_info().pss for each in (self._root, *self._root.children(recursive=True)))

    @contextmanager
    def watching(self) -> Iterator[None]:
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.1):
                self.highest = max(self.highest, self.now())

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", ["put", "tus"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, way: str) -> None:
    assert shutil.disk_usage(tmp_path).free > 2 * SIZE, "there is no room for this test"
    home, digest = tmp_path / "home", hashlib.sha256()
    with serving(home, "--no-jobs") as (process, url), httpx2.Client(base_url=url, timeout=PATIENCE) as client:
        small = client.put("/api/v1/uploads/small.bin", content=b"x" * BLOCK)
        assert small.status_code == 201
        watched = Watched(process.pid)
        before = watched.now()
        with watched.watching():
            if way == "put":
                answer = client.put("/api/v1/uploads/big.bin", content=hashed(digest))
                assert answer.status_code == 201, answer.text
                name = answer.json()["id"]
            else:
                headers = {**VERSION, "Upload-Length": str(SIZE), "Upload-Metadata": "filename YmlnLmJpbg=="}
                where = client.post("/api/v1/tus", headers=headers).headers["location"]
                length = {"Content-Length": str(SIZE), "Upload-Offset": "0"}
                answer = client.patch(where, headers={**VERSION, **MEDIA, **length}, content=hashed(digest))
                assert answer.status_code == 204, answer.text
                name = where.rpartition("/")[2]
        sent = client.get(f"/api/v1/uploads/{name}").json()
        assert (sent["size_bytes"], sent["sha256"]) == (SIZE, digest.hexdigest())
        lies = home / "uploads" / "default" / name / "big.bin"
        with lies.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == digest.hexdigest()
        assert watched.highest > before // 2, "nothing was measured"
        assert watched.highest - before < MORE_BYTES, f"{watched.highest - before:,} bytes more than before"
        print(f"{way}: {before:,} bytes before, {watched.highest:,} at most")
        assert client.delete(f"/api/v1/uploads/{name}").status_code == 204
    assert not lies.exists()
