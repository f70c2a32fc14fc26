"""Files that are sent: whole and durable or not there, bounded, of one tenant."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import fastavro
import openpyxl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import uvicorn
from pyarrow import orc

from tests.integration.results.conftest import HERE, MODEL, STRANGER, House
from tidemill.api.app import create_app
from tidemill.domain.errors import InvalidSpec, NotFound, TooLarge
from tidemill.service import submission, uploads
from tidemill.wire.spec import JobSpec

DATA = b"n\n1\n2\n"
SHA256 = hashlib.sha256(DATA).hexdigest()


def put(house: House, name: str = "a.csv", data: Any = DATA, **headers: str) -> Any:
    return house.client.put(f"/api/v1/uploads/{name}", content=data, headers=headers)


def there(house: House) -> set[str]:
    """Every file and folder of uploads, incoming ones too."""
    root = house.context.places.uploads
    return {str(path.relative_to(root)) for path in root.rglob("*")} - {"default", "default/.incoming"}


def test_one_is_sent_listed_and_deleted(house: House) -> None:
    answer = put(house, "gr\u00fc\u00df dich.csv")
    assert answer.status_code == 201
    sent = answer.json()
    assert (sent["name"], sent["size_bytes"], sent["sha256"]) == ("gr\u00fc\u00df dich.csv", len(DATA), SHA256)
    assert sent["input"] == f"upload:{sent['id']}"
    assert answer.headers["location"] == f"/api/v1/uploads/{sent['id']}"
    path = uploads.path_of(house.context, HERE, sent["id"])
    assert path == house.context.places.uploads / "default" / sent["id"] / "gr\u00fc\u00df dich.csv"
    assert path.read_bytes() == DATA
    assert house.get(f"/uploads/{sent['id']}") == sent
    newer = put(house).json()
    page = house.get("/uploads", params={"limit": 1})
    assert (page["items"], page["next"]) == ([newer], newer["id"])
    assert sent in house.get("/uploads", params={"before": page["next"]})["items"]
    for each in (sent, newer):
        assert house.client.delete(f"/api/v1/uploads/{each['id']}").status_code == 204
        assert house.client.delete(f"/api/v1/uploads/{each['id']}").status_code == 404
    assert there(house) == set()
    with pytest.raises(NotFound, match="no upload"):
        uploads.path_of(house.context, HERE, sent["id"])


def made(write: Callable[[Path, pa.Table], object], path: Path) -> bytes:
    write(path, pa.table({"n": [1, 2, 3], "name": ["a", None, "c"]}))
    return path.read_bytes()


def write_avro(path: Path, table: pa.Table) -> None:
    fields = [{"name": "n", "type": "long"}, {"name": "name", "type": ["null", "string"]}]
    with path.open("wb") as file:
        fastavro.writer(file, {"type": "record", "name": "R", "fields": fields}, table.to_pylist())


def write_workbook(path: Path, table: pa.Table) -> None:
    book = openpyxl.Workbook()
    for row in (table.column_names, *zip(*table.to_pydict().values(), strict=True)):
        book.active.append(list(row))
    book.save(path)


@pytest.mark.parametrize(
    "name, write",
    [
        ("a.feather", lambda path, table: pyarrow.feather.write_feather(table, str(path))),
        ("a.orc", lambda path, table: orc.write_table(table, path)),
        ("a.avro", write_avro),
        ("a.xlsx", write_workbook),
    ],
)
def test_what_is_sent_is_scored_whatever_its_format(
    name: str, write: Callable[[Path, pa.Table], object], house: House, tmp_path: Path
) -> None:
    sent = put(house, name, made(write, tmp_path / name)).json()
    job = house.submit(input={"path": sent["input"]})
    assert house.finished(job)["counts"]["predicted"] == 3
    rows = house.get(f"/jobs/{job}/result/head")["rows"]
    assert [row[:2] for row in rows] == [[1, "a"], [2, None], [3, "c"]]
    assert house.client.delete(f"/api/v1/uploads/{sent['id']}").status_code == 204


def test_a_service_reads_neither_lists_nor_standard_input(house: House) -> None:
    for path in ("-", "@/etc/hosts"):
        spec = {"model": MODEL, "id": "n", "input": {"path": path}}
        answer = house.client.post("/api/v1/jobs", json=spec)
        assert answer.status_code == 422 and "standard input nor lists" in answer.json()["detail"], answer.text


def test_checksums_are_checked(house: House) -> None:
    digest = base64.b64encode(bytes.fromhex(SHA256)).decode()
    for good in ({"X-Checksum-Sha256": SHA256.upper()}, {"Repr-Digest": f"sha-256=:{digest}:"}):
        assert house.client.delete(f"/api/v1/uploads/{put(house, **good).json()['id']}").status_code == 204
    wrong = base64.b64encode(bytes(32)).decode()
    for bad in ({"X-Checksum-Sha256": "0" * 64}, {"Repr-Digest": f"sha-256=:{wrong}:"}, {"X-Checksum-Sha256": "abc"}):
        assert put(house, **bad).status_code == 422
    assert there(house) == set()


def test_too_large_is_refused_before_and_while_it_comes(house: House) -> None:
    bound = house.context.policy.max_upload_bytes
    answer = put(house, data=b"x" * (bound + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert put(house, data=(b"x" * (bound // 4) for _ in range(5))).status_code == 413
    receiving = uploads.Receiving(house.context, HERE, "a.csv")
    receiving.write(b"x" * bound)
    with pytest.raises(TooLarge, match="larger than 1,048,576 bytes"):
        receiving.write(b"x")
    receiving.close()
    assert there(house) == set()


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "a\\b", "a\nb", "", "x" * 201, "\udcff"])
def test_names_that_are_no_file_names(house: House, name: str) -> None:
    with pytest.raises(InvalidSpec, match="cannot be the name"):
        uploads.Receiving(house.context, HERE, name)
    assert there(house) == set()


def test_path_tricks_end_nowhere(house: House) -> None:
    for name in ("..%2Fescaped.csv", "%2e%2e", ".ssh", "a%00b"):
        assert put(house, name).status_code in (404, 405, 422)
    assert there(house) == set()
    assert not list(house.folder.rglob("escaped.csv"))


def test_another_tenant_sees_nothing_of_it(house: House) -> None:
    sent = put(house).json()
    for call in (uploads.get, uploads.path_of, uploads.remove):
        with pytest.raises(NotFound, match="no upload"):
            call(house.context, STRANGER, sent["id"])
    assert uploads.list_uploads(house.context, STRANGER).items == []
    spec = JobSpec.model_validate({"model": "x@1", "input": {"path": sent["input"]}})
    with pytest.raises(NotFound):
        submission.submit(house.context, STRANGER, spec)
    uploads.remove(house.context, HERE, sent["id"])


def test_what_broke_off_leaves_nothing(house: House) -> None:
    """Over a real socket: half of the announced bytes, then the connection is closed."""
    server = uvicorn.Server(uvicorn.Config(create_app(house.context), port=0, log_level="error", lifespan="off"))
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        sending = socket.create_connection(listening.getsockname())
        head = b"PUT /api/v1/uploads/a.csv HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500000\r\n\r\n"
        sending.sendall(head + b"x" * 250_000)
        wait_until(lambda: any(name.endswith("a.csv") for name in there(house)))
        sending.close()
        wait_until(lambda: there(house) == set())
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


def wait_until(holds: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def test_what_is_over_its_time_or_abandoned_is_swept(house: House) -> None:
    kept, used = put(house, "kept.csv").json(), put(house, "used.csv").json()
    broken = uploads.Receiving(house.context, HERE, "broken.csv")
    broken.write(b"half")
    made = uploads.get(house.context, HERE, kept["id"])
    assert made.expires_at is not None
    before, after = made.expires_at - timedelta(seconds=30), made.expires_at + timedelta(days=1)
    assert uploads.sweep(house.context, before, 10) == []
    path = str(uploads.path_of(house.context, HERE, used["id"]))
    assert uploads.sweep(house.context, after, 10, in_use={path}) == [kept["id"]], "what is held is on its way in"
    broken._lock.unlock()
    assert uploads.sweep(house.context, after, 10, in_use={path}) == [broken.id]
    assert [each["id"] for each in house.get("/uploads")["items"]] == [used["id"]]
    uploads.remove(house.context, HERE, used["id"])
    assert there(house) == set()


TABLE = pa.table({"n": pa.array([1, 2**60, 3], pa.int64()), "name": ["a", "b", None]})


def as_parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(TABLE, out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "form", "types", "rows"),
    [
        ("a.parquet", as_parquet(), "parquet", ["int64", "string"], [[1, "a"], [str(2**60), "b"], [3, None]]),
        ("a.csv", b"n,name\n1,a\n2,b\n3,\n", "csv", ["string"] * 2, [["1", "a"], ["2", "b"], ["3", None]]),
        ("a.jsonl.gz", gzip.compress(b'{"n":1,"name":"a"}\n' * 3, mtime=0), "jsonl", ["string"] * 2, [["1", "a"]] * 3),
        ("upload", b"n,name\n1,a\n", "csv", ["string"] * 2, [["1", "a"]]),
    ],
)
def test_a_preview_shows_what_is_in_it(
    house: House, name: str, data: bytes, form: str, types: list[str], rows: list[list[Any]]
) -> None:
    sent = put(house, name, data).json()
    seen = house.get(f"/uploads/{sent['id']}/preview")
    assert seen == {"format": form, "columns": ["n", "name"], "types": types, "rows": rows, "total_rows": len(rows)}
    assert house.get(f"/uploads/{sent['id']}/preview", params={"rows": 1})["rows"] == rows[:1]
    uploads.remove(house.context, HERE, sent["id"])


def test_of_long_text_a_preview_reads_the_beginning(house: House) -> None:
    text = b"n,name\n" + b"".join(b'%d,"some\nname"\n' % n for n in range(100_000))
    sent = put(house, "long.csv.gz", gzip.compress(text, 1)).json()
    seen = house.get(f"/uploads/{sent['id']}/preview", params={"rows": 1000})
    assert (seen["total_rows"], len(seen["rows"])) == (None, 1000)
    assert seen["rows"][999] == ["999", "some\nname"]
    uploads.remove(house.context, HERE, sent["id"])


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b"\0\1\2" * 100, "unknown_format", "a.bin is of no format that can be read."),
        (b"PAR1 and no more", "input_unreadable", "a.bin"),
        (b"a,a\n1,2\n", "input_unreadable", "a.bin has more than one column called 'a'."),
    ],
)
def test_what_cannot_be_previewed_is_said_without_places(house: House, data: bytes, code: str, words: str) -> None:
    sent = put(house, "a.bin", data).json()
    answer = house.client.get(f"/api/v1/uploads/{sent['id']}/preview")
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert words in answer.json()["detail"]
    assert str(house.folder) not in answer.text and "/tmp" not in answer.text
    with pytest.raises(NotFound):
        uploads.preview(house.context, STRANGER, sent["id"])
    uploads.remove(house.context, HERE, sent["id"])


def test_a_job_reads_what_came_in_pieces(house: House) -> None:
    data = (house.folder / "data.parquet").read_bytes()
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(data))}
    where = house.client.post("/api/v1/tus", headers=headers).headers["location"]
    headers = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
    name = f"upload:{where.rpartition('/')[2]}"
    half = len(data) // 2
    for start, piece in ((0, data[:half]), (half, data[half:])):
        answer = house.client.post("/api/v1/jobs", json={"model": MODEL, "input": {"path": name}})
        assert (answer.status_code, "There is no upload" in answer.text) == (404, True)
        answer = house.client.patch(where, content=piece, headers={**headers, "Upload-Offset": str(start)})
        assert answer.status_code == 204
    done = house.finished(house.submit(input={"path": name}, limits={"rejected": "100%"}))
    assert done["counts"]["total"] == 1_000
