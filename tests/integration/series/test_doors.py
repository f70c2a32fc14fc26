"""Series over HTTP, by the Python client and on the command line, here and on a service."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tidemill
from tests.children import opened_here
from tests.integration.api.house import House, client_of, opened_house, served
from tests.integration.series.lake import MODEL, Lake
from tidemill.api.app import create_app
from tidemill.cli.main import app
from tidemill.domain.errors import InvalidSpec, NotAllowed, NotFound
from tidemill.domain.job import JobState
from tidemill.domain.plan import InputFile
from tidemill.service import series
from tidemill.wire.spec import JobSpec


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A service whose series `arriving` has scored its input and files of two days, one of them in two editions."""
    with opened_house(tmp_path) as opened:
        opened.model(alias="champion")
        store = opened.context.store
        opened.finish(opened.submit(), series="arriving")
        job = opened.submit(output={"path": str(tmp_path / "out")})
        lease = opened.run(job)
        assert store.series.hold_if_current(lease, "arriving") == 2
        names = ["/in/day-1/a", "/in/day-1/b", "/in/day-2/a"]
        files = [InputFile(path=name, size_bytes=10, mtime_ns=1_700_000_000_000_000_000) for name in names]
        assert store.series.add_if_current(lease, "arriving", files)
        assert store.ledger.begin_commit_if_current(lease, {"files": []}, {})
        assert store.jobs.end_if_current(lease, JobState.SUCCEEDED)
        yield opened


def test_over_http(house: House) -> None:
    with client_of(house) as client:
        (listed,) = client.get("/api/v1/series").json()["items"]
        assert (listed["name"], listed["jobs"], listed["files"], listed["holder"]) == ("arriving", 2, 4, None)
        assert client.get("/api/v1/series/arriving").json() == listed
        page = client.get("/api/v1/series/arriving/files", params={"path": "/in", "limit": 2}).json()
        assert [each["path"] for each in page["items"]] == ["/in/day-1/a", "/in/day-1/b"]
        assert page["items"][0]["modified_at"] == "2023-11-14T22:13:20Z"
        rest = client.get("/api/v1/series/arriving/files", params={"path": "/in", "after": page["next"]}).json()
        assert ([each["path"] for each in rest["items"]], rest["next"]) == (["/in/day-2/a"], None)
        forgotten = client.post("/api/v1/series/arriving/forget", json={"path": "/in/day-1/"})
        assert forgotten.json() == {"entries": 2}
        assert client.get("/api/v1/series/arriving").json()["files"] == 2
        assert client.post("/api/v1/series/arriving/forget", json={}).status_code == 422
        assert client.post("/api/v1/series/nothing/forget", json={"path": "/"}).json()["code"] == "not_found"
        said = house.context.store.audit.list()[0]
        assert (said.action, said.subject, said.detail["path"]) == ("series.forget", "arriving", "/in/day-1")


def test_by_the_client_and_on_the_command_line(house: House) -> None:
    with served(create_app(house.context)) as url, closing(tidemill.Client(url)) as client:
        assert [each.name for each in client.series.list()] == ["arriving"]
        assert [each.path for each in client.series.files("arriving", "/in", page_size=1)] == [
            "/in/day-1/a",
            "/in/day-1/b",
            "/in/day-2/a",
        ]
        assert client.series.forget("arriving", "/in/day-2/a").entries == 1
        with pytest.raises(NotFound, match="no series 'other'"):
            client.series.get("other")
        with pytest.raises(InvalidSpec):
            client.schedules.add("x", "churn@champion", "server:/in", on="new_files", every="1m", cron="0 2 * * *")
        words = {"output": f"server:{house.folder}/scores", "output_spec": {"mode": "append"}}
        added = client.schedules.add("arriving", "churn@champion", f"server:{house.input}", on="new_files", **words)
        assert added.trigger["look"]["every_seconds"] == 60
        assert added.trigger_text == "new files; looks every minute"
        _run("series", "list", "--server", url, shows=["arriving", "3", "2"])
        _run("series", "show", "arriving", "--server", url, shows=["3 files by 2 jobs"])
        _run("series", "files", "arriving", "/in", "--server", url, shows=["/in/day-1/b", "2023-11-1"])
        _run("schedules", "show", "arriving", "--server", url, shows=["new files", "3 files of the series arriving"])
        _run("series", "forget", "arriving", "--server", url, fails=["Name a file or a folder"])
        _run("series", "forget", "arriving", "--all", "--server", url)
        assert client.series.get("arriving").files == 0


def test_a_run_of_only_new_files(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(lake.folder / "home"))
    monkeypatch.setattr("tidemill.cli.commands.run.opened", opened_here)
    line = ["run", MODEL, str(lake.input), "-o", str(lake.folder / "all"), "--only-new", "--keep", "all"]
    _run(*line, shows=["nothing new"])
    lake.write("a.parquet")
    _run(*line, shows=["1 new; 0 scored before"])
    _run(*line, shows=["nothing new", "files scored before: 1"])
    assert json.loads(_run(*line, "--json"))["nothing_new"] is True
    lake.write("a.parquet", 2)
    lake.write("b.parquet")
    _run(*line, fails=["a.parquet changed", "--changed skip"])
    _run(*line, "--changed", "skip", shows=["1 new; 1 scored before"])
    assert lake.scored("all") == {("a.parquet", 1): 1, ("b.parquet", 1): 1}
    (series,) = json.loads(_run("series", "list", "--json"))
    assert series["name"].startswith("all-")
    _run("series", "forget", series["name"], str(lake.input / "b.parquet"), shows=["1 file of"])
    _run(*line[:-3], "--series", series["name"], "--mode", "overwrite", fails=["would throw away"])
    monkeypatch.setenv("TIDEMILL_HOME", str(lake.folder / "another"))
    _run(*line, fails=["this store has no record of them"])


def _run(*words: str, shows: Sequence[str] = (), fails: Sequence[str] = ()) -> str:
    """What the command printed. It showed these words, or was refused with those."""
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    if fails:
        assert isinstance(done.exception, tidemill.TidemillError), done.output
    else:
        assert done.exit_code == 0, (done.output, done.exception)
    said = " ".join(f"{done.output} {done.exception}".split())
    assert [word for word in (*shows, *fails) if word not in said] == [], said
    return done.stdout


def test_a_look_keeps_to_what_a_key_may_read(tmp_path: Path) -> None:
    with opened_house(tmp_path, data_roots=[tmp_path / "data"]) as house:
        house.model(alias="champion")
        who, _ = house.key()
        (tmp_path / "secret.parquet").write_bytes(b"PAR1")
        (house.input.parent / "link.parquet").symlink_to(tmp_path / "secret.parquet")
        words = {"path": [str(house.input.parent)], "series": "mine"}
        spec = JobSpec.model_validate({"model": "churn@champion", "input": words})
        with pytest.raises(NotAllowed):
            series.find_new(house.context, who, spec)
        (house.input.parent / "link.parquet").unlink()
        assert series.find_new(house.context, who, spec).files == 1
