"""Which files an input is, in which order, and of what format."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from tidemill.domain.errors import InputUnreadable, InvalidSpec, NotFound, UnknownFormat
from tidemill.registry import sources
from tidemill.sources.detection import detect_format
from tidemill.sources.listing import list_inputs
from tidemill.testing.source import pin


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "b/2.csv", "b/10.csv", "b/_old/1.csv", "b/.git/1.csv", "b.csv", "a/x.CSV.gz", "a/y.parquet", "a/deep/er/z.csv",
        "_SUCCESS", ".hidden.csv", "b-c/1.csv", "c[1].csv",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return tmp_path


def names(tree: Path, *paths: str, suffixes: tuple[str, ...] | None = None) -> list[str]:
    found = list(list_inputs([str(tree / path) for path in paths], suffixes))
    assert all(file.size_bytes == 1 and file.mtime_ns == os.stat(file.path).st_mtime_ns for file in found)
    return [os.path.relpath(file.path, tree) for file in found]


EVERYTHING = ["a/deep/er/z.csv", "a/x.CSV.gz", "a/y.parquet", "b-c/1.csv", "b.csv", "b/10.csv", "b/2.csv", "c[1].csv"]


def test_a_folder_is_its_visible_files_sorted_by_the_bytes_of_their_paths(tree: Path) -> None:
    assert names(tree, ".") == EVERYTHING
    assert sorted(EVERYTHING, key=os.fsencode) == EVERYTHING


def test_suffixes_choose_among_a_folders_files_whatever_their_compression(tree: Path) -> None:
    assert names(tree, ".", suffixes=(".csv",)) == [name for name in EVERYTHING if "parquet" not in name]
    assert names(tree, "a", suffixes=(".parquet", ".pq")) == ["a/y.parquet"]


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("*.csv", ["b.csv", "c[1].csv"]),
        ("b*", ["b-c/1.csv", "b.csv", "b/10.csv", "b/2.csv"]),
        ("*/*.csv", ["b-c/1.csv", "b/10.csv", "b/2.csv"]),
        ("**/*.csv", ["a/deep/er/z.csv", "b-c/1.csv", "b.csv", "b/10.csv", "b/2.csv", "c[1].csv"]),
        ("a/**", ["a/deep/er/z.csv", "a/x.CSV.gz", "a/y.parquet"]),
        ("a/**/z.csv", ["a/deep/er/z.csv"]),
        ("**/er", ["a/deep/er/z.csv"]),
        ("b/?.csv", ["b/2.csv"]),
        ("[!a]/[0-9].csv", ["b/2.csv"]),
        ("b/_*/1.csv", ["b/_old/1.csv"]),
        ("b/_old/*.csv", ["b/_old/1.csv"]),
        ("c[1].csv", ["c[1].csv"]),
    ],
)
def test_patterns(tree: Path, pattern: str, expected: list[str]) -> None:
    assert names(tree, pattern) == expected


def test_arguments_keep_their_order_and_a_file_counts_once(tree: Path) -> None:
    assert names(tree, "b.csv", "b", "b/2.csv", "a/y.parquet", "**/*.csv", ".", "b.csv") == [
        "b.csv", "b/10.csv", "b/2.csv", "a/y.parquet",
        "a/deep/er/z.csv", "b-c/1.csv", "c[1].csv", "a/x.CSV.gz",
    ]  # fmt: skip


def test_hidden_files_count_when_they_are_named(tree: Path) -> None:
    assert names(tree, "_SUCCESS", ".hidden.csv") == ["_SUCCESS", ".hidden.csv"]


def test_paths_are_absolute(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "b")
    assert [file.path for file in list_inputs(["2.csv", "../b.csv"], None)] == [
        str(tree / "b/2.csv"),
        str(tree / "b.csv"),
    ]
    monkeypatch.setenv("HOME", str(tree))
    assert [file.path for file in list_inputs(["~/b.csv"], None)] == [str(tree / "b.csv")]


def test_links_are_followed_but_not_in_circles(tree: Path) -> None:
    (tree / "b/back").symlink_to(tree)
    (tree / "b-c/link.csv").symlink_to(tree / "b.csv")
    below = ["a/deep/er/z.csv", "a/x.CSV.gz", "a/y.parquet", "b-c/1.csv", "b-c/link.csv", "b.csv", "c[1].csv"]
    assert names(tree, "b") == ["b/10.csv", "b/2.csv", *(f"b/back/{name}" for name in below)]


@pytest.mark.parametrize(
    "path, remedy",
    [
        ("b/22.csv", "Did you mean .*/b/2.csv"),
        ("bb/2.csv", "Did you mean .*/b"),
        ("zzzz", "Check the spelling"),
        ("q*.csv", "pattern"),
    ],
)
def test_what_is_not_there_gets_a_hint(tree: Path, path: str, remedy: str) -> None:
    with pytest.raises(NotFound, match=remedy):
        names(tree, path)


def test_a_folder_without_fitting_files_says_what_it_holds(tree: Path) -> None:
    with pytest.raises(NotFound, match=r"ending in \.parquet in .*/b\. It holds, for example, 10\.csv"):
        names(tree, "b", suffixes=(".parquet",))
    (tree / "none").mkdir()
    with pytest.raises(NotFound, match="no files in"):
        names(tree, "none")


def test_only_regular_files_are_taken(tree: Path) -> None:
    os.mkfifo(tree / "b/pipe.csv")
    for path in ("b/pipe.csv", "b"):
        with pytest.raises(InputUnreadable, match=r"pipe\.csv is not a regular file"):
            names(tree, path)
    with pytest.raises(InputUnreadable, match="/dev/null is not a regular file"):
        list(list_inputs(["/dev/null"], None))
    with pytest.raises(InvalidSpec):
        list(list_inputs(["s3://bucket/x.csv"], None))


def test_a_broken_link_is_named(tree: Path) -> None:
    (tree / "a/lost.csv").symlink_to(tree / "nowhere")
    with pytest.raises(InputUnreadable, match=r"a/lost\.csv"):
        names(tree, "a")


def test_a_list_stands_for_the_paths_on_its_lines(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = tree / "lists"
    lists.mkdir()
    (lists / "one.txt").write_text(f"# these\n../b/2.csv\r\n\n  {tree}/a \n../b*.csv\n../b/2.csv")
    expected = ["b.csv", "b/2.csv", "a/deep/er/z.csv", "a/x.CSV.gz", "a/y.parquet", "b/10.csv"]
    found = [os.path.relpath(file.path, tree) for file in list_inputs([
        str(tree / "b.csv"), f"@{lists}/one.txt", str(tree / "b")], None)]  # fmt: skip
    assert found == expected
    monkeypatch.chdir(tree)
    assert next(file.path for file in list_inputs(["@lists/one.txt"], (".csv",))) == str(tree / "b/2.csv")


@pytest.mark.parametrize("content", ["", "# none\n\n", "gone.csv\n"])
def test_a_list_that_leads_to_nothing_is_refused(tree: Path, content: str) -> None:
    (tree / "list.txt").write_text(content)
    with pytest.raises(NotFound, match=r"list\.txt|gone\.csv"):
        list(list_inputs([f"@{tree}/list.txt"], None))


def test_a_list_that_is_not_there_is_named(tree: Path) -> None:
    with pytest.raises(InputUnreadable, match=r"nowhere\.txt"):
        list(list_inputs([f"@{tree}/nowhere.txt"], None))


def test_memory_follows_the_largest_folder_not_the_number_of_files(tmp_path: Path) -> None:
    for folder in range(40):
        (tmp_path / f"{folder:02}").mkdir()
        for number in range(100):
            (tmp_path / f"{folder:02}" / f"{number:03}.csv").touch()
    tracemalloc.start()
    try:
        count = sum(1 for _ in list_inputs([str(tmp_path), f"{tmp_path}/**/*.csv"], (".csv",)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 4_000
    assert peak < 500_000


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("x", b"PAR1" + b"\0" * 20, "parquet"),
        ("x.csv", b"PAR1" + b"\0" * 20, "parquet"),
        ("x", b"a,b\n1,2\n", "csv"),
        ("x.parquet", b"a,b\n1,2\n", "csv"),
        ("x", b'{"a": 1}\n{"a": 2}\n', "jsonl"),
        ("x.csv", b'{"a": 1}\n{"a": 2}\n', "csv"),
        ("x.csv.gz", gzip.compress(b'{"a": 1}\n', mtime=0), "csv"),
        ("x.data", gzip.compress(b'\n\xef\xbb\xbf{"a": 1}\n'[1:], mtime=0), "jsonl"),
        ("x.zst", pa.compress(b"a,b\n1,2\n", codec="zstd", asbytes=True), "csv"),
        ("x", gzip.compress(b"a,b\n" + b"1,2\n" * 100_000, mtime=0), "csv"),
        ("x.jsonl", b"{a},b\n1,2\n", "csv"),
        ("x.csv", "a,b\n".encode("utf-16"), "csv"),
        ("x.csv", b"", "csv"),
        ("x.jsonl", b"", "jsonl"),
        ("x.parquet", b"", "parquet"),
        ("x", b"ARROW1\0\0" + b"\0" * 20, "arrow"),
        ("x.feather", b"FEA1" + b"\0" * 20, "arrow"),
        ("x.csv", b"ORC" + b"\0" * 20, "orc"),
        ("x", b"Obj\x01" + b"\0" * 20, "avro"),
        ("x.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 20, "excel"),
        ("x.csv", b"ORC,b\n1,2\n", "csv"),
        ("x.csv", b"ARROW1,b\n1,2\n", "csv"),
    ],
)
def test_the_content_tells_the_format(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert detect_format(pin(path), sources.members()) == expected


@pytest.mark.parametrize("content", [b"", b"\0\1\2\3", b"PK\x03\x04 a workbook"])
def test_an_unknown_format_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(UnknownFormat, match="/x is") as caught:
        detect_format(pin(path), sources.members())
    assert caught.value.remedy
