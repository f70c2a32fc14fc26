"""Commands as a table, and the words of a spec as options."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tidemill.bootstrap.local import LocalBackend, absolute
from tidemill.cli.backend import Backend, address
from tidemill.cli.commands.jobs import changes_of
from tidemill.cli.commands.results import _form_of, is_path
from tidemill.cli.main import COMMANDS, app
from tidemill.cli.remote import RemoteBackend
from tidemill.cli.words import build_spec, takes_spec
from tidemill.domain.errors import InvalidSpec, NotFound
from tidemill.stores.sql.store import open_store
from tidemill.testing.store import new_job, new_pin
from tidemill.wire.spec import JobSpec


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_is_there_and_helps(name: str) -> None:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    assert command.name == name
    below = getattr(command, "commands", None)
    assert (below is None) == (command.callback is not None and not COMMANDS[name].endswith(":app"))
    for each in (below or {name: command}).values():
        assert each.help and each.help[0].isupper(), each.name


def test_usage_here_is_a_table_or_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    monkeypatch.setenv("TIDEMILL_RATE_JOB", "2.5")
    with closing(open_store(tmp_path)) as store:
        store.jobs.submit(new_job("job_a", model=new_pin("churn"), owner="key_1"))
    for by, name in (("model", "churn"), ("key", "key_1")):
        told = CliRunner().invoke(app, ["usage", "--by", by])
        assert (told.exit_code, name in told.output, "2.5000 USD" in told.output) == (0, True, True), told.output
    told = CliRunner().invoke(app, ["usage", "--json", "--since", "2026-01-01"])
    (item,) = json.loads(told.output)["items"]
    assert (item["of"], item["jobs"], item["usage"]["cost"]["amount"]) == ("churn", 1, 2.5)
    told = CliRunner().invoke(app, ["usage", "--json", "--since", "2999-01-01"])
    assert json.loads(told.output)["items"] == []
    assert isinstance(CliRunner().invoke(app, ["usage", "--since", "yesterday"]).exception, InvalidSpec)


def test_a_word_that_an_option_does_not_take_is_told_without_the_librarys_words() -> None:
    told = CliRunner().invoke(app, ["jobs", "list", "--state", "done"])
    assert told.exit_code == 2
    said = " ".join(told.output.split())
    assert "Invalid value for '--state': 'done' is not one of 'queued'," in said


def test_a_command_imports_only_what_it_needs() -> None:
    code = (
        "import sys, typer; from tidemill.cli.main import app; commands = typer.main.get_command(app).commands\n"
        f"assert list(commands)[:3] == ['run', 'resume', 'submit'] and len(commands) == {len(COMMANDS)}\n"
        "commands['jobs']\n"
        "print([name for name in ('fastapi', 'sqlalchemy', 'httpx2', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("backend", [LocalBackend, RemoteBackend])
def test_both_backends_have_every_method_with_its_parameters(backend: type) -> None:
    for name, method in inspect.getmembers(Backend, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(backend, name)) == inspect.signature(method), name


def test_the_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEMILL_SERVER", raising=False)
    assert address(None) is None
    assert address("http://a") == "http://a"
    monkeypatch.setenv("TIDEMILL_SERVER", "http://b")
    assert address(None) == "http://b"
    assert address("http://a") == "http://a"
    assert address("local") is None


def spec_of(*words: str) -> JobSpec:
    """The spec that a command of one's own is given for these words."""
    seen: list[Any] = []

    @takes_spec
    def command(spec: JobSpec, extra: bool = False) -> None:
        """Try."""
        seen.extend((spec, extra))

    own = typer.Typer()
    own.command()(command)
    done = CliRunner().invoke(own, [*words, "--extra"])
    if isinstance(done.exception, InvalidSpec):
        raise done.exception
    assert done.exit_code == 0, done.output
    assert seen[1] is True
    assert isinstance(seen[0], JobSpec)
    return seen[0]


def test_words_of_a_spec() -> None:
    spec = spec_of(
        "m@1", "a.csv", "b.csv", "-o", "out", "--id", "k, l", "--label", "team=growth", "--label", "n=1",
        "--priority", "-3", "--gpus", "2", "--schema", "p=decimal128(10, 2),q=int8", "--input-option", "header=false",
    )  # fmt: skip
    assert spec.model_dump(mode="json", exclude_defaults=True, by_alias=True) == {
        "model": "m@1",
        "input": {"path": ["a.csv", "b.csv"], "options": {"header": False}},
        "output": {"path": "out"},
        "id": ["k", "l"],
        "schema": {"p": "decimal128(10, 2)", "q": "int8"},
        "compute": {"gpus": 2},
        "priority": -3,
        "labels": {"team": "growth", "n": "1"},
    }
    with pytest.raises(InvalidSpec, match="'oops' is not of the form NAME=VALUE"):
        spec_of("m@1", "a.csv", "--label", "oops")
    with pytest.raises(InvalidSpec, match="nothing to score"):
        spec_of("m@1")


def test_json_is_a_spec_or_a_model_by_its_first_word(tmp_path: Path) -> None:
    flags = {"input": {"path": ["rows.csv"]}}
    path = tmp_path / "model.json"
    for text in ('{"learner": {"attributes": {}}}', '{ "version" : [3, 2, 0], "learner": {}}'):
        path.write_text(text)
        assert build_spec(str(path), flags).model == str(path)
    for text in ('\n{"model": "m.txt", "keep": "none"}', '{"schema": {"a": "string"}, "model": "m.txt"}'):
        path.write_text(text)
        assert build_spec(str(path), flags).model == "m.txt"
    path.write_text('{"modell": 1, "keep": "none"}')
    assert build_spec(str(path), flags).model == str(path)
    path.write_text('["model"]')
    with pytest.raises(InvalidSpec, match="is not a job spec"):
        build_spec(str(path), flags)
    with pytest.raises(NotFound, match="There is no job spec"):
        build_spec(str(tmp_path / "nowhere.json"), flags)


def test_changes_of_a_clone() -> None:
    texts = ["model=churn@7", "predict.threshold=0.3", "predict.probabilities=true", "keep=[a, b]", "name="]
    assert changes_of(texts) == {
        "model": "churn@7",
        "predict": {"threshold": 0.3, "probabilities": True},
        "keep": ["a", "b"],
        "name": None,
    }
    for text in ("model", "=x", "a=[", "a=1"):
        with pytest.raises(InvalidSpec):
            changes_of([text, "a.b=2"])


def test_paths_of_this_folder_are_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)

    def of(model: str, path: str, output: str) -> tuple[str, str, str]:
        made = absolute(JobSpec.model_validate({"model": model, "input": path, "output": {"path": output}}
                                               | {"input": {"path": path}}))  # fmt: skip
        assert made.output is not None
        return made.model, made.input.path[0], made.output.path

    assert of("m.txt", "a/*.csv", "out/") == (f"{tmp_path}/m.txt", f"{tmp_path}/a/*.csv", f"{tmp_path}/out/")
    assert of("churn@3", "upload:up_1", "/out") == ("churn@3", "upload:up_1", "/out")
    assert of("mod.py:Mine", "file:///x", "o")[:2] == (f"{tmp_path}/mod.py:Mine", "/x")
    assert of("package.mod:Mine", "x", "o")[0] == "package.mod:Mine"


def test_results_are_named_by_job_or_by_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scores").mkdir()
    assert [is_path(text) for text in ("scores", "a/b", "gone.csv", "job_1jk9w3x2tq8m4c0z", "tq8m4c0z")] == [
        True, True, True, False, False
    ]  # fmt: skip
    assert [_form_of(tmp_path / name).value for name in ("a.csv", "a.jsonl", "a", "a.arrow")] == [
        "csv", "jsonl", "parquet", "arrow"
    ]  # fmt: skip
    with pytest.raises(InvalidSpec, match="which format"):
        _form_of(tmp_path / "a.xlsx")
