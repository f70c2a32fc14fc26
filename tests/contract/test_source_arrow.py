"""Arrow files and streams on the shipped suite, and what only Arrow can get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pytest

from tests.contract.damage import outcomes
from tidemill.domain.errors import InputUnreadable
from tidemill.sources.arrow import ArrowSource
from tidemill.sources.arrow_messages import record_batches, records_at
from tidemill.testing.encoder import MATRIX
from tidemill.testing.source import SourceContract, collect, pin, segment

SMALL = {"block_bytes": 1}


def write(
    path: Path, table: pa.Table, *, stream: bool = False, rows: int = 300, compression: str | None = None
) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=compression, emit_dictionary_deltas=stream)
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(str(path), table.schema, options=options) as writer:
        for batch in table.to_batches(max_chunksize=rows):
            writer.write_batch(batch)
    return path


class TestArrowFile(SourceContract):
    source_class = ArrowSource
    small_blocks: ClassVar[dict[str, Any]] = SMALL

    def write(self, path: Path, table: pa.Table) -> None:
        write(path, table)


class TestArrowStream(TestArrowFile):
    def write(self, path: Path, table: pa.Table) -> None:
        write(path, table, stream=True, compression="zstd")


def read(path: Path, names: list[str] | None = None, batch_rows: int = 7, **options: Any) -> pa.Table:
    source = ArrowSource(options or SMALL)
    facts = source.examine(pin(path))
    names = facts.schema.names if names is None else names
    found = collect(source.read(segment(pin(path), facts), names, {}, batch_rows), 0, facts.rows)
    assert not found.unread, found.unread
    return found.table


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("compression", [None, "lz4"])
def test_every_type_comes_back(stream: bool, compression: str | None, tmp_path: Path) -> None:
    """Read beside a neighbour, so that what columns take in a message is counted for each type."""
    for number, (kind, array) in enumerate(MATRIX.items()):
        table = pa.table({"c": array, "after": pa.array(range(len(array)))})
        path = write(tmp_path / f"{number}.arrow", table, stream=stream, rows=2, compression=compression)
        found = read(path, batch_rows=1)
        assert found.schema == table.schema, kind
        assert found["after"].equals(table["after"])
        assert repr(found["c"].to_pylist()) == repr(array.to_pylist()), kind


@pytest.mark.parametrize("stream", [False, True])
def test_what_columns_take_is_told_from_the_head_alone(stream: bool, tmp_path: Path) -> None:
    """The bound of the needed columns of a compressed record batch, for each type of a neighbour."""
    for number, (kind, array) in enumerate(MATRIX.items()):
        wide = pa.array(["w" * 3_000] * len(array))
        path = write(
            tmp_path / f"{number}.arrow", pa.table({"c": array, "wide": wide}), stream=stream, compression="zstd"
        )
        assert read(path, ["c"], max_span_bytes=2_500).num_rows == len(array), kind
        with pytest.raises(InputUnreadable, match=r"\.arrow has a compressed record batch") as caught:
            read(path, ["wide"], max_span_bytes=2_500)
        assert "max_span_bytes" in str(caught.value.remedy)


def test_dictionaries_that_grow_and_change_within_a_stream(tmp_path: Path) -> None:
    pieces = [["a", "b", "a"], ["a", "b", "c"], ["z", None, "z"], ["z", "a"], ["q"] * 4]
    schema = pa.schema([("d", pa.dictionary(pa.int32(), pa.string())), ("n", pa.int64())])
    path = tmp_path / "d.arrows"
    numbers = iter(range(100))
    with pa.ipc.new_stream(str(path), schema, options=pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)) as writer:
        for piece in pieces:
            columns = [pa.array(piece).dictionary_encode(), pa.array([next(numbers) for _ in piece])]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    whole = [value for piece in pieces for value in piece]
    source = ArrowSource(SMALL)
    facts = source.examine(pin(path))
    assert [block.rows for block in facts.blocks] == [3, 3, 3, 2, 4]
    for start in range(len(whole)):
        part = segment(pin(path), facts, start)
        found = collect(source.read(part, ["d"], {}, 2), start, len(whole))
        assert found.table["d"].to_pylist() == whole[start:]
        assert pa.types.is_dictionary(found.table.schema.field("d").type)


def test_values_do_not_point_into_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", pa.table({"a": pa.array(range(10_000)), "s": ["text"] * 10_000}), rows=10_000)
    table = read(path, batch_rows=10_000)
    raw = path.read_bytes()
    with path.open("r+b") as file:
        file.write(bytes(len(raw)))
    assert table["a"].to_pylist() == list(range(10_000))
    assert set(table["s"].to_pylist()) == {"text"}


def test_batches_are_bounded_by_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", pa.table({"s": ["x" * 1_000] * 1_000}), rows=1_000, compression="zstd")
    source = ArrowSource({"max_batch_bytes": 10_000})
    part = segment(pin(path), source.examine(pin(path)))
    assert {item.planned for item in source.read(part, ["s"], {}, 1_000)} <= {9, 10, 1}


def test_a_small_file_that_decodes_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path / "bomb.arrow", pa.table({"a": np.zeros(200_000_000, np.int8)}), rows=10**9, compression="zstd"
    )
    assert path.stat().st_size < 50_000
    with pytest.raises(InputUnreadable, match="200,000,000 rows whose columns here take"):
        read(path, max_span_bytes=100 << 20)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "is empty"),
        (b"a,b\n1,2\n", "is not an Arrow file"),
        (b"ARROW1", "not a whole Arrow file"),
        (b"ARROW1\0\0" + b"x" * 50 + b"ARROW1", "not a whole Arrow file"),
        (b"ARROW1\0\0" + b"\xff" * 50 + b"ARROW1", "not a whole Arrow file"),
        (b"FEA1" + b"\0" * 50, "Feather of version 1"),
        (b"\x1f\x8b\x08\x00ARROW1", "compressed"),
    ],
)
def test_what_is_no_arrow_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.arrow"
    path.write_bytes(content)
    with pytest.raises(InputUnreadable, match=rf"bad\.arrow .*{reason}") as caught:
        ArrowSource().examine(pin(path))
    assert caught.value.remedy


@pytest.mark.parametrize("stream", [False, True])
def test_a_cut_off_file_is_named(stream: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "cut.arrow", pa.table({"a": list(range(1_000))}), stream=stream)
    whole = path.read_bytes()
    for size in (len(whole) // 2, len(whole) // 3, 100):
        path.write_bytes(whole[:size])
        with pytest.raises(InputUnreadable, match=r"cut\.arrow is not a"):
            ArrowSource().examine(pin(path))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "two.arrow", pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]))
    with pytest.raises(InputUnreadable, match=r"two\.arrow .*'a'"):
        ArrowSource().examine(pin(path))


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_rows_of_a_damaged_record_batch_come_as_unread_and_the_next_is_read(
    compression: str | None, tmp_path: Path
) -> None:
    table = pa.table({"s": [f"text {n}" for n in range(900)], "n": range(900)})
    path = write(tmp_path / "damaged.arrow", table, compression=compression)
    raw = bytearray(path.read_bytes())
    source = ArrowSource(SMALL)
    batch = records_at(memoryview(raw), record_batches(memoryview(raw))[1])
    middle = (batch.start + batch.stop) // 2
    raw[middle : middle + 24] = b"\xff" * 24
    path.write_bytes(raw)
    facts = source.examine(pin(path))
    found = collect(source.read(segment(pin(path), facts, 100, 850), ["n", "s"], {}, 64), 100, 850)
    assert found.numbers == [*range(100, 300), *range(600, 850)]
    assert found.table["n"].to_pylist() == found.numbers
    assert {error for error, _, _ in found.unread.values()} == {"ReadError"}
    assert "cannot be decoded" in found.unread[300][1]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_damaged_bytes_give_an_error_or_the_planned_rows(stream: bool, compression: str | None, tmp_path: Path) -> None:
    table = pa.table(
        {
            "s": [None if n % 5 == 0 else "x" * (n % 13) for n in range(60)],
            "d": pa.array([f"g{n % 3}" for n in range(60)]).dictionary_encode(),
            "l": [[n] * (n % 3) for n in range(60)],
        }
    )
    path = write(tmp_path / "a.arrow", table, stream=stream, rows=20, compression=compression)
    assert outcomes(ArrowSource(SMALL), path) == {"rows", "unread", "refused"}
