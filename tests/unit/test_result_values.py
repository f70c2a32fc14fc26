"""Values of results: as JSON without loss, back from text as they were, and found by what a query says."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill import registry
from tidemill.domain.errors import InvalidSpec, NotFound
from tidemill.engine.jsonvalues import json_rows, json_values
from tidemill.engine.lookup import conditions_of, matches
from tidemill.engine.published import PublishedFiles, row_keys

MOMENT = datetime(2024, 2, 29, 12, 30, 15, 123456)
NAN = float("nan")

VALUES: dict[str, tuple[pa.Array, list[Any]]] = {
    "int": (pa.array([2**53, 2**53 + 1, -(2**63), None]), [2**53, "9007199254740993", "-9223372036854775808", None]),
    "uint": (pa.array([2**64 - 1, 0], pa.uint64()), ["18446744073709551615", 0]),
    "float": (pa.array([0.1, NAN, float("inf"), -float("inf")]), [0.1, "NaN", "Infinity", "-Infinity"]),
    "bool": (pa.array([True, None]), [True, None]),
    "text": (pa.array(["\u00fc", ""]), ["\u00fc", ""]),
    "bytes": (pa.array([b"\x00\xff", None]), ["AP8=", None]),
    "money": (pa.array([Decimal("1.50")], pa.decimal128(9, 2)), ["1.50"]),
    "day": (pa.array([date(2024, 2, 29)]), ["2024-02-29"]),
    "clock": (pa.array([time(23, 59, 59, 1)], pa.time64("us")), ["23:59:59.000001"]),
    "local": (pa.array([MOMENT], pa.timestamp("us")), ["2024-02-29T12:30:15.123456"]),
    "nanos": (pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")), ["2023-11-14T22:13:20.123456789"]),
    "zoned": (
        pa.array([MOMENT.replace(tzinfo=UTC)], pa.timestamp("ms", "Europe/Berlin")), ["2024-02-29T12:30:15.123Z"]
    ),
    "span": (pa.array([timedelta(days=1, microseconds=1)], pa.duration("us")), ["86400000001us"]),
    "label": (pa.array(["b", None, "a"]).dictionary_encode(), ["b", None, "a"]),
    "items": (pa.array([[2**60, None], [], None]), [[str(2**60), None], [], None]),
    "fixed": (pa.array([[1, 2], None], pa.list_(pa.int64(), 2)), [[1, 2], None]),
    "deep": (pa.array([{"a": [{"b": NAN}]}, None]), [{"a": [{"b": "NaN"}]}, None]),
    "lookup": (
        pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())), [[{"key": "k", "value": 1}], [], None]
    ),
    "nothing": (pa.nulls(2), [None, None]),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_json_loses_nothing(name: str) -> None:
    array, expected = VALUES[name]
    assert json_values(array) == expected
    assert json_values(array.slice(1)) == expected[1:]
    json.dumps(expected, allow_nan=False)


def test_rows_without_columns() -> None:
    assert list(json_rows(pa.RecordBatch.from_pylist([{}, {}]).select([]))) in ([[], []], [])


COLUMNS = pa.table(
    {
        "n": pa.array([1, None, -(2**63)]),
        "x": pa.array([NAN, None, float("-inf")]),
        "yes": pa.array([True, None, False]),
        "text": pa.array(["NA", None, ""]),
        "day": pa.array([date(2024, 2, 29), None, date(1, 1, 1)]),
        "zoned": pa.array([MOMENT.replace(tzinfo=UTC), None, None], pa.timestamp("us", "UTC")),
        "money": pa.array([Decimal("-1.50"), None, Decimal("0.01")], pa.decimal128(9, 2)),
    }
)


@pytest.mark.parametrize(
    ("form", "options"),
    [("parquet", {}), ("arrow", {}), ("orc", {}), ("avro", {}), ("csv", {}), ("jsonl", {}),
     ("csv", {"compression": "gzip"}), ("jsonl", {"compression": "zstd"})],
)  # fmt: skip
def test_published_files_come_back_as_they_were(form: str, options: dict[str, str], tmp_path: Path) -> None:
    encoder = registry.encoders.get(form)(options)
    paths = []
    for number, table in enumerate((COLUMNS, COLUMNS.slice(1), COLUMNS.slice(0, 0))):
        path = tmp_path / f"{number}{encoder.file_suffix}"
        writer = encoder.open(path, table.schema, {"model": "m"})
        for batch in table.to_batches():
            writer.write(batch)
        writer.close()
        paths.append(str(path))
    types = {field.name: str(field.type) for field in COLUMNS.schema}
    files = PublishedFiles(paths=paths, format=form, types=types)
    assert files.schema() == COLUMNS.schema
    found = pa.Table.from_batches(files.batches(), schema=COLUMNS.schema)
    expected = pa.concat_tables([COLUMNS, COLUMNS.slice(1)])
    assert str(found.to_pylist()) == str(expected.to_pylist())
    chosen = [batch.schema.names for batch in files.batches(["text", "n"])]
    assert set(map(tuple, chosen)) == {("text", "n")}
    gone = PublishedFiles(paths=[str(tmp_path / "none")], format=form, types=types)
    with pytest.raises(NotFound, match="is gone"):
        gone.schema()


def test_row_keys_file_by_file(tmp_path: Path) -> None:
    keys = [("/b", 1), ("/b", 5), ("/a", 0), ("/c", 2), ("/c", 3)]
    paths = []
    for number, some in enumerate((keys[:1], keys[1:4], [], keys[4:])):
        path = tmp_path / f"{number}.parquet"
        table = pa.table(
            {
                "_file": pa.array([file for file, _ in some], pa.string()),
                "_row": pa.array([r for _, r in some], pa.int64()),
            }
        )
        pq.write_table(table, path)
        paths.append(str(path))
    found = list(row_keys(PublishedFiles(paths=paths, format="parquet", types={})))
    assert [(file, rows.tolist()) for file, rows in found] == [("/b", [1, 5]), ("/a", [0]), ("/c", [2, 3])]
    assert list(row_keys(PublishedFiles(paths=[], format="parquet", types={}))) == []


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 rows in row groups of 100; ids ascend, a code repeats, and there is a column of most types."""
    path = tmp_path_factory.mktemp("indexed") / "a.parquet"
    rows = range(300)
    pq.write_table(
        pa.table(
            {
                "id": pa.array([2**60 + n for n in rows]),
                "code": [f"c{n % 7}" for n in rows],
                "label": pa.array([f"l{n // 100}" for n in rows]).dictionary_encode(),
                "small": pa.array([n % 128 for n in rows], pa.int8()),
                "x": pa.array([None if n == 0 else n / 4 for n in rows]),
                "day": pa.array([date.fromordinal(738_000 + n) for n in rows]),
                "at": pa.array([datetime(2024, 1, 1) + timedelta(hours=n) for n in rows], pa.timestamp("us")),
                "ok": pa.array([n % 2 == 0 for n in rows]),
                "money": pa.array([Decimal(n).scaleb(-2) for n in rows], pa.decimal128(9, 2)),
                "bytes": pa.array([bytes([n % 256]) for n in rows]),
            }
        ),
        path,
        row_group_size=100,
    )
    return path


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"id": str(2**60 + 150)}, [150]),
        ({"id": "7"}, []),
        ({"code": "c3", "label": "l2"}, [n for n in range(200, 300) if n % 7 == 3]),
        ({"small": "+5"}, [5, 133, 261]),
        ({"x": "2.5"}, [10]),
        ({"x": "0"}, []),
        ({"day": str(date.fromordinal(738_123))}, [123]),
        ({"at": "2024-01-02T03:00:00"}, [27]),
        ({"ok": "false", "small": "7"}, [7, 135, 263]),
        ({"money": "1.23"}, [123]),
    ],
)
def test_rows_are_found_by_value(indexed: Path, where: dict[str, str], expected: list[int]) -> None:
    conditions = conditions_of(where, pq.read_schema(indexed))
    found = list(matches(str(indexed), conditions))
    assert [n for _, positions in found for n in positions.tolist()] == expected
    assert [each - 2**60 for batch, _ in found for each in batch.column("id").to_pylist()] == expected


def test_row_groups_without_the_value_are_not_read(indexed: Path, tmp_path: Path) -> None:
    """Their bytes are overwritten: whoever read them would fail."""
    damaged = tmp_path / "damaged.parquet"
    data = bytearray(indexed.read_bytes())
    metadata = pq.read_metadata(indexed)
    for group in (0, 2):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            start = column.dictionary_page_offset or column.data_page_offset
            data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    damaged.write_bytes(data)
    found = list(matches(str(damaged), conditions_of({"id": str(2**60 + 150)}, pq.read_schema(indexed))))
    assert [positions.tolist() for _, positions in found] == [[150]]


@pytest.mark.parametrize(
    ("where", "error", "text"),
    [
        ({"idd": "1"}, NotFound, "Did you mean 'id'"),
        ({"zzzzzz": "1"}, NotFound, "There are: id, code"),
        ({"id": "0x1F"}, InvalidSpec, "'0x1F' is not int64, the type of column 'id'"),
        ({"id": ""}, InvalidSpec, "is not int64"),
        ({"small": "300"}, InvalidSpec, "is not int8"),
        ({"day": "today"}, InvalidSpec, "is not date32"),
        ({"ok": "maybe"}, InvalidSpec, "is not bool"),
        ({"bytes": "x"}, InvalidSpec, "cannot be looked up"),
    ],
)
def test_questions_that_make_no_sense(indexed: Path, where: dict[str, str], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        conditions_of(where, pq.read_schema(indexed))
    assert text in str(caught.value)
