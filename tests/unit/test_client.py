"""The Python client against a service that answers, refuses, breaks off and comes back."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

import tidemill
from tests.unit.fake_service import JOB, Fake, broken_off, problem, ranged, served, status, stream
from tidemill.client.connection import Call, Connection
from tidemill.domain import errors
from tidemill.wire.api import ServiceInfo

INFO = {"version": "1", "jobs": {}, "workers": [], "authenticated_as": "me", "role": "admin"}
VERSION = {
    "name": "churn", "version": 3, "reference": "churn@3", "digest": "ab", "flavor": "lightgbm", "size_bytes": 4,
    "carries_code": False, "trusted": False, "aliases": [], "origin": "sent", "signature": None,
    "environment": None, "description": "", "created_at": "2026-11-22T10:00:00Z", "created_by": "me",
}  # fmt: skip
HEALTHY = Call(method="GET", path="/service")


@pytest.fixture(scope="module")
def server() -> Iterator[Fake]:
    with served(Fake()) as made:
        yield made


@pytest.fixture
def fake(server: Fake) -> Fake:
    server.forget()
    return server


@pytest.fixture
def client(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Iterator[tidemill.Client]:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with tidemill.Client(fake.url, "tm_secret") as made:
        yield made


def away(request: Request) -> Response:
    return problem(503, "store_unavailable", "The store is away.", remedy="Wait.", **{"Retry-After": "3"})


# -- addresses and errors


def test_address_and_key_come_from_settings(fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    monkeypatch.setenv("TIDEMILL_SERVER", f"{fake.url}/")
    monkeypatch.setenv("TIDEMILL_API_KEY", "tm_of_the_environment")
    fake.on("GET", "/service", INFO)
    with tidemill.Client() as client:
        assert client.url == fake.url
        assert client.service_info().authenticated_as == "me"
    assert fake.asked[0].headers["authorization"] == "Bearer tm_of_the_environment"
    monkeypatch.delenv("TIDEMILL_SERVER")
    with pytest.raises(errors.InvalidSpec, match="No service was named"):
        tidemill.Client()


@pytest.mark.parametrize("url", ["mill:8642", "ftp://mill", "http://", "", "/api"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidSpec, match="is not the address of a service"):
        Connection(url)


@pytest.mark.parametrize("url", ["http://x/tide", "http://x/tide/", "http://x/tide/api/v1"])
@pytest.mark.parametrize("path", ["/jobs/1", "/api/v1/jobs/1", "https://inside/api/v1/jobs/1"])
def test_links_hold_behind_a_proxy_with_a_prefix(url: str, path: str) -> None:
    assert Connection(url).address(path) == "http://x/tide/api/v1/jobs/1"


@pytest.mark.parametrize("code", sorted(errors.BY_CODE))
def test_a_problem_is_the_error_of_its_code(client: tidemill.Client, fake: Fake, code: str) -> None:
    fake.on("GET", f"/jobs/{JOB}", lambda request: problem(409, code, "So it is.", remedy="Do that."))
    with pytest.raises(errors.TidemillError) as caught:
        client.job(JOB)
    assert (type(caught.value), caught.value.message, caught.value.remedy) == (
        errors.BY_CODE[code],
        "So it is.",
        "Do that.",
    )


def test_faults_of_a_request_are_named(client: tidemill.Client, fake: Fake) -> None:
    body = {"title": "x", "status": 422, "detail": "Not valid.", "code": "invalid_spec", "remedy": None}
    body["errors"] = [{"where": "body.keep", "message": "no such thing"}]
    fake.on("POST", "/jobs", lambda request: JSONResponse(body, 422))
    with pytest.raises(errors.InvalidSpec, match=r"Not valid\. \(body\.keep: no such thing\)"):
        client.submit("m@1", "s3://b/x")


def test_an_answer_that_is_not_ours_is_said_to_be_one(client: tidemill.Client, fake: Fake) -> None:
    for answer in (PlainTextResponse("<h1>Bad gateway</h1>", 502), JSONResponse({"fine": True})):
        fake.on("GET", "/service", lambda request, answer=answer: answer)
        with pytest.raises(errors.ServiceUnreachable, match="not in the words of a Tidemill service"):
            client.service_info()


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    connection = Connection("http://127.0.0.1:1", sleep=pauses.append)
    with pytest.raises(errors.ServiceUnreachable, match=r"http://127\.0\.0\.1:1") as caught:
        connection.ask(ServiceInfo, HEALTHY)
    assert "TIDEMILL_SERVER" in str(caught.value.remedy)
    assert pauses == [0.2, 0.4, 0.8]
    with pytest.raises(errors.ServiceUnreachable):
        connection.ask(ServiceInfo, Call(method="POST", path="/x"))
    assert len(pauses) == 3, "what may not be repeated is not"


# -- retries


def test_a_busy_service_is_asked_again_when_it_said(fake: Fake) -> None:
    pauses: list[float] = []
    fake.on("GET", "/service", away, away, INFO)
    assert Connection(fake.url, sleep=pauses.append).ask(ServiceInfo, HEALTHY).version == "1"
    assert pauses == [3.0, 3.0]


def test_patience_has_an_end(fake: Fake) -> None:
    fake.on("GET", "/service", away)
    with pytest.raises(errors.StoreUnavailable, match="The store is away"):
        Connection(fake.url, patience_seconds=2.0, sleep=lambda seconds: None).ask(ServiceInfo, HEALTHY)
    assert len(fake.asked) == 1, "three seconds were too long"


def test_what_may_not_be_repeated_is_sent_once(client: tidemill.Client, fake: Fake) -> None:
    fake.on("GET", f"/jobs/{JOB}", status())
    job = client.job(JOB)
    fake.on("POST", f"/jobs/{JOB}/resume", away, status())
    with pytest.raises(errors.StoreUnavailable):
        job.resume()
    assert len(fake.of("POST", f"/jobs/{JOB}/resume")) == 1


def test_a_submission_is_repeated_with_the_same_key(client: tidemill.Client, fake: Fake) -> None:
    lost = broken_off(b"{}", 0)
    fake.on("POST", "/jobs", away, lost, lambda request: JSONResponse(status(), 202))
    assert client.submit("churn@champion", "s3://bucket/x/", keep=["id"]).id == JOB
    keys = [request.headers["idempotency-key"] for request in fake.of("POST", "/jobs")]
    assert len(keys) == 3 and len(set(keys)) == 1 and keys[0].startswith("auto-")
    assert [json.loads(body) for body in fake.bodies] == [
        {"model": "churn@champion", "input": {"path": ["s3://bucket/x/"]}, "keep": ["id"]}
    ] * 3
    client.submit("churn@champion", "s3://bucket/x/", idempotency_key="mine")
    assert fake.asked[-1].headers["idempotency-key"] == "mine"


@pytest.mark.parametrize("verb", ["retry", "clone"])
def test_a_copy_is_asked_for_again_with_the_same_key(client: tidemill.Client, fake: Fake, verb: str) -> None:
    fake.on("GET", f"/jobs/{JOB}", status())
    job = client.job(JOB)
    path = f"/jobs/{JOB}/{verb}"
    fake.on("POST", path, away, broken_off(b"{}", 0), lambda request: JSONResponse(status(), 202))
    getattr(job, verb)()
    keys = [request.headers["idempotency-key"] for request in fake.of("POST", path)]
    assert len(keys) == 3 and len(set(keys)) == 1 and keys[0].startswith("auto-")
    getattr(job, verb)()
    assert fake.of("POST", path)[-1].headers["idempotency-key"] != keys[0], "asked twice, wanted twice"


def test_usage_is_asked_for_by_key_and_moment(client: tidemill.Client, fake: Fake) -> None:
    fake.on("GET", "/usage", {"items": [{"of": "key_1", "jobs": 2, "predicted": 7, "rejected": 1,
                                         "usage": status()["usage"]}], "truncated": False})  # fmt: skip
    told = client.usage("key", since=datetime(2026, 11, 1, tzinfo=timezone(timedelta(hours=2))))
    assert [(each.of, each.jobs, each.usage.cost) for each in told.items] == [("key_1", 2, None)]
    query = dict(fake.asked[-1].query_params)
    assert query == {"by": "key", "since": "2026-11-01T00:00:00+02:00", "limit": "100"}


# -- uploads


def accepting(fake: Fake, *, wrong: bool = False) -> Any:
    def answer(request: Request) -> Response:
        body = fake.bodies[-1]
        digest = hashlib.sha256(b"other" if wrong else body).hexdigest()
        number = sum(each.method == "PUT" for each in fake.asked)
        return JSONResponse(
            {"id": f"up_{number}", "name": "x", "size_bytes": len(body), "sha256": digest, "expires_at": None,
             "input": f"upload:up_{number}"}
        )  # fmt: skip

    return answer


def test_local_files_are_sent_and_others_are_not(client: tidemill.Client, fake: Fake, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    files = {"b.csv": b"b" * 3_000_000, "a.parquet": b"a", "deep/c.jsonl.gz": b"c"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    for name in ("notes.txt", ".hidden.csv", "_old.csv"):
        (folder / name).write_bytes(b"no")
    for name in ("a.parquet", "b.csv", "c.jsonl.gz"):
        fake.on("PUT", f"/uploads/{name}", accepting(fake))
    fake.on("POST", "/jobs", status())
    fake.on("GET", "/models/churn/versions/3", VERSION)
    seen: list[tuple[int, int | None]] = []
    client.submit(
        "churn@3",
        [str(folder), str(folder / "b.csv"), "server:/data/x", "upload:up_9"],
        moved=lambda *m: seen.append(m),
    )
    sent = [
        (request.url.path.rpartition("/")[2], body)
        for request, body in zip(fake.asked, fake.bodies, strict=True)
        if request.method != "GET"
    ]
    assert sent[:-1] == [("a.parquet", b"a"), ("b.csv", files["b.csv"]), ("c.jsonl.gz", b"c")]
    assert json.loads(sent[-1][1])["input"]["path"] == [
        "upload:up_1", "upload:up_2", "upload:up_3", "/data/x", "upload:up_9"
    ]  # fmt: skip
    assert seen[0] == (1, 1) and seen[-2] == (3_000_000, 3_000_000)
    client.submit("churn@3", "/data/on/server", input_on_server=True)
    assert json.loads(fake.bodies[-1])["input"]["path"] == ["/data/on/server"]


def test_an_upload_is_repeated_whole(client: tidemill.Client, fake: Fake, tmp_path: Path) -> None:
    path = tmp_path / "odd name?.csv"
    path.write_bytes(b"x" * 10)
    fake.on("PUT", "/uploads/odd name?.csv", away, accepting(fake))
    assert client.upload(path).size_bytes == 10
    assert fake.bodies == [b"x" * 10] * 2


def test_other_bytes_than_were_sent_are_seen(client: tidemill.Client, fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"x")
    fake.on("PUT", "/uploads/a.csv", accepting(fake, wrong=True))
    with pytest.raises(errors.Damaged, match="arrived as other bytes"):
        client.upload(tmp_path / "a.csv")


def test_nothing_is_sent_for_a_model_that_is_not_there(client: tidemill.Client, fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"x")
    with pytest.raises(errors.NotFound):
        client.submit("churn@nope", tmp_path / "a.csv")
    assert [(request.method, request.url.path) for request in fake.asked] == [
        ("GET", "/api/v1/models/churn/versions/nope")
    ]


def test_refusals_name_the_remedy_and_send_nothing(client: tidemill.Client, fake: Fake, tmp_path: Path) -> None:
    data, model = tmp_path / "a.csv", tmp_path / "model.txt"
    data.write_bytes(b"x")
    model.write_bytes(b"tree")
    cases: list[tuple[type[errors.TidemillError], str, tuple[Any, ...]]] = [
        (errors.InvalidSpec, "tidemill models add NAME", (model, data)),
        (errors.NotFound, "server:/no/such.csv", ("m@1", "/no/such.csv")),
        (errors.NotFound, "server:/no/model.txt", ("/no/model.txt", data)),
        (errors.InvalidSpec, "download the result", ("m@1", data, tmp_path / "out")),
        (errors.InvalidSpec, "server:/...", ("m@1", "server:relative.csv")),
        (errors.NotFound, "server:/", ("m@1", [data, tmp_path / "*.parquet"])),
    ]
    for kind, remedy, words in cases:
        with pytest.raises(kind) as caught:
            client.submit(*words)
        assert remedy in str(caught.value.remedy), caught.value
    assert fake.asked == []


# -- jobs


def test_pages_are_fetched_as_they_are_needed(client: tidemill.Client, fake: Fake) -> None:
    def row(number: int) -> dict[str, Any]:
        counts = {"total": 0, "predicted": 0, "rejected": 0, "remaining": 0}
        return {"id": f"job_{number}", "name": "n", "state": "failed", "owner": "o", "model": "m",
                "counts": counts, "percent": 0, "created_at": "2026-11-22T10:00:00Z", "started_at": None,
                "finished_at": None}  # fmt: skip

    fake.on("GET", "/jobs", {"items": [row(3), row(2)], "next": "job_2"}, {"items": [row(1)], "next": None})
    found = client.jobs(state="failed", labels={"team": "growth", "a": "b"}, page_size=2)
    assert next(found).id == "job_3"
    assert len(fake.asked) == 1
    assert [job.id for job in found] == ["job_2", "job_1"]
    assert [str(request.url.query) for request in fake.asked] == [
        "state=failed&label=team%3Agrowth&label=a%3Ab&limit=2",
        "state=failed&label=team%3Agrowth&label=a%3Ab&limit=2&before=job_2",
    ]


def state_event(number: int, state: str) -> str:
    data = {"number": number, "job_id": JOB, "at": "2026-11-22T10:00:00Z", "state": state}
    return f"id: {number}\nevent: state\ndata: {json.dumps(data)}\n\n"


def progress_event(state: str, done: int) -> str:
    counts = {"total": 100, "predicted": done, "rejected": 0, "remaining": 100 - done}
    data = {"state": state, "counts": counts, "percent": done, "rows_per_second": 5.0, "eta_seconds": 1.0}
    return f"event: progress\ndata: {json.dumps(data)}\n\n"


def test_events_go_on_after_a_break(client: tidemill.Client, fake: Fake) -> None:
    fake.on("GET", f"/jobs/{JOB}", status())
    fake.on(
        "GET",
        f"/jobs/{JOB}/events",
        stream("retry: 2000\n\n", state_event(4, "queued"), state_event(7, "planning"), then_break=True),
        stream(": still here\n\n", progress_event("running", 3)),
        stream(state_event(9, "running")[:20], then_break=True),
        stream(state_event(9, "running"), state_event(12, "succeeded")),
    )
    found = [(event.number, event.state) for event in client.job(JOB).events()]
    assert found == [(4, "queued"), (7, "planning"), (9, "running"), (12, "succeeded")]
    asked = fake.of("GET", f"/jobs/{JOB}/events")
    assert [request.headers.get("last-event-id") for request in asked] == [None, "7", "7", "7"]


def test_events_of_a_job_whose_last_was_seen(client: tidemill.Client, fake: Fake) -> None:
    fake.on("GET", f"/jobs/{JOB}", status("succeeded"))
    fake.on("GET", f"/jobs/{JOB}/events", lambda request: Response(status_code=204))
    assert list(client.job(JOB).events(after=12)) == []


def test_waiting_tells_of_progress(client: tidemill.Client, fake: Fake) -> None:
    place = {"place": 2, "reason": "behind", "detail": "1 job comes first."}
    done = {"total": 100, "predicted": 100, "rejected": 0, "remaining": 0}
    fake.on("GET", f"/jobs/{JOB}", status(queue=place), status(queue=place), status("succeeded", counts=done))
    fake.on(
        "GET",
        f"/jobs/{JOB}/events",
        stream(state_event(1, "queued"), progress_event("queued", 0), progress_event("running", 40),
               state_event(2, "succeeded")),
    )  # fmt: skip
    told: list[tuple[str, int, bool]] = []
    job = client.job(JOB)
    assert job.wait(tell=lambda now: told.append((now.state, now.counts.predicted, now.queue is not None))) is job
    assert told == [("queued", 0, True), ("queued", 0, False), ("running", 40, False), ("succeeded", 100, False)]
    assert repr(job) == f"Job('{JOB}', 'succeeded', '100 = 100 predicted + 0 rejected')"


def test_waiting_survives_a_restart(client: tidemill.Client, fake: Fake) -> None:
    fake.on("GET", f"/jobs/{JOB}", status(), status("running"), away, status("running"), status("succeeded"))
    fake.on("GET", f"/jobs/{JOB}/events", stream(progress_event("running", 1), then_break=True), stream())
    assert client.job(JOB).wait().last.state == "succeeded"


def test_how_a_job_ends_is_how_waiting_ends(client: tidemill.Client, fake: Fake) -> None:
    failure = {"code": "too_many_rejected", "message": "450 rows.", "remedy": "Raise it."}
    cases: list[tuple[dict[str, Any], type[errors.TidemillError], str]] = [
        (status("failed", error=failure), errors.TooManyRejected, "450 rows. Raise it."),
        (status("cancelled"), errors.Stopped, "was cancelled"),
        (status("paused"), errors.Stopped, "is paused"),
    ]
    for answer, kind, words in cases:
        fake.on("GET", f"/jobs/{JOB}", answer)
        with pytest.raises(kind, match=words):
            client.job(JOB).wait()
    fake.on("GET", f"/jobs/{JOB}", status("running"))
    fake.on("GET", f"/jobs/{JOB}/events", stream())
    with pytest.raises(errors.StillRunning, match=f"{JOB} is running after 0.05 seconds"):
        client.job(JOB).wait(0.05)


def test_a_notebook_shows_the_job_as_it_stands(client: tidemill.Client, fake: Fake) -> None:
    fake.on("GET", f"/jobs/{JOB}", status(), status("running", name="<b>"))
    job = client.job(JOB)
    shown = job._repr_html_()
    assert "running" in shown and "&lt;b&gt;" in shown and "<b>" not in shown
    fake.on("GET", f"/jobs/{JOB}", lambda request: problem(401, "not_authenticated", "No key."))
    assert "as last seen; No key." in job._repr_html_()


# -- results


def offer(fake: Fake, data: bytes, **ranges: Any) -> None:
    fake.on("GET", f"/jobs/{JOB}", status("succeeded"))
    address = f"/api/v1/jobs/{JOB}/result/download?format="
    forms = {form: f"{address}{form}" for form in ("parquet", "csv")}
    info = {"manifest": {}, "downloads": forms, "rejected_downloads": {}, "expires_at": None}
    fake.on("GET", f"/jobs/{JOB}/result", info)
    fake.on("GET", f"/jobs/{JOB}/result/download", ranged(data, **ranges))


DATA = bytes(range(256)) * 1000


def test_a_download_that_breaks_off_is_taken_up_again(client: tidemill.Client, fake: Fake, tmp_path: Path) -> None:
    offer(fake, DATA, most=100_000)
    path = client.job(JOB).download(tmp_path / "out.csv", "csv")
    assert path.read_bytes() == DATA
    asked = fake.of("GET", f"/jobs/{JOB}/result/download")
    starts = [request.headers.get("range") for request in asked]
    assert starts[0] is None and len(starts) >= 3 and all(start.startswith("bytes=") for start in starts[1:] if start)
    assert all(request.url.query == "format=csv" for request in asked)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]


def test_what_an_earlier_process_left_is_gone_on_with(client: tidemill.Client, fake: Fake, tmp_path: Path) -> None:
    etag = f'"{hashlib.sha256(DATA).hexdigest()}"'
    for left, noted, start in ((DATA[:5000], etag, 4999), (DATA, etag, len(DATA) - 1), (b"old" * 900, '"old"', 0)):
        offer(fake, DATA)
        (tmp_path / ".out.csv.part").write_bytes(left)
        (tmp_path / ".out.csv.part.json").write_text(json.dumps({"etag": noted}))
        path = client.job(JOB).download(tmp_path / "out.csv", "csv", overwrite=True)
        assert path.read_bytes() == DATA
        wanted = fake.of("GET", f"/jobs/{JOB}/result/download")[-1].headers.get("range")
        assert wanted == f"bytes={start or len(left) - 1}-"
        assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]


def test_a_range_that_holds_less_than_was_asked_for_is_not_the_end(
    client: tidemill.Client, fake: Fake, tmp_path: Path
) -> None:
    offer(fake, DATA)
    headers = {"ETag": '"a"', "Content-Range": f"bytes 4999-9999/{len(DATA)}"}
    short = Response(DATA[4999:10_000], status_code=206, headers=headers)
    rest = {"ETag": '"a"', "Content-Range": f"bytes 9999-{len(DATA) - 1}/{len(DATA)}"}
    long = Response(DATA[9999:], status_code=206, headers=rest)
    fake.on("GET", f"/jobs/{JOB}/result/download", lambda request: short, lambda request: long)
    (tmp_path / ".out.csv.part").write_bytes(DATA[:5000])
    (tmp_path / ".out.csv.part.json").write_text(json.dumps({"etag": '"a"'}))
    assert client.job(JOB).download(tmp_path / "out.csv", "csv").read_bytes() == DATA


def test_a_download_that_never_goes_on_is_given_up(client: tidemill.Client, fake: Fake, tmp_path: Path) -> None:
    offer(fake, DATA)
    fake.on("GET", f"/jobs/{JOB}/result/download", broken_off(DATA, 0, ETag='"x"'))
    with pytest.raises(errors.ServiceUnreachable):
        client.job(JOB).download(tmp_path / "out.csv", "csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_download_of_other_bytes_is_seen(client: tidemill.Client, fake: Fake, tmp_path: Path) -> None:
    offer(fake, DATA)
    digest = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    wrong = {"Repr-Digest": f"sha-256=:{digest}:", "ETag": '"a"'}
    fake.on("GET", f"/jobs/{JOB}/result/download", lambda request: Response(DATA, headers=wrong))
    with pytest.raises(errors.Damaged, match="other bytes than the service sent"):
        client.job(JOB).download(tmp_path / "out.csv", "csv")
    assert not (tmp_path / "out.csv").exists() and not (tmp_path / ".out.csv.part").exists()
    right = {"Repr-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(DATA).digest()).decode()}:"}
    fake.on("GET", f"/jobs/{JOB}/result/download", lambda request: Response(DATA, headers=right))
    assert client.job(JOB).download(tmp_path / "out.csv", "csv").read_bytes() == DATA


def test_a_download_replaces_nothing_unasked(client: tidemill.Client, fake: Fake, tmp_path: Path) -> None:
    offer(fake, DATA)
    job, path = client.job(JOB), tmp_path / "out.csv"
    path.write_text("precious")
    with pytest.raises(errors.OutputExists):
        job.download(path, "csv")
    assert path.read_text() == "precious"
    job.download(path, "csv", overwrite=True)
    assert path.read_bytes() == DATA
    assert job.download(tmp_path, "csv").name == f"{JOB}.csv"
    with pytest.raises(errors.InvalidSpec, match="offers no predictions as 'arrow'") as caught:
        job.download(tmp_path / "x.arrow", "arrow")
    assert "parquet, csv" in str(caught.value.remedy)


def test_results_as_tables(client: tidemill.Client, fake: Fake) -> None:
    table = pa.table({"id": [1, 2, 3], "prediction": [0.5, 1.5, 2.5]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    offer(fake, buffer.getvalue())
    job = client.job(JOB)
    assert job.to_arrow().equals(table)
    assert job.to_pandas()["prediction"].tolist() == [0.5, 1.5, 2.5]
    assert job.to_polars()["id"].to_list() == [1, 2, 3]


def test_a_library_that_is_not_there(client: tidemill.Client, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(fake, DATA)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(errors.MissingExtra, match="This needs polars") as caught:
        client.job(JOB).to_polars()
    assert caught.value.remedy == "Run: pip install polars"


# -- models, keys


def test_models_and_keys(client: tidemill.Client, fake: Fake, tmp_path: Path) -> None:
    path = tmp_path / "model.txt"
    path.write_bytes(b"tree")
    fake.on("PUT", "/models/churn/versions", lambda request: JSONResponse(VERSION, 201))
    assert client.models.add("churn", path, aliases=["a", "b"]).version == 3
    assert str(fake.asked[-1].url.query) == "filename=model.txt&alias=a&alias=b"
    assert fake.bodies[-1] == b"tree"
    fake.on("POST", "/models/churn/versions", lambda request: JSONResponse(VERSION, 201))
    client.models.add("churn", "server:/models/m.txt")
    assert json.loads(fake.bodies[-1])["source"] == "/models/m.txt"
    with pytest.raises(errors.InvalidSpec, match="is a folder"):
        client.models.add("churn", tmp_path)
    fake.on("GET", "/models/churn/versions/latest", VERSION)
    assert client.models.get("churn").reference == "churn@3"
    fake.on("PUT", "/models/churn/aliases/champion", VERSION)
    client.models.alias("churn", "champion", 3)
    fake.on("DELETE", "/models/churn/aliases/champion", lambda request: Response(status_code=204))
    client.models.alias("churn", "champion", None)
    key = {"id": "key_1", "name": "ci", "tenant": "default", "role": "viewer", "owner": "", "max_running": None,
           "requests_per_minute": None, "created_at": "2026-11-22T10:00:00Z", "expires_at": None, "revoked_at": None,
           "last_used_at": None}  # fmt: skip
    fake.on("POST", "/keys", lambda request: JSONResponse({**key, "key": "tm_x"}, 201))
    assert client.keys.add("ci", role="viewer").key == "tm_x"
    fake.on("GET", "/keys", {"items": [key]})
    assert [each.id for each in client.keys.list()] == ["key_1"]
    fake.on("POST", "/keys/key_1/revoke", key)
    assert client.keys.revoke("key_1").id == "key_1"


def test_health_needs_no_good_news(client: tidemill.Client, fake: Fake) -> None:
    ill = {"status": "unavailable", "version": "1", "detail": "The store is away."}
    fake.on("GET", "/health", lambda request: JSONResponse(ill, 503))
    assert client.health().detail == "The store is away."


def test_the_client_is_imported_only_when_it_is_asked_for() -> None:
    code = "import sys, tidemill; a = 'httpx2' in sys.modules; tidemill.Client; print(a, 'httpx2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
