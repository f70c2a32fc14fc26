"""Uploads that go on after a break, in the words of tus: what is kept, what is refused, who gets in."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.integration.api.house import House, client_of, opened_house, served
from tests.integration.api.test_errors import told
from tidemill.api.app import create_app
from tidemill.api.routes import tus
from tidemill.domain.access import Principal, Role
from tidemill.domain.errors import TooLarge, UploadBusy
from tidemill.service import resumable, retention, unfinished, uploads
from tidemill.service.appending import Appending, Checksum

HERE = Principal(name="local")
TUS = "/api/v1/tus"
VERSION = {"Tus-Resumable": "1.0.0"}
MEDIA = {"Content-Type": "application/offset+octet-stream"}
DATA = bytes(range(256)) * 40
NAME = "gr\u00fc\u00df dich.csv"
SHA256 = hashlib.sha256(DATA).hexdigest()


def b64(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def begin(client: TestClient, length: int = len(DATA), name: str = "rows.csv", data: bytes = b"", **more: str) -> Any:
    headers = {**VERSION, "Upload-Length": str(length), "Upload-Metadata": f"filename {b64(name)}", **more}
    if data:
        headers |= MEDIA
    return client.post(TUS, content=data, headers=headers)


def begun(client: TestClient, length: int = len(DATA), name: str = "rows.csv") -> str:
    answer = begin(client, length, name)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


def patch(client: TestClient, where: str, data: bytes, offset: int, **more: str) -> Any:
    return client.patch(where, content=data, headers={**VERSION, **MEDIA, "Upload-Offset": str(offset), **more})


def head(client: TestClient, where: str) -> Any:
    return client.head(where, headers=VERSION)


def offset(client: TestClient, where: str) -> int:
    answer = head(client, where)
    assert answer.status_code == 200
    return int(answer.headers["upload-offset"])


def checksum(data: bytes, algorithm: str = "sha1") -> str:
    return f"{algorithm} {b64(hashlib.new(algorithm, data).digest())}"


def path_of(house: House, where: str) -> Path:
    """Of the unfinished file."""
    (found,) = [
        path
        for path in (house.context.places.uploads / "default" / ".unfinished" / where.rpartition("/")[2]).iterdir()
        if not path.name.startswith(".")
    ]
    return found


def there(house: House) -> set[str]:
    """Every file of uploads."""
    root = house.context.places.uploads
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


# -- the way of an upload


def test_it_comes_in_pieces_and_becomes_an_upload_as_put_makes_it(house: House, client: TestClient) -> None:
    where = begun(client, name=NAME)
    upload_id = where.rpartition("/")[2]
    for start in range(0, len(DATA), 4000):
        assert offset(client, where) == start
        assert client.get(f"/api/v1/uploads/{upload_id}").status_code == 404, "visible only whole"
        (seen,) = client.get(TUS).json()["items"]
        assert (seen["name"], seen["offset"], seen["length"]) == (NAME, start, len(DATA))
        answer = patch(client, where, DATA[start : start + 4000], start)
        assert (answer.status_code, answer.text) == (204, "")
        assert answer.headers["upload-offset"] == str(min(start + 4000, len(DATA)))
        assert ("upload-expires" in answer.headers) == (start + 4000 < len(DATA))
    sent = client.get(f"/api/v1/uploads/{upload_id}").json()
    assert (sent["name"], sent["size_bytes"], sent["sha256"]) == (NAME, len(DATA), SHA256)
    assert uploads.path_of(house.context, HERE, upload_id).read_bytes() == DATA
    put = client.put("/api/v1/uploads/other.csv", content=DATA).json()
    assert {*put} == {*sent}
    assert {Path(name).name for name in there(house)} == {NAME, "other.csv", ".upload.json"}
    assert client.get(TUS).json() == {"items": []}
    # Who lost the last answer still learns that it is whole.
    answer = head(client, where)
    assert (answer.headers["upload-offset"], answer.headers["upload-length"]) == (str(len(DATA)),) * 2
    assert answer.headers["upload-metadata"] == f"filename {b64(NAME)}"
    assert patch(client, where, b"", len(DATA)).status_code == 204
    told(patch(client, where, b"x", len(DATA)), 413, "too_large")
    told(patch(client, where, b"x", 0), 409, "offset_mismatch")
    told(client.delete(where, headers=VERSION), 404, "not_found")
    assert client.delete(f"/api/v1/uploads/{upload_id}").status_code == 204


def test_what_this_server_can_do(house: House, client: TestClient) -> None:
    answer = client.options(TUS)
    assert answer.status_code == 204
    assert answer.headers["tus-version"] == answer.headers["tus-resumable"] == "1.0.0"
    assert set(answer.headers["tus-extension"].split(",")) == {
        "creation", "creation-with-upload", "termination", "checksum", "expiration",
    }  # fmt: skip
    assert answer.headers["tus-checksum-algorithm"] == "sha256,sha1"
    assert answer.headers["tus-max-size"] == str(house.context.policy.max_upload_bytes)


def test_the_first_bytes_may_come_with_the_creation(house: House, client: TestClient) -> None:
    answer = begin(client, data=DATA[:1000], **{"Upload-Checksum": checksum(DATA[:1000], "sha256")})
    assert (answer.status_code, answer.headers["upload-offset"]) == (201, "1000")
    assert patch(client, answer.headers["location"], DATA[1000:], 1000).status_code == 204
    whole = begin(client, data=DATA).headers
    assert (whole["upload-offset"], "upload-expires" in whole) == (str(len(DATA)), False)
    for where in (answer.headers["location"], whole["location"]):
        sent = client.get(f"/api/v1/uploads/{where.rpartition('/')[2]}").json()
        assert sent["sha256"] == SHA256
    told(begin(client, data=DATA, **{"Upload-Checksum": checksum(b"other")}), 460, "checksum_mismatch")
    told(begin(client, 10, data=DATA), 413, "too_large")


def test_a_file_without_a_byte_is_whole_at_once(house: House, client: TestClient) -> None:
    where = begun(client, 0, "nothing.csv")
    assert offset(client, where) == 0
    sent = client.get(f"/api/v1/uploads/{where.rpartition('/')[2]}").json()
    assert (sent["size_bytes"], sent["sha256"]) == (0, hashlib.sha256().hexdigest())
    assert patch(client, where, b"", 0).status_code == 204


def test_patch_may_come_as_post(client: TestClient) -> None:
    where = begun(client)
    headers = {**VERSION, **MEDIA, "Upload-Offset": "0"}
    answer = client.post(where, content=DATA[:10], headers={**headers, "X-HTTP-Method-Override": "PATCH"})
    assert (answer.status_code, answer.headers["upload-offset"]) == (204, "10")
    told(client.post(where, content=DATA, headers={**headers, "X-HTTP-Method-Override": "GET"}), 422, "invalid_spec")


def test_one_can_be_given_up(house: House, client: TestClient) -> None:
    ways: list[Callable[[str], Any]] = [
        lambda where: client.delete(where, headers=VERSION),
        lambda where: client.delete(where.replace("/tus/", "/uploads/")),
    ]
    for way in ways:
        where = begun(client)
        patch(client, where, DATA[:100], 0)
        assert way(where).status_code == 204
        assert there(house) == set()
        assert head(client, where).status_code == 404
        told(patch(client, where, DATA[100:], 100), 404, "not_found")
        told(way(where), 404, "not_found")


# -- lies and faults


def test_a_lying_offset_changes_nothing(house: House, client: TestClient) -> None:
    where = begun(client)
    patch(client, where, DATA[:100], 0)
    for lie in (0, 99, 101, len(DATA), 2**62):
        problem = told(patch(client, where, b"lies", lie), 409, "offset_mismatch")
        assert "has 100 bytes" in problem["detail"]
        assert path_of(house, where).read_bytes() == DATA[:100]
    told(patch(client, where, b"lies", -1), 422, "invalid_spec")
    assert patch(client, where, DATA[100:], 100).status_code == 204


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_wrong_checksum_leaves_nothing_of_its_request(house: House, client: TestClient, algorithm: str) -> None:
    where = begun(client)
    patch(client, where, DATA[:100], 0, **{"Upload-Checksum": checksum(DATA[:100], algorithm)})
    wrong = {"Upload-Checksum": checksum(b"other", algorithm)}
    for bad in (DATA[100:200], DATA[100:]):
        told(patch(client, where, bad, 100, **wrong), 460, "checksum_mismatch")
        assert path_of(house, where).read_bytes() == DATA[:100]
        assert offset(client, where) == 100
    for unknown in ("md5 " + b64(b"x" * 16), "crc32 AAAA", "sha1", f"{algorithm} not=base64"):
        problem = told(patch(client, where, DATA[100:], 100, **{"Upload-Checksum": unknown}), *_of_checksum(unknown))
        assert "Upload-Checksum" in problem["detail"] or "do not have" in problem["detail"]
    right = {"Upload-Checksum": checksum(DATA[100:], algorithm)}
    assert patch(client, where, DATA[100:], 100, **right).status_code == 204


def _of_checksum(text: str) -> tuple[int, str]:
    """ "sha1" alone is the checksum of no bytes, which does not fit."""
    return (460, "checksum_mismatch") if text == "sha1" else (400, "bad_request")


def test_more_bytes_than_announced_are_refused(house: House, client: TestClient) -> None:
    where = begun(client, 100)
    told(patch(client, where, DATA, 0), 413, "too_large")
    assert offset(client, where) <= 100
    most = house.context.policy.max_upload_bytes
    problem = told(begin(client, most + 1), 413, "too_large")
    assert "max_upload_bytes" in problem["remedy"]


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ({"Upload-Length": ""}, 422, "upload-length"),
        ({"Upload-Length": "-1"}, 422, "upload-length"),
        ({"Upload-Length": "many"}, 422, "upload-length"),
        ({"Upload-Metadata": "filename !!!"}, 422, "Upload-Metadata cannot be read at 'filename !!!'"),
        ({"Upload-Metadata": f"filename {b64('a')},filename {b64('b')}"}, 422, "Upload-Metadata cannot be read"),
        ({"Upload-Metadata": f"filename {b64('a')},,"}, 422, "Upload-Metadata cannot be read"),
        ({"Upload-Metadata": f"filename {b64(bytes([255]))}"}, 422, "not UTF-8"),
        ({"Upload-Metadata": f"filename {b64('../../etc/passwd')}"}, 422, "cannot be the name"),
        ({"Upload-Metadata": f"filename {b64('..')}"}, 422, "cannot be the name"),
        ({"Upload-Metadata": f"filename {b64('.upload.json')}"}, 422, "cannot be the name"),
        ({"Upload-Metadata": f"filename {b64('a' + chr(0))}"}, 422, "cannot be the name"),
        ({"Upload-Metadata": f"filename {b64('C:' + chr(92) + 'x.csv')}"}, 422, "cannot be the name"),
        ({"Tus-Resumable": "0.2.2"}, 412, "is '0.2.2'; this is 1.0.0"),
        ({"Tus-Resumable": ""}, 412, "this is 1.0.0"),
    ],
)
def test_what_cannot_begin(house: House, client: TestClient, headers: dict[str, str], status: int, words: str) -> None:
    answer = begin(client, **headers)
    assert answer.status_code == status, answer.text
    assert words.lower() in answer.text.lower()
    assert answer.json()["remedy"]
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert there(house) == set()


def test_a_length_that_is_to_come_later_is_refused(house: House, client: TestClient) -> None:
    answer = client.post(TUS, headers={**VERSION, "Upload-Defer-Length": "1"})
    problem = told(answer, 422, "invalid_spec")
    assert (problem["detail"], "Upload-Length" in problem["remedy"]) == ("Upload-Defer-Length is not taken here.", True)
    assert told(client.post(TUS, headers=VERSION), 422, "invalid_spec")["detail"] == "Upload-Length is missing."
    assert there(house) == set()


def test_a_name_is_not_needed(client: TestClient) -> None:
    for metadata, name in (("", "upload"), (f"filetype {b64('text/csv')},empty", "upload"), (f"name {b64('n')}", "n")):
        headers = {**VERSION, "Upload-Length": "0", "Upload-Metadata": metadata}
        where = client.post(TUS, headers=headers).headers["location"]
        assert client.get(where.replace("/tus/", "/uploads/")).json()["name"] == name


def test_the_body_has_its_own_type_and_the_version_is_said(client: TestClient) -> None:
    where = begun(client)
    problem = told(patch(client, where, DATA, 0, **{"Content-Type": "text/csv"}), 415, "unsupported_media_type")
    assert "application/offset+octet-stream" in problem["remedy"]
    for method in ("PATCH", "DELETE", "HEAD", "POST"):
        answer = client.request(method, where, headers={**MEDIA, "Upload-Offset": "0"})
        assert (answer.status_code, answer.headers["tus-version"]) == (412, "1.0.0")
        assert answer.headers["tus-resumable"] == "1.0.0"
    assert offset(client, where) == 0


# -- the tenant's quota


@pytest.fixture
def small(tmp_path: Path) -> Iterator[House]:
    with opened_house(tmp_path, upload_quota_bytes=1000, max_upload_bytes=5000) as opened:
        yield opened


def test_a_quota_holds_for_everything_a_tenant_sends(small: House) -> None:
    with client_of(small) as client:
        assert client.put("/api/v1/uploads/a.csv", content=b"x" * 400).status_code == 201
        where = begun(client, 500)
        patch(client, where, b"y" * 10, 0)
        problem = told(begin(client, 101), 413, "too_large")
        assert problem["detail"].startswith(
            "rows.csv with 101 bytes does not fit: of your quota of 1,000 bytes uploads"
        )
        assert "take 900 already" in problem["detail"]
        assert "upload_quota_bytes" in problem["remedy"] and "uploads remove" in problem["remedy"]
        put = told(client.put("/api/v1/uploads/b.csv", content=b"x" * 101), 413, "too_large")
        assert "does not fit" in put["detail"]
        pieces = (b"z" * 60 for _ in range(2))
        told(client.put("/api/v1/uploads/c.csv", content=pieces), 413, "too_large")
        assert len([name for name in there(small) if name.endswith(".csv")]) == 2
        assert client.put("/api/v1/uploads/d.csv", content=(b"z" * 50 for _ in range(2))).status_code == 201
        told(begin(client, 1), 413, "too_large")
        before = there(small)
        with pytest.raises(TooLarge, match="does not fit"):
            uploads.Receiving(small.context, HERE, "e.csv", expected_bytes=1)
        assert there(small) == before
        # What was announced is what it may take, also after it came.
        assert patch(client, where, b"y" * 490, 10).status_code == 204
        told(begin(client, 1), 413, "too_large")
        assert client.delete(where.replace("/tus/", "/uploads/")).status_code == 204
        assert begin(client, 500).status_code == 201
        told(begin(client, 1), 413, "too_large")
    blue = Principal(name="b", tenant="blue")
    assert resumable.create(small.context, blue, "a.csv", 1000).length == 1000, "of each tenant its own"


def test_two_at_once_do_not_both_get_the_last_room(small: House) -> None:
    made: list[str] = []
    refused: list[str] = []

    def create() -> None:
        try:
            made.append(resumable.create(small.context, HERE, "a.csv", 300).id)
        except TooLarge as exc:
            refused.append(exc.message)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (3, 5)


# -- time


def test_what_is_not_finished_in_time_is_gone(house: House, client: TestClient) -> None:
    old, fresh, whole = begun(client), begun(client), begun(client)
    for where in (old, fresh, whole):
        patch(client, where, DATA[:100], 0)
    long_ago = time.time() - 86_401
    path = path_of(house, whole)
    path.write_bytes(DATA)  # As if its process had died right after the last byte.
    for each in (path, path_of(house, old)):
        os.utime(each, (long_ago, long_ago))

    def is_gone() -> None:
        told(patch(client, old, DATA[100:], 100), 410, "expired")
        assert head(client, old).status_code == 410
        assert [each["id"] for each in client.get(TUS).json()["items"] if each["id"] in old] == []

    is_gone()
    now = datetime.now(UTC)
    assert retention.sweep(house.context, now)["uploads"] == 1
    is_gone()
    assert offset(client, fresh) == 100
    assert client.get(whole.replace("/tus/", "/uploads/")).json()["sha256"] == SHA256
    assert uploads.sweep(house.context, now + timedelta(days=2), 10) == [fresh.rpartition("/")[2]]
    assert [name for name in there(house) if "unfinished" in name] == []
    uploads.sweep(house.context, now + timedelta(days=10), 10)
    assert head(client, old).status_code == 404, "one day nobody remembers"
    assert [name for name in there(house) if "expired" in name] == []


def test_a_request_that_writes_is_not_swept(house: House, client: TestClient) -> None:
    where = begun(client)
    writing = Appending(house.context, HERE, where.rpartition("/")[2], offset=0)
    writing.write(DATA[:10])
    assert uploads.sweep(house.context, datetime.now(UTC) + timedelta(days=5), 10) == []
    writing.close()
    assert uploads.sweep(house.context, datetime.now(UTC) + timedelta(days=5), 10) == [writing.id]


# -- deaths: what lies on the disk after one is all that the next process knows


def test_whoever_sees_it_first_makes_a_whole_one_an_upload(house: House, client: TestClient) -> None:
    looks: list[Callable[[str], Any]] = [
        lambda upload: head(client, f"{TUS}/{upload}"),
        lambda upload: client.get(f"/api/v1/uploads/{upload}"),
        lambda upload: uploads.path_of(house.context, HERE, upload),
        lambda upload: uploads.sweep(house.context, datetime.now(UTC), 10),
    ]
    for look in looks:
        where = begun(client)
        upload = where.rpartition("/")[2]
        path_of(house, where).write_bytes(DATA)
        look(upload)
        assert [each["sha256"] for each in client.get("/api/v1/uploads").json()["items"]] == [SHA256]
        assert client.delete(f"/api/v1/uploads/{upload}").status_code == 204


def test_bytes_whose_checksum_was_not_yet_checked_are_forgotten(house: House, client: TestClient) -> None:
    where = begun(client)
    patch(client, where, DATA[:100], 0)
    upload_id = where.rpartition("/")[2]
    dying = Appending(house.context, HERE, upload_id, offset=100, checksum=Checksum(algorithm="sha1", digest=b"x" * 20))
    dying.write(b"of these nobody knows whether they are right" * 200)
    assert dying._lock is not None
    dying._lock.unlock()  # As its process's death would.
    assert path_of(house, where).stat().st_size > 100
    assert offset(client, where) == 100
    assert client.get(TUS).json()["items"][0]["offset"] == 100
    assert patch(client, where, DATA[100:110], 100).status_code == 204
    assert (offset(client, where), path_of(house, where).stat().st_size) == (110, 110)
    # It may have died before its first byte as well.
    (path_of(house, where).parent / ".unverified").write_text("110")
    assert patch(client, where, DATA[110:120], 110).status_code == 204
    assert offset(client, where) == 120
    assert patch(client, where, DATA[120:], 120).status_code == 204
    assert client.get(where.replace("/tus/", "/uploads/")).json()["sha256"] == SHA256
    os.close(dying._fd)


def test_a_death_in_the_creation_leaves_nothing_for_long(house: House, client: TestClient) -> None:
    folder = path_of(house, begun(client)).parent
    (folder / ".announced.json").unlink()
    assert client.get(TUS).json() == {"items": []}
    assert head(client, f"{TUS}/{folder.name}").status_code == 404
    assert uploads.sweep(house.context, datetime.now(UTC), 10) == []
    assert uploads.sweep(house.context, datetime.now(UTC) + timedelta(hours=1), 10) == [folder.name]
    assert not folder.exists()


def test_a_full_disk_keeps_what_is_sure(house: House, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    where = begun(client)
    patch(client, where, DATA[:100], 0)

    def fails(fd: int) -> None:
        monkeypatch.undo()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tidemill.service.appending.os.fdatasync", fails)
    problem = told(patch(client, where, DATA[100:200], 100), 500, "output_unwritable")
    assert "No space left" in problem["detail"]
    assert path_of(house, where).read_bytes() == DATA[:100]
    assert patch(client, where, DATA[100:], 100).status_code == 204


# -- connections


@contextmanager
def sending(url: str, where: str, data: bytes, offset: int, length: int, **more: str) -> Iterator[socket.socket]:
    """A PATCH over a socket of its own that announces `length` bytes and brings `data`."""
    host, port = url.removeprefix("http://").split(":")
    lines = {**VERSION, **MEDIA, "Host": host, "Upload-Offset": str(offset), "Content-Length": str(length), **more}
    with socket.create_connection((host, int(port))) as line:
        told_lines = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        line.sendall(f"PATCH {where} HTTP/1.1\r\n{told_lines}\r\n".encode() + data)
        yield line


def until(holds: Callable[[], bool]) -> None:
    stop = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < stop, "it never came to that"
        time.sleep(0.02)


def test_what_a_broken_connection_brought_is_kept(house: House, client: TestClient) -> None:
    where = begun(client)
    with served(create_app(house.context)) as url:
        with sending(url, where, DATA[:3000], 0, len(DATA)):
            until(lambda: path_of(house, where).stat().st_size == 3000)
        assert offset(client, where) == 3000
    assert patch(client, where, DATA[3000:], 3000).status_code == 204
    assert client.get(where.replace("/tus/", "/uploads/")).json()["sha256"] == SHA256


def test_a_dead_connection_lets_the_next_one_in(house: House, client: TestClient) -> None:
    """It is open as far as the server knows, and brings nothing more: HEAD and PATCH do not wait for it."""
    where = begun(client)
    with served(create_app(house.context)) as url:
        with sending(url, where, DATA[:3000], 0, len(DATA)) as dead:
            until(lambda: path_of(house, where).stat().st_size == 3000)
            assert offset(client, where) == 3000
            assert b" 423 " in dead.recv(64)
        with sending(url, where, DATA[3000:5000], 3000, len(DATA) - 3000):
            until(lambda: path_of(house, where).stat().st_size == 5000)
            assert patch(client, where, DATA[5000:], 5000).status_code == 204, "PATCH alone does as well"
        with sending(url, begun(client), DATA[:10], 0, len(DATA)):
            until(lambda: client.get(TUS).json()["items"][0]["offset"] == 10)
            assert (
                client.delete(f"{TUS}/{client.get(TUS).json()['items'][0]['id']}", headers=VERSION).status_code == 204
            )
    assert client.get(where.replace("/tus/", "/uploads/")).json()["sha256"] == SHA256


def test_two_who_send_the_same_file_make_one_right_upload(house: House) -> None:
    """Each asks where it stands and sends a few bytes from there, again and again; none hears of the other."""
    with client_of(house) as client:
        where = begun(client)

    def send() -> None:
        with client_of(house) as mine:
            while (here := _offset_or_none(mine, where)) != len(DATA):
                if here is not None:
                    patch(mine, where, DATA[here : here + 1500], here)

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert uploads.path_of(house.context, HERE, where.rpartition("/")[2]).read_bytes() == DATA


def _offset_or_none(client: TestClient, where: str) -> int | None:
    answer = head(client, where)
    return int(answer.headers["upload-offset"]) if answer.status_code == 200 else None


def test_whoever_does_not_let_go_is_told_of(house: House, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stands still holds the lock on; it answers nothing."""
    monkeypatch.setattr(unfinished, "WAIT_SECONDS", 0.1)
    where = begun(client)
    frozen = Appending(house.context, HERE, where.rpartition("/")[2], offset=0)
    told(patch(client, where, DATA, 0), 423, "upload_busy")
    assert head(client, where).status_code == 423
    with pytest.raises(UploadBusy, match="Another request goes on"):
        frozen.write(b"thawed")
    frozen.close()
    assert patch(client, where, DATA, 0).status_code == 204


def test_a_connection_that_brings_nothing_is_given_up(
    house: House, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tus, "SILENT_SECONDS", 0.5)
    where = begun(client)
    with served(create_app(house.context)) as url, sending(url, where, DATA[:100], 0, len(DATA)) as silent:
        assert b" 408 " in silent.recv(64)
    assert offset(client, where) == 100


# -- who gets in


def test_another_tenant_and_nobody(house: House) -> None:
    _, key = house.key()
    _, viewer = house.key(Role.VIEWER)
    _, blue = house.key(Role.ADMIN, "blue")
    with client_of(house, key=key) as client:
        where = begun(client)
        patch(client, where, DATA[:100], 0)
    for other, status in ((None, 401), (viewer, 403), (blue, 404)):
        with client_of(house, key=other) as client:
            assert head(client, where).status_code == status
            assert patch(client, where, DATA[100:], 100).status_code == status
            assert client.delete(where, headers=VERSION).status_code == status
            assert begin(client).status_code == (201 if status == 404 else status)
    with client_of(house, key=key) as client:
        assert offset(client, where) == 100
        assert len(client.get(TUS).json()["items"]) == 1


def test_ids_that_lead_elsewhere(house: House, client: TestClient) -> None:
    begun(client)
    for trick in ("..%2F..%2Fhome", "upload_%2e%2e", "..", ".unfinished", "upload_0123456789abcdef%00"):
        assert head(client, f"{TUS}/{trick}").status_code in (404, 405, 422)
