"""The ORC encoder: its contract and what is inside."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import orc

from tidemill.domain.errors import OutputUnwritable
from tidemill.encoders.orc import OrcEncoder
from tidemill.ports.encoder import Encoder
from tidemill.testing.encoder import MATRIX, METADATA, EncoderContract, table_of_rows


class TestOrcEncoder(EncoderContract):
    options: dict[str, Any] = {}  # noqa: RUF012

    def make(self, options: dict[str, Any] | None = None) -> Encoder:
        return OrcEncoder({**self.options, **(options or {})})

    def read(self, path: Path, schema: pa.Schema) -> pa.Table:
        found = orc.read_table(path)
        # Moments come as nanoseconds, large and fixed lists as lists.
        for number, field in enumerate(schema):
            if not pa.types.is_null(field.type):
                kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
                found = found.set_column(number, field.name, found[field.name].cast(kind))
            else:
                assert found[field.name].null_count == found.num_rows
                found = found.set_column(number, field.name, pa.nulls(found.num_rows))
        return found


class TestPlainOrcEncoder(TestOrcEncoder):
    options = {"compression": "none"}  # noqa: RUF012


def test_what_it_holds() -> None:
    held = {kind for kind, array in MATRIX.items() if not OrcEncoder().unwritable(pa.schema([("c", array.type)]))}
    assert {"int64", "string", "decimal128", "timestamp ns UTC", "struct", "map", "dictionary of string"} <= held
    assert held.isdisjoint({"decimal256", "date64", "time64 us", "duration s", "interval"})


def test_metadata_and_stripes(tmp_path: Path) -> None:
    data = table_of_rows(70_000)
    writer = OrcEncoder().open(tmp_path / "a.orc", data.schema, METADATA)
    for batch in data.to_batches():
        writer.write(batch)
    writer.close()
    file = orc.ORCFile(tmp_path / "a.orc")
    assert (file.nrows, file.compression) == (70_000, "ZSTD")


def test_a_moment_that_could_not_be_read_back_is_refused(tmp_path: Path) -> None:
    data = pa.table({"t": pa.array([datetime(9999, 12, 31)], pa.timestamp("us"))})
    writer = OrcEncoder().open(tmp_path / "a.orc", data.schema, METADATA)
    with pytest.raises(OutputUnwritable, match="out of bounds") as caught:
        writer.write(data.to_batches()[0])
    assert "another output format" in str(caught.value.remedy)
    writer.abort()
    assert list(tmp_path.iterdir()) == []
