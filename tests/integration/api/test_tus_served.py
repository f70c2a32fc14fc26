"""Uploads against a real `tidemill serve`: by tuspy, by our own client and by the command; who dies is whoever may."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError, TusUploadFailed

import tidemill
from tests import warm
from tests.integration.api.test_serve import serving
from tests.integration.api.test_tus import VERSION, sending, until
from tidemill.domain import errors

DATA = random.Random(7).randbytes(6_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server:
    """One at a fixed address that can be killed and started again."""

    def __init__(self, home: Path, **environment: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.home, self.url, self._environment = home, f"http://127.0.0.1:{self.port}", environment
        self._running = ExitStack()
        self.start()

    def start(self) -> None:
        serve = serving(self.home, "--no-jobs", "--port", str(self.port), **self._environment)
        self._running.enter_context(serve)

    def kill(self) -> None:
        """With signal 9."""
        self._running.close()

    def unfinished(self) -> Path:
        """The only file on its way."""
        (found,) = [path for path in self.home.glob("uploads/default/.unfinished/*/*") if path.name[0] != "."]
        return found

    def get(self, path: str) -> Any:
        answer = httpx2.get(f"{self.url}/api/v1{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def sent(self) -> dict[str, Any]:
        """The newest upload; the bytes on the disk are those it says."""
        found: dict[str, Any] = self.get("/uploads")["items"][0]
        lies = self.home / "uploads" / "default" / found["id"] / found["name"]
        assert hashlib.sha256(lies.read_bytes()).hexdigest() == found["sha256"]
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for many tests; whoever kills it starts it again."""
    made = Server(tmp_path_factory.mktemp("served") / "home")
    yield made
    made.kill()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "customers.bin"
    path.write_bytes(DATA)
    return path


# -- tuspy


def test_tuspy_sends_a_file(server: Server, file: Path) -> None:
    client = TusClient(f"{server.url}/api/v1/tus")
    for words in ({"chunk_size": 1_000_000}, {"chunk_size": 2_500_000, "upload_checksum": True}, {}):
        uploader = client.uploader(str(file), metadata={"filename": "by tuspy.bin"}, **words)
        uploader.upload()
        assert uploader.offset == len(DATA)
        sent = server.sent()
        assert (sent["name"], sent["sha256"]) == ("by tuspy.bin", SHA256)
        assert uploader.url.endswith(f"/{sent['id']}")
        assert uploader.get_offset() == len(DATA)


def test_tuspy_is_killed_and_another_one_goes_on(server: Server, file: Path) -> None:
    code = f"""
        from tusclient.client import TusClient
        uploader = TusClient({server.url + "/api/v1/tus"!r}).uploader({str(file)!r}, chunk_size=15_000)
        for _ in range(400):
            uploader.upload_chunk()
            print(uploader.url, flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        url = [process.stdout.readline().strip() for _ in range(3)][-1]
        process.kill()
    assert process.returncode == -9, "it was not at its end"
    uploader = TusClient("").uploader(str(file), url=url, chunk_size=1_000_000)
    assert 45_000 <= uploader.offset < len(DATA)
    uploader.upload()
    assert server.sent()["sha256"] == SHA256


def test_tuspy_is_told_what_is_wrong(server: Server, file: Path) -> None:
    client = TusClient(f"{server.url}/api/v1/tus")
    uploader = client.uploader(str(file), chunk_size=1_000_000)
    uploader.upload_chunk()
    uploader.offset = 5
    with pytest.raises(TusUploadFailed) as failed:
        uploader.upload_chunk()
    assert (failed.value.status_code, b"has 1,000,000 bytes" in failed.value.response_content) == (409, True)
    with pytest.raises(TusCommunicationError) as refused:
        client.uploader(str(file), metadata={"filename": "../../x"}).upload()
    assert b"cannot be the name" in refused.value.response_content


# -- the service dies


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_the_service_is_killed_in_the_middle_of_a_patch(
    store: str, tmp_path: Path, file: Path, request: pytest.FixtureRequest
) -> None:
    """Twice: in one whose bytes count at once, and in one whose checksum could not be checked any more."""
    url = {"TIDEMILL_STORE": request.getfixturevalue("postgres_url")} if store == "postgres" else {}
    server = Server(tmp_path / "home", **url)
    try:
        headers = {**VERSION, "Upload-Length": str(len(DATA))}
        where = httpx2.post(f"{server.url}/api/v1/tus", headers=headers).headers["location"]
        with sending(server.url, where, DATA[:2_500_000], 0, len(DATA)):
            until(lambda: server.unfinished().stat().st_size >= 2_000_000)
            server.kill()
        there = server.unfinished().stat().st_size
        server.start()
        uploader = TusClient("").uploader(str(file), url=f"{server.url}{where}", chunk_size=500_000)
        assert uploader.offset == there <= 2_500_000
        uploader.upload_chunk()
        start = uploader.offset
        more = {"Upload-Checksum": "sha1 AAAA"}
        with sending(server.url, where, b"x" * 2_000_000, start, len(DATA) - start, **more):
            until(lambda: server.unfinished().stat().st_size > start)
            server.kill()
        assert server.unfinished().stat().st_size > start
        server.start()
        assert uploader.get_offset() == start
        uploader.upload()
        assert server.sent()["sha256"] == SHA256
        assert not list(server.home.glob("uploads/default/.unfinished/*"))
    finally:
        server.kill()


# -- our own client


class Interrupted(Exception):
    pass


def test_our_client_goes_on_after_the_service_was_killed(server: Server, file: Path) -> None:
    """The service dies and comes back while the file is read for the third block."""
    done: list[int] = []

    def moved(sent: int, total: int | None) -> None:
        assert total == len(DATA)
        done.append(sent)
        if len(done) == 3:
            server.kill()
            server.start()

    begun: list[str] = []
    with tidemill.Client(server.url) as client:
        sent = client.uploads.add(file, moved=moved, begun=begun.append)
        assert (sent.sha256, sent.name, sent.id) == (SHA256, "customers.bin", begun[0])
        assert server.sent()["id"] == sent.id
        assert done != sorted(done) or len(done) > 6, "it went back to where the service stood"
        assert client.uploads.get(sent.id) == sent
        assert next(client.uploads.list()) == sent


def test_our_client_goes_on_in_another_process(server: Server, file: Path, tmp_path: Path) -> None:
    def stops(sent: int, total: int | None) -> None:
        if sent > 3_000_000:
            raise Interrupted

    begun: list[str] = []
    with tidemill.Client(server.url) as client:
        with pytest.raises(Interrupted):
            client.uploads.add(file, moved=stops, begun=begun.append)
    with tidemill.Client(server.url) as client:
        until(lambda: [each.id for each in client.uploads.unfinished()][:1] == begun)
        other = tmp_path / "other.bin"
        other.write_bytes(DATA[1:])
        with pytest.raises(errors.InvalidSpec, match="5,999,999 bytes, but the upload"):
            client.uploads.add(other, resume=begun[0])
        moved: list[int] = []
        sent = client.uploads.add(file, resume=begun[0], moved=lambda done, total: moved.append(done))
        assert (sent.id, sent.sha256) == (begun[0], SHA256)
        assert client.uploads.add(file, resume=begun[0]) == sent, "there is nothing left to send"
        assert min(moved) > 1_000_000
        other.write_bytes(b"x" + DATA[1:])
        with pytest.raises(errors.Damaged, match="arrived as other bytes"):
            client.uploads.add(other, resume=sent.id)
        with pytest.raises(errors.NotFound, match="is not there"):
            client.uploads.add(file, resume=sent.id)


def test_big_files_of_a_job_go_on_too(server: Server, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    with tidemill.Client(server.url) as client:
        monkeypatch.setattr(client.uploads, "add", lambda path, **words: asked.append(str(path)))
        client.upload(file)
        assert asked == []
        monkeypatch.setattr("tidemill.client.client.RESUMABLE_BYTES", len(DATA))
        client.upload(file)
    assert asked == [str(file)]


# -- the command


def tidemill_says(*words: object, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return warm.tidemill(
        list(map(str, words)),
        cwd=Path.cwd(),
        environ={**os.environ, "TIDEMILL_HOME": str(home), "COLUMNS": "200", **environment},
        seconds=120,
    )


@pytest.mark.parametrize("place", ["there", "here"])
def test_the_command_sends_lists_shows_and_removes(server: Server, place: str, tmp_path: Path) -> None:
    table = tmp_path / "customers.csv"
    table.write_text("id,name\n1,Ada\n2,Grace\n3,Edsger\n")
    environment = {"TIDEMILL_SERVER": server.url} if place == "there" else {}

    def say(*words: object) -> subprocess.CompletedProcess[str]:
        done = tidemill_says("uploads", *words, home=tmp_path / "home", **environment)
        assert done.returncode == 0, done.stderr
        return done

    added = say("add", table)
    name = added.stdout.strip()
    assert name.startswith("upload:upload_") and added.stdout.count("\n") == 1
    assert "customers.csv, 31 bytes, sha256 " in added.stderr
    listed = json.loads(say("list", "--json").stdout)
    assert f"upload:{listed['items'][0]['id']}" == name
    shown = json.loads(say("show", name, "-n", 2, "--json").stdout)
    assert shown["preview"] == {
        "format": "csv", "columns": ["id", "name"], "types": ["string", "string"],
        "rows": [["1", "Ada"], ["2", "Grace"]], "total_rows": 3,
    }  # fmt: skip
    told = say("show", name)
    assert "csv, 31 bytes, 3 rows" in told.stderr and "Edsger" in told.stdout
    assert f"{name.removeprefix('upload:')} is removed" in say("remove", name).stderr
    gone = tidemill_says("uploads", "show", name, home=tmp_path / "home", **environment)
    assert (gone.returncode, "There is no upload" in gone.stderr) == (2, True)


@pytest.mark.parametrize("place", ["there", "here"])
def test_the_command_goes_on_with_what_broke_off(server: Server, place: str, file: Path, tmp_path: Path) -> None:
    environment = {"TIDEMILL_SERVER": server.url} if place == "there" else {}
    home = server.home if place == "there" else tmp_path / "home"
    if place == "here":
        assert tidemill_says("uploads", "list", home=home).returncode == 0
    begin = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from tidemill.cli.backend import chosen
        with chosen({server.url if place == "there" else "local"!r}) as backend:
            def stops(sent, total):
                if sent > 3_000_000:
                    raise KeyboardInterrupt
            try:
                backend.uploads_add(Path({str(file)!r}), begun=lambda id: print(id, flush=True), moved=stops)
            except KeyboardInterrupt:
                sys.exit(7)
    """)
    first = subprocess.run(
        [sys.executable, "-c", begin], env={**os.environ, "TIDEMILL_HOME": str(home)}, capture_output=True, text=True
    )
    assert first.returncode == 7, first.stderr
    upload = first.stdout.strip()
    listed = tidemill_says("uploads", "list", home=home, **environment)
    assert upload in listed.stdout and "of 6.0 MB" in listed.stdout
    again = tidemill_says("uploads", "add", file, "--resume", upload, home=home, **environment)
    assert (again.returncode, again.stdout.strip()) == (0, f"upload:{upload}"), again.stderr
    assert SHA256 in again.stderr


def test_a_command_that_fails_says_how_to_go_on(tmp_path: Path, file: Path) -> None:
    """The service goes away for good while the file is sent."""
    server = Server(tmp_path / "home")
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent("""
            import sys
            from tidemill.cli import main
            from tidemill.client import uploads
            plain = uploads.Sending._rest
            def slow(self, start):
                for number, block in enumerate(plain(self, start)):
                    yield block
                    if number == 2:
                        print("now", file=sys.stderr, flush=True)
                        sys.stdin.readline()
            uploads.Sending._rest = slow
            uploads.time.monotonic = lambda seconds=iter(range(0, 10**9, 30)): next(seconds)
            sys.argv = ["tidemill", *sys.argv[1:]]
            main.main()
        """), "uploads", "add", str(file), "--server", server.url],
        env={**os.environ, "TIDEMILL_HOME": str(tmp_path / "mine")},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None and process.stdin is not None
    assert process.stderr.readline() == "now\n"
    server.kill()
    process.stdin.write("go on\n")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, ""), err
    upload = next(server.home.glob("uploads/default/.unfinished/upload_*")).name
    assert f"tidemill uploads add {file} --resume {upload} --server {server.url}" in " ".join(err.split()), err


def test_keys_hold_for_it(tmp_path: Path, file: Path) -> None:
    server = Server(tmp_path / "home")
    try:
        key = httpx2.post(f"{server.url}/api/v1/keys", json={"name": "first", "role": "admin"}).json()["key"]
        with pytest.raises(errors.NotAuthenticated):
            tidemill.Client(server.url).uploads.add(file)
        sent = tidemill.Client(server.url, key).uploads.add(file)
        assert sent.sha256 == SHA256
        with pytest.raises(errors.NotAuthenticated, match="needs an API key"):
            tidemill.Client(server.url).uploads.add(file, resume=sent.id)
    finally:
        server.kill()
