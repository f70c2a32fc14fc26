"""A real `tidemill serve` from an empty machine: by curl, by the same command line as here, and from Python."""

from __future__ import annotations

import html
import io
import json
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import tidemill
from tests.acceptance.terminal import Said, Terminal, wait_until
from tidemill.cli.main import app
from tidemill.domain import errors

DEMO = Path(tidemill.__file__).parent / "cli" / "demo_data"
MODEL, FLIGHTS = DEMO / "model.txt", DEMO / "flights.parquet"


@dataclass(frozen=True, kw_only=True)
class Service:
    url: str
    home: Path


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One for many tests."""
    with serving(tmp_path_factory.mktemp("service")) as started:
        yield started


@contextmanager
def serving(folder: Path) -> Iterator[Service]:
    """One that was started on an empty home."""
    terminal = Terminal(folder=folder)
    terminal.work.mkdir(parents=True)
    process = terminal.start("serve", "--port", "0", TEST_SLEEP="0.3", TIDEMILL_HEARTBEAT_SECONDS="0.5")
    assert process.stdout is not None and process.stderr is not None
    try:
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, process.stderr.read()
        yield Service(url=found[0], home=terminal.home)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0


@pytest.fixture
def here(terminal: Terminal, service: Service) -> Terminal:
    """A terminal whose commands go to the service."""
    return Terminal(folder=terminal.folder, environment={"TIDEMILL_SERVER": service.url})


@pytest.fixture(scope="module")
def flights(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a local run leaves; and the service knows the model as flights@champion."""
    terminal = Terminal(folder=tmp_path_factory.mktemp("local"))
    terminal.work.mkdir()
    terminal.run(MODEL, FLIGHTS, "-o", "scores").done()
    terminal.say("models", "add", "flights", MODEL, "--alias", "champion", "--server", service.url).done()
    return terminal.work / "scores" / "part-00000.parquet"


def curl(*words: object) -> Any:
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--fail-with-body", *map(str, words)], capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout) if done.stdout else None


def test_the_first_page_says_what_to_type(terminal: Terminal, tmp_path: Path) -> None:
    """Every command that it shows, as it stands there, where a model and data lie."""
    shutil.copy(MODEL, terminal.work / "model.txt")
    (terminal.work / "customers").mkdir()
    shutil.copy(FLIGHTS, terminal.work / "customers")
    with serving(tmp_path / "service") as service:
        page = httpx2.get(service.url).text
        commands = [
            shlex.split(html.unescape(text)) for text in re.findall(r'class="command"><code>(.*?)</code>', page)
        ]
        *first, submit = [words for words in commands if "list" not in words]
        assert [words[0] for words in (*first, submit)] == ["tidemill"] * (len(first) + 1) and first
        for words in first:
            terminal.say(*words[1:]).done()
        job = terminal.say(*submit[1:]).done().out.strip()
        assert curl(f"{service.url}/api/v1/jobs/{job}?wait=60")["counts"]["predicted"] == 5_000
        assert job in httpx2.get(service.url).text


def test_four_curl_lines_give_the_bytes_of_a_local_run(service: Service, flights: Path, tmp_path: Path) -> None:
    api, got = f"{service.url}/api/v1", tmp_path / "scores.parquet"
    upload = curl("-T", FLIGHTS, f"{api}/uploads/")["input"]
    job = curl("--json", json.dumps({"model": str(MODEL), "input": {"path": upload}}), f"{api}/jobs")["id"]
    ended = curl(f"{api}/jobs/{job}?wait=60")
    curl("-o", got, f"{api}/jobs/{job}/result/download")
    assert (ended["state"], ended["counts"]["predicted"]) == ("succeeded", 5_000)
    assert got.read_bytes() == flights.read_bytes()


def test_the_same_by_the_command_line(here: Terminal, flights: Path) -> None:
    said = here.run("flights@champion", FLIGHTS, "-o", "scores").done()
    assert "done scores" in said.err and "5,000 = 5,000 predicted + 0 rejected" in said.err
    assert (here.work / "scores" / "part-00000.parquet").read_bytes() == flights.read_bytes()
    here.nothing_left("scores", "scores.manifest.json")
    assert "whole" in here.say("verify", "scores").done().err
    here.run("flights@champion", FLIGHTS, "-o", "scores").refused("scores is there already", "--mode overwrite")


def submitted(here: Terminal, *words: object) -> str:
    said = here.say("submit", *words).done()
    assert re.fullmatch(r"job_\w{16}\n", said.out)
    assert f"/api/v1/jobs/{said.out.strip()}" in said.err
    return said.out.strip()


def test_rejected_rows_come_too(here: Terminal, few: Path) -> None:
    words = ("wild:Raises", few, "-o", "out.csv", "--keep", "n")
    said = here.run(*words).done(3)
    assert "1,000 = 990 predicted + 10 rejected" in said.err
    there = {name: (here.work / name).read_bytes() for name in ("out.csv", "out.rejected.csv")}
    here.run(*words, "--mode", "overwrite", "--server", "local").done(3)
    assert (here.work / "out.csv").read_bytes() == there["out.csv"]
    now = pd.read_csv(here.work / "out.rejected.csv")
    rejected = pd.read_csv(io.BytesIO(there["out.rejected.csv"]))
    assert rejected["_row"].tolist() == now["_row"].tolist() == list(range(7, 1_000, 100))
    assert rejected["_message"].tolist() == now["_message"].tolist()
    here.nothing_left("out.csv", "out.rejected.csv", "out.manifest.json")


def test_steering_a_job(here: Terminal, service: Service, few: Path) -> None:
    job = submitted(here, "wild:Slow", few, "--rows-per-chunk", "1", "--name", "steered", "--label", "team=growth")

    def shown() -> dict[str, Any]:
        return dict(curl(f"{service.url}/api/v1/jobs/{job}"))

    wait_until(lambda: shown()["chunks_done"] >= 1)
    here.say("jobs", "wait", job, "--timeout", "0.1").stopped(1, job, "is running")
    here.say("jobs", "pause", job).done()
    assert here.say("jobs", "wait", job, "--quiet").code == 130
    paused = shown()
    assert paused["state"] == "paused" and 1 <= paused["chunks_done"] < 1_000
    listed = json.loads(here.say("jobs", "list", "--label", "team=growth", "--json").done().out)
    assert [(row["id"], row["name"], row["state"]) for row in listed] == [(job, "steered", "paused")]
    here.say("results", "head", job).refused("paused")
    assert job in here.say("jobs", "resume", job).done().out
    wait_until(lambda: shown()["chunks_done"] > paused["chunks_done"])
    here.say("jobs", "cancel", job).done()
    assert here.say("jobs", "wait", job, "--quiet").code == 1
    text = here.say("jobs", "show", job).done().out
    assert "cancelled" in text and "team=growth" in text
    here.say("jobs", "resume", job).refused("cancelled and cannot be resumed")


def test_results_of_a_submitted_job(here: Terminal, few: Path) -> None:
    said = here.say("submit", "wild:Raises", few, "--wait", "--json").done(3)
    job = json.loads(said.out)["id"]
    head = json.loads(here.say("results", "head", job, "-n", "2", "--json").done().out)
    assert [row["prediction"] for row in head] == [1.0, 2.0]
    found = json.loads(here.say("results", "get", job, "name=row 500", "--json").done().out)
    assert [row["prediction"] for row in found] == [501.0]
    here.say("results", "download", job, "-o", "all.jsonl").done()
    rows = [json.loads(line) for line in (here.work / "all.jsonl").read_text().splitlines()]
    assert len(rows) == 990 and rows[7]["prediction"] == 9.0
    here.say("results", "download", job, "-o", "bad.parquet", "--rejected").done()
    assert pq.read_table(here.work / "bad.parquet")["_row"].to_pylist() == list(range(7, 1_000, 100))
    assert "published" in here.say("jobs", "logs", job).done().out


def test_refusals_come_before_anything_is_sent(
    here: Terminal, few: Path, service: Service, flights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent() -> int:
        return len(curl(f"{service.url}/api/v1/uploads")["items"])

    before = sent()
    (here.work / "taken").mkdir()
    (here.work / "taken" / "x").write_text("precious")
    cases: list[tuple[tuple[object, ...], tuple[str, ...]]] = [
        ((MODEL, few, "-o", "out"), ("models add NAME", "on this machine")),
        (("flights@nope", FLIGHTS, "-o", "out"), ("flights", "nope")),
        (("flights@champion", FLIGHTS), ("-o", "--server local")),
        (("flights@champion", FLIGHTS, "-o", "taken", "--mode", "overwrite"), ("not published by Tidemill",)),
        (("flights@champion", FLIGHTS, "-o", "out", "--trust"), ("--trust", "--server local")),
        (("flights@champion", FLIGHTS, "-o", "out", "--detach"), ("server:/", "download the result")),
    ]
    monkeypatch.chdir(here.work)
    for words, said in cases:
        done = CliRunner().invoke(app, ["run", *map(str, words), "--server", service.url])
        assert isinstance(done.exception, errors.Refused), (words, done.exception)
        for word in said:
            assert word in str(done.exception), word
    assert sent() == before
    assert (here.work / "taken" / "x").read_text() == "precious"
    here.nothing_left("taken")


def test_nobody_answers(terminal: Terminal) -> None:
    said = terminal.say("--server", "http://127.0.0.1:1", "jobs", "list", "--json").done(1)
    told = json.loads(said.out)["error"]
    assert told["code"] == "service_unreachable" and "http://127.0.0.1:1" in told["message"]
    assert "tidemill serve" in told["remedy"]


def test_from_python(service: Service, flights: Path, tmp_path: Path) -> None:
    with tidemill.Client(service.url) as client:
        job = client.submit("flights@champion", FLIGHTS, keep=["flight"], idempotency_key="once")
        assert client.submit("flights@champion", job.last.spec["input"]["path"], keep=["flight"]).id != job.id
        states = [event.state for event in job.events()]
        assert states[0] == "queued" and states[-1] == "succeeded"
        frame = job.wait(timeout=60).to_pandas()
        assert frame["prediction"].tolist() == pq.read_table(flights)["prediction"].to_pylist()
        assert list(frame.columns) == ["flight", "prediction"]
        assert job.download(tmp_path).name == f"{job.id}.parquet"
        assert job.result.manifest["counts"]["predicted"] == 5_000
        assert len(job.look_up(flight=frame["flight"][0]).rows) >= 1
        assert job.id in [each.id for each in client.jobs(state="succeeded", model="flights")]
        with pytest.raises(errors.NotFound):
            client.job("job_0000000000000000")
        with pytest.raises(errors.WrongState):
            job.cancel()
        again = job.clone(keep="none").wait(timeout=60)
        assert again.to_arrow().column_names == ["prediction"]
        info = client.service_info()
        assert info.role == "admin" and len(info.workers) == 1


def test_a_job_of_this_machine_waits_for_a_worker(terminal: Terminal, few: Path) -> None:
    said: Said = terminal.say("submit", "wild:Good", few, "-o", "out").done()
    assert "no worker is alive" in said.err and "tidemill serve" in said.err
    (job,) = json.loads(terminal.say("jobs", "list", "--json").done().out)
    assert (job["state"], job["queue"]["reason"]) == ("queued", "no_worker")
    terminal.say("jobs", "pause", job["id"]).done()
    terminal.say("jobs", "cancel", job["id"]).done()
    terminal.nothing_left()
