"""Parquet on the shipped suite, and what only Parquet can get wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.domain.errors import InputUnreadable
from tidemill.ports.source import ENCODED
from tidemill.sources import parquet
from tidemill.sources.parquet import ParquetSource
from tidemill.testing.source import SourceContract, collect, pin, segment


class TestParquet(SourceContract):
    source_class = ParquetSource

    def write(self, path: Path, table: pa.Table) -> None:
        pq.write_table(table, path, row_group_size=300)


def test_nested_columns_are_chosen_by_their_top_name(tmp_path: Path) -> None:
    path = tmp_path / "n.parquet"
    table = pa.table({"a": [1, 2], "s": [{"p": 1, "q": "x"}, None], "l": [[1], None], "a.b": [5, 6]})
    pq.write_table(table, path)
    source = ParquetSource()
    part = segment(pin(path), source.examine(pin(path)))
    found = collect(source.read(part, ["l", "s"], {}, 10), 0, 2)
    assert found.table.equals(table.select(["l", "s"]))
    dotted = collect(source.read(part, ["a.b", "a"], {}, 10), 0, 2)
    assert dotted.table.equals(table.select(["a.b", "a"]))


def test_dictionaries_stay_dictionaries(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    table = pa.table({"c": pa.array(["x", "y", "x"]).dictionary_encode()})
    pq.write_table(table, path)
    source = ParquetSource()
    found = collect(source.read(segment(pin(path), source.examine(pin(path))), ["c"], {}, 10), 0, 3)
    assert pa.types.is_dictionary(found.table.schema.field("c").type)
    assert found.table.to_pydict() == {"c": ["x", "y", "x"]}


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    with pytest.raises(InputUnreadable, match=r"two\.parquet .*'a'") as caught:
        ParquetSource().examine(pin(path))
    assert caught.value.remedy


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "not a Parquet file"),
        (b"a,b\n1,2\n", "not a Parquet file"),
        (b"PAR1", "not a whole Parquet file"),
        (b"PAR1" + b"x" * 50 + b"PAR1", "not a whole Parquet file"),
        (b"PARE" + b"x" * 50 + b"PARE", "encrypted"),
        (b"\x1f\x8b\x08\x00PAR1", "compressed"),
    ],
)
def test_what_is_no_parquet_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.parquet"
    path.write_bytes(content)
    with pytest.raises(InputUnreadable, match=rf"bad\.parquet is {'a ' * (reason == 'compressed')}{reason}") as caught:
        ParquetSource().examine(pin(path))
    assert caught.value.remedy


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputUnreadable, match=r"cut\.parquet is not a whole Parquet file"):
        ParquetSource().examine(pin(path))


def test_rows_of_a_damaged_row_group_come_as_unread_and_the_next_is_read(tmp_path: Path) -> None:
    path = tmp_path / "damaged.parquet"
    table = pa.table({"a": np.random.default_rng(1).random(900), "b": list(range(900))})
    pq.write_table(table, path, row_group_size=300, use_dictionary=False, write_page_checksum=True)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    raw = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    raw[middle : middle + 64] = b"\xff" * 64
    path.write_bytes(raw)
    source = ParquetSource()
    file = pin(path)
    facts = source.examine(file)
    found = collect(source.read(segment(file, facts, 100, 850), ["b", "a"], {}, 64), 100, 850)
    assert found.numbers == [*range(100, 300), *range(600, 850)]
    assert found.table["b"].to_pylist() == found.numbers
    assert sorted(found.unread) == list(range(300, 600))
    assert {error for error, _, _ in found.unread.values()} == {"ReadError"}
    assert "Row group 1" in found.unread[300][1]
    assert [item.planned for item in source.read(segment(file, facts, 300, 600), ["a"], {}, 64)] == [64] * 4 + [44]
    other = collect(source.read(segment(file, facts), ["b"], {}, 64), 0, 900)
    assert not other.unread


@pytest.mark.parametrize("batch_rows", [1, 500, 1_000, 3_000, 9_000])
def test_what_lies_before_a_damaged_page_is_read_however_much_is_decoded_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int
) -> None:
    path = tmp_path / "pages.parquet"
    table = pa.table({"a": np.random.default_rng(1).random(12_000), "b": np.arange(12_000)})
    pq.write_table(table, path, use_dictionary=False, data_page_size=4_000, write_page_checksum=True)
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    raw = bytearray(path.read_bytes())
    place = column.data_page_offset + column.total_compressed_size * 6 // 10
    raw[place : place + 64] = b"\xff" * 64
    path.write_bytes(raw)
    file = pin(path)

    def found() -> tuple[list[int], list[int], list[int]]:
        source = ParquetSource()
        part = segment(file, source.examine(file), 100, 11_900)
        sizes = [rows.planned for rows in source.read(part, ["b", "a"], {}, batch_rows)]
        rows = collect(source.read(part, ["b", "a"], {}, batch_rows), 100, 11_900)
        assert rows.table["b"].to_pylist() == rows.numbers
        return rows.numbers, sorted(rows.unread), sizes

    several = found()
    monkeypatch.setattr(parquet, "LEAST_ROWS", 1)
    assert several == found()
    assert bool(several[0]) == (batch_rows < 9_000)
    assert several[1][-1] == 11_899 and max(several[2]) <= batch_rows


@pytest.mark.parametrize("stored", ["dictionary", "plain", "both"])
def test_columns_of_text_come_encoded_where_that_is_asked_for(tmp_path: Path, stored: str) -> None:
    """However they are stored: pages of a column that outgrew its dictionary are plain."""
    path = tmp_path / "words.parquet"
    words = [None if row % 7 == 0 else f"word {row % 90 if stored == 'dictionary' else row}" for row in range(3_000)]
    table = pa.table({"a": words, "b": list(range(3_000)), "c": words})
    limit = 4_000 if stored == "both" else None
    pq.write_table(
        table, path, row_group_size=1_100, use_dictionary=stored != "plain", dictionary_pagesize_limit=limit,
        data_page_size=2_000,
    )  # fmt: skip
    source, file = ParquetSource(), pin(path)
    rows = list(source.read(segment(file, source.examine(file)), ["c", "b", "a"], {"a": ENCODED}, 500))
    assert {item.batch.schema.field("a").type for item in rows} == {pa.dictionary(pa.int32(), pa.string())}
    assert {item.batch.schema.field("c").type for item in rows} == {pa.string()}
    assert [word for item in rows for word in item.batch["a"].to_pylist()] == words
    assert [number for item in rows for number in item.batch["b"].to_pylist()] == list(range(3_000))


def test_a_tiny_file_that_decodes_to_gigabytes_comes_in_bounded_batches(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    rows = 2_000_000
    constant = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array(["x" * 5_000]))
    pq.write_table(pa.table({"s": constant}), path, row_group_size=rows, store_schema=False)
    assert path.stat().st_size < 50_000
    source = ParquetSource()
    file = pin(path)
    facts = source.examine(file)
    assert facts.rows == rows
    reading = source.read(segment(file, facts), ["s"], {}, 1 << 16)
    batches = [next(reading) for _ in range(3)]
    assert all(0 < item.batch.nbytes <= 80 << 20 for item in batches)
    assert all(item.batch.schema.field("s").type == pa.string() for item in batches)


def test_estimates_rows_times_width_where_encodings_hide_it(tmp_path: Path) -> None:
    path = tmp_path / "constant.parquet"
    pq.write_table(pa.table({"a": np.zeros(1_000_000)}), path, row_group_size=1_000_000)
    assert path.stat().st_size < 50_000
    assert ParquetSource().examine(pin(path)).blocks[0].decoded_bytes >= 8_000_000
