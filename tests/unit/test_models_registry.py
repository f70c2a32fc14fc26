"""The registry's files and fetches, without children and without a store."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tidemill.domain.errors import InvalidSpec, ModelUnusable, NotAllowed, NotFound, TooLarge
from tidemill.service import fetching, modelfiles, reach
from tidemill.service.fetching import fetch
from tidemill.service.reach import Reach

DATA = b"model bytes " * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()
ANYWHERE = Reach(anywhere=True)


def everything(real: Path) -> bool:
    return True


def arrive(root: Path, data: bytes = DATA, name: str = "model.txt") -> Path:
    """Bring a file in and give it its last place."""
    with modelfiles.arriving(root, name, 1 << 30) as arrival:
        arrival.write(data)
        arrival.seal()
        return modelfiles.place(root, hashlib.sha256(data).hexdigest(), arrival)


def left(root: Path) -> list[str]:
    """Every file below a folder."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_file_gets_its_last_name_only_when_it_is_placed(tmp_path: Path) -> None:
    with modelfiles.arriving(tmp_path, "model.txt", 1 << 30) as arrival:
        arrival.write(DATA[:5])
        arrival.write(DATA[5:])
        arrival.seal()
        assert modelfiles.stored(tmp_path, DIGEST) is None
        with modelfiles.holding(tmp_path, DIGEST):
            path = modelfiles.place(tmp_path, DIGEST, arrival)
    assert path == modelfiles.stored(tmp_path, DIGEST) == tmp_path / DIGEST[:2] / DIGEST / "model.txt"
    assert path.read_bytes() == DATA
    assert path.stat().st_mode & 0o222 == 0
    assert left(tmp_path) == [f"{DIGEST[:2]}/{DIGEST}/model.txt"]


def test_what_is_not_placed_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), modelfiles.arriving(tmp_path, "model.txt", 1 << 30) as arrival:
        arrival.write(DATA)
        raise ZeroDivisionError
    assert left(tmp_path) == []


def test_placing_again_replaces_damaged_bytes(tmp_path: Path) -> None:
    path = arrive(tmp_path)
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    again = arrive(tmp_path, name="other.txt")
    assert again.read_bytes() == DATA
    assert left(tmp_path) == [f"{DIGEST[:2]}/{DIGEST}/other.txt"]


def test_a_folder_is_copied_with_what_its_links_name(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "a.json").write_text("{}")
    (source / "deep" / "b.bin").write_bytes(DATA)
    (source / "c.bin").symlink_to(source / "deep" / "b.bin")
    with modelfiles.arriving(tmp_path / "models", "source", 1 << 30) as arrival:
        arrival.copy(source, everything)
        arrival.seal()
        copied = modelfiles.place(tmp_path / "models", DIGEST, arrival)
    assert left(copied) == ["a.json", "c.bin", "deep/b.bin"]
    assert (copied / "c.bin").read_bytes() == DATA and not (copied / "c.bin").is_symlink()


def test_a_link_to_a_folder_is_refused_and_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "deep").symlink_to(tmp_path)
    with modelfiles.arriving(tmp_path / "models", "source", 1 << 30) as arrival:
        with pytest.raises(InvalidSpec, match="is a link to a folder"):
            arrival.copy(tmp_path / "source", everything)


def test_a_link_out_of_what_is_allowed_is_not_there(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush")
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.txt").symlink_to(secret)
    with modelfiles.arriving(tmp_path / "models", "source", 1 << 30) as arrival:
        with pytest.raises(NotFound):
            arrival.copy(source, lambda real: real.is_relative_to(source))
    assert left(tmp_path / "models") == []


@pytest.mark.parametrize("kind", ["pipe", "empty folder", "nothing", "loop"])
def test_what_is_no_model_file_is_refused(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    if kind == "pipe":
        os.mkfifo(source)
    elif kind == "loop":
        source.symlink_to(source)
    elif kind == "empty folder":
        source.mkdir()
    with modelfiles.arriving(tmp_path / "models", "source", 1 << 30) as arrival:
        with pytest.raises((NotFound, ModelUnusable)):
            arrival.copy(source, everything)


@pytest.mark.parametrize("way", ["written", "copied"])
def test_a_model_has_a_greatest_size(tmp_path: Path, way: str) -> None:
    source = tmp_path / "model.txt"
    source.write_bytes(DATA)
    with modelfiles.arriving(tmp_path / "models", "model.txt", len(DATA) - 1) as arrival:
        with pytest.raises(TooLarge, match=f"{len(DATA) - 1:,} bytes"):
            arrival.copy(source, everything) if way == "copied" else arrival.write(DATA)
    assert left(tmp_path / "models") == []


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("model.txt", "model.txt"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("..", "model"),
        ("", "model"),
        ("a:b\n.txt", "a_b_.txt"),
        ("Größe 1.txt", "Größe 1.txt"),
        ("x" * 300 + ".onnx", "x" * 195 + ".onnx"),
    ],
)
def test_names_are_made_safe(name: str, safe: str) -> None:
    assert modelfiles.safe_name(name) == safe


def no_jobs(digests: Collection[str]) -> Collection[str]:
    return ()


def test_a_sweep_takes_what_nobody_brings_and_nobody_names(tmp_path: Path) -> None:
    kept, orphan = arrive(tmp_path), arrive(tmp_path, b"orphan")
    dead = tmp_path / modelfiles.INCOMING / "arrival_dead"
    dead.mkdir()
    (dead / "half.txt").write_bytes(b"half")
    (tmp_path / modelfiles.INCOMING / "arrival_dead.lock").touch()
    with modelfiles.arriving(tmp_path, "live.txt", 1 << 30) as arrival:
        arrival.write(DATA)
        assert modelfiles.sweep(tmp_path, lambda: [str(kept)], no_jobs, time.time() - 3600) == 0
        assert modelfiles.sweep(tmp_path, lambda: [str(kept)], no_jobs, time.time() + 3600) == 2
        assert arrival.path.exists()
    assert kept.read_bytes() == DATA
    assert not orphan.exists()
    assert left(tmp_path) == [f"{DIGEST[:2]}/{DIGEST}/model.txt"]


def test_a_sweep_asks_again_before_it_removes(tmp_path: Path) -> None:
    path = arrive(tmp_path)
    answers = iter([[], [str(path)]])
    assert modelfiles.sweep(tmp_path, lambda: next(answers), no_jobs, time.time() + 3600) == 0
    assert path.exists()
    assert list(answers) == []


def test_a_sweep_leaves_what_jobs_score_with(tmp_path: Path) -> None:
    path = arrive(tmp_path)
    assert modelfiles.sweep(tmp_path, list, set, time.time() + 3600) == 0
    answers = iter([set(), {DIGEST}])
    assert modelfiles.sweep(tmp_path, list, lambda digests: next(answers), time.time() + 3600) == 0
    assert path.exists()
    assert modelfiles.sweep(tmp_path, list, no_jobs, time.time() + 3600) == 1


def test_whoever_holds_a_digest_keeps_others_away(tmp_path: Path) -> None:
    held, seen = threading.Event(), []

    def other() -> None:
        held.set()
        with modelfiles.holding(tmp_path, DIGEST):
            seen.append(tuple(done))

    done: list[str] = []
    with modelfiles.holding(tmp_path, DIGEST):
        thread = threading.Thread(target=other)
        thread.start()
        assert held.wait(60)
        thread.join(0.1)
        done.append("first")
    thread.join(60)
    assert seen == [("first",)]


class Site(BaseHTTPRequestHandler):
    """Answers by path."""

    asked: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Host"]))
        step, _, rest = self.path.lstrip("/").partition("/")
        if step == "to":
            self._head(302, {"Location": rest.replace("SELF", self.headers["Host"])})
        elif step == "round":
            self._head(302, {"Location": "/round"})
        elif step == "cut":
            self._head(200, {"Content-Length": str(len(DATA))})
            self.wfile.write(DATA[:100])
        elif step == "endless":
            self._head(200, {})
            with self.wfile:
                for _ in range(1000):
                    self.wfile.write(DATA)
        elif step == "missing":
            self._head(404, {"Content-Length": "0"})
        else:
            self._head(200, {"Content-Length": str(len(DATA))})
            self.wfile.write(DATA)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Quiet(ThreadingHTTPServer):
    """Does not tell of clients that hang up."""

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A site on loopback: its URL, and what it was asked: (path, host)."""
    asked: list[tuple[str, str]] = []
    server = Quiet(("127.0.0.1", 0), type("Asked", (Site,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join(60)
        server.server_close()


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with serving() as (url, _):
        yield url


def got(url: str, within: Reach = ANYWHERE, max_bytes: int = 1 << 30) -> bytes:
    found = bytearray()
    fetch(url, found.extend, reach=within, max_bytes=max_bytes)
    return bytes(found)


@pytest.mark.parametrize("path", ["/model.txt", "/to//model.txt", "/to/http://SELF/to//model.txt"])
def test_a_model_is_fetched_also_by_redirects(site: str, path: str) -> None:
    assert got(site + path) == DATA


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("/missing", NotFound, "it answered 404"),
        ("/round", NotFound, "redirects more than 5 times"),
        ("/to/file:///etc/passwd", NotAllowed, "redirects from http to file"),
        ("/cut", NotFound, "cannot be fetched"),
    ],
)
def test_what_cannot_be_fetched(site: str, path: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        got(site + path)


@pytest.mark.parametrize("path", ["/model.txt", "/endless"])
def test_a_fetch_has_a_greatest_size(site: str, path: str) -> None:
    with pytest.raises(TooLarge, match="larger than 5,000 bytes"):
        got(site + path, max_bytes=5000)


def resolver(answers: dict[str, list[str]]) -> Callable[..., list[tuple[object, ...]]]:
    """A name service of our own; each name gives its answers one after another, the last one for ever."""

    def getaddrinfo(host: str, port: int, *rest: object, **words: object) -> list[tuple[object, ...]]:
        known = answers.get(host, [host])
        address = known.pop(0) if len(known) > 1 else known[0]
        return [(2, 1, 6, "", (address, port))]

    return getaddrinfo


def plays_public(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """As if that address of this machine were somebody else's, on the internet."""
    monkeypatch.setattr(reach, "is_public", lambda found: str(found) == address)
    monkeypatch.setattr(reach, "own_addresses", frozenset)


def test_a_redirect_leads_a_key_to_no_private_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The site plays a public one; where it redirects to is checked anew."""
    plays_public(monkeypatch, "127.0.0.1")
    with serving() as (site, asked):
        with pytest.raises(NotAllowed, match=r"'127\.0\.0\.2' is not on the public internet"):
            got(f"{site}/to/http://127.0.0.2:9/x", Reach(anywhere=False))
        assert [path for path, _ in asked] == ["/to/http://127.0.0.2:9/x"]


def test_the_address_that_was_checked_is_the_one_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to something else the second time gains nothing; the site still hears the name."""
    monkeypatch.setattr(reach.socket, "getaddrinfo", resolver({"models.example": ["127.0.0.1", "127.0.0.2"]}))
    plays_public(monkeypatch, "127.0.0.1")
    with serving() as (site, asked):
        port = site.rpartition(":")[2]
        assert got(f"http://models.example:{port}/model.txt", Reach(anywhere=False)) == DATA
        assert asked == [("/model.txt", f"models.example:{port}")]


def test_hosts_that_the_operator_names_are_reached(site: str) -> None:
    assert got(f"{site}/model.txt", Reach(anywhere=False, hosts=("127.0.0.1",))) == DATA


def test_secrets_in_a_url_are_not_shown() -> None:
    url = "https://me:hush@models.example/a/model.txt?X-Amz-Signature=hush#hush"
    assert reach.without_secrets(url) == "https://models.example/a/model.txt"
    assert fetching.name_of(url) == "model.txt"


@pytest.mark.parametrize("url", ["http://", "http:///x", "http://exa mple/x", "http://x:99999/y"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises((InvalidSpec, NotFound)):
        got(url)
