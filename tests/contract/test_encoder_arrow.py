"""The Arrow encoder: its contract and what is inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from tidemill.encoders.arrow import ArrowEncoder
from tidemill.ports.encoder import Encoder
from tidemill.testing.encoder import MATRIX, METADATA, EncoderContract, table_of_rows


class TestArrowEncoder(EncoderContract):
    options: dict[str, Any] = {}  # noqa: RUF012

    def make(self, options: dict[str, Any] | None = None) -> Encoder:
        return ArrowEncoder({**self.options, **(options or {})})

    def read(self, path: Path, schema: pa.Schema) -> pa.Table:
        with pa.OSFile(str(path)) as file:
            return pa.ipc.open_file(file).read_all()


class TestZstdArrowEncoder(TestArrowEncoder):
    options = {"compression": "zstd"}  # noqa: RUF012


def test_types_come_back_and_dictionaries_as_values(tmp_path: Path) -> None:
    for number, (kind, array) in enumerate(MATRIX.items()):
        path = tmp_path / f"{number}.arrow"
        writer = ArrowEncoder().open(path, pa.schema([("c", array.type)]), {})
        writer.write(pa.record_batch({"c": array}))
        writer.close()
        expected = array.type.value_type if "dictionary" in kind else array.type
        assert pa.ipc.open_file(path.read_bytes()).schema.field("c").type == expected


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_polars_reads_it_with_its_metadata(compression: str | None, tmp_path: Path) -> None:
    data = table_of_rows(70_000)
    writer = ArrowEncoder({"compression": compression}).open(tmp_path / "a.arrow", data.schema, METADATA)
    for batch in data.to_batches():
        writer.write(batch)
    writer.close()
    frame = pl.read_ipc(tmp_path / "a.arrow")
    assert frame["id"].to_list() == list(range(70_000))
    assert frame["text"].to_list() == data["text"].to_pylist()
    with pa.OSFile(str(tmp_path / "a.arrow")) as file:
        reader = pa.ipc.open_file(file)
        assert reader.schema.metadata == {b"tidemill.model": b"sha256:1", b"tidemill.spec": b"sha256:2"}
        assert [reader.get_batch(n).num_rows for n in range(reader.num_record_batches)] == [65_536, 4_464]
