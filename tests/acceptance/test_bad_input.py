"""Files that are no good: a paragraph that says which, where and what to do, or rejected rows."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.acceptance.terminal import Said, Terminal

GOOD_ROWS = 500


def score(terminal: Terminal, *inputs: object, model: str = "wild:OnlyX", watch: bool = False) -> Said:
    return terminal.run(model, *inputs, "-o", "out", watch=watch)


def score_as_anybody(terminal: Terminal, *inputs: object) -> Said:
    """Without root's right to read what nobody may read."""
    drop = "-dac_override,-dac_read_search"
    prefix = ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}"] if os.getuid() == 0 else []
    command = [*prefix, sys.executable, "-m", "tidemill", "run", "wild:OnlyX", *map(str, inputs), "-o", "out"]
    done = subprocess.run(command, cwd=terminal.work, env=terminal.environ({}), capture_output=True, text=True)
    return Said(code=done.returncode, out=done.stdout, err=done.stderr)


def rejected(terminal: Terminal) -> list[dict[str, object]]:
    return list(pq.read_table(terminal.work / "out.rejected").to_pylist())


def predicted(terminal: Terminal) -> list[float]:
    return list(pq.read_table(terminal.work / "out")["prediction"].to_pylist())


def csv_lines(rows: int = GOOD_ROWS) -> list[bytes]:
    return [b"k,x", *(b"%d,%d.5" % (k, k) for k in range(rows))]


def write(terminal: Terminal, name: str, data: bytes) -> Path:
    path = terminal.folder / name
    path.write_bytes(data)
    return path


def values(rows: list[int]) -> list[float]:
    return [2 * (k + 0.5) + 1 for k in rows]


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.parquet"])
def test_an_empty_file(terminal: Terminal, name: str) -> None:
    path = write(terminal, name, b"")
    said = score(terminal, path)
    said.stopped(said.code, "empty")
    assert said.code in (1, 2)
    terminal.nothing_left()


def test_a_header_and_no_row(terminal: Terminal) -> None:
    said = score(terminal, write(terminal, "in.csv", b"k,x\n")).done()
    assert "0 = 0 predicted + 0 rejected" in said.err
    table = pq.read_table(terminal.work / "out")
    assert (table.num_rows, table.schema.names) == (0, ["k", "prediction"])


def test_parquet_without_rows(terminal: Terminal) -> None:
    path = terminal.folder / "in.parquet"
    pq.write_table(pa.table({"x": pa.array([], pa.float64()), "k": pa.array([], pa.int64())}), path)
    score(terminal, path).done()
    table = pq.read_table(terminal.work / "out")
    assert table.schema.field("k").type == pa.int64() and table.num_rows == 0


@pytest.mark.parametrize("keep", [0.5, 0.95])
def test_parquet_that_was_cut_off(terminal: Terminal, few: Path, keep: float) -> None:
    data = few.read_bytes()
    path = write(terminal, "cut.parquet", data[: int(len(data) * keep)])
    score(terminal, path).stopped(1, str(path))
    terminal.nothing_left()


def test_gzip_that_was_cut_off(terminal: Terminal) -> None:
    data = gzip.compress(b"\n".join(csv_lines(50_000)))
    path = write(terminal, "cut.csv.gz", data[: len(data) // 2])
    score(terminal, path).stopped(1, str(path), "gzip")
    terminal.nothing_left()


def test_parquet_with_damaged_pages_rejects_or_names_the_file(terminal: Terminal) -> None:
    path = terminal.folder / "in.parquet"
    rng = np.random.default_rng(3)
    pq.write_table(pa.table({"x": rng.random(40_000)}), path, row_group_size=10_000, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    for k in range(100_000, 100_400):
        data[k] ^= 0x5A
    path.write_bytes(data)
    said = score(terminal, path)
    if said.code == 1:
        said.stopped(1, str(path))
        assert not (terminal.work / "out").exists()
    else:
        said.done(3)
        assert len(predicted(terminal)) + len(rejected(terminal)) == 40_000


def test_utf16_text(terminal: Terminal) -> None:
    path = write(terminal, "in.csv", "\n".join(line.decode() for line in csv_lines()).encode("utf-16"))
    said = score(terminal, path)
    said.stopped(said.code, str(path), "encoding")
    assert said.code in (1, 2)


def test_latin1_rows_among_utf8(terminal: Terminal) -> None:
    lines = csv_lines()
    lines[10] = "Zo\u00eb,9.5".encode("latin-1")
    path = write(terminal, "in.csv", b"\n".join(lines))
    score(terminal, path).done(3)
    (bad,) = rejected(terminal)
    assert (bad["_file"], bad["_row"], bad["_stage"]) == (str(path), 9, "read")
    assert "encoding" in str(bad["_message"])
    assert predicted(terminal) == values([k for k in range(GOOD_ROWS) if k != 9])


def test_ragged_rows(terminal: Terminal) -> None:
    lines = csv_lines()
    lines[101] += b",too,much"
    lines[301] = b"short"
    path = write(terminal, "in.csv", b"\n".join(lines))
    score(terminal, path).done(3)
    assert [(row["_row"], row["_stage"]) for row in rejected(terminal)] == [(100, "read"), (300, "read")]
    assert "short" in str(rejected(terminal)[1]["_raw"])
    assert predicted(terminal) == values([k for k in range(GOOD_ROWS) if k not in (100, 300)])


def test_a_quote_that_is_never_closed(terminal: Terminal) -> None:
    """After 64 MB the reader gives up on the quote: its line is rejected, the next one is a row again."""
    fillers = 1_000_000 if os.environ.get("TIDEMILL_TEST_LONG") else 90_000  # A gigabyte, or enough to give up.
    path = terminal.folder / "in.csv"
    with path.open("wb") as file:
        file.write(b"\n".join(csv_lines()[:401]) + b'\n"open,9\n')
        for _ in range(fillers):
            file.write(b"f" * 1_000 + b",1\n")
    said = score(terminal, path, watch=True).done(3)
    (bad,) = rejected(terminal)
    assert (bad["_row"], bad["_stage"]) == (400, "read")
    assert "quote" in str(bad["_message"])
    assert predicted(terminal) == [*values([*range(400)]), *[3.0] * fillers]
    assert 0 < said.peak_kb < 1_500_000, said.peak_kb


def test_json_that_is_100_000_deep(terminal: Terminal) -> None:
    deep = b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    lines = [b'{"x": %d.5}' % k for k in range(50)]
    path = write(terminal, "in.jsonl", b"\n".join([*lines, deep, *lines]))
    score(terminal, path).done(3)
    (bad,) = rejected(terminal)
    assert (bad["_row"], bad["_stage"]) == (50, "read")
    assert predicted(terminal) == values([*range(50), *range(50)])


def test_the_json_text_null(terminal: Terminal) -> None:
    lines = [b'{"x": %d.5}' % k for k in range(20)]
    lines[5] = b"null"
    lines[6] = b"[1, 2]"
    lines[7] = b'{"x": 1,,}'
    lines[8] = b'{"x": "\xff\xfe"}'
    path = write(terminal, "in.jsonl", b"\n".join(lines))
    score(terminal, path).done(3)
    assert [row["_row"] for row in rejected(terminal)] == [5, 6, 7, 8]
    assert {row["_stage"] for row in rejected(terminal)} == {"read"}
    assert predicted(terminal) == values([k for k in range(20) if k not in (5, 6, 7, 8)])


def test_a_file_that_is_only_null(terminal: Terminal) -> None:
    path = write(terminal, "in.jsonl", b"null")
    said = score(terminal, path)
    said.stopped(said.code)
    assert said.code in (1, 2)


def test_duplicate_column_names(terminal: Terminal) -> None:
    path = write(terminal, "in.csv", b"x,k,x\n1,2,3\n")
    said = score(terminal, path)
    said.stopped(said.code, str(path), "'x'", "more than one column")
    other = terminal.folder / "in.parquet"
    table = pa.table([pa.array([1.0]), pa.array([2.0])], names=["x", "x"])
    pq.write_table(table, other)
    said = score(terminal, other)
    said.stopped(said.code, str(other), "'x'", "more than one column")


def test_a_folder_where_a_file_should_be(terminal: Terminal) -> None:
    (terminal.folder / "data.parquet").mkdir()
    score(terminal, terminal.folder / "data.parquet").refused("no files")
    (terminal.folder / "data.parquet" / "more.csv").mkdir()
    score(terminal, terminal.folder / "data.parquet").refused("no files")
    terminal.nothing_left()


def test_what_is_no_file_at_all(terminal: Terminal) -> None:
    pipe = terminal.folder / "pipe.csv"
    os.mkfifo(pipe)
    score(terminal, pipe).stopped(1, str(pipe))
    door = terminal.folder / "s.csv"
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(terminal.folder)
        listening.bind("s.csv")
    score(terminal, door).stopped(1, str(door))
    link = terminal.folder / "link.csv"
    link.symlink_to(terminal.folder / "nowhere.csv")
    score(terminal, link).stopped(1, str(link))
    score(terminal, terminal.folder / "missing.csv").refused("missing.csv")
    score(terminal, terminal.folder / "none-*.csv").refused("none-*.csv")
    terminal.nothing_left()


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_what_may_not_be_read(terminal: Terminal, few: Path, closed: str) -> None:
    inner = terminal.folder / "in"
    inner.mkdir()
    path = write(terminal, "in/a.parquet", few.read_bytes())
    shut, given = (path, path) if closed == "file" else (inner, inner / "*.parquet")
    shut.chmod(0)
    score_as_anybody(terminal, given).stopped(1, str(shut), "may", "read")
    terminal.nothing_left()
    shut.chmod(0o700)
    score_as_anybody(terminal, given).done()


def test_names_of_files(terminal: Terminal) -> None:
    """Any name will do that is UTF-8; another is refused by name."""
    odd = terminal.folder / "two\nlines [red] \u00fc.csv"
    odd.write_bytes(b"x\nmany\n1\n")
    terminal.run("wild:OnlyX", str(odd).replace("[", "[[]"), "-o", "out").done(3)
    assert [(row["_file"], row["_row"]) for row in rejected(terminal)] == [(str(odd), 0)]
    (terminal.folder / os.fsdecode(b"in\xff.csv")).write_bytes(b"x\n1\n")
    terminal.run("wild:OnlyX", terminal.folder / "in*.csv", "-o", "bad").stopped(1, "in\\udcff.csv", "not UTF-8")
    terminal.nothing_left("out", "out.rejected", "out.manifest.json")


def test_a_small_file_that_decodes_to_gigabytes(terminal: Terminal) -> None:
    """One row group of 2.5 GB of text in a few kB; memory is that of batches, less than half of it."""
    path, rows = terminal.folder / "bomb.parquet", 2_500_000
    index = pa.array(np.zeros(rows, dtype=np.int32))
    table = pa.table({"x": np.zeros(rows), "s": pa.DictionaryArray.from_arrays(index, pa.array(["z" * 1_000]))})
    options = {"write_statistics": False, "store_schema": False, "data_page_size": 1 << 30}
    pq.write_table(table, path, row_group_size=rows, compression="zstd", **options)
    assert path.stat().st_size < 20_000
    said = terminal.run("wild:OnlyX", path, "-o", "out", "--keep", "s", "--memory-per-scorer", "1GB", watch=True).done()
    assert "2,500,000 = 2,500,000 predicted + 0 rejected" in said.err
    assert pq.read_table(terminal.work / "out", columns=["prediction"])["prediction"].unique().to_pylist() == [1.0]
    assert 0 < said.peak_kb < 1_200_000, said.peak_kb


def test_fifty_thousand_columns(terminal: Terminal) -> None:
    path = terminal.folder / "wide.parquet"
    ones = pa.array([1.5, 2.5])
    pq.write_table(pa.table({"x": ones, **{f"c{k}": ones for k in range(50_000)}}), path)
    score(terminal, path).refused("50000 columns", "--keep")
    said = terminal.run("wild:OnlyX", path, "-o", "out", "--keep", "c49999", watch=True).done()
    assert 0 < said.peak_kb < 1_000_000, said.peak_kb
    assert pq.read_table(terminal.work / "out").to_pydict() == {"c49999": [1.5, 2.5], "prediction": [4.0, 6.0]}


def test_a_column_that_is_missing_in_the_second_file(terminal: Terminal) -> None:
    first, second = terminal.folder / "1.parquet", terminal.folder / "2.parquet"
    pq.write_table(pa.table({"x": [1.0], "k": [1]}), first)
    pq.write_table(pa.table({"X_": [1.0], "k": [1]}), second)
    score(terminal, first, second).refused("'x'", str(second))
    pq.write_table(pa.table({"K": [1], "x_": [1.0]}), second)
    score(terminal, second).refused("'x'", "did you mean 'x_'")
    terminal.nothing_left()


def test_a_column_of_another_type_in_the_second_file(terminal: Terminal) -> None:
    first, second = terminal.folder / "1.parquet", terminal.folder / "2.parquet"
    pq.write_table(pa.table({"x": [1.0], "k": [1]}), first)
    pq.write_table(pa.table({"x": ["a"], "k": [1]}), second)
    score(terminal, first, second).refused("'x'", "double", "string", str(second))
    pq.write_table(pa.table({"x": [1.0], "k": ["one"]}), second)
    score(terminal, first, second).refused("'k'", "int64", "string", str(second))


def test_an_extra_column_that_nobody_wants_does_no_harm(terminal: Terminal) -> None:
    first, second = terminal.folder / "1.parquet", terminal.folder / "2.parquet"
    pq.write_table(pa.table({"x": [1.0], "k": [1]}), first)
    pq.write_table(pa.table({"x": [2.0], "k": [2], "more": ["?"]}), second)
    terminal.run("wild:OnlyX", first, second, "-o", "out", "--keep", "k").done()
    assert pq.read_table(terminal.work / "out").to_pydict() == {"k": [1, 2], "prediction": [3.0, 5.0]}
    terminal.run("wild:OnlyX", first, second, "-o", "all").refused("'more'", str(first))


def test_text_that_is_no_number_rejects_its_row(terminal: Terminal) -> None:
    lines = csv_lines()
    lines[21] = b"20,many"
    path = write(terminal, "in.csv", b"\n".join(lines))
    score(terminal, path).done(3)
    (bad,) = rejected(terminal)
    assert (bad["_row"], bad["_error"]) == (20, "ConversionError")
    assert "'x'" in str(bad["_message"]) and "many" in str(bad["_message"])
    assert bad["k"] in ("20", None)


def test_a_job_with_bad_input_does_not_hurt_the_next(terminal: Terminal, few: Path) -> None:
    score(terminal, write(terminal, "in.parquet", b"PAR1")).stopped(1)
    score(terminal, few).done()
    listed = json.loads(terminal.say("jobs", "list", "--json").done().out)
    assert [job["state"] for job in listed] == ["succeeded", "failed"]
