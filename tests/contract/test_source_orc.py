"""ORC on the shipped suite, and what only ORC can get wrong."""

from __future__ import annotations

import random
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import orc

from tests.contract.damage import outcomes
from tidemill.domain.errors import InputUnreadable
from tidemill.sources.orc import OrcSource
from tidemill.testing.encoder import MATRIX
from tidemill.testing.source import SourceContract, collect, pin, segment

CODECS = ("uncompressed", "zlib", "snappy", "zstd", "lz4")


def write(path: Path, table: pa.Table, *, rows: int = 300, compression: str = "zstd") -> Path:
    """The writer ends a stripe after a batch that fills it, so tiny stripes are batches."""
    with orc.ORCWriter(str(path), stripe_size=1, batch_size=rows, compression=compression) as writer:
        writer.write(table)
    return path


def read(path: Path, names: list[str] | None = None, batch_rows: int = 64) -> pa.Table:
    source = OrcSource()
    facts = source.examine(pin(path))
    names = facts.schema.names if names is None else names
    found = collect(source.read(segment(pin(path), facts), names, {}, batch_rows), 0, facts.rows)
    assert not found.unread, found.unread
    return found.table


class TestOrc(SourceContract):
    """Not compressed, for else the writer makes larger stripes than the suite has rows."""

    source_class = OrcSource

    def write(self, path: Path, table: pa.Table) -> None:
        write(path, table, compression="uncompressed")


def values(table: pa.Table) -> str:
    """As text, since NaN is not equal to itself. Moments are counted: those in nanoseconds have no object in Python."""
    counted = [each.cast(pa.int64()) if pa.types.is_timestamp(each.type) else each for each in table.columns]
    return repr([each.to_pylist() for each in counted])


def test_every_type_comes_as_pyarrow_reads_it(tmp_path: Path) -> None:
    written = 0
    for number, (kind, array) in enumerate(MATRIX.items()):
        path = tmp_path / f"{number}.orc"
        try:
            write(path, pa.table({"before": array, "c": array}), rows=2)
        except pa.ArrowNotImplementedError:
            continue
        written += 1
        expected = orc.read_table(path)
        found = read(path, batch_rows=1)
        assert found.schema == expected.schema, kind
        assert values(found) == values(expected), kind
    assert written >= 25


@pytest.mark.parametrize("compression", CODECS)
def test_every_compression(compression: str, tmp_path: Path) -> None:
    noise = random.Random(1)
    table = pa.table({"n": range(1_000), "s": [noise.randbytes(150).hex() for _ in range(1_000)]})
    path = write(tmp_path / "a.orc", table, compression=compression)
    assert len(OrcSource().examine(pin(path)).blocks) == 4
    assert read(path).equals(table)


def test_columns_are_chosen_by_their_top_name(tmp_path: Path) -> None:
    table = pa.table({"a": [{"b": 1, "q": "x"}, None], "a.b": [5, 6], "x y": [7, 8]})
    path = write(tmp_path / "n.orc", table)
    assert read(path, ["a.b", "a"]).equals(table.select(["a.b", "a"]))
    assert read(path, ["x y"]).equals(table.select(["x y"]))


def test_a_wide_file_with_user_metadata(tmp_path: Path) -> None:
    """The end of the file that is made for each stripe takes more than one chunk."""
    table = pa.table({f"column {n}": [n, n + 1] for n in range(3_000)})
    path = write(tmp_path / "wide.orc", table)
    assert read(path, ["column 2999", "column 0"]).to_pydict() == {"column 2999": [2999, 3000], "column 0": [0, 1]}


def test_moments_that_arrow_cannot_count_in_nanoseconds_are_rejected(tmp_path: Path) -> None:
    moments = [datetime(2024, 1, 1)] * 600
    moments[450] = datetime(9999, 12, 31)
    table = pa.table({"t": pa.array(moments, pa.timestamp("us")), "n": range(600)})
    path = write(tmp_path / "t.orc", table, compression="uncompressed")
    source = OrcSource()
    facts = source.examine(pin(path))
    found = collect(source.read(segment(pin(path), facts), ["t", "n"], {}, 50), 0, 600)
    # Arrow decodes batches ahead; what it had not handed over when it met the row is not there, perhaps nothing is.
    assert sorted(found.unread) == list(range(min(found.unread), 600))
    assert min(found.unread) <= 450
    assert "out of range" in found.unread[450][1]
    assert found.table["n"].to_pylist() == found.numbers
    assert read(path, ["n"]).num_rows == 600


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "is empty"),
        (b"a,b\n1,2\n", "is not an ORC file"),
        (b"ORC", "not a whole ORC file"),
        (b"ORC" + b"x" * 50, "not a whole ORC file"),
        (b"ORC" + b"\xff" * 500, "not a whole ORC file"),
        (b"\x1f\x8b\x08\x00ORC", "compressed"),
    ],
)
def test_what_is_no_orc_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.orc"
    path.write_bytes(content)
    with pytest.raises(InputUnreadable, match=rf"bad\.orc .*{reason}") as caught:
        OrcSource().examine(pin(path))
    assert caught.value.remedy


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.orc", pa.table({"a": range(1_000)}))
    whole = path.read_bytes()
    for size in (len(whole) // 2, len(whole) - 1, 100):
        path.write_bytes(whole[:size])
        with pytest.raises(InputUnreadable, match=r"cut\.orc is not a whole ORC file"):
            OrcSource().examine(pin(path))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "two.orc", pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]))
    with pytest.raises(InputUnreadable, match=r"two\.orc .*'a'"):
        OrcSource().examine(pin(path))


def test_rows_of_a_damaged_stripe_come_as_unread_and_the_next_is_read(tmp_path: Path) -> None:
    noise = random.Random(1)
    table = pa.table({"a": [noise.randbytes(150).hex() for _ in range(900)], "n": range(900)})
    path = write(tmp_path / "damaged.orc", table, compression="zlib")
    source = OrcSource()
    with source._open(pin(path)) as opened:
        stripe = opened.tail.stripes[1]  # type: ignore[attr-defined]
    raw = bytearray(path.read_bytes())
    middle = (stripe.start + stripe.stop) // 2
    raw[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(raw)
    facts = source.examine(pin(path))
    found = collect(source.read(segment(pin(path), facts, 100, 850), ["n", "a"], {}, 64), 100, 850)
    assert {*range(100, 300), *range(600, 850)} <= set(found.numbers)
    assert found.unread and set(found.unread) <= set(range(300, 600))
    assert found.table["n"].to_pylist() == found.numbers
    assert "Stripe 1 cannot be decoded" in found.unread[max(found.unread)][1]


def test_a_small_file_that_decodes_to_gigabytes_comes_in_bounded_batches(tmp_path: Path) -> None:
    path, rows = tmp_path / "bomb.orc", 400_000
    with orc.ORCWriter(str(path), compression="zstd", dictionary_key_size_threshold=1.0) as writer:
        for _ in range(rows // 20_000):
            writer.write(pa.table({"s": ["x" * 5_000] * 20_000}))
    assert path.stat().st_size < 200_000
    source = OrcSource()
    facts = source.examine(pin(path))
    assert facts.rows == rows
    assert sum(block.decoded_bytes for block in facts.blocks) >= 2_000_000_000
    before = pa.total_allocated_bytes()
    reading = source.read(segment(pin(path), facts), ["s"], {}, 1 << 16)
    batches = [next(reading) for _ in range(3)]
    assert all(0 < item.batch.nbytes <= 80 << 20 for item in batches)
    assert pa.total_allocated_bytes() - before < 600 << 20


@pytest.mark.parametrize("compression", ["uncompressed", "zstd"])
def test_damaged_bytes_give_an_error_or_the_planned_rows(compression: str, tmp_path: Path) -> None:
    table = pa.table(
        {
            "s": [None if n % 5 == 0 else "x" * (n % 13) for n in range(60)],
            "f": np.random.default_rng(3).random(60),
            "l": [[n] * (n % 3) for n in range(60)],
        }
    )
    path = write(tmp_path / "a.orc", table, rows=20, compression=compression)
    assert outcomes(OrcSource(), path) == {"rows", "unread", "refused"}
