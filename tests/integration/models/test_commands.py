"""`tidemill models`, `keys` and `db` on this machine's own store."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from tests.children import opened_here
from tests.integration.models.conftest import code, joblib_file, lightgbm_text, sha256
from tidemill.cli.commands import db, keys, models
from tidemill.cli.commands.audit import audit
from tidemill.domain.errors import InvalidSpec, NotFound, NotTrusted, Refused, StoreUnusable


@dataclass(frozen=True, kw_only=True)
class Shell:
    """Runs commands in this process. Errors come as they are: `cli.main` turns them into words."""

    work: Path

    def __call__(self, app: typer.Typer, *words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(app, words)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done

    def json(self, app: typer.Typer, *words: str, code: int = 0) -> Any:
        return json.loads(self(app, *words, "--json", code=code).stdout)

    def put(self, name: str, data: bytes) -> str:
        (self.work / name).write_bytes(data)
        return name


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TIDEMILL_SERVER", raising=False)
    monkeypatch.setattr("tidemill.bootstrap.local.opened", opened_here)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return Shell(work=work)


def test_what_people_did_is_shown(shell: Shell) -> None:
    app = typer.Typer()
    app.command()(audit)
    assert "nothing yet" in shell(app).output
    shell(models.app, "add", "delays", shell.put("model.txt", lightgbm_text()), "--alias", "champion")
    said = shell(app).output
    assert "model.add" in said and "alias.move" in said and "delays@champion" in said
    (newest,) = shell.json(app, "-n", "1")
    assert (newest["action"], newest["subject"], newest["detail"]["new"]) == (
        "alias.move",
        "delays@champion",
        "delays@1",
    )


def test_a_model_from_file_to_alias(shell: Shell) -> None:
    assert "no models yet" in shell(models.app, "list").output
    source = shell.put("model.txt", lightgbm_text())
    said = shell(models.app, "add", "delays", source, "--alias", "champion", "--description", "how late").output
    assert "delays@1" in said and "lightgbm" in said and "champion" in said
    shown = shell(models.app, "show", "delays@champion").output
    for word in ("delays@1", "champion", sha256(lightgbm_text()), "how late", "distance", "prediction", "double"):
        assert word in shown
    assert shell.json(models.app, "show", "delays")["signature"]["flavor"] == "lightgbm"
    checked = shell.json(models.app, "check", "delays@1")
    assert (checked["intact"], checked["loads"]) == (True, True)


def test_versions_aliases_and_trust(shell: Shell) -> None:
    for number in (1, 2):
        shell(models.app, "add", "risk", shell.put("m.pkl", code(number)))
    third = shell.json(models.app, "add", "risk", shell.put("m.joblib", joblib_file(40)))
    assert (third["version"], third["trusted"]) == (3, False)
    assert "risk@3" in shell(models.app, "list").output
    versions = shell.json(models.app, "list", "risk", "--limit", "2")
    assert [version["version"] for version in versions] == [3, 2]
    said = shell.json(models.app, "alias", "risk@2", "champion")
    assert said == {"name": "risk", "alias": "champion", "version": 2}
    shell(models.app, "alias", "risk@champion", "previous")
    assert shell.json(models.app, "show", "risk@2")["aliases"] == ["champion", "previous"]
    shell(models.app, "alias", "risk", "previous", "--remove")
    assert shell.json(models.app, "show", "risk@2")["aliases"] == ["champion"]
    assert "not loaded" in shell(models.app, "check", "risk@3").output
    assert shell.json(models.app, "trust", "risk@3")["trusted"] is True
    assert "trusted" in shell(models.app, "show", "risk@3").output
    shell(models.app, "limit", "risk", "2")
    with pytest.raises(NotFound, match="risk"):
        shell(models.app, "show", "rsik@3")


def test_a_damaged_model_fails_its_check(shell: Shell) -> None:
    digest = shell.json(models.app, "add", "m", shell.put("m.pkl", code(1)))["digest"]
    stored = shell.work.parent / "home" / "models" / digest[:2] / digest / "m.pkl"
    stored.chmod(0o644)
    stored.write_bytes(code(2))
    said = shell(models.app, "check", "m@1", code=1).output
    assert "broken" in said and "add the model again" in said


@pytest.mark.parametrize(
    "words",
    [
        ("add", "m", "m.pkl", "--alias", "3"),
        ("add", "m", "m.pkl", "--environment", "gone.txt"),
        ("add", "m", "m.pkl", "--environment", "r.txt", "--python", "/usr/bin/python3"),
        ("add", "a b", "m.pkl"),
        ("alias", "m", "champion"),
        ("alias", "m@1", "champion", "--remove"),
    ],
)
def test_words_that_are_refused(shell: Shell, words: tuple[str, ...]) -> None:
    shell.put("m.pkl", code(1))
    with pytest.raises(InvalidSpec) as refused:
        shell(models.app, *words)
    assert refused.value.remedy


def test_keys_are_shown_once_and_revoked(shell: Shell) -> None:
    assert "no keys" in shell(keys.app, "list").output
    made = shell(keys.app, "add", "nightly", "--role", "viewer", "--owner", "growth", "--days", "90")
    text = made.stdout.strip()
    assert text.startswith("tm_key_") and "\n" not in text
    (key,) = shell.json(keys.app, "list")
    assert (key["name"], key["role"], key["owner"], key["revoked_at"]) == ("nightly", "viewer", "growth", None)
    assert text.split("_")[3] not in json.dumps(key)
    listed = shell(keys.app, "list").output
    assert "nightly" in listed and "valid until" in listed
    assert shell.json(keys.app, "revoke", key["id"])["revoked_at"] is not None
    assert "revoked" in shell(keys.app, "list").output
    with pytest.raises(NotFound):
        shell(keys.app, "revoke", "key_0000000000000000")


def test_the_store_is_checked_and_backed_up(shell: Shell) -> None:
    with pytest.raises(StoreUnusable, match="tidemill db upgrade"):
        shell(db.app, "check")
    assert shell.json(db.app, "upgrade")["schema"] > 0
    made = shell.json(keys.app, "add", "nightly")
    facts = shell.json(db.app, "check")
    assert facts["schema"] == facts["newest_schema"]
    assert str(shell.work.parent / "home") in facts["url"]
    assert "ok" in shell(db.app, "check").output
    assert shell.json(db.app, "upgrade")["schema"] == facts["schema"]
    copy = shell.json(db.app, "backup", "copy.db")
    assert copy["bytes"] == (shell.work / "copy.db").stat().st_size > 0
    with sqlite3.connect(shell.work / "copy.db") as connection:
        assert connection.execute("SELECT id FROM api_keys").fetchall() == [(made["id"],)]
    with pytest.raises(Refused):
        shell(db.app, "backup", "copy.db")


NUMBERED = """
class Numbered:
    inputs = ["x"]
    calls = 0

    def predict(self, batch):
        self.calls += 1
        return [float(self.calls)] * batch.num_rows
"""


def test_a_check_with_an_input(shell: Shell) -> None:
    flights = str(files("tidemill.cli") / "demo_data" / "flights.parquet")
    source = shell.put("model.txt", lightgbm_text())
    shell(models.app, "add", "delays", source, "--alias", "champion")
    for model in (source, "delays@champion", "delays"):
        found = shell.json(models.app, "check", model, flights, "--rows", "30")
        assert (found["ok"], found["defects"], found["sample"]["rows"]) == (True, [], 30)
        assert {trial["answer"] for trial in found["trials"]} == {"reference", "same"}
        assert found["claims"] == {
            "layout": "threads", "batch_invariant": True, "batch_rows": 16_384, "rows_per_chunk": 262_144
        }  # fmt: skip
    shell.put("numbered.py", NUMBERED.encode())
    shell.put("x.csv", b"x\n1\n2\n3\n")
    said = shell(models.app, "check", "numbered.py:Numbered", "x.csv", code=1).output
    for word in ("twice in one process", "other predictions", "row 0", "'prediction'", "3 rows differ", "defect"):
        assert word in said, said


def test_words_that_do_not_fit_a_check(shell: Shell) -> None:
    source = shell.put("model.txt", lightgbm_text())
    with pytest.raises(InvalidSpec, match="not in the registry"):
        shell(models.app, "check", source)
    with pytest.raises(InvalidSpec, match="belong to a check with an input"):
        shell(models.app, "check", "delays", "--features", "a,b")
    with pytest.raises(InvalidSpec, match="not on the service"):
        shell(models.app, "check", source, "x.csv", "--server", "http://127.0.0.1:1")
    code_file = shell.put("code.pkl", code(9))
    shell.put("x.csv", b"x\n1\n2\n3\n")
    with pytest.raises(NotTrusted, match="runs code"):
        shell(models.app, "check", code_file, "x.csv")
