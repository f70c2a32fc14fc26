"""What is sent for a path is what a job on this machine would read, in its order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.client.inputs import SUFFIXES, local_files
from tidemill.domain.errors import NotFound
from tidemill.registry import sources
from tidemill.sources.listing import list_inputs

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
