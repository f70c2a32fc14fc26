"""Uploads by tus-js-client in a page of Chromium, against a real `tidemill serve`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Page, Request

from tests.integration.api.test_tus_js import KILLED_BYTES, NODE, arrived, write_random
from tests.integration.api.test_tus_served import DATA, SHA256, Server

SCRIPT = NODE / "node_modules" / "tus-js-client" / "dist" / "tus.min.js"
PAGE = """<!doctype html><title>Send</title><input type="file"><script src="/tus.min.js"></script><script>
window.said = [];
window.send = async (words) => {
  const upload = new tus.Upload(document.querySelector("input").files[0], {
    endpoint: "/api/v1/tus",
    metadata: { filename: "from a page.bin" },
    retryDelays: [],
    removeFingerprintOnSuccess: true,
    onChunkComplete: (size, sent) => said.push(["sent", sent]),
    onShouldRetry: () => said.push(["retry", ""]) > 0,
    onError: (error) => said.push(["failed", String(error)]),
    onSuccess: () => said.push(["done", upload.url]),
    ...words,
  });
  const known = await upload.findPreviousUploads();
  said.push(["known", known.length]);
  if (known.length > 0) upload.resumeFromPreviousUpload(known[0]);
  upload.start();
};
</script>"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("served") / "home")
    yield made
    made.kill()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "customers.bin"
    path.write_bytes(DATA)
    return path


def opened(page: Page, origin: str, path: Path) -> list[tuple[str, str]]:
    """A page of this origin with the file chosen in it; its requests to the service, with the offset they name.

    The service itself has no such page: the test answers for it.
    """
    assert SCRIPT.exists(), "run `make test`: it installs tus-js-client"
    requests: list[tuple[str, str]] = []

    def seen(request: Request) -> None:
        if "/api/v1/tus" in request.url:
            requests.append((request.method, request.headers.get("upload-offset", "")))

    page.on("request", seen)
    page.route(f"{origin}/send.html", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
    page.route(f"{origin}/tus.min.js", lambda route: route.fulfill(path=SCRIPT, content_type="text/javascript"))
    page.goto(f"{origin}/send.html")
    # Else every byte that is sent goes through the test.
    page.unroute_all()
    page.set_input_files("input", path)
    return requests


def send(page: Page, **words: Any) -> None:
    page.evaluate(f"send({json.dumps(words)})")


def told(page: Page, word: str) -> Any:
    """The first thing that it said under this word; waits for it."""
    found = page.wait_for_function(f"said.find(([word]) => word === {json.dumps(word)} || word === 'failed')")
    said: tuple[str, Any] = found.json_value()
    assert said[0] == word, page.evaluate("said")
    return said[1]


@pytest.mark.parametrize("size", [None, 1_000_000])
def test_a_page_sends_a_file(server: Server, page: Page, file: Path, size: int | None) -> None:
    requests = opened(page, server.url, file)
    send(page, **({} if size is None else {"chunkSize": size}))
    url = told(page, "done")
    sent = server.sent()
    assert (sent["name"], sent["sha256"]) == ("from a page.bin", SHA256)
    assert url == f"/api/v1/tus/{sent['id']}"
    step = size or len(DATA)
    assert requests == [("POST", ""), *(("PATCH", str(start)) for start in range(0, len(DATA), step))]


def test_a_page_is_left_and_the_next_one_goes_on(server: Server, page: Page, file: Path) -> None:
    """What it knows lies in the browser's storage."""
    opened(page, server.url, file)
    send(page, chunkSize=20_000)
    told(page, "sent")
    page.wait_for_function("said.length > 6")
    context = page.context
    page.close()
    page = context.new_page()
    requests = opened(page, server.url, file)
    send(page, chunkSize=2_000_000)
    assert told(page, "known") == 1
    told(page, "done")
    assert [method for method, _ in requests[:2]] == ["HEAD", "PATCH"]
    assert 60_000 <= int(requests[1][1]) < len(DATA)
    assert server.sent()["sha256"] == SHA256


def test_the_service_is_killed_while_a_page_sends(page: Page, tmp_path: Path) -> None:
    """In the middle of the only PATCH."""
    path = tmp_path / "big.bin"
    digest = write_random(path, KILLED_BYTES)
    server = Server(tmp_path / "home")
    try:
        requests = opened(page, server.url, path)
        send(page, retryDelays=[200, *[1000] * 90])
        while arrived(server) < KILLED_BYTES // 20:
            pass
        server.kill()
        there = server.unfinished().stat().st_size
        assert KILLED_BYTES // 20 <= there < KILLED_BYTES
        told(page, "retry")
        server.start()
        told(page, "done")
        assert requests[-1] == ("PATCH", str(there)), "no byte was sent twice"
        sent = server.sent()
        assert (sent["sha256"], sent["size_bytes"]) == (digest, KILLED_BYTES)
    finally:
        server.kill()


def test_the_page_of_another_site_sends_nothing(server: Server, page: Page, file: Path) -> None:
    """Browsers ask first, and the service allows no other origin."""
    before = server.get("/uploads"), list(server.home.glob("uploads/default/.unfinished/*"))
    requests = opened(page, server.url.replace("127.0.0.1", "localhost"), file)
    send(page, endpoint=f"{server.url}/api/v1/tus")
    page.wait_for_function("said.find(([word]) => word === 'failed')")
    assert [method for method, _ in requests if method != "POST"] == []
    assert (server.get("/uploads"), list(server.home.glob("uploads/default/.unfinished/*"))) == before


def test_who_is_signed_in_sends_by_the_cookie(page: Page, file: Path, tmp_path: Path) -> None:
    """The page never sees the key."""
    server = Server(tmp_path / "home")
    try:
        words = {"name": "first", "role": "operator"}
        key = httpx2.post(f"{server.url}/api/v1/keys", json=words, verify=False).json()["key"]
        requests = opened(page, server.url, file)
        send(page)
        page.wait_for_function("said.find(([word]) => word === 'failed')")
        assert "response code: 401" in page.evaluate("said.at(-1)[1]")
        page.goto(server.url)
        page.fill("#key", key)
        page.click("button")
        page.wait_for_selector(".who")
        assert page.evaluate("document.cookie") == ""
        requests = opened(page, server.url, file)
        send(page)
        told(page, "done")
        assert ("PATCH", "0") in requests
        (path,) = server.home.glob("uploads/default/upload_*/from a page.bin")
        assert path.read_bytes() == DATA
    finally:
        server.kill()
