"""The Avro encoder: its contract, read by fastavro through our source, and what is inside."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest

from tidemill.domain.errors import Damaged, OutputUnwritable
from tidemill.encoders.avro import AvroEncoder
from tidemill.ports.encoder import Encoder
from tidemill.sources.avro import AvroSource
from tidemill.testing.encoder import MATRIX, METADATA, EncoderContract, table_of_rows
from tidemill.testing.source import collect, pin, segment


class TestAvroEncoder(EncoderContract):
    rows_across_groups = 70_000
    options: dict[str, Any] = {}  # noqa: RUF012

    def make(self, options: dict[str, Any] | None = None) -> Encoder:
        return AvroEncoder({**self.options, **(options or {})})

    def read(self, path: Path, schema: pa.Schema) -> pa.Table:
        source = AvroSource({})
        facts = source.examine(pin(path))
        if not facts.rows:
            return facts.schema.empty_table()
        return collect(source.read(segment(pin(path), facts), facts.schema.names, {}, 10_000), 0, facts.rows).table


class TestPlainAvroEncoder(TestAvroEncoder):
    options = {"compression": "none"}  # noqa: RUF012


def write(path: Path, data: pa.Table, **options: Any) -> Path:
    writer = AvroEncoder(options).open(path, data.schema, METADATA)
    for batch in data.to_batches():
        writer.write(batch)
    writer.close()
    return path


def test_what_it_holds() -> None:
    held = {kind for kind, array in MATRIX.items() if not AvroEncoder().unwritable(pa.schema([("c", array.type)]))}
    assert {
        "timestamp ns UTC",
        "time64 us",
        "decimal256",
        "struct",
        "map",
        "list of struct",
        "fixed_size_binary",
    } <= held
    assert {"uint64", "float16", "dictionary of string", "null", "timestamp us Berlin"} <= held
    assert held.isdisjoint({"date64", "time64 ns", "duration s", "interval", "run_end_encoded", "uuid"})


def test_fastavro_itself_reads_the_values_with_their_logical_types(tmp_path: Path) -> None:
    at = datetime(2024, 2, 29, 23, 59, 59, 123456)
    data = pa.table(
        {
            "local": pa.array([at, None], pa.timestamp("us")),
            "zoned": pa.array([at, None], pa.timestamp("us", "Europe/Berlin")),
            "d": pa.array([Decimal("1.20"), None]),
            "big": pa.array([2**64 - 1, None], pa.uint64()),
            "l": pa.array([[1.5, None], None]),
            "m": pa.array([[("k", b"\x00")], None], pa.map_(pa.string(), pa.binary())),
            "s": pa.array([{"a": 1}, None]),
        }
    )
    with write(tmp_path / "a.avro", data).open("rb") as file:
        reader = fastavro.reader(file)
        assert (reader.metadata["tidemill.model"], reader.codec) == ("sha256:1", "deflate")
        first, second = reader
    zoned = at.replace(tzinfo=UTC)
    assert first == {"local": at, "zoned": zoned, "d": Decimal("1.20"), "big": Decimal(2**64 - 1), "l": [1.5, None],
                     "m": {"k": b"\x00"}, "s": {"a": 1}}  # fmt: skip
    assert set(second.values()) == {None}


def test_equal_runs_give_equal_bytes_and_parts_become_one_file(tmp_path: Path) -> None:
    data = table_of_rows(40_000)
    one = write(tmp_path / "a.avro", data).read_bytes()
    assert one == write(tmp_path / "b.avro", data).read_bytes()
    parts = [write(tmp_path / f"{n}.avro", data.slice(start, 20_000)) for n, start in enumerate((0, 20_000))]
    AvroEncoder().assemble(parts, tmp_path / "whole.avro", METADATA)
    with (tmp_path / "whole.avro").open("rb") as file:
        assert [row["id"] for row in fastavro.reader(file)] == data["id"].to_pylist()
    with (tmp_path / "whole.avro").open("rb") as file:
        assert [block.num_records for block in fastavro.block_reader(file)] == [16_384, 3_616] * 2


def test_parts_of_other_columns_are_not_mixed(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{name}.avro", pa.table({name: [1]})) for name in "ab"]
    with pytest.raises(Damaged, match=r"/b\.avro has other columns"):
        AvroEncoder().assemble(parts, tmp_path / "whole.avro", {})
    assert not (tmp_path / "whole.avro").exists()


@pytest.mark.parametrize("name", ["a b", "größe", "1st", "a.b", ""])
def test_names_that_avro_does_not_have_are_refused(name: str) -> None:
    (refused,) = AvroEncoder().unwritable(pa.schema([(name, pa.int64()), ("_ok1", pa.int64())]))
    assert (refused.column, "rename" in refused.remedy) == (name, True)
    inner = pa.struct([(name, pa.int64())])
    assert AvroEncoder().unwritable(pa.schema([("s", inner)]))


def test_a_map_with_a_key_twice_is_not_written(tmp_path: Path) -> None:
    data = pa.table({"m": pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64()))})
    with pytest.raises(OutputUnwritable, match="key more than once") as caught:
        write(tmp_path / "a.avro", data)
    assert "Parquet" in str(caught.value.remedy)
