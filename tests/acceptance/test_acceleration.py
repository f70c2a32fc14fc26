"""A kernel in place of the library, as people meet it: the same bytes, told in summary and manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.acceptance.terminal import Terminal

ROWS = 120_000
FEATURES = ("a", "b", "word")
WORDS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("rows")
    columns = {
        "id": pa.array(np.arange(ROWS)),
        "a": pa.array(random.normal(size=ROWS), mask=random.random(ROWS) < 0.05),
        "b": pa.array(random.normal(size=ROWS)),
        "word": pa.array(random.choice(WORDS, ROWS)),
    }
    pq.write_table(pa.table(columns), folder / "rows.parquet", row_group_size=20_000)
    return folder / "rows.parquet"


@pytest.fixture(scope="module")
def model(rows: Path) -> Path:
    import lightgbm
    import pandas as pd

    frame = pd.read_parquet(rows).head(5_000)
    frame["word"] = pd.Categorical(frame["word"], categories=WORDS)
    late = (frame["b"] + (frame["word"] == "red") > 0.3).astype(int)
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1}
    path = rows.with_name("model.txt")
    lightgbm.train(settings, lightgbm.Dataset(frame[list(FEATURES)], late), 30).save_model(path)
    return path


def published(terminal: Terminal, name: str) -> tuple[list[str], dict[str, object]]:
    """Digests of the files, and the manifest."""
    files = sorted((terminal.work / name).iterdir())
    manifest = json.loads((terminal.work / f"{name}.manifest.json").read_text())
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files], manifest


def test_a_large_job_is_predicted_by_the_kernel_to_the_same_bytes(terminal: Terminal, model: Path, rows: Path) -> None:
    said = terminal.run(model, rows, "-o", "auto", "--keep", "id").done()
    assert "by the kernel trees, which gave what lightgbm gives on 4,096 rows" in said.err
    terminal.run(model, rows, "-o", "off", "--keep", "id", "--accelerate", "off").done()
    fast, how = published(terminal, "auto")
    slow, before = published(terminal, "off")
    assert fast == slow
    usage = how["usage"], before["usage"]
    assert [used["kernel_rows"] for used in usage] == [ROWS, 0]  # type: ignore[index]
    assert how["acceleration"]["kernel"]["largest_difference"] == 0  # type: ignore[index]
    assert "tidemill-kernels" in how["libraries"]  # type: ignore[operator]
    assert (before["acceleration"], "tidemill-kernels" in before["libraries"]) == (None, False)  # type: ignore[operator]
    again = terminal.run(model, rows, "-o", "auto", "--keep", "id", "--accelerate", "off").done()
    assert "up to date" in again.err


def test_a_forest_grown_to_the_end_is_predicted_to_the_same_bytes(terminal: Terminal, rows: Path) -> None:
    """Missing values among the rows, and trees of hundreds of leaves."""
    import joblib
    from sklearn.ensemble import RandomForestRegressor

    table = pq.read_table(rows, columns=["a", "b"]).slice(0, 2_000)
    x = np.column_stack([table["a"].to_numpy(), table["b"].to_numpy()])
    forest = RandomForestRegressor(n_estimators=10, random_state=0).fit(x, np.nansum(x, axis=1))
    assert min(tree.tree_.n_leaves for tree in forest.estimators_) > 500
    joblib.dump(forest, rows.with_name("forest.pkl"))
    words = (rows.with_name("forest.pkl"), rows, "--features", "a,b", "--keep", "id", "--trust")
    terminal.run(*words, "-o", "fast", "--accelerate", "strict").done()
    terminal.run(*words, "-o", "slow", "--accelerate", "off").done()
    fast, how = published(terminal, "fast")
    slow, before = published(terminal, "slow")
    assert fast == slow
    assert [each["usage"]["kernel_rows"] for each in (how, before)] == [ROWS, 0]  # type: ignore[index]


def test_strict_is_refused_for_what_no_kernel_predicts(terminal: Terminal, few: Path) -> None:
    words = ("wild:Good", few, "-o", "out", "--accelerate", "strict")
    terminal.run(*words).refused("there is no kernel for models of the flavor python", "--accelerate strict")
    assert not (terminal.work / "out").exists()
    terminal.run("wild:Good", few, "-o", "out", "--accelerate", "soon").refused("accelerate", "strict")
