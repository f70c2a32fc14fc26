"""The Arrow encoder: its contract and what is inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from tidemill.encoders.arrow import ArrowEncoder
from tidemill.ports.encoder import Encoder
from tidemill.testing.encoder import MATRIX, EncoderContract


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
