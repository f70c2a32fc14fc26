"""Columns from the names of folders: which they are, of which type, and how they join a file's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.client.inputs import route
from tidemill.domain.errors import InputUnreadable, InvalidSpec
from tidemill.domain.partition import is_integer, partitions_of
from tidemill.ports.source import Source
from tidemill.sources.partitioned import open_source
from tidemill.testing.source import collect, pin, segment
from tidemill.wire.spec import JobSpec


@pytest.mark.parametrize(
    "path, values",
    [
        ("/data/year=2026/month=11/x.parquet", {"year": "2026", "month": "11"}),
        ("/data/year=2026/more/x.parquet", {}),
        ("/lr=0.1/data/year=2026/x.parquet", {"year": "2026"}),
        (
            "/d/when=2026-11-26%2012%3A00/r%C3%A9gion=S%C3%BCd/x",
            {"when": "2026-11-26 12:00", "r\u00e9gion": "S\u00fcd"},
        ),
        ("/d/a=__HIVE_DEFAULT_PARTITION__/b=/x", {"a": None, "b": ""}),
        ("/d/a=x=y/z", {"a": "x=y"}),
        ("/d/=1/x", {}),
        ("/d/x=1.csv", {}),
    ],
)
def test_values_stand_in_the_folders_right_above_a_file(path: str, values: dict[str, str | None]) -> None:
    assert list(partitions_of(path).items()) == list(values.items())


@pytest.mark.parametrize(
    "value, whole",
    [
        ("0", True),
        ("-7", True),
        ("007", True),
        (str(2**63 - 1), True),
        (str(2**63), False),
        ("1.0", False),
        ("", False),
    ],
)
def test_whole_numbers(value: str, whole: bool) -> None:
    assert is_integer(value) is whole


def tree(folder: Path, files: Mapping[str, Any], text: bool = False) -> list[Path]:
    paths = []
    for place, values in files.items():
        path = folder / place / ("x.csv" if text else "x.parquet")
        path.parent.mkdir(parents=True)
        if text:
            path.write_text("x\n" + "".join(f"{value}\n" for value in values))
        else:
            pq.write_table(pa.table({"x": values}), path)
        paths.append(path)
    return paths


def read(
    source: Source,
    path: Path,
    columns: list[str],
    types: dict[str, str] | None = None,
    options: dict[str, Any] | None = None,
) -> pa.Table:
    """As a scorer does, with what the planner settled."""
    facts = source.examine(pin(path))
    again = open_source(source.name, options or {}, None, source.partitions)
    return collect(again.read(segment(pin(path), facts), columns, types or {}, 2), 0, facts.rows).table


def test_partitions_are_whole_numbers_only_if_all_values_are(tmp_path: Path) -> None:
    paths = tree(
        tmp_path,
        {
            "y=2026/m=01/k=__HIVE_DEFAULT_PARTITION__/d=__HIVE_DEFAULT_PARTITION__": [1.0, 2.0, 3.0],
            "y=2027/m=2/k=a%20b/d=__HIVE_DEFAULT_PARTITION__": [4.0],
            "y=2028/m=x/k=7/d=__HIVE_DEFAULT_PARTITION__": [5.0],
        },
    )
    source = open_source("parquet", {}, None)
    for path in paths:
        assert source.examine(pin(path)).schema.field("y").type == pa.string()
    assert source.partitions == {"y": "int64", "m": "string", "k": "string", "d": "string"}
    table = read(source, paths[0], ["k", "y", "x", "m", "d"])
    assert table.to_pydict() == {
        "k": [None] * 3, "y": [2026] * 3, "x": [1.0, 2.0, 3.0], "m": ["01"] * 3, "d": [None] * 3,
    }  # fmt: skip
    assert read(source, paths[1], ["y", "k"]).to_pydict() == {"y": [2027], "k": ["a b"]}
    assert read(source, paths[1], []).num_columns == 0


def test_text_files_get_typed_partitions_and_named_types_win(tmp_path: Path) -> None:
    (path,) = tree(tmp_path, {"y=2026/m=01": [1.5, 2.5]}, text=True)
    source = open_source("csv", {}, None)
    source.examine(pin(path))
    table = read(source, path, ["x", "y", "m"], {"m": "double"})
    assert table.schema.types == [pa.string(), pa.int64(), pa.float64()]
    assert table.to_pydict() == {"x": ["1.5", "2.5"], "y": [2026, 2026], "m": [1.0, 1.0]}


def test_rows_that_cannot_be_read_have_no_partition_either(tmp_path: Path) -> None:
    path = tmp_path / "y=1" / "x.jsonl"
    path.parent.mkdir()
    path.write_text('{"x": 1}\nnull\n{"x": 3}\n')
    source = open_source("jsonl", {}, None)
    facts = source.examine(pin(path))
    found = collect(source.read(segment(pin(path), facts), ["y", "x"], {"x": "int64"}, 10), 0, 3)
    assert found.numbers == [0, 2] and list(found.unread) == [1]
    assert found.table.to_pydict() == {"y": [1, 1], "x": [1, 3]}


def test_a_column_that_the_file_has_too_is_refused_or_left_to_the_file(tmp_path: Path) -> None:
    (path,) = tree(tmp_path, {"x=5": [1.0]})
    with pytest.raises(InputUnreadable, match=r"x=5/x\.parquet has a column 'x'") as caught:
        open_source("parquet", {}, None).examine(pin(path))
    assert "partitions=false" in str(caught.value.remedy)
    source = open_source("parquet", {"partitions": False}, None)
    assert not source.partitions
    assert read(source, path, ["x"], options={"partitions": False}).to_pydict() == {"x": [1.0]}
    with pytest.raises(InvalidSpec, match="partitions is 'no'"):
        open_source("parquet", {"partitions": "no"}, None)


def test_files_whose_folders_hold_values_are_not_sent_without_them(tmp_path: Path) -> None:
    tree(tmp_path, {"y=2026": [1.0]})
    spec = JobSpec.model_validate({"model": "m@1", "input": {"path": str(tmp_path)}})
    with pytest.raises(InvalidSpec, match=r"y=2026"):
        route(spec)
    without = spec.input.model_copy(update={"options": {"partitions": False}})
    (routed,) = route(spec.model_copy(update={"input": without}))
    assert [path.name for path in routed.files] == ["x.parquet"]
