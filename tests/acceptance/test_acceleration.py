"""A kernel in place of the library, as people meet it: the same bytes, told in summary and manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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


def test_a_kernel_is_kept_for_the_next_job_and_made_again_if_it_was_damaged(
    terminal: Terminal, model: Path, rows: Path
) -> None:
    kernels = terminal.home / "kernels"

    def run(name: str) -> tuple[list[str], int]:
        """Digests of what it wrote, and which file is kept."""
        terminal.run(model, rows, "-o", name, "--keep", "id").done()
        files, how = published(terminal, name)
        assert how["usage"]["kernel_rows"] == ROWS  # type: ignore[index]
        (kept,) = kernels.iterdir()
        return files, kept.stat().st_ino

    first, written = run("first")
    assert run("second") == (first, written)
    (kept,) = kernels.iterdir()
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    files, again = run("third")
    assert (files, again == written) == (first, False)


def toned(table: pa.Table) -> pa.Table:
    """With another column of text."""
    return table.append_column("tone", pc.utf8_upper(table["word"]))


@pytest.fixture(scope="module")
def linear_model(rows: Path) -> Path:
    """A pipeline that refuses words which it has not seen."""
    import joblib
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    frame = toned(pq.read_table(rows)).slice(0, 2_000).to_pandas()
    late = np.where(frame["b"] + (frame["word"] == "red") > 0.3, "late", "in time")
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = ColumnTransformer([("numbers", numbers, ["a", "b"]), ("words", OneHotEncoder(), ["word", "tone"])])
    path = rows.with_name("linear.joblib")
    joblib.dump(make_pipeline(columns, LogisticRegression()).fit(frame[[*FEATURES, "tone"]], late), path)
    return path


def test_a_linear_pipeline_is_predicted_by_the_kernel_and_bad_rows_are_rejected_alike(
    terminal: Terminal, linear_model: Path, rows: Path
) -> None:
    """A batch with rows of two row groups, and so of two dictionaries; one column of text is written out again, so it
    is read as it is; one word is unknown, far from the sample."""
    table = toned(pq.read_table(rows).slice(0, 40_000))
    words = table["word"].to_pylist()
    words[39_000] = "mauve"
    table = table.set_column(table.schema.get_field_index("word"), "word", pa.array(words))
    pq.write_table(table, terminal.work / "rows.parquet", row_group_size=25_000)
    command = (linear_model, "rows.parquet", "--keep", "id,tone", "--trust", "-o")
    said = terminal.run(*command, "fast", "--accelerate", "strict").done(3)
    assert "by the kernel linear, which gave what sklearn gives on 4,096 rows" in said.err
    terminal.run(*command, "slow", "--accelerate", "off").done(3)
    fast, slow = (pq.read_table(terminal.work / name) for name in ("fast", "slow"))
    assert fast.schema.equals(slow.schema)
    assert fast.drop(["probability"]).equals(slow.drop(["probability"]))
    assert np.abs(np.asarray(fast["probability"]) / np.asarray(slow["probability"]) - 1).max() <= 1e-12
    rejected = [pq.read_table(terminal.work / f"{name}.rejected") for name in ("fast", "slow")]
    assert rejected[0].num_rows == 1
    assert rejected[0].equals(rejected[1])
    _, how = published(terminal, "fast")
    assert how["usage"]["kernel_rows"] == 39_999  # type: ignore[index]
    assert how["acceleration"]["kernel"]["distribution"] == "tidemill"  # type: ignore[index]
    assert "tidemill" in how["libraries"]  # type: ignore[operator]


def test_strict_is_refused_for_what_no_kernel_predicts(terminal: Terminal, few: Path) -> None:
    words = ("wild:Good", few, "-o", "out", "--accelerate", "strict")
    terminal.run(*words).refused("there is no kernel for models of the flavor python", "--accelerate strict")
    assert not (terminal.work / "out").exists()
    terminal.run("wild:Good", few, "-o", "out", "--accelerate", "soon").refused("accelerate", "strict")
