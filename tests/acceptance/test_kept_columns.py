"""Kept columns come out as they went in, or the job is refused before it begins: every type, every output."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from tests.acceptance.terminal import Terminal

MOMENT = datetime(2024, 2, 29, 12, 30, 15, 123456)

COLUMNS: dict[str, pa.Array] = {
    "big": pa.array([2**53 + 1, -(2**63), None], pa.int64()),
    "ubig": pa.array([2**64 - 1, 0, None], pa.uint64()),
    "tiny": pa.array([-128, 127, None], pa.int8()),
    "f64": pa.array([0.1, 5e-324, None]),
    "f32": pa.array([0.1, -1.5, None], pa.float32()),
    "yes": pa.array([True, False, None]),
    "text": pa.array(['a "quoted", word', "", None]),
    "lines": pa.array(["two\nlines", "NA", "null"]),
    "large_text": pa.array(["\u00fcber", "\U0001f30a", None], pa.large_string()),
    "money": pa.array([Decimal("12345678901234567890.12345"), Decimal("-0.00001"), None], pa.decimal128(38, 5)),
    "day": pa.array([date(2024, 2, 29), date(1969, 1, 1), None]),
    "clock": pa.array([time(23, 59, 59, 999_999), time(0), None], pa.time64("us")),
    "local": pa.array([MOMENT, datetime(1900, 1, 1), None], pa.timestamp("us")),
    "nanos": pa.array([1_700_000_000_123_456_789, 1, None], pa.timestamp("ns")),
    "utc": pa.array([MOMENT.replace(tzinfo=UTC), None, None], pa.timestamp("us", "UTC")),
    "zoned": pa.array([MOMENT.replace(tzinfo=UTC), None, None], pa.timestamp("ms", "Europe/Berlin")),
    "label": pa.array(["b", None, "a"]).dictionary_encode(),
    "nothing": pa.nulls(3),
    "bytes": pa.array([b"\x00\xff", b"", None], pa.binary()),
    "span": pa.array([timedelta(days=1, microseconds=1), None, None], pa.duration("us")),
    "items": pa.array([[1, None], [], None], pa.list_(pa.int64())),
    "deep": pa.array([{"a": [{"b": "x"}]}, {"a": None}, None]),
    "lookup": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
}
BYTES_AND_SPANS = {"bytes", "span"}
NESTED = {"items", "deep", "lookup"}
REFUSED = {
    "parquet": set(),
    "arrow": set(),
    "orc": {"clock", "span"},
    "avro": {"span"},
    "csv": BYTES_AND_SPANS | NESTED,
    "jsonl": BYTES_AND_SPANS,
}


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Parquet file with a column of each type, and x."""
    path = tmp_path_factory.mktemp("typed") / "typed.parquet"
    pq.write_table(pa.table({"x": [1.0, 2.0, 3.0], **COLUMNS}), path)
    return path


def test_folders_and_files_of_typed_formats(terminal: Terminal, typed: Path) -> None:
    want = pq.read_table(typed).drop_columns("x")
    for output in ("a", "b.parquet", "c.arrow", "d.feather"):
        terminal.run("wild:OnlyX", typed, "-o", output, "--keep", "auto").done()
        place = terminal.work / output
        found = pa.ipc.open_file(place).read_all() if output[0] in "cd" else pq.read_table(place)
        if output == "c.arrow":
            want = want.set_column(want.schema.get_field_index("label"), "label", want["label"].cast(pa.string()))
        assert found.drop_columns("prediction").equals(want), output
        assert found.schema.field("zoned").type == pa.timestamp("ms", "Europe/Berlin")
        assert found["prediction"].to_pylist() == [3.0, 5.0, 7.0]


@pytest.mark.parametrize("output", ["out.csv", "out.csv.gz"])
def test_csv(terminal: Terminal, typed: Path, output: str) -> None:
    keep = [name for name in COLUMNS if name not in REFUSED["csv"]]
    terminal.run("wild:OnlyX", typed, "-o", output, "--keep", ",".join(keep)).done()
    data = (terminal.work / output).read_bytes()
    data = gzip.decompress(data) if output.endswith("gz") else data
    types = {name: _read_type(COLUMNS[name].type) for name in keep}
    options = pa.csv.ConvertOptions(
        column_types=types, strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
    )
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    found = pa.csv.read_csv(io.BytesIO(data), convert_options=options, parse_options=parse)
    for name in keep:
        want = COLUMNS[name].cast(types[name])
        assert found[name].combine_chunks().equals(want), (name, found[name], want)
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    assert rows[0]["big"] == "9007199254740993" and rows[0]["money"] == "12345678901234567890.12345"
    assert [row["prediction"] for row in rows] == ["3", "5", "7"] or [row["prediction"] for row in rows] == [
        "3.0",
        "5.0",
        "7.0",
    ]


def _read_type(kind: pa.DataType) -> pa.DataType:
    """The type to ask the CSV reader for: a zone is not text, an instant is."""
    if pa.types.is_dictionary(kind) or pa.types.is_null(kind):
        return pa.string()
    return pa.timestamp(kind.unit, "UTC") if pa.types.is_timestamp(kind) and kind.tz else kind


def test_json_lines(terminal: Terminal, typed: Path) -> None:
    keep = [name for name in COLUMNS if name not in REFUSED["jsonl"]]
    terminal.run("wild:OnlyX", typed, "-o", "out.jsonl", "--keep", ",".join(keep)).done()
    rows = [json.loads(line) for line in (terminal.work / "out.jsonl").read_text().splitlines()]
    assert [list(row) for row in rows] == [[*keep, "prediction"]] * 3
    for name in keep:
        want = [_as_json(value) for value in COLUMNS[name].to_pylist()]
        found = [row[name] for row in rows]
        if name in ("local", "nanos", "utc", "zoned", "money"):
            kind = COLUMNS[name].type
            kind = pa.timestamp(kind.unit, "UTC") if pa.types.is_timestamp(kind) and kind.tz else kind
            assert pa.array(found, pa.string()).cast(kind).equals(COLUMNS[name].cast(kind)), (name, found)
        elif name == "f32":
            assert pa.array(found, pa.float32()).equals(COLUMNS[name])
        else:
            assert found == want, name


def _as_json(value: Any) -> Any:
    if isinstance(value, date | time) and not isinstance(value, datetime):
        return value.isoformat("microseconds") if isinstance(value, time) else value.isoformat()
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return [{"key": key, "value": item} for key, item in value]
    return value


def test_orc(terminal: Terminal, typed: Path) -> None:
    keep = [name for name in COLUMNS if name not in REFUSED["orc"]]
    terminal.run("wild:OnlyX", typed, "-o", "out.orc", "--keep", ",".join(keep)).done()
    found = orc.read_table(terminal.work / "out.orc")
    assert found.column_names == [*keep, "prediction"]
    for name in keep:
        want = COLUMNS[name]
        want = want.cast(pa.string()) if name == "label" else want
        if name == "nothing":
            assert found[name].null_count == 3
        else:
            assert found[name].combine_chunks().cast(want.type).equals(want), name
    terminal.say("verify", "out.orc").done()


def test_avro(terminal: Terminal, typed: Path) -> None:
    keep = [name for name in COLUMNS if name not in REFUSED["avro"]]
    terminal.run("wild:OnlyX", typed, "-o", "out.avro", "--keep", ",".join(keep)).done()
    with (terminal.work / "out.avro").open("rb") as file:
        rows = list(fastavro.reader(file))
    assert list(rows[0]) == [*keep, "prediction"]
    plain = {"text", "yes", "big", "x", "bytes", "items", "day", "clock", "money", "utc", "label", "nothing", "deep"}
    for name in plain & set(keep):
        assert [row[name] for row in rows] == COLUMNS[name].to_pylist(), name
    assert [row["ubig"] for row in rows if row["ubig"] is not None] == [
        Decimal(value) for value in COLUMNS["ubig"].to_pylist() if value is not None
    ]
    terminal.say("verify", "out.avro").done()
    (terminal.work / "job.yaml").write_text(
        f"{{model: 'wild:OnlyX', input: {{path: {typed}}}, output: {{path: again, format: avro}}, keep: [big]}}"
    )
    terminal.say("run", "job.yaml").done()
    (part,) = (terminal.work / "again").iterdir()
    assert part.name == "part-00000.avro"


def write_arrow(path: Path, data: pa.Table) -> None:
    with pa.ipc.new_file(str(path), data.schema) as writer:
        writer.write_table(data)


def write_orc(path: Path, data: pa.Table) -> None:
    held = [name for name in data.column_names if name not in {*REFUSED["orc"], "ubig", "nothing", "label"}]
    orc.write_table(data.select(held), path)


def write_avro(path: Path, data: pa.Table) -> None:
    kinds = {
        "x": "double", "big": ["null", "long"], "f32": ["null", "float"], "yes": ["null", "boolean"],
        "text": ["null", "string"], "day": ["null", {"type": "int", "logicalType": "date"}],
        "money": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 5}],
        "utc": ["null", {"type": "long", "logicalType": "timestamp-micros"}],
        "clock": ["null", {"type": "long", "logicalType": "time-micros"}],
        "bytes": ["null", "bytes"], "items": ["null", {"type": "array", "items": ["null", "long"]}],
    }  # fmt: skip
    schema = {"type": "record", "name": "R", "fields": [{"name": k, "type": v} for k, v in kinds.items()]}
    with path.open("wb") as file:
        fastavro.writer(file, schema, data.select(list(kinds)).to_pylist(), codec="deflate")


@pytest.mark.parametrize("name", ["in.arrow", "in.orc", "in.avro"])
def test_typed_inputs_keep_their_types(terminal: Terminal, typed: Path, name: str) -> None:
    write = {"in.arrow": write_arrow, "in.orc": write_orc, "in.avro": write_avro}[name]
    data = pq.read_table(typed)
    write(terminal.folder / name, data)
    terminal.run("wild:OnlyX", terminal.folder / name, "-o", "out.arrow", "--keep", "auto").done()
    found = pa.ipc.open_file(terminal.work / "out.arrow").read_all().drop_columns("prediction")
    assert found.num_columns >= 10
    for column in found.column_names:
        want = data[column].cast(pa.string()) if column == "label" else data[column]
        same = found[column].type == want.type or name == "in.orc"
        assert same and found[column].cast(want.type).equals(want), column


def test_workbooks_are_not_written(terminal: Terminal, typed: Path) -> None:
    terminal.run("wild:OnlyX", typed, "-o", "out.xlsx").refused("workbooks are not written", ".csv")
    terminal.nothing_left()


@pytest.mark.parametrize("ending", ["csv", "jsonl", "orc", "avro"])
def test_what_cannot_be_written_is_refused_before_the_first_row(terminal: Terminal, typed: Path, ending: str) -> None:
    refused = sorted(REFUSED[ending])
    said = terminal.run("wild:OnlyX", typed, "-o", f"out.{ending}", "--keep", ",".join(refused))
    said.refused("Parquet", "--keep", *refused)
    terminal.nothing_left()


def test_text_input_stays_the_text_it_was(terminal: Terminal) -> None:
    path = terminal.folder / "in.csv"
    path.write_text('id,x,money,when\n007,1.0,1.10,2024-02-30\n"0,8", +2 ,5,\n', encoding="utf-8")
    terminal.run("wild:OnlyX", path, "-o", "out").done()
    found = pq.read_table(terminal.work / "out")
    assert found.to_pydict() == {
        "id": ["007", "0,8"],
        "money": ["1.10", "5"],
        "when": ["2024-02-30", ""],
        "prediction": [3.0, 5.0],
    } or found["when"].to_pylist() == ["2024-02-30", None]
    words = ("--schema", "money=decimal(10, 2)", "--keep", "x,money")
    terminal.run("wild:OnlyX", path, "-o", "typed", *words).done()
    assert pq.read_table(terminal.work / "typed").to_pydict() == {
        "x": ["1.0", " +2 "],
        "money": [Decimal("1.10"), Decimal("5.00")],
        "prediction": [3.0, 5.0],
    }
    terminal.run("wild:OnlyX", path, "-o", "bad", "--schema", "money=time64[us]").refused("'money'", "time64")


def test_a_feature_that_is_kept_is_read_as_one_that_is_not(terminal: Terminal) -> None:
    """Text becomes the same numbers, and the same rows are rejected, whether the text is written too or not."""
    path = terminal.folder / "in.csv"
    path.write_text("x,k\n1,a\n+2,b\n 3.0 ,c\nNA,d\n0x1F,e\n1e3,f\nn.v.,g\n", encoding="utf-8")
    found = []
    for keep in ("k", "x,k"):
        terminal.run("wild:OnlyX", path, "-o", keep, "--keep", keep, "--input-option", "null_values=n.v.").done(3)
        rejected = pq.read_table(terminal.work / f"{keep}.rejected")
        found.append(
            (
                pq.read_table(terminal.work / keep).select(["k", "prediction"]).to_pydict(),
                rejected.select(["_row", "_error"]).to_pydict(),
            )
        )
    assert found[0] == found[1]
    assert found[0][1] == {"_row": [3, 4], "_error": ["ConversionError"] * 2}
    assert found[0][0]["prediction"] == [3.0, 5.0, 7.0, 2001.0, 1.0]
