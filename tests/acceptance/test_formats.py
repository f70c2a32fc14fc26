"""A LightGBM model over every format that is read, and over inputs that are more than files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import fastavro
import lightgbm
import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from tests.acceptance.terminal import Said, Terminal, wait_until

ROWS = 400


@cache
def booster() -> lightgbm.Booster:
    rng = np.random.default_rng(1)
    data = rng.normal(size=(300, 2)) * [1, 3] + [0, 2026]
    train = lightgbm.Dataset(data, data.sum(axis=1) > 2026, feature_name=["x", "year"])
    options = {"objective": "binary", "verbose": -1, "num_threads": 1, "num_leaves": 4, "min_data_in_leaf": 5}
    return lightgbm.train(options, train, num_boost_round=5)


@pytest.fixture
def model(terminal: Terminal) -> Path:
    path = terminal.folder / "model.txt"
    booster().save_model(path)
    return path


def table(rows: int = ROWS) -> pa.Table:
    n = np.arange(rows)
    return pa.table({"n": n, "x": np.sin(n), "year": 2020 + n % 12, "name": [f"row {k}" for k in n.tolist()]})


def write_avro(path: Path, data: pa.Table) -> None:
    kinds = {"n": "long", "x": "double", "year": "long", "name": "string"}
    schema = {"type": "record", "name": "R", "fields": [{"name": k, "type": v} for k, v in kinds.items()]}
    with path.open("wb") as file:
        fastavro.writer(file, schema, data.to_pylist(), codec="deflate", sync_interval=1_000)


def write_xlsx(path: Path, data: pa.Table) -> None:
    book = openpyxl.Workbook()
    book.create_sheet("Data")
    for row in [data.column_names, *zip(*(column.to_pylist() for column in data.columns), strict=True)]:
        book["Data"].append(list(row))
    book.save(path)


def write_file(path: Path, data: pa.Table) -> None:
    with pa.ipc.new_file(str(path), data.schema) as writer:
        writer.write_table(data, max_chunksize=100)


def write_stream(path: Path, data: pa.Table) -> None:
    with pa.ipc.new_stream(str(path), data.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(data, max_chunksize=100)


WRITE: dict[str, tuple[Callable[[Path, pa.Table], object], tuple[str, ...]]] = {
    "in.feather": (write_file, ()),
    "in.arrows": (write_stream, ()),
    "in.orc": (lambda path, data: orc.write_table(data, path), ()),
    "in.avro": (write_avro, ()),
    "in.xlsx": (write_xlsx, ("--input-option", "sheet=Data")),
}


def expected(data: pa.Table) -> list[float]:
    """The probability of the positive class, by the library itself."""
    return list(booster().predict(np.column_stack([data["x"], data["year"]]).astype(float), num_threads=1).tolist())


@pytest.mark.parametrize("name", WRITE)
def test_every_format(terminal: Terminal, model: Path, name: str) -> None:
    write, words = WRITE[name]
    write(terminal.folder / name, table())
    terminal.run(model, terminal.folder / name, "-o", "out", "--rows-per-chunk", 150, *words).done()
    found = pq.read_table(terminal.work / "out")
    assert found.select(["n", "name"]).equals(table().select(["n", "name"]))
    assert found["probability"].to_pylist() == expected(table())
    assert len(list((terminal.work / "out").iterdir())) == 3


@pytest.mark.parametrize("name", ["in.feather", "in.orc", "in.avro", "in.xlsx"])
def test_a_file_that_was_cut_off_is_named(terminal: Terminal, name: str) -> None:
    path = terminal.folder / name
    WRITE[name][0](path, table())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    terminal.run("wild:OnlyX", path, "-o", "out").stopped(1, str(path), "not a whole", "again")
    terminal.nothing_left()


def test_text_in_a_column_of_numbers_of_a_workbook_rejects_its_row(terminal: Terminal, model: Path) -> None:
    data = table(5).set_column(1, "x", pa.array(["0.5", "many", "1.5", None, "n/a"]))
    book = openpyxl.Workbook()
    for row in [data.column_names, *zip(*(column.to_pylist() for column in data.columns), strict=True)]:
        book.active.append(list(row))
    book.active["B2"] = 0.5
    book.save(terminal.folder / "in.xlsx")
    terminal.run(model, terminal.folder / "in.xlsx", "-o", "out.csv").done(3)
    assert [line.split(",")[0] for line in (terminal.work / "out.csv").read_text().splitlines()[1:]] == list("0234")
    assert "'many' is not double" in (terminal.work / "out.rejected.csv").read_text()


def partitioned(folder: Path, text: bool = False) -> pa.Table:
    """Rows in folders by year and month, of which the model wants the year; returns them in the order of reading."""
    pieces = []
    for year, month in ((2025, "01"), (2025, "12"), (2026, "01"), (2026, "__HIVE_DEFAULT_PARTITION__")):
        rows = pa.table({"n": [len(pieces) * 2, len(pieces) * 2 + 1], "x": [0.25 * len(pieces), -1.5]})
        place = folder / f"year={year}" / f"month={month}"
        place.mkdir(parents=True)
        if text:
            lines = [f"{n},{x}\n" for n, x in zip(rows["n"].to_pylist(), rows["x"].to_pylist(), strict=True)]
            (place / "a.csv").write_text("n,x\n" + "".join(lines))
        else:
            pq.write_table(rows, place / "a.parquet")
        whole = None if month.startswith("_") else int(month)
        rows = rows.append_column("year", pa.array([year] * 2)).append_column(
            "month", pa.array([whole] * 2, pa.int64())
        )
        pieces.append(rows)
    return pa.concat_tables(pieces)


@pytest.mark.parametrize("text", [False, True])
def test_folders_that_hold_values_feed_the_model_and_are_kept(terminal: Terminal, model: Path, text: bool) -> None:
    rows = partitioned(terminal.folder / "in", text)
    said = terminal.run(model, terminal.folder / "in", "-o", "out", "--keep", "n,year,month").done()
    assert "8 = 8 predicted + 0 rejected" in said.err
    found = pq.read_table(terminal.work / "out")
    assert found["year"].type == found["month"].type == pa.int64()
    assert found.select(["year", "month"]).equals(rows.select(["year", "month"]))
    assert [str(n) for n in found["n"].to_pylist()] == [str(n) for n in rows["n"].to_pylist()]
    assert found["probability"].to_pylist() == expected(rows)
    if not text:
        preview = terminal.run(model, terminal.folder / "in").done()
        assert "month" in preview.out + preview.err
        terminal.run(model, terminal.folder / "in", "-o", "no", "--input-option", "partitions=false").refused("'year'")


def test_a_list_of_inputs(terminal: Terminal, model: Path) -> None:
    for number in range(3):
        pq.write_table(table().slice(number * 10, 10), terminal.folder / f"{number}.parquet")
    (terminal.folder / "list.txt").write_text("# which\n2.parquet\n\n" + f"{terminal.folder}/0.parquet\n2.parquet\n")
    words = (model, f"@{terminal.folder}/list.txt", terminal.folder / "1.parquet", "-o", "out")
    terminal.run(*words).done()
    found = pq.read_table(terminal.work / "out")["n"].to_pylist()
    assert found == [*range(20, 30), *range(10), *range(10, 20)]
    assert "up to date" in terminal.run(*words).done().err
    (terminal.folder / "list.txt").write_text("1.parquet\n")
    terminal.run(*words).refused("differs", "input")
    terminal.run(model, f"@{terminal.folder}/gone.txt", "-o", "more").stopped(1, "gone.txt")


def pipe(terminal: Terminal, data: bytes, *words: object) -> Said:
    command = [sys.executable, "-m", "tidemill", "run", *map(str, words)]
    done = subprocess.run(command, cwd=terminal.work, env=terminal.environ({}), input=data, capture_output=True)
    return Said(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())


def test_what_is_piped_in(terminal: Terminal, model: Path) -> None:
    data = b"".join(b'{"n": %d, "x": %d.5, "year": 2026}\n' % (n, n) for n in range(6))
    pipe(terminal, data, model, "-", "-o", "out").done()
    rows = pa.table({"x": [n + 0.5 for n in range(6)], "year": [2026] * 6})
    assert pq.read_table(terminal.work / "out")["probability"].to_pylist() == expected(rows)
    assert "up to date" in pipe(terminal, data, model, "-", "-o", "out").done().err
    pipe(terminal, data + data, model, "-", "-o", "out").refused("differs", "input changed")
    whole = terminal.folder / "in.arrows"
    write_stream(whole, table(20))
    pipe(terminal, whole.read_bytes(), model, "-", "-o", "typed").done()
    assert pq.read_table(terminal.work / "typed")["n"].to_pylist() == list(range(20))
    assert len(list((terminal.home / "stdin").iterdir())) == 3
    said = terminal.say("submit", model, "-", "-o", "more")
    said.refused("standard input")


def test_a_job_over_what_was_piped_in_goes_on_after_a_crash(terminal: Terminal) -> None:
    """Both ways: by the same pipe, and by `resume`, which has none."""
    data = b"n,x\n" + b"".join(b"%d,%d\n" % (n, n) for n in range(6_000))
    words = ("wild:Gated", "-", "--rows-per-chunk", 1_000, "--scorers", 1)
    for name, again in (("a", False), ("b", True)):
        gate = terminal.folder / f"gate {name}"
        command = [sys.executable, "-m", "tidemill", "run", *map(str, words), "-o", name]
        process = subprocess.Popen(
            command, cwd=terminal.work, env=terminal.environ({"TEST_GATE": str(gate)}), stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(data)
        process.stdin.close()
        wait_until(lambda name=name: list((terminal.work).glob(f".{name}.tidemill/*/parts/0000001.*")))
        process.kill()
        process.wait()
        process.stderr.close()
        gate.touch()
        if again:
            env = terminal.environ({"TEST_GATE": str(gate)})
            done = subprocess.run(command, cwd=terminal.work, env=env, input=data, capture_output=True)
            assert done.returncode == 0, done.stderr
        else:
            job = next((terminal.work / f".{name}.tidemill").iterdir()).name
            terminal.say("resume", job, TEST_GATE=str(gate)).done()
        found = pq.read_table(terminal.work / name)
        assert found["prediction"].to_pylist() == [2.0 * n + 1 for n in range(6_000)]
