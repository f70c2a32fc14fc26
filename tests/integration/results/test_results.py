"""Results through the API: downloads, heads, look-ups, retries, and their end."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from tests.integration.results.conftest import BAD, HERE, MODEL, ROWS, STRANGER, House
from tidemill.domain.errors import NotFound
from tidemill.service import jobs, results
from tidemill.wire.spec import JobSpec

GOOD = [n for n in range(ROWS) if n not in BAD]


@pytest.fixture(scope="module")
def job(house: House) -> str:
    """A finished job of four parts with 37 rejected rows."""
    job_id = house.submit()
    assert house.finished(job_id)["counts"] == {
        "total": ROWS, "predicted": ROWS - 37, "rejected": 37, "remaining": 0
    }  # fmt: skip
    return job_id


def parsed(form: str, data: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]]
    if form == "parquet":
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
    elif form == "arrow":
        rows = pa.ipc.open_file(data).read_all().to_pylist()
    elif form == "csv":
        rows = pa.csv.read_csv(io.BytesIO(data)).to_pylist()
    else:
        rows = [json.loads(line) for line in data.splitlines()]
    return rows


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl", "arrow"])
def test_every_format_holds_every_row(house: House, job: str, form: str) -> None:
    address = house.get(f"/jobs/{job}/result")["downloads"][form]
    rows = parsed(form, house.client.get(address).content)
    assert [(row["n"], row["name"], row["prediction"]) for row in rows] == [(n, f"row {n}", 2.0 * n + 1) for n in GOOD]
    address = house.get(f"/jobs/{job}/result")["rejected_downloads"][form]
    rejected = parsed(form, house.client.get(address).content)
    assert [(row["_row"], row["name"]) for row in rejected] == [(n, f"row {n}") for n in BAD]
    assert {row["_file"] for row in rejected} == {str(house.data)}


@pytest.mark.parametrize("chunk_rows", [300, "auto"])
def test_what_is_downloaded_is_what_a_run_at_home_writes(house: House, chunk_rows: Any) -> None:
    """Upload, submit, wait, download: the bytes of `tidemill run` over the same file elsewhere."""
    compute = {"rows_per_chunk": chunk_rows, "batch_rows": 64}
    sent = house.client.put("/api/v1/uploads/data.parquet", content=house.data.read_bytes())
    assert sent.status_code == 201, sent.text
    job_id = house.submit(input={"path": sent.json()["input"]}, compute=compute)
    house.finished(job_id)
    got = house.client.get(f"/api/v1/jobs/{job_id}/result/download")
    home = house.folder / f"home-{chunk_rows}.parquet"
    spec = {"model": MODEL, "id": "n", "input": {"path": str(house.data)}, "output": {"path": str(home)}}
    outcome = jobs.run(house.context, JobSpec.model_validate({**spec, "compute": compute}))
    assert outcome.manifest is not None
    assert got.content == home.read_bytes()
    if chunk_rows == "auto":
        assert got.headers["etag"] == f'"{hashlib.sha256(got.content).hexdigest()}"'
        digest = base64.b64encode(hashlib.sha256(got.content).digest()).decode()
        assert got.headers["repr-digest"] == f"sha-256=:{digest}:"


def test_ranges(house: House, job: str) -> None:
    url = f"/api/v1/jobs/{job}/result/download?format=csv"
    whole = house.client.get(url)
    data, etag = whole.content, whole.headers["etag"]
    assert whole.headers["content-length"] == str(len(data))
    assert whole.headers["content-disposition"] == f"attachment; filename*=utf-8''{job}.csv"

    def part(asked: str, **more: str) -> Any:
        return house.client.get(url, headers={"Range": asked, **more})

    for asked, start, stop in (
        ("bytes=0-9", 0, 10),
        ("bytes=100-", 100, len(data)),
        ("bytes=-7", len(data) - 7, len(data)),
        (f"bytes=5-{10**30}", 5, len(data)),
    ):
        got = part(asked)
        assert (got.status_code, got.content) == (206, data[start:stop])
        assert got.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(data)}"
        assert got.headers["content-length"] == str(stop - start)
    assert part("bytes=3-4", **{"If-Range": etag}).content == data[3:5]
    for ignored in ({"Range": "bytes=3-4", "If-Range": '"other"'}, {"Range": "rows=3-4"}, {"Range": "bytes=9-3"}):
        assert house.client.get(url, headers=ignored).content == data
    behind = part(f"bytes={len(data)}-")
    assert (behind.status_code, behind.headers["content-range"]) == (416, f"bytes */{len(data)}")
    assert behind.json()["code"] == "range_not_satisfiable"
    head = house.client.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(data)))
    assert house.client.get(url, headers={"If-None-Match": etag}).status_code == 304


def test_an_export_is_made_once(house: House, job: str) -> None:
    def make(_: int) -> tuple[int, str]:
        made = results.export(house.context, HERE, job, "arrow")
        return made.path.stat().st_ino, made.etag

    with ThreadPoolExecutor(3) as pool:
        found = set(pool.map(make, range(3)))
    assert len(found) == 1
    (inode, etag) = found.pop()
    assert make(0) == (inode, etag)
    names = {path.name for path in (house.context.places.results / job / "exports").iterdir() if path.name[0] != "."}
    assert sum(name.endswith(".arrow") and name.startswith("predictions") for name in names) == 1


def test_first_rows(house: House, job: str) -> None:
    found = house.get(f"/jobs/{job}/result/head", params={"rows": 3})
    assert (found["columns"], found["types"]) == (["n", "name", "prediction"], ["int64", "string", "double"])
    assert found["rows"] == [[n, f"row {n}", 2.0 * n + 1] for n in range(3)]
    rejected = house.get(f"/jobs/{job}/result/head", params={"rows": 1, "rejected": True})
    (row,) = (dict(zip(rejected["columns"], each, strict=True)) for each in rejected["rows"])
    assert (row["_row"], row["_stage"], row["_error"]) == (13, "predict", "ValueError")
    assert row["_message"] == "row 13 is not wanted yet"


def test_rows_by_value(house: House, job: str) -> None:
    url = f"/jobs/{job}/result/lookup"
    assert house.get(url, params={"n": "777"})["rows"] == [[777, "row 777", 1555.0]]
    assert house.get(url, params={"n": "777", "name": "row 778"})["rows"] == []
    assert house.get(url, params={"n": str(BAD[0])})["rows"] == []
    assert house.get(url, params={"prediction": "9"})["rows"] == [[4, "row 4", 9.0]]
    refused = {
        "nmae=x": (404, "Did you mean 'name'?"),
        "n=one": (422, "'one' is not int64"),
        "n=9223372036854775808": (422, "is not int64"),
        "n=1&n=2": (422, "named twice"),
        "": (422, "Nothing to look for"),
    }
    for query, (status, text) in refused.items():
        answer = house.client.get(f"/api/v1{url}?{query}")
        problem = answer.json()
        assert (answer.status_code, text in f"{problem['detail']} {problem['remedy']}") == (status, True), problem


def test_retried_rows_take_their_places(house: House) -> None:
    job_id = house.submit()
    house.finished(job_id)
    own = house.client.get(f"/api/v1/jobs/{job_id}/result/download").content
    house.flag.write_text("40")
    try:
        answer = house.client.post(f"/api/v1/jobs/{job_id}/retry")
        assert answer.status_code == 202, answer.text
        retry = answer.json()["id"]
        counts = house.finished(retry)["counts"]
    finally:
        house.flag.unlink()
    assert counts == {"total": 37, "predicted": 36, "rejected": 1, "remaining": 0}
    info = house.get(f"/jobs/{job_id}/result")
    assert info["manifest"]["counts"] == {"total": ROWS, "predicted": ROWS - 1, "rejected": 1}
    assert info["manifest"]["retries"] == [{"job_id": retry, "shown": True}]
    union = parsed("parquet", house.client.get(info["downloads"]["parquet"]).content)
    assert [(row["n"], row["prediction"]) for row in union] == [(n, 2.0 * n + 1) for n in range(ROWS) if n != 40]
    left = parsed("csv", house.client.get(info["rejected_downloads"]["csv"]).content)
    assert [(row["_row"], row["_message"]) for row in left] == [(40, "row 40 is not wanted yet")]
    head = house.get(f"/jobs/{job_id}/result/head", params={"rows": 14})
    assert [row[0] for row in head["rows"]] == [*range(14)]
    assert house.get(f"/jobs/{job_id}/result/lookup", params={"n": "13"})["rows"] == [[13, "row 13", 27.0]]
    alone = house.get(f"/jobs/{job_id}/result", params={"union": False})
    assert alone["manifest"]["counts"]["rejected"] == 37
    assert house.client.get(alone["downloads"]["parquet"]).content == own
    assert house.client.delete(f"/api/v1/jobs/{retry}/result").status_code == 204
    info = house.get(f"/jobs/{job_id}/result")
    assert info["manifest"]["counts"]["rejected"] == 37
    assert [(each["shown"], "not kept" in each["why"]) for each in info["manifest"]["retries"]] == [(False, True)]


def test_a_result_that_is_deleted_says_so(house: House) -> None:
    job_id = house.submit(name="doomed")
    house.finished(job_id)
    url = f"/api/v1/jobs/{job_id}/result"
    house.client.get(f"{url}/download?format=csv")
    assert house.client.delete(url).status_code == 204
    for path in ("", "/head", "/download", "/lookup?n=1"):
        answer = house.client.get(url + path)
        assert (answer.status_code, "not kept any more" in answer.json()["detail"]) == (404, True)
    assert not (house.context.places.results / job_id).exists()
    (entry,) = [e for e in house.context.store.audit.list() if e.action == "result.delete" and e.subject == job_id]
    assert entry.detail["name"] == "doomed"


def test_a_result_with_a_place_of_its_own(house: House) -> None:
    place = house.folder / "own.csv"
    job_id = house.submit(output={"path": str(place)})
    house.finished(job_id)
    url = f"/api/v1/jobs/{job_id}/result"
    assert house.client.get(f"{url}/download").content == place.read_bytes()
    assert house.client.get(f"{url}/lookup?n=1").status_code == 422
    assert house.client.delete(url).status_code == 409
    assert parsed("parquet", house.client.get(f"{url}/download?format=parquet").content)[0] == {
        "n": 0, "name": "row 0", "prediction": 1.0
    }  # fmt: skip
    place.unlink()
    gone = house.client.get(f"{url}/download")
    assert (gone.status_code, str(place) in gone.json()["detail"]) == (404, True)


def test_no_result_yet_and_somebody_elses(house: House, job: str) -> None:
    queued = house.submit(compute={"scorers": 1024})
    answer = house.client.get(f"/api/v1/jobs/{queued}/result")
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong_state")
    house.client.post(f"/api/v1/jobs/{queued}/cancel")
    calls: list[Callable[[], object]] = [
        lambda: results.info(house.context, STRANGER, job),
        lambda: results.head(house.context, STRANGER, job, 1),
        lambda: results.look_up(house.context, STRANGER, job, {"n": "1"}),
        lambda: results.export(house.context, STRANGER, job),
        lambda: results.delete(house.context, STRANGER, job),
    ]
    for call in calls:
        with pytest.raises(NotFound, match="no job"):
            call()
