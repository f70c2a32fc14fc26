"""What is sent for a path is what a job on this machine would read, in its order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.client.inputs import SUFFIXES, local_files, route
from tidemill.domain.errors import InvalidSpec, NotFound
from tidemill.registry import sources
from tidemill.sources.listing import list_inputs
from tidemill.wire.spec import JobSpec

NAMES = (
    "b.csv", "B.CSV.GZ", "a/z.parquet", "a/_hidden.csv", "a/b/c.jsonl.zst", "a.b/x.ndjson", ".git/x.csv",
    "_old/x.csv", "notes.txt", "a/data.pq", "é.tsv", "a-1.csv",
)  # fmt: skip
SUFFIX = tuple(end for ends in SUFFIXES.values() for end in ends)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_endings_are_those_of_the_sources() -> None:
    assert {name: tuple(sources.get(name).suffixes) for name in SUFFIXES} == dict(SUFFIXES)
    assert list(SUFFIXES) == sources.names()


@pytest.mark.parametrize("path", ["", "a", "*", "*.csv", "a/*", "a/**", "**/*.csv", "[ab]*", "notes.txt", "?.csv"])
def test_files_and_order_are_those_of_a_job_here(tree: Path, path: str) -> None:
    there = [file.path for file in list_inputs([str(tree / path)], SUFFIX)]
    assert [str(file) for file in local_files(str(tree / path), SUFFIX)] == there


@pytest.mark.parametrize("path", ["gone.csv", "*.nothing", "_empty"])
def test_nothing_to_send_is_said(tree: Path, path: str) -> None:
    (tree / "_empty").mkdir()
    with pytest.raises(NotFound) as caught:
        local_files(str(tree / path), SUFFIX)
    assert "server:/" in str(caught.value.remedy)


def test_a_list_is_read_here_and_its_files_are_sent(tree: Path) -> None:
    (tree / "list.txt").write_text("# two\nb.csv\na/data.pq\nserver:/there.csv\n")
    spec = JobSpec.model_validate({"model": "m@1", "input": {"path": f"@{tree}/list.txt"}})
    routed = route(spec)
    assert [each.files for each in routed] == [(tree / "b.csv",), (tree / "a/data.pq",), ()]
    assert routed[2].there == "/there.csv"


@pytest.mark.parametrize("path, error", [("-", InvalidSpec), ("@gone.txt", NotFound)])
def test_what_cannot_be_sent_is_refused(path: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        route(JobSpec.model_validate({"model": "m@1", "input": {"path": path}}))
