"""What people read results with sees exactly the predictions, by the plain name of the folder."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest

from tests.acceptance.terminal import Said, Terminal

Inputs = tuple[Path, Path]
WANT = [n + 1.0 for n in range(100_000) if n % 100 != 7]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, many: Inputs) -> tuple[Path, Said]:
    """A folder of several parts with rejected rows and a manifest beside it; what the command said."""
    terminal = Terminal(folder=tmp_path_factory.mktemp("readers"))
    terminal.work.mkdir()
    words = ("wild:Raises", *many, "-o", "scores/", "--keep", "n,name", "--rows-per-chunk", "30000")
    return terminal.work / "scores", terminal.run(*words).done(3)


def test_the_folder_holds_nothing_but_parts(scored: tuple[Path, Said]) -> None:
    assert sorted(path.name for path in scored[0].iterdir()) == [f"part-0000{k}.parquet" for k in range(4)]


def test_pandas(scored: tuple[Path, Said]) -> None:
    frame = pd.read_parquet(str(scored[0]))
    assert list(frame.columns) == ["n", "name", "prediction"]
    assert frame["prediction"].tolist() == WANT
    assert frame["name"].tolist() == [f"row {n - 1:.0f}" for n in WANT]


def test_polars(scored: tuple[Path, Said]) -> None:
    assert pl.read_parquet(str(scored[0]))["prediction"].to_list() == WANT
    assert pl.scan_parquet(str(scored[0])).select(pl.len()).collect().item() == len(WANT)


def test_duckdb(scored: tuple[Path, Said]) -> None:
    rows = duckdb.sql(f"select n, name, prediction from '{scored[0]}/*.parquet' order by n").fetchall()
    assert [row[2] for row in rows] == WANT
    assert rows[0] == (0, "row 0", 1.0)
    by_folder = duckdb.sql(f"select count(*) from read_parquet('{scored[0]}/*')").fetchall()
    assert by_folder == [(len(WANT),)]


def test_pyarrow(scored: tuple[Path, Said]) -> None:
    table = ds.dataset(scored[0]).to_table()
    assert table.schema.names == ["n", "name", "prediction"]
    assert table["prediction"].to_pylist() == WANT


def test_the_lines_that_the_summary_shows_work(scored: tuple[Path, Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scored[0].parent)
    lines = [
        line.strip() for line in scored[1].err.splitlines() if line.startswith(("  pandas.", "  polars.", "  duck"))
    ]
    assert len(lines) == 3
    for line in lines:
        found = eval(line, {"pandas": pd, "polars": pl, "duckdb": duckdb})
        assert len(found) == len(WANT), line
