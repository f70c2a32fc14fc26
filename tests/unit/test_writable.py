"""What an output cannot hold is refused with what can be done about it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tidemill import registry
from tidemill.domain.errors import UnsupportedType
from tidemill.engine.planner import check_writable

SCHEMA = pa.schema([("tags", pa.list_(pa.string())), ("embedding", pa.list_(pa.float32(), 3))])


def test_a_kept_column_can_be_left_out_and_one_that_the_model_writes_cannot() -> None:
    encoder = registry.encoders.get("csv")()
    with pytest.raises(UnsupportedType, match=r"tags .*; embedding") as caught:
        check_writable(encoder, SCHEMA, ["embedding"])
    assert caught.value.remedy == "Choose Parquet or Arrow as output: the model writes embedding."
    with pytest.raises(UnsupportedType, match="tags") as caught:
        check_writable(encoder, SCHEMA.remove(1), ["embedding"])
    assert "--keep" in str(caught.value.remedy)
    check_writable(registry.encoders.get("parquet")(), SCHEMA, ["embedding"])
