"""`tidemill webhooks`, here and against a real `tidemill serve`."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import tidemill
from tests.integration.api.house import opened_house
from tests.integration.api.test_serve import MOST_SECONDS, serving
from tests.integration.webhooks.receivers import receiving, status
from tidemill.cli.main import app
from tidemill.domain.errors import NotFound

HOSTS = '["127.0.0.1"]'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TIDEMILL_WEBHOOK_HOSTS", HOSTS)
    return tmp_path / "home"


def said(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["webhooks", *words])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def told(*words: str, code: int = 0) -> Any:
    return json.loads(said(*words, "--json", code=code).stdout)


def test_commands_without_a_server(home: Path) -> None:
    with receiving(status(204, 500)) as receiver:
        assert "nobody is told" in said("list").stderr
        made = said("add", receiver.url, "-e", "job.failed", "--job-name", "nightly", "--label", "a=b=c")
        secret = made.stdout.strip()
        (hook,) = told("list")
        assert (hook["events"], hook["job_name"], hook["labels"]) == (["job.failed"], "nightly", {"a": "b=c"})
        assert f"tidemill webhooks test {hook['id']}" in made.stderr
        assert "jobs with name nightly, a=b=c" in said("list").stdout
        assert "answered 204" in said("test", hook["id"]).stderr
        assert receiver.requests[0].verified(secret)["type"] == "webhook.ping"
        failed = told("test", hook["id"], code=1)
        assert failed["problem"] == "It answered 500."
        assert "not delivered" in said("test", hook["id"], code=1).stderr
    assert told("rotate", hook["id"], "--overlap-hours", "1")["secret"] != secret
    assert told("disable", hook["id"])["enabled"] is False
    assert "is enabled" in said("enable", hook["id"]).stderr
    shown = told("show", hook["id"])
    assert [each["state"] for each in shown["deliveries"]] == ["given_up", "given_up", "delivered"]
    people = said("show", hook["id"])
    assert "told of job.failed of jobs with name nightly" in people.stderr
    assert "signs, too, until" in people.stderr
    assert "It answered 500." in people.stdout
    assert [each["attempts"] for each in told("deliveries", hook["id"], "-n", "2")] == [1, 1]
    assert told("remove", hook["id"]) == {"removed": hook["id"]}
    gone = CliRunner().invoke(app, ["webhooks", "show", hook["id"]])
    assert isinstance(gone.exception, NotFound)
    assert "tidemill webhooks list" in str(gone.exception)


def test_a_server_sends(tmp_path: Path, home: Path) -> None:
    with opened_house(tmp_path) as house:
        house.model()
        job = house.submit()
    with (
        receiving() as receiver,
        serving(home, "--no-jobs", TIDEMILL_WEBHOOK_HOSTS=HOSTS) as (process, url),
        tidemill.Client(url) as client,
    ):
        there = ("--server", url)
        secret = said("add", receiver.url, *there).stdout.strip()
        (hook,) = told("list", *there)
        assert "answered 204" in said("test", hook["id"], *there).stderr
        client.job(job.id).cancel()
        message = receiver.wait(2)[1].verified(secret)
        assert (message["type"], message["data"]["id"]) == ("job.cancelled", job.id)
        process.send_signal(signal.SIGTERM)
        assert process.wait(MOST_SECONDS) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
