"""What pandas, Polars and DuckDB read of the files that encoders wrote, and the other way round."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import openpyxl
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pytest

from tidemill.encoders.arrow import ArrowEncoder
from tidemill.encoders.avro import AvroEncoder
from tidemill.encoders.csv import CsvEncoder
from tidemill.encoders.jsonl import JsonLinesEncoder
from tidemill.encoders.parquet import ParquetEncoder
from tidemill.ports.encoder import Encoder
from tidemill.ports.source import Source
from tidemill.sources.arrow import ArrowSource
from tidemill.sources.excel import ExcelSource
from tidemill.testing.encoder import MATRIX, METADATA, table_of_rows
from tidemill.testing.source import collect, pin, segment


def write(encoder: Encoder, path: Path, data: pa.Table) -> Path:
    writer = encoder.open(path, data.schema, METADATA)
    for batch in data.to_batches():
        writer.write(batch)
    writer.close()
    return path


def read(source: Source, path: Path) -> pa.Table:
    facts = source.examine(pin(path))
    return collect(source.read(segment(pin(path), facts), facts.schema.names, {}, 100), 0, facts.rows).table


def test_csv(tmp_path: Path) -> None:
    data = table_of_rows(5000)
    path = write(CsvEncoder(), tmp_path / "a.csv", data)
    expected = data.to_pylist()
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [row["text"] or "" for row in expected]
    frame = pd.read_csv(path)
    assert frame["id"].tolist() == data["id"].to_pylist()
    assert frame["score"].dropna().tolist() == data["score"].drop_null().to_pylist()
    assert frame["text"].dropna().tolist() == data["text"].drop_null().to_pylist()
    found = pl.read_csv(path)
    assert found["score"].to_list() == data["score"].to_pylist()
    assert found["text"].to_list() == data["text"].to_pylist()
    rows_found = duckdb.sql(f"SELECT id, score, text FROM read_csv('{path}') ORDER BY id").fetchall()
    assert rows_found == [(row["id"], row["score"], row["text"]) for row in expected]


def test_json_lines(tmp_path: Path) -> None:
    data = table_of_rows(5000)
    path = write(JsonLinesEncoder(), tmp_path / "a.jsonl", data)
    rows = [(row["id"], row["score"], row["text"]) for row in data.to_pylist()]
    assert duckdb.sql(f"SELECT id, score, text FROM read_json('{path}') ORDER BY id").fetchall() == rows
    frame = pl.read_ndjson(path)
    assert list(zip(frame["id"], frame["score"], frame["text"], strict=True)) == rows
    found = pd.read_json(path, lines=True, dtype_backend="pyarrow", engine="pyarrow")
    assert found["id"].tolist() == data["id"].to_pylist()
    assert found["text"].dropna().tolist() == data["text"].drop_null().to_pylist()


def test_duckdb_reads_what_json_has_no_word_for(tmp_path: Path) -> None:
    data = pa.table({"x": [0.5, float("nan"), float("inf"), None], "n": [2**63 - 1, -(2**63), 0, 1]})
    path = write(JsonLinesEncoder(), tmp_path / "a.jsonl", data)
    sql = f"SELECT x, n FROM read_json('{path}', columns={{x: 'DOUBLE', n: 'BIGINT'}})"
    assert repr(duckdb.sql(sql).fetchall()) == f"[(0.5, {2**63 - 1}), (nan, {-(2**63)}), (inf, 0), (None, 1)]"


@pytest.mark.parametrize("encoding", ["compact", "plain"])
def test_parquet(encoding: str, tmp_path: Path) -> None:
    kinds = (
        "int8",
        "int64",
        "uint64",
        "float32",
        "float64",
        "bool",
        "string",
        "date32",
        "timestamp us",
        "timestamp ns UTC",
    )
    columns = {
        kind: MATRIX[kind].slice(0, 3) for kind in (*kinds, "dictionary of string", "decimal128", "list", "struct")
    }
    data = pa.table(columns)
    path = write(ParquetEncoder({"encoding": encoding}), tmp_path / "a.parquet", data)
    plain = pa.table(
        {name: column.cast(pa.string()) if "dictionary" in name else column for name, column in columns.items()}
    )
    expected = plain.to_pylist()
    for found in (pl.read_parquet(path).to_dicts(), duckdb.sql(f"SELECT * FROM '{path}'").to_arrow_table().to_pylist()):
        assert [{k: _comparable(v) for k, v in row.items()} for row in found] == [
            {k: _comparable(v) for k, v in row.items()} for row in expected
        ]
    frame = pd.read_parquet(path)
    assert pd.read_parquet(path, dtype_backend="pyarrow")["int64"].tolist()[:2] == [-(2**63), 2**63 - 1]
    assert frame["string"].tolist()[:2] == ["plain", ""]
    assert frame["decimal128"].tolist()[:2] == [Decimal("1.20000"), Decimal("-0.00001")]
    assert str(frame["timestamp ns UTC"].dtype) == "datetime64[ns, UTC]"
    assert frame["dictionary of string"].dtype == "category"


def _comparable(value: Any) -> Any:
    """Floats by their text, so that NaN equals NaN; instants without the name of their zone."""
    if isinstance(value, float):
        return repr(value)
    if hasattr(value, "timestamp"):
        return value.replace(tzinfo=None).isoformat(timespec="microseconds")
    return value


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_arrow_with_its_metadata(compression: str | None, tmp_path: Path) -> None:
    data = table_of_rows(70_000)
    frame = pl.read_ipc(write(ArrowEncoder({"compression": compression}), tmp_path / "a.arrow", data))
    assert frame["id"].to_list() == list(range(70_000))
    assert frame["text"].to_list() == data["text"].to_pylist()
    with pa.OSFile(str(tmp_path / "a.arrow")) as file:
        reader = pa.ipc.open_file(file)
        assert reader.schema.metadata == {b"tidemill.model": b"sha256:1", b"tidemill.spec": b"sha256:2"}
        assert [reader.get_batch(n).num_rows for n in range(reader.num_record_batches)] == [65_536, 4_464]


def test_feather_of_pandas_and_polars(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2, None], "s": ["x", None, "y"]})
    pyarrow.feather.write_feather(table, str(tmp_path / "a.feather"))
    assert read(ArrowSource(), tmp_path / "a.feather").equals(table)
    frame = pl.DataFrame({"a": [1, 2, None], "s": ["x", None, "a text longer than twelve bytes"]})
    frame.write_ipc(tmp_path / "p.arrow", compression="zstd")
    found = read(ArrowSource(), tmp_path / "p.arrow")
    assert found.to_pydict() == frame.to_dict(as_series=False)


def test_numbers_of_a_sheet_are_what_pandas_reads(tmp_path: Path) -> None:
    book, path = openpyxl.Workbook(), tmp_path / "a.xlsx"
    for row in (["a", "b", None, "c"], [1, 0.1, None, 2**53 + 1], [-2, 1e300, 5, 5e-324], [3, None, None, 1]):
        book.active.append(row)
    book.save(path)
    frame = pd.read_excel(path, engine="calamine")
    table = read(ExcelSource({}, tmp_path / "spool"), path)
    assert table.column_names == list(frame.columns) == ["a", "b", "Unnamed: 2", "c"]
    for name in frame.columns:
        assert repr(table[name].cast(pa.float64()).to_pandas().tolist()) == repr(frame[name].astype(float).tolist())


def test_avro(tmp_path: Path) -> None:
    data = table_of_rows(5000)
    frame = pl.read_avro(write(AvroEncoder(), tmp_path / "a.avro", data))
    for name in ("id", "score", "text"):
        assert frame[name].to_list() == data[name].to_pylist()


def test_compressed_csv(tmp_path: Path) -> None:
    data = table_of_rows(60_000)
    for name, compression in (("a.csv.gz", "gzip"), ("a.csv.zst", "zstd")):
        path = write(CsvEncoder({"compression": compression}), tmp_path / name, data)
        assert pl.read_csv(path).height == len(pd.read_csv(path)) == 60_000
        assert duckdb.sql(f"SELECT count(*) FROM read_csv('{path}')").fetchall() == [(60_000,)]


def test_a_null_in_the_only_column_of_csv(tmp_path: Path) -> None:
    path = write(CsvEncoder(), tmp_path / "a.csv", pa.table({"score": pa.array([1.5, None, 2.0])}))
    assert len(pd.read_csv(path)) == pl.read_csv(path).height == 3
