"""Schedules over HTTP, by the Python client and on the command line, here and on a service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import tidemill
from tests.integration.api.house import House, client_of, opened_house, served
from tests.integration.schedules.conftest import Timed
from tidemill.api.app import create_app
from tidemill.cli.main import app
from tidemill.domain.access import Role
from tidemill.domain.errors import InvalidSpec, KeyReused, NotFound, WrongState
from tidemill.service import scheduler

BERLIN = ("--timezone", "Europe/Berlin")
CRON = {"kind": "cron", "cron": "0 2 * * *", "timezone": "Europe/Berlin"}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Timed]:
    with opened_house(tmp_path) as opened:
        opened.model(alias="champion")
        yield Timed.of(opened)


@pytest.fixture
def client(house: House) -> Iterator[TestClient]:
    with client_of(house) as opened:
        yield opened


def body(house: House, **changes: Any) -> dict[str, Any]:
    spec = {"model": "churn@champion", "input": {"path": [f"{house.folder}/data/{{{{ due - 1d | date }}}}"]}}
    return {"name": "nightly", "spec": spec, "trigger": CRON, **changes}


def test_over_http(house: Timed, client: TestClient) -> None:
    key = {"Idempotency-Key": "once"}
    added = client.post("/api/v1/schedules", json=body(house), headers=key)
    assert added.status_code == 201, added.text
    told = added.json()
    assert added.headers["Location"] == f"/api/v1/schedules/{told['id']}"
    assert (told["name"], told["timezone"], told["overlap"], told["catch_up"]) == (
        "nightly", "Europe/Berlin", "skip", "last",
    )  # fmt: skip
    assert told["next_local"].endswith(("02:00:00 CET", "02:00:00 CEST"))
    assert client.post("/api/v1/schedules", json=body(house), headers=key).json()["id"] == told["id"]
    assert client.post("/api/v1/schedules", json=body(house)).json()["code"] == "refused"
    seen = client.get("/api/v1/schedules/nightly")
    assert client.get("/api/v1/schedules/nightly", headers={"If-None-Match": seen.headers["ETag"]}).status_code == 304
    assert client.get("/api/v1/schedules").json() == {"items": [seen.json()], "next": None}
    following = client.get("/api/v1/schedules/nightly/next", params={"count": 3}).json()
    assert len(following["items"]) == 3
    paused = client.post("/api/v1/schedules/nightly/pause")
    assert paused.json()["paused"] and paused.json()["next_due"] is None
    assert client.get("/api/v1/schedules/nightly").headers["ETag"] != seen.headers["ETag"]
    assert not client.post("/api/v1/schedules/nightly/resume").json()["paused"]
    assert client.delete("/api/v1/schedules/nightly").status_code == 204
    assert client.get("/api/v1/schedules/nightly").json()["code"] == "not_found"


def test_firings_come_in_pages(house: Timed, client: TestClient) -> None:
    client.post("/api/v1/schedules", json=body(house, overlap="queue"))
    (house.folder / "data").joinpath(f"{date.today() - timedelta(days=1)}").mkdir(exist_ok=True)
    for day in range(-2, 2):
        (house.folder / "data").joinpath(f"{date.today() + timedelta(days=day)}").mkdir(exist_ok=True)
    ran = [client.post("/api/v1/schedules/nightly/run", headers={"Idempotency-Key": str(n)}).json() for n in (1, 2, 3)]
    assert [each["state"] for each in ran] == ["started", "waiting", "waiting"]
    assert client.post("/api/v1/schedules/nightly/run", headers={"Idempotency-Key": "2"}).json() == ran[1]
    first = client.get("/api/v1/schedules/nightly/firings", params={"limit": 2}).json()
    second = client.get("/api/v1/schedules/nightly/firings", params={"limit": 2, "before": first["next"]}).json()
    assert [*first["items"], *second["items"]] == ran[::-1]
    assert second["next"] is None
    assert ran[0]["job_id"] in ran[1]["reason"]["message"]


def test_a_viewer_looks_only(house: Timed, client: TestClient) -> None:
    client.post("/api/v1/schedules", json=body(house))
    _, viewer = house.key(Role.VIEWER)
    _, other = house.key(Role.ADMIN, tenant="acme")
    with client_of(house, key=viewer) as looking:
        assert looking.get("/api/v1/schedules/nightly/next").status_code == 200
        for verb in ("pause", "resume", "run"):
            assert looking.post(f"/api/v1/schedules/nightly/{verb}").status_code == 403
    with client_of(house, key=other) as stranger:
        assert stranger.get("/api/v1/schedules").json()["items"] == []
        assert stranger.post("/api/v1/schedules/nightly/pause").status_code == 404


def test_by_the_python_client(house: Timed) -> None:
    with served(create_app(house.context)) as url, closing(tidemill.Client(url)) as client:
        added = client.schedules.add(
            "nightly", "churn@champion", "server:/in/{{ due - 1d | date }}", "server:/out/{{ due | date }}",
            cron="0 2 * * *", timezone="Europe/Berlin", overlap="queue", catch_up="all", keep=["id"],
            idempotency_key="k",
        )  # fmt: skip
        assert (added.spec["input"]["path"], added.spec["keep"]) == (["/in/{{ due - 1d | date }}"], ["id"])
        assert added.warnings == []
        often = client.schedules.add("often", "churn@1", f"server:{house.input}", every="90m", timezone="Asia/Kolkata")
        assert (often.trigger_text, often.timezone) == ("every 90 minutes", "Asia/Kolkata")
        with pytest.raises(KeyReused):
            client.schedules.add("other", "churn@1", "server:/in", every="1h", idempotency_key="k")
        assert [each.name for each in client.schedules.list(page_size=1)] == ["nightly", "often"]
        assert client.schedules.get(added.id) == client.schedules.get("nightly")
        assert len(client.schedules.next("nightly", 4).items) == 4
        assert client.schedules.pause("often").paused and not client.schedules.resume("often").paused
        fired = client.schedules.run("often")
        with pytest.raises(WrongState, match=str(fired.job_id)):
            client.schedules.run("often")
        assert list(client.schedules.firings("often", page_size=1)) == [fired]
        filled = client.schedules.backfill("nightly", date(2025, 11, 3), date(2025, 11, 4), dry_run=True)
        assert [each.state for each in filled.items] == ["missing", "missing"]
        client.schedules.remove("often")
        with pytest.raises(NotFound):
            client.schedules.get("often")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"input": "data.parquet", "every": "1h"}, "reads its input anew"),
        ({"input": "server:/in", "output": "out", "every": "1h"}, "its own disk"),
        ({"input": "server:/in"}, "one trigger"),
        ({"input": "server:/in", "every": "1h", "cron": "0 2 * * *"}, "one trigger"),
        ({"input": "server:/in", "every": "soon"}, "every"),
        ({"input": "server:/in", "every": "1h", "overlap": "never"}, "overlap"),
    ],
)
def test_what_the_client_refuses(words: dict[str, Any], said: str) -> None:
    with closing(tidemill.Client("http://127.0.0.1:9")) as client, pytest.raises(InvalidSpec, match=said):
        client.schedules.add("nightly", "churn@1", **words)


class Line:
    """Commands against one store, here or through a service."""

    def __init__(self, *options: str) -> None:
        self._options = options

    def __call__(self, *words: str, fails: str = "") -> str:
        done = CliRunner().invoke(app, [*self._options, "schedules", *words])
        if fails:
            assert isinstance(done.exception, tidemill.TidemillError), done.output
            assert fails in str(done.exception)
            return str(done.exception)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout


@pytest.fixture(params=["here", "service"])
def line(request: pytest.FixtureRequest, house: Timed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    monkeypatch.setenv("TIDEMILL_HOME", str(house.folder / "home"))
    if request.param == "here":
        yield Line()
    else:
        with served(create_app(house.context)) as url:
            yield Line("--server", url)


def test_on_the_command_line(house: Timed, line: Line, request: pytest.FixtureRequest) -> None:
    on_server = "server:" if "service" in request.node.name else ""
    where = f"{on_server}{house.folder}/data/{{{{ due - 1d | date }}}}"
    words = ["add", "churn@champion", where, "--name", "nightly", "--overlap", "queue", "--catch-up", "all"]
    line(*words, fails="one trigger")
    line(*words[:3], "--every", "6h", fails="--name")
    added = line(*words, "--cron", "0 2 * * *", "--timezone", "Europe/Berlin").strip()
    assert added.startswith("sched_")
    assert "nightly" in line("list") and "02:00:00" in line("list")
    assert json.loads(line("list", "--json"))[0]["id"] == added
    assert "/data/20" in line("next", "nightly", "-n", "2")
    assert json.loads(line("pause", "nightly", "--json"))["paused"]
    line("resume", "nightly")
    filled = json.loads(line("backfill", "nightly", "--from", "2025-11-03", "--to", "2025-11-05", "--json"))
    assert filled["started"] == 3
    assert "waiting" in line("backfill", "nightly", "--from", "2025-11-03", "--to", "2025-11-05", "--dry-run")
    scheduler.tick(house.context, house.now)
    shown = line("show", "nightly")
    assert "overlap queue, catch-up all" in shown
    assert "There is no input" in shown
    line("remove", "nightly")
    line("show", "nightly", fails="no schedule")


def test_a_spec_in_a_file(house: Timed, line: Line, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    on_server = "server:" if "service" in request.node.name else ""
    path = f"{on_server}{house.input}"
    (tmp_path / "job.yaml").write_text(f"name: often\nmodel: churn@1\ninput: {{path: {path}}}\n", encoding="utf-8")
    added = json.loads(line("add", str(tmp_path / "job.yaml"), "--every", "6h", "--paused", "--json", *BERLIN))
    assert added["timezone"] == "Europe/Berlin"
    assert (added["name"], added["trigger_text"], added["paused"]) == ("often", "every 6 hours", True)
    job = line("run", "often").strip()
    assert house.context.store.jobs.get(job).name == "often"
    line("run", "often", fails=job)
