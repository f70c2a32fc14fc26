"""The JSON Lines encoder: its contract, its text, and what readers make of it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tidemill.encoders.jsonl import JsonLinesEncoder
from tidemill.ports.encoder import Encoder
from tidemill.testing.encoder import MATRIX, EncoderContract, table_of_rows


class TestJsonLinesEncoder(EncoderContract):
    rows_across_groups = 70_000
    options: dict[str, Any] = {}  # noqa: RUF012

    def make(self, options: dict[str, Any] | None = None) -> Encoder:
        return JsonLinesEncoder({**self.options, **(options or {})})

    def read(self, path: Path, schema: pa.Schema) -> pa.Table:
        lines = pa.input_stream(str(path)).read().decode().split("\n")
        assert lines.pop() == ""
        rows = [json.loads(line, parse_constant=_refuse) for line in lines]
        assert all(list(row) == schema.names for row in rows)
        columns = [_typed([row[field.name] for row in rows], field.type) for field in schema]
        return pa.table(columns, names=schema.names)


class TestGzipJsonLinesEncoder(TestJsonLinesEncoder):
    options = {"compression": "gzip"}  # noqa: RUF012


class TestZstdJsonLinesEncoder(TestJsonLinesEncoder):
    options = {"compression": "zstd"}  # noqa: RUF012


def _refuse(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def _typed(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return _typed(values, kind.value_type)
    read = _reader(kind)
    if pa.types.is_temporal(kind):
        if pa.types.is_time(kind):
            return pa.array([None if value is None else _ticks(value, kind) for value in values], _integer(kind)).cast(
                kind
            )
        return pa.array(values, pa.string()).cast(kind)
    return pa.array([None if value is None else read(value) for value in values], kind)


def _integer(kind: pa.DataType) -> pa.DataType:
    return pa.int32() if kind.bit_width == 32 else pa.int64()


def _ticks(text: str, kind: pa.DataType) -> int:
    """A time of day since midnight, exactly."""
    hours, minutes, seconds = text.split(":")
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
    return int((int(hours) * 3600 + int(minutes) * 60 + Decimal(seconds)) * per_second)


def _reader(kind: pa.DataType) -> Callable[[Any], Any]:
    """From JSON to what `pa.array` takes for this type."""
    if pa.types.is_floating(kind):
        return float
    if pa.types.is_decimal(kind):
        return Decimal
    if pa.types.is_temporal(kind):
        return lambda value: pa.scalar(value, pa.string()).cast(kind).as_py()
    if pa.types.is_struct(kind):
        readers = {kind.field(n).name: _nullable(kind.field(n).type) for n in range(kind.num_fields)}
        return lambda value: {name: read(value[name]) for name, read in readers.items()}
    if pa.types.is_map(kind):
        key, item = _nullable(kind.key_type), _nullable(kind.item_type)
        return lambda value: [(key(each["key"]), item(each["value"])) for each in value]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        read = _nullable(kind.value_type)
        return lambda value: [read(each) for each in value]
    return lambda value: value


def _nullable(kind: pa.DataType) -> Callable[[Any], Any]:
    read = _reader(kind)
    return lambda value: None if value is None else read(value)


def write(path: Path, data: pa.Table, options: dict[str, Any] | None = None) -> str:
    writer = JsonLinesEncoder(options).open(path, data.schema, {})
    for batch in data.to_batches():
        writer.write(batch)
    writer.close()
    return path.read_text(encoding="utf-8") if path.suffix == ".jsonl" else ""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.jsonl"


def test_text_by_type(path: Path) -> None:
    kinds = (
        "int64 beyond 2**53",
        "float64",
        "bool",
        "decimal128",
        "date32",
        "timestamp us Berlin",
        "list",
        "struct",
        "map",
    )
    data = pa.table({kind: MATRIX[kind].slice(0, 3) for kind in kinds})
    rows = write(path, data).splitlines()
    assert rows[0] == (
        '{"int64 beyond 2**53":9007199254740993,"float64":0.1,"bool":true,"decimal128":"1.20000","date32":"2024-02-29",'
        '"timestamp us Berlin":"2024-02-29T23:59:59.123456Z","list":[1,null],"struct":{"a":1,"b":["x"],"c":null},'
        '"map":[{"key":"k","value":1},{"key":"l","value":null}]}'
    )
    assert rows[2].startswith(
        '{"int64 beyond 2**53":null,"float64":"NaN","bool":null,"decimal128":null,"date32":"9999-12-31"'
    )
    assert '"float64":-0.0,' in rows[1]


def test_not_finite_numbers_are_text_or_on_request_null(path: Path) -> None:
    data = pa.table(
        {"x": [1.0, float("nan"), float("inf"), float("-inf"), None], "l": [[float("nan")], [], None, None, None]}
    )
    assert write(path, data).splitlines() == [
        '{"x":1.0,"l":["NaN"]}',
        '{"x":"NaN","l":[]}',
        '{"x":"Infinity","l":null}',
        '{"x":"-Infinity","l":null}',
        '{"x":null,"l":null}',
    ]
    path.unlink()
    assert write(path, data, {"nan": "null"}).splitlines()[:3] == [
        '{"x":1.0,"l":[null]}',
        '{"x":null,"l":[]}',
        '{"x":null,"l":null}',
    ]


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_assembled_bytes_are_those_of_one_part(compression: str | None, tmp_path: Path) -> None:
    options = {"compression": compression}
    data = table_of_rows(30_000)
    write(tmp_path / "whole", data, options)
    parts = [tmp_path / "0", tmp_path / "1"]
    for part, start, rows in zip(parts, (0, 11), (11, 29_989), strict=True):
        write(part, data.slice(start, rows), options)
    written = JsonLinesEncoder(options).assemble(parts, tmp_path / "target", {})
    assert written.rows == 30_000
    assert (tmp_path / "target").read_bytes() == (tmp_path / "whole").read_bytes()


def test_compressed_text_is_the_text(tmp_path: Path) -> None:
    data = table_of_rows(2000)
    text = write(tmp_path / "a.jsonl", data)
    write(tmp_path / "a.jsonl.gz", data, {"compression": "gzip"})
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).decode() == text
    assert JsonLinesEncoder({"compression": "zstd"}).file_suffix == ".jsonl.zst"


def test_refused_columns_are_named_with_a_remedy() -> None:
    schema = pa.schema(
        [
            ("ok", pa.int64()),
            ("b", pa.binary()),
            ("s", pa.struct([("b", pa.binary())])),
            ("d", pa.duration("s")),
            ("ok", pa.int8()),
        ]
    )
    found = [(each.column, each.remedy) for each in JsonLinesEncoder().unwritable(schema)]
    assert found == [
        ("ok", "Give each column a name of its own."),
        ("b", "Use Parquet, or --keep without it."),
        ("s", "Use Parquet, or --keep without it."),
        ("d", "Use Parquet, or --keep without it."),
        ("ok", "Give each column a name of its own."),
    ]
