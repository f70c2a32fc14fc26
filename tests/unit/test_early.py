"""Which commands begin their children's process before anything else, and with what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemill.bootstrap import early
from tidemill.bootstrap.preloads import JOB_PRELOAD, LOOKUP_PRELOAD


class Recorder:
    """Stands for an executor."""

    def __init__(self, *, preload: tuple[str, ...]) -> None:
        self.preload, self.ended = preload, list[str]()

    def kill(self) -> None:
        self.ended.append("kill")

    def close(self) -> None:
        self.ended.append("close")


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(early, "LocalExecutor", Recorder)
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TIDEMILL_SERVER", raising=False)
    monkeypatch.chdir(tmp_path)
    yield
    early.drop()


def begun(*words: str) -> tuple[str, ...] | None:
    early.begin(words)
    taken = early.taken()
    return None if taken is None else taken.preload  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    "words",
    [
        ("run", "m.txt", "in.parquet", "-o", "out"),
        ("run", "m.txt", "in.parquet", "--output", "out/"),
        ("run", "m.txt", "in.parquet", "--output=out.csv.gz"),
        ("run", "-o", "/", "m.txt", "in.parquet"),
        ("resume", "job_1"),
    ],
)
def test_a_job_here_begins_with_all_that_it_needs(words: tuple[str, ...]) -> None:
    assert begun(*words) == JOB_PRELOAD


@pytest.mark.parametrize("output", ["out", "out/", "./out.parquet", "out.csv.gz"])
def test_where_a_result_lies_little_is_imported(output: str, tmp_path: Path) -> None:
    (tmp_path / "out.manifest.json").write_text("{}")
    assert begun("run", "m.txt", "in.parquet", "-o", output) == LOOKUP_PRELOAD
    assert begun("run", "m.txt", "in.parquet", "-o", f"other/{output}") == JOB_PRELOAD


@pytest.mark.parametrize("words", [("run", "m.txt", "in.parquet"), ("run", "job.yaml"), ("run", "m.txt", "x", "-o")])
def test_what_the_words_do_not_tell_is_asked_for_later(words: tuple[str, ...]) -> None:
    assert begun(*words) == LOOKUP_PRELOAD


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("jobs", "list"),
        ("--server", "http://mill", "run", "m.txt", "in.parquet", "-o", "out"),
        ("run", "m.txt", "in.parquet", "-o", "out", "--server", "http://mill"),
        ("run", "m.txt", "in.parquet", "-o", "out", "--server=http://mill"),
        ("run", "m.txt", "in.parquet", "-o", "out", "--detach"),
        ("run", "m.txt", "in.parquet", "-o", "out", "--save", "job.yaml"),
        ("run", "--help"),
    ],
)
def test_no_other_command_begins_one(words: tuple[str, ...]) -> None:
    assert begun(*words) is None


def test_none_is_begun_where_settings_name_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("run", "m.txt", "in.parquet", "-o", "out")
    (tmp_path / "tidemill.toml").write_text('server = "http://mill"\n')
    assert begun(*words) is None
    (tmp_path / "tidemill.toml").write_text("cores = 2\n")
    assert begun(*words) == JOB_PRELOAD
    monkeypatch.setenv("TIDEMILL_SERVER", "http://mill")
    assert begun(*words) is None


def test_what_fails_here_is_left_to_whoever_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(early, "LocalExecutor", fail)
    assert begun("run", "m.txt", "in.parquet", "-o", "out") is None


def test_what_nobody_took_is_ended_and_what_was_taken_is_not() -> None:
    early.begin(["resume", "job_1"])
    first = early._begun[0]
    early.drop()
    early.begin(["resume", "job_1"])
    second = early.taken()
    early.drop()
    assert isinstance(first, Recorder) and first.ended == ["kill", "close"]
    assert isinstance(second, Recorder) and second.ended == []
