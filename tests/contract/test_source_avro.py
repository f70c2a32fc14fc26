"""Avro on the shipped suite, and what only Avro can get wrong."""

from __future__ import annotations

import io
import random
import sys
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import fastavro
import pyarrow as pa
import pytest

from tests.contract.damage import outcomes
from tidemill.domain.errors import InputUnreadable, MissingExtra
from tidemill.sources.avro import AvroSource
from tidemill.testing.source import ReadBack, SourceContract, collect, pin, segment

SMALL = {"block_bytes": 1}
SYNC = b"between two blks"
DECIMAL = {"logicalType": "decimal", "precision": 20, "scale": 2}
MOMENT = datetime(2024, 2, 29, 12, 30, 15, 123456)


def schema_of(**fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": "Row", "fields": [{"name": k, "type": v} for k, v in fields.items()]}


def write(path: Path, schema: Any, records: list[Any], codec: str = "null", sync_interval: int = 2_000) -> Path:
    with path.open("wb") as file:
        fastavro.writer(file, schema, records, codec=codec, sync_interval=sync_interval, sync_marker=SYNC)
    return path


def read(path: Path, names: list[str] | None = None, batch_rows: int = 7, **options: Any) -> ReadBack:
    source = AvroSource({**SMALL, **options})
    facts = source.examine(pin(path))
    names = facts.schema.names if names is None else names
    return collect(source.read(segment(pin(path), facts), names, {}, batch_rows), 0, facts.rows)


class TestAvro(SourceContract):
    source_class = AvroSource
    small_blocks: ClassVar[dict[str, Any]] = SMALL
    codec = "null"

    def write(self, path: Path, table: pa.Table) -> None:
        schema = schema_of(row="long", text=["null", "string"], value="double")
        write(path, schema, table.to_pylist(), self.codec)


class TestDeflatedAvro(TestAvro):
    codec = "deflate"


def long(value: int) -> bytes:
    value, out = value << 1 ^ value >> 63, bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def by_hand(path: Path, schema: Any, blocks: list[tuple[int, bytes]], codec: str = "null") -> Path:
    """A file of blocks (records, bytes) as they are."""
    head = io.BytesIO()
    fastavro.writer(head, schema, [], sync_marker=SYNC)
    raw = head.getvalue().replace(b"avro.codec\x08null", b"avro.codec" + long(len(codec)) + codec.encode())
    for records, data in blocks:
        raw += long(records) + long(len(data)) + data + SYNC
    path.write_bytes(raw)
    return path


def test_every_compression(tmp_path: Path) -> None:
    table = pa.table({"n": range(500), "s": [f"text {n % 9}" for n in range(500)]})
    for codec in ("null", "deflate", "bzip2", "xz"):
        path = write(tmp_path / f"{codec}.avro", schema_of(n="long", s="string"), table.to_pylist(), codec)
        found = read(path)
        assert found.table.equals(table) and not found.unread, codec


def test_compressions_that_need_no_further_package(tmp_path: Path) -> None:
    """Snappy and Zstandard as Java and Python write them: with a checksum behind, and as a frame."""
    import zlib

    body = b"".join(long(n) for n in range(300))
    snappy = pa.compress(body, codec="snappy", asbytes=True)
    good = snappy + zlib.crc32(body).to_bytes(4, "big")
    blocks = [(300, good), (300, snappy + b"\0\0\0\0"), (300, good)]
    found = read(by_hand(tmp_path / "s.avro", schema_of(n="long"), blocks, "snappy"))
    assert found.table["n"].to_pylist() == [*range(300), *range(300)]
    assert "checksum" in found.unread[300][1]
    zstd = pa.compress(body, codec="zstd", asbytes=True)
    found = read(by_hand(tmp_path / "z.avro", schema_of(n="long"), [(300, zstd)], "zstandard"))
    assert found.table["n"].to_pylist() == list(range(300))


TYPES: dict[str, tuple[Any, list[Any], pa.DataType, list[Any]]] = {
    "null": ("null", [None, None], pa.null(), [None, None]),
    "boolean": ("boolean", [True, False], pa.bool_(), [True, False]),
    "int": ("int", [-(2**31), 2**31 - 1], pa.int32(), [-(2**31), 2**31 - 1]),
    "long": ("long", [2**53 + 1, -(2**63)], pa.int64(), [2**53 + 1, -(2**63)]),
    "float": ("float", [0.5, -1.5], pa.float32(), [0.5, -1.5]),
    "double": ("double", [0.1, 5e-324], pa.float64(), [0.1, 5e-324]),
    "bytes": ("bytes", [b"\x00\xff", b""], pa.binary(), [b"\x00\xff", b""]),
    "string": ("string", ["\u00fcber", ""], pa.string(), ["\u00fcber", ""]),
    "optional": (["null", "long"], [None, 1], pa.int64(), [None, 1]),
    "optional at the end": (["long", "null"], [None, 1], pa.int64(), [None, 1]),
    "enum": ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, ["B", "A"], pa.string(), ["B", "A"]),
    "fixed": ({"type": "fixed", "name": "F", "size": 2}, [b"ab", b"cd"], pa.binary(2), [b"ab", b"cd"]),
    "array": (
        {"type": "array", "items": ["null", "long"]},
        [[1, None], []],
        pa.list_(pa.int64()),
        [[1, None], []],
    ),
    "map": (
        {"type": "map", "values": "long"},
        [{"k": 1}, {}],
        pa.map_(pa.string(), pa.int64()),
        [[("k", 1)], []],
    ),
    "record": (
        ["null", {"type": "record", "name": "In", "fields": [{"name": "a", "type": "int"}]}],
        [{"a": 1}, None],
        pa.struct([("a", pa.int32())]),
        [{"a": 1}, None],
    ),
    "date": ({"type": "int", "logicalType": "date"}, [19782, -1], pa.date32(), [date(2024, 2, 29), date(1969, 12, 31)]),
    "time-millis": (
        {"type": "int", "logicalType": "time-millis"},
        [1, 0],
        pa.time32("ms"),
        [time(0, 0, 0, 1000), time()],
    ),
    "time-micros": (
        {"type": "long", "logicalType": "time-micros"},
        [1, 0],
        pa.time64("us"),
        [time(0, 0, 0, 1), time()],
    ),
    "timestamp-millis": (
        {"type": "long", "logicalType": "timestamp-millis"},
        [1, -1],
        pa.timestamp("ms", "UTC"),
        [datetime(1970, 1, 1, 0, 0, 0, 1000, UTC), datetime(1969, 12, 31, 23, 59, 59, 999000, UTC)],
    ),
    "timestamp-micros": (
        {"type": "long", "logicalType": "timestamp-micros"},
        [MOMENT.replace(tzinfo=UTC)] * 2,
        pa.timestamp("us", "UTC"),
        [MOMENT.replace(tzinfo=UTC)] * 2,
    ),
    "local-timestamp-micros": (
        {"type": "long", "logicalType": "local-timestamp-micros"},
        [1, 0],
        pa.timestamp("us"),
        [datetime(1970, 1, 1, 0, 0, 0, 1), datetime(1970, 1, 1)],
    ),
    "timestamp-nanos": (
        {"type": "long", "logicalType": "timestamp-nanos"},
        [1_700_000_000_123_456_789, 0],
        pa.timestamp("ns", "UTC"),
        None,
    ),
    "decimal": (
        {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 5},
        [Decimal("123456789012345678901234567890123.12345"), Decimal("-0.00001")],
        pa.decimal128(38, 5),
        [Decimal("123456789012345678901234567890123.12345"), Decimal("-0.00001")],
    ),
    "fixed decimal in an array": (
        {"type": "array", "items": {"type": "fixed", "name": "D", "size": 9, **DECIMAL}},
        [[Decimal("-1.50")], []],
        pa.list_(pa.decimal128(20, 2)),
        [[Decimal("-1.50")], []],
    ),
    "uuid": ({"type": "string", "logicalType": "uuid"}, ["0" * 8] * 2, pa.string(), ["0" * 8] * 2),
    "int or long": (["int", "long"], [1, 2**40], pa.int64(), [1, 2**40]),
    "text or number": (
        ["null", "string", "long"],
        ["x", 5],
        pa.struct([("member0", pa.string()), ("member1", pa.int64())]),
        [{"member0": "x", "member1": None}, {"member0": None, "member1": 5}],
    ),
}


@pytest.mark.parametrize("kind", TYPES)
def test_types(kind: str, tmp_path: Path) -> None:
    avro, values, arrow, expected = TYPES[kind]
    path = write(tmp_path / "a.avro", schema_of(before="int", c=avro), [{"before": 1, "c": value} for value in values])
    found = read(path).table["c"]
    assert found.type == arrow
    if expected is None:
        assert found.cast(pa.int64()).to_pylist() == values
    else:
        assert found.to_pylist() == expected


def test_a_type_that_several_columns_share(tmp_path: Path) -> None:
    shared = {"type": "enum", "name": "space.E", "symbols": ["A", "B"]}
    path = write(tmp_path / "a.avro", schema_of(one=shared, two=["null", "space.E"]), [{"one": "A", "two": "B"}])
    assert read(path, ["two"]).table.to_pydict() == {"two": ["B"]}


@pytest.mark.parametrize(
    "schema, reason",
    [
        (schema_of(c={"type": "array", "items": "null"}), "'c' .* array of nothing"),
        ({"type": "record", "name": "L", "fields": [{"name": "next", "type": ["null", "L"]}]}, "'next' .* itself"),
        (
            schema_of(c=[{"type": "record", "name": n, "fields": [{"name": "x", "type": "int"}]} for n in ("P", "Q")]),
            "'c' .* told apart",
        ),
        ("string", "no records"),
        (schema_of(), "no records"),
    ],
)
def test_what_arrow_cannot_hold_is_refused(schema: Any, reason: str, tmp_path: Path) -> None:
    if isinstance(schema, dict) and schema["name"] == "L":
        schema = {**schema, "fields": [{"name": "next", "type": ["null", {"type": "array", "items": "L"}]}]}
    with pytest.raises(InputUnreadable, match=rf"(?s)a\.avro.*{reason}") as caught:
        AvroSource().examine(pin(write(tmp_path / "a.avro", schema, [])))
    assert caught.value.remedy


def test_without_the_library_the_install_line_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.avro", schema_of(n="long"), [])
    monkeypatch.setitem(sys.modules, "fastavro", None)
    with pytest.raises(MissingExtra, match="'fastavro'") as caught:
        AvroSource().examine(pin(path))
    assert "tidemill[avro]" in str(caught.value.remedy)


def test_an_unknown_compression_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputUnreadable, match="'lzo'") as caught:
        AvroSource().examine(pin(by_hand(tmp_path / "a.avro", schema_of(n="long"), [], "lzo")))
    assert "zstandard" in str(caught.value.remedy)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "is empty"),
        (b"a,b\n1,2\n", "is not an Avro file"),
        (b"Obj\x01", "not a whole Avro file"),
        (b"Obj\x01" + b"x" * 50, "not a whole Avro file"),
        (b"Obj\x01" + b"\xff" * 500, "not a whole Avro file"),
        (b"\x1f\x8b\x08\x00Obj", "compressed"),
    ],
)
def test_what_is_no_avro_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.avro"
    path.write_bytes(content)
    with pytest.raises(InputUnreadable, match=rf"bad\.avro .*{reason}") as caught:
        AvroSource().examine(pin(path))
    assert caught.value.remedy


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.avro", schema_of(n="long"), [{"n": n} for n in range(5_000)])
    whole = path.read_bytes()
    for size in (len(whole) // 2, len(whole) - 1, 100):
        path.write_bytes(whole[:size])
        with pytest.raises(InputUnreadable, match=r"cut\.avro is not a whole Avro file"):
            AvroSource().examine(pin(path))


def test_rows_behind_a_damaged_record_come_as_unread_and_the_next_block_is_read(tmp_path: Path) -> None:
    good = b"".join(long(n) + long(3) + b"abc" for n in range(100))
    bad = good[:250] + long(7) + long(3) + b"\xff\xfe\xfd" + good[255:]
    path = by_hand(tmp_path / "a.avro", schema_of(n="long", s="string"), [(100, good), (100, bad), (100, good)])
    found = read(path)
    first = min(found.unread)
    assert sorted(found.unread) == list(range(first, 200)) and 140 < first < 160
    assert found.numbers == [*range(first), *range(200, 300)]
    assert "The block at byte" in found.unread[first][1] and "damaged" in found.unread[first][1]


def test_numbers_that_do_not_fit_their_type_come_as_unread(tmp_path: Path) -> None:
    path = by_hand(tmp_path / "a.avro", schema_of(n="int"), [(1, long(2**40)), (1, long(5))])
    found = read(path)
    assert found.numbers == [1]
    assert "cannot be decoded" in found.unread[0][1]


@pytest.mark.parametrize("codec", ["deflate", "bzip2", "xz", "zstandard", "snappy"])
def test_a_small_file_that_decodes_to_gigabytes_is_refused(codec: str, tmp_path: Path) -> None:
    import bz2
    import lzma
    import zlib

    plain = bytes(50 << 20)
    pack = {
        "deflate": lambda: zlib.compress(plain, 1)[2:-4],
        "bzip2": lambda: bz2.compress(plain, 1),
        "xz": lambda: lzma.compress(plain, preset=0),
        "zstandard": lambda: pa.compress(plain, codec="zstd", asbytes=True),
        "snappy": lambda: pa.compress(plain, codec="snappy", asbytes=True) + b"\0\0\0\0",
    }[codec]
    path = by_hand(tmp_path / "bomb.avro", schema_of(n="long"), [(1_000, pack())], codec)
    source = AvroSource({"max_span_bytes": 1 << 20})
    with pytest.raises(InputUnreadable, match="more than 1,048,576 bytes") as caught:
        source.examine(pin(path))
    assert "max_span_bytes" in str(caught.value.remedy)


def test_records_without_bytes_cannot_be_countless(tmp_path: Path) -> None:
    path = by_hand(tmp_path / "bomb.avro", schema_of(n="null"), [(2**50, b"")])
    with pytest.raises(InputUnreadable, match="1,125,899,906,842,624 records in 0 bytes"):
        AvroSource().examine(pin(path))


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_damaged_bytes_give_an_error_or_the_planned_rows(codec: str, tmp_path: Path) -> None:
    noise = random.Random(5)
    records = [
        {"s": None if n % 5 == 0 else "x" * (n % 13), "l": [n] * (n % 3), "m": {"k": n}, "d": noise.random()}
        for n in range(90)
    ]
    schema = schema_of(
        s=["null", "string"], l={"type": "array", "items": "long"}, m={"type": "map", "values": "long"}, d="double"
    )
    path = write(tmp_path / "a.avro", schema, records, codec, sync_interval=400)

    assert outcomes(AvroSource(SMALL), path) == {"rows", "unread", "refused"}
