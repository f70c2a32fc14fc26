"""The CSV encoder: its contract, and its text."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pytest

from tidemill.domain.errors import Damaged, OutputUnwritable
from tidemill.encoders.csv import CsvEncoder
from tidemill.ports.encoder import Encoder
from tidemill.testing.encoder import MATRIX, EncoderContract, table_of_rows


class TestCsvEncoder(EncoderContract):
    rows_across_groups = 70_000
    options: dict[str, Any] = {}  # noqa: RUF012

    def make(self, options: dict[str, Any] | None = None) -> Encoder:
        return CsvEncoder({**self.options, **(options or {})})

    def read(self, path: Path, schema: pa.Schema) -> pa.Table:
        data = pa.input_stream(str(path)).read()
        types = {field.name: _readable(field.type) for field in schema}
        found = pacsv.read_csv(
            io.BytesIO(data),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                column_types=types,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=len(schema) == 1,
                timestamp_parsers=[pacsv.ISO8601],
            ),
        )
        return pa.table([found[field.name].cast(_plain(field.type)) for field in schema], names=schema.names)


class TestGzipCsvEncoder(TestCsvEncoder):
    options = {"compression": "gzip"}  # noqa: RUF012


class TestZstdCsvEncoder(TestCsvEncoder):
    options = {"compression": "zstd"}  # noqa: RUF012


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _readable(kind: pa.DataType) -> pa.DataType:
    """What pyarrow's reader knows instead of a type that it does not."""
    kind = _plain(kind)
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_decimal(kind) and kind.bit_width != 128:
        return pa.string()
    return kind


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.csv"


def write(path: Path, data: pa.Table, options: dict[str, Any] | None = None) -> bytes:
    writer = CsvEncoder(options).open(path, data.schema, {})
    for batch in data.to_batches():
        writer.write(batch)
    writer.close()
    return path.read_bytes()


def test_text_by_type(path: Path) -> None:
    kinds = (
        "int64",
        "float64",
        "bool",
        "string",
        "decimal128",
        "date32",
        "timestamp ms",
        "timestamp us Berlin",
        "time32 ms",
    )
    data = pa.table(
        {kind: pa.concat_arrays([MATRIX[kind], pa.nulls(9, MATRIX[kind].type)]).slice(0, 5) for kind in kinds}
    )
    assert write(path, data).decode().splitlines(keepends=True) == [
        "int64,float64,bool,string,decimal128,date32,timestamp ms,timestamp us Berlin,time32 ms\n",
        '-9223372036854775808,0.1,true,"plain",1.20000,2024-02-29,2024-02-29T23:59:59.123,2024-02-29T23:59:59.123456Z,23:59:59.001\n',
        '9223372036854775807,-0.0,false,"",-0.00001,0001-01-01,1969-12-31T23:59:59.123,1969-12-31T23:59:59.123456Z,\n',
        ",nan,,,,9999-12-31,,,\n",
        (
            '1,inf,,"a ""quoted"", one",12345678901234567890123.45678,,'
            "1970-01-01T00:00:00.123,1970-01-01T00:00:00.123456Z,\n"
        ),
        '9223372036854775806,-inf,,"two\n',
        "lines\r\n",
        '",,,,,\n',
    ]


def test_header_is_quoted_where_it_must_be(path: Path) -> None:
    data = pa.table([[1], [2], [3], [4]], names=["a b", 'q"', "c,d", ""])
    assert write(path, data) == b'a b,"q""","c,d",""\n1,2,3,4\n'


def test_a_null_in_the_only_column_is_no_empty_line(path: Path) -> None:
    assert write(path, pa.table({"score": pa.array([1.5, None, 2.0])})) == b'score\n1.5\n""\n2.0\n'
    assert pacsv.read_csv(path)["score"].to_pylist() == [1.5, None, 2.0]


def test_a_null_in_the_only_text_column_is_refused(path: Path) -> None:
    assert write(path, pa.table({"text": ["", "a"]})) == b'text\n""\n"a"\n'
    writer = CsvEncoder().open(path.with_name("b.csv"), pa.schema([("text", pa.string())]), {})
    with pytest.raises(OutputUnwritable, match="'text' holds a null"):
        writer.write(pa.record_batch({"text": ["", None]}))


@pytest.mark.parametrize(
    "value, kind", [(10**12, pa.timestamp("s")), (-(10**11), pa.timestamp("s", "UTC")), (2**30, pa.date32())]
)
def test_a_date_that_has_no_iso_form_is_refused(value: int, kind: pa.DataType, path: Path) -> None:
    integers = pa.int32() if kind == pa.date32() else pa.int64()
    writer = CsvEncoder().open(path, pa.schema([("at", kind)]), {})
    with pytest.raises(OutputUnwritable, match="'at' holds a date outside the years 1 to 9999") as caught:
        writer.write(pa.record_batch({"at": pa.array([value], integers).cast(kind)}))
    assert caught.value.remedy == "Use Parquet, or --keep without it."


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_assembled_bytes_are_those_of_one_part(compression: str | None, tmp_path: Path) -> None:
    options = {"compression": compression}
    encoder = CsvEncoder(options)
    data = table_of_rows(30_000).rename_columns(["id", 'te"xt,\n', "score", "group"])
    whole = write(tmp_path / "whole", data, options)
    parts = [tmp_path / "0", tmp_path / "1", tmp_path / "2"]
    for part, start, rows in zip(parts, (0, 7, 7), (7, 0, 29_993), strict=True):
        write(part, data.slice(start, rows), options)
    written = encoder.assemble(parts, tmp_path / "target", {})
    assert written.rows == 30_000
    assert (tmp_path / "target").read_bytes() == whole


def test_parts_of_other_columns_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "0", pa.table({"a": [1]}))
    write(tmp_path / "1", pa.table({"b": [1]}))
    with pytest.raises(Damaged, match=r"/1 does not begin"):
        CsvEncoder().assemble([tmp_path / "0", tmp_path / "1"], tmp_path / "target", {})
    assert not (tmp_path / "target").exists()


def test_compressed_files_are_one_stream_without_a_clock(tmp_path: Path) -> None:
    data = table_of_rows(60_000)
    plain = write(tmp_path / "a.csv", data)
    assert len(plain) > 1 << 20
    packed = write(tmp_path / "a.csv.gz", data, {"compression": "gzip"})
    assert packed[4:8] == b"\0\0\0\0"
    assert gzip.decompress(packed) == plain
    write(tmp_path / "a.csv.zst", data, {"compression": "zstd"})
    with pa.input_stream(str(tmp_path / "a.csv.zst")) as stream:
        assert stream.read() == plain


def test_file_suffix_names_the_compression() -> None:
    found = [CsvEncoder({"compression": each}).file_suffix for each in (None, "none", "gzip", "zstd")]
    assert found == [".csv", ".csv", ".csv.gz", ".csv.zst"]
