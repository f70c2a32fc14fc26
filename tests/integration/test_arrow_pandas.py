"""Children whose models want no frames do without pandas; where a model imports it, Arrow knows it as ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

CONVERSIONS = """
import json, sys
import numpy as np
import pyarrow as pa

if {spared}:
    from tidemill.bootstrap.arrow_pandas import spare_pandas
    spare_pandas()

def shown(made):
    try:
        made = made()
    except Exception as exc:
        return f"{{type(exc).__name__}}: {{exc}}"
    if isinstance(made, (pa.Array, pa.ChunkedArray, pa.Table, pa.RecordBatch)):
        kind = made.schema if hasattr(made, "schema") else made.type
        return f"{{kind}} {{made.to_pylist()}}"
    return f"{{type(made).__module__}}.{{type(made).__name__}} {{made!r}}"

numbers = pa.array([1.5, None, 2.5])
before = [
    shown(lambda: numbers), shown(lambda: np.asarray(numbers)), shown(lambda: pa.array(np.array(["x", None]))),
    shown(lambda: pa.array(np.array(["2020-01-01", "NaT"], "datetime64[s]"))), shown(lambda: pa.table({{"a": [1, 2]}})),
]
early = "pandas" in sys.modules

import pandas as pd

frame = pd.DataFrame({{"n": [1.0, None], "t": ["a", None], "c": pd.Categorical(["u", None])}})
after = [
    shown(lambda: pa.array(frame["n"])), shown(lambda: pa.array(frame["t"])), shown(lambda: pa.array(frame["c"])),
    shown(lambda: pa.array(pd.array([1, None], "Int64"))), shown(lambda: pa.array(pd.Index([1, 2]))),
    shown(lambda: pa.array([1, pd.NA])), shown(lambda: pa.array([pd.Timestamp("2020-01-01"), pd.NaT])),
    shown(lambda: pa.array([pd.Timedelta("1s")])), shown(lambda: pa.array([1.0, float("nan")], from_pandas=True)),
    shown(lambda: pa.array(pd.Series(pd.to_datetime(["2020-01-01"]).tz_localize("UTC")))),
    shown(lambda: pa.table(frame)), shown(lambda: pa.record_batch(frame)), shown(lambda: pa.Table.from_pandas(frame)),
    shown(lambda: pa.table({{"a": [1, None]}}).to_pandas()), shown(lambda: numbers.to_pandas()),
]
loader = type(pd.__spec__.loader).__name__
print(json.dumps({{"early": early, "before": before, "after": after, "loader": loader}}))
"""


def converted(*, spared: bool) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", CONVERSIONS.format(spared=spared)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_arrow_converts_the_same_before_and_after_pandas_is_imported() -> None:
    plain, spared = converted(spared=False), converted(spared=True)
    assert (plain.pop("early"), spared.pop("early")) == (True, False)
    assert spared == plain


MODEL = """
import sys
import numpy as np

class Plain:
    inputs = ("x",)

    def predict(self, batch):
        x = np.asarray(batch["x"])
        return x + 1000.0 * ("pan" + "das" in sys.modules)
"""
"""Its source does not speak of it."""


@pytest.mark.parametrize(("source", "loaded"), [("", False), ("import pandas\n", True)])
def test_scorers_load_pandas_only_for_a_model_that_does(tmp_path: Path, source: str, loaded: bool) -> None:
    (tmp_path / "model.py").write_text(source + MODEL)
    pq.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "in.parquet")
    words = ["run", "model.py:Plain", "in.parquet", "-o", "out.parquet", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "tidemill", *words],
        cwd=tmp_path,
        env={**os.environ, "TIDEMILL_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = pq.read_table(tmp_path / "out.parquet")["prediction"].to_pylist()
    assert found == [1.0 + 1000 * loaded, 2.0 + 1000 * loaded]
