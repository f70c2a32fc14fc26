"""The Parquet encoder: its contract, what readers make of it, what is inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.encoders import parquet
from tidemill.encoders.parquet import ParquetEncoder
from tidemill.ports.encoder import Encoder
from tidemill.testing.encoder import MATRIX, METADATA, EncoderContract, table_of_rows

RETYPED = {"date64", "dictionary of int64", "time32 s", "timestamp s", "timestamp s UTC"}
"""Read back as date32, plain int64, milliseconds: equal values in a neighbouring type."""


class TestParquetEncoder(EncoderContract):
    def make(self, options: dict[str, Any] | None = None) -> Encoder:
        return ParquetEncoder(options)

    def read(self, path: Path, schema: pa.Schema) -> pa.Table:
        return pq.read_table(path, page_checksum_verification=True)


class TestPlainParquetEncoder(TestParquetEncoder):
    def make(self, options: dict[str, Any] | None = None) -> Encoder:
        return ParquetEncoder({"encoding": "plain", **(options or {})})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.parquet"


def write(path: Path, data: pa.Table, options: dict[str, Any] | None = None) -> None:
    writer = ParquetEncoder(options).open(path, data.schema, METADATA)
    for batch in data.to_batches():
        writer.write(batch)
    writer.close()


def test_arrow_types_come_back(path: Path) -> None:
    for kind, array in MATRIX.items():
        data = pa.table({"c": array})
        if ParquetEncoder().unwritable(data.schema):
            assert kind in ("interval", "run_end_encoded")
            continue
        write(path, data)
        assert (pq.read_schema(path).field("c").type == array.type) == (kind not in RETYPED), kind
        path.unlink()


def test_encodings_and_row_groups(path: Path) -> None:
    data = table_of_rows(2 * parquet.ROW_GROUP_ROWS + 7)
    write(path, data)
    meta = pq.read_metadata(path)
    assert [meta.row_group(n).num_rows for n in range(meta.num_row_groups)] == [131_072, 131_072, 7]
    columns = {meta.row_group(0).column(n).path_in_schema: meta.row_group(0).column(n) for n in range(4)}
    assert "DELTA_BINARY_PACKED" in columns["id"].encodings
    assert "BYTE_STREAM_SPLIT" in columns["score"].encodings
    assert [columns[name].has_dictionary_page for name in columns] == [False, True, False, True]
    assert {column.compression for column in columns.values()} == {"ZSTD"}


def test_metadata_is_prefixed_once(path: Path) -> None:
    data = table_of_rows(3).replace_schema_metadata({"pandas": "{}", "other": "x"})
    writer = ParquetEncoder().open(path, data.schema, {"model": "m", "tidemill.spec": "s"})
    writer.close()
    found = pq.read_metadata(path).metadata
    assert {key: value for key, value in found.items() if key != b"ARROW:schema"} == {
        b"tidemill.model": b"m",
        b"tidemill.spec": b"s",
    }


def test_assembled_bytes_are_those_of_one_part(tmp_path: Path) -> None:
    data = table_of_rows(140_000)
    write(tmp_path / "one.parquet", data)
    for number in range(2):
        write(tmp_path / f"{number}.parquet", data.slice(number * 70_000, 70_000))
    parts = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    ParquetEncoder().assemble(parts, tmp_path / "whole.parquet", METADATA)
    assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()


def test_wide_rows_make_smaller_groups(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_ROW_GROUP_BYTES", 1 << 20)
    found = []
    for batch_rows in (20_000, 777):
        data = pa.table({"c": ["x" * (100 + n % 3) for n in range(20_000)]})
        writer = ParquetEncoder().open(path, data.schema, {})
        for batch in data.to_batches(max_chunksize=batch_rows):
            writer.write(batch)
        found.append(writer.close())
        meta = pq.read_metadata(path)
        assert [meta.row_group(n).num_rows for n in range(meta.num_row_groups)] == [16_384, 3_616]
        path.unlink()
    assert found[0] == found[1]


def test_columns_of_one_name_are_refused() -> None:
    schema = pa.schema([("a", pa.int64()), ("b", pa.int64()), ("a", pa.string())])
    assert [each.column for each in ParquetEncoder().unwritable(schema)] == ["a", "a"]
