"""What predicts is decided on rows of the input: a kernel only where it gives what the library gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.domain.errors import InputUnreadable
from tidemill.domain.plan import PlanSummary
from tidemill.domain.signature import Field, Kernel, ModelInfo
from tidemill.engine import acceleration, models, planner
from tidemill.engine.acceleration import choose, compare
from tidemill.kernels import trees
from tidemill.kernels.tables import Tables
from tidemill.kernels.walks import WalkKernel
from tidemill.ports.flavor import Model, Predicted
from tidemill.wire.spec import ComputeSpec, InputSpec, JobSpec, OutputSpec

ROWS = 5_000
CHECKED = 4_096
KERNEL = Kernel(name="trees", version="1", tolerance=1e-6)


def test_nulls_and_rare_values_are_among_the_rows_that_are_chosen() -> None:
    rows = 30_000
    words = ["usual"] * rows
    words[12_345] = "rare"
    numbers: list[float | None] = [1.0] * rows
    numbers[23_456] = None
    few, many = np.zeros(rows, int), np.arange(rows)
    few[17_171] = 3
    columns = {"word": words, "number": numbers, "coded": pa.array(words).dictionary_encode(), "few": few, "many": many}
    batch = pa.RecordBatch.from_pydict(columns)
    chosen = choose(batch, 100)
    assert len(chosen) == len(set(chosen.tolist())) == 100
    assert {12_345, 17_171, 23_456} <= set(chosen.tolist())
    assert chosen.tolist() == sorted(chosen.tolist())
    assert chosen.max() > rows * 0.95
    assert choose(batch.slice(0, 40), 100).tolist() == list(range(40))


class Said(Model):
    """Predicts what it was told to."""

    def __init__(
        self,
        columns: dict[str, pa.Array],
        bad: dict[int, str] | None = None,
        *,
        by_kernel: bool,
        sizes: dict[str, float] | None = None,
    ) -> None:
        outputs = tuple(Field(name=name, type=str(column.type)) for name, column in columns.items())
        self.info = ModelInfo(flavor="said", inputs=(), outputs=outputs)
        self._predicted = Predicted(
            columns=pa.RecordBatch.from_pydict(columns), row_errors=bad or {}, by_kernel=by_kernel, sizes=sizes or {}
        )

    def predict(self, batch: pa.RecordBatch) -> Predicted:
        return self._predicted


def compared(expected: Any, found: Any, **more: Any) -> acceleration.Comparison:
    columns = [{"prediction": pa.array([0, 1, 1]), "probability": pa.array(each)} for each in (expected, found)]
    columns[1].update(more.get("columns", {}))
    library = Said(columns[0], by_kernel=False)
    fast = Said(columns[1], more.get("bad"), by_kernel=more.get("by_kernel", True), sizes=more.get("sizes"))
    return compare(library, fast, KERNEL, pa.RecordBatch.from_pydict({"x": [1, 2, 3]}))


def test_numbers_may_differ_by_the_kernel_s_tolerance() -> None:
    found = compared([0.1, 0.5, 0.0], [0.1, 0.5 * (1 + 5e-7), 0.0])
    assert found.disagreement is None
    assert found.largest_difference == pytest.approx(5e-7, rel=1e-3)
    assert compared([np.nan, np.inf, 1.0], [np.nan, np.inf, 1.0]).largest_difference == 0
    assert compared([5e-324, 0.0, 0.0], [1.5e-323, 0.0, 0.0]).disagreement is None


def test_what_is_left_of_larger_numbers_counts_relative_to_them() -> None:
    left = [1e-9, 0.0, 1.0], [3e-9, -1e-9, 1.0]
    assert compared(*left).disagreement is not None
    assert compared(*left, sizes={"prediction": 1.0}).disagreement is not None
    assert compared(*left, sizes={"probability": 0.001}).largest_difference == pytest.approx(2e-6)
    assert compared(*left, sizes={"probability": 0.01}).disagreement is None


@pytest.mark.parametrize(
    ("expected", "found", "more", "words"),
    [
        ([0.1, 0.5, 0.9], [0.1, 0.5, 0.90001], {}, "probability differs by up to 1.1e-05 in 1 of 3 rows"),
        ([0.1, 0.5, 0.9], [0.1, np.nan, 0.9], {}, "in 1 of 3 rows"),
        ([0.1, 0.5, 0.9], [0.1, None, 0.9], {}, "in 1 of 3 rows"),
        ([0.1, 0.5, 0.9], [0.1, 0.5, 0.9], {"columns": {"prediction": pa.array([0, 1, 0])}}, "prediction is not"),
        ([0.1, 0.5, 0.9], [0.1, 0.5, 0.9], {"columns": {"more": pa.array([0, 1, 0])}}, "it gives"),
        ([0.1, 0.5, 0.9], [0.1, 0.5, 0.9], {"bad": {1: "no"}}, "it refuses other rows"),
        ([0.1, 0.5, 0.9], [0.1, 0.5, 0.9], {"by_kernel": False}, "it did not predict"),
    ],
)
def test_disagreement_is_told(expected: Any, found: Any, more: dict[str, Any], words: str) -> None:
    assert words in str(compared(expected, found, **more).disagreement)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A model file, and rows for it."""
    import lightgbm

    folder = tmp_path_factory.mktemp("trained")
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, 3))
    names = ["a", "b", "c"]
    data = lightgbm.Dataset(x, x[:, 0] + x[:, 1] * x[:, 2], feature_name=names)
    lightgbm.train({"verbose": -1, "num_threads": 1}, data, 10).save_model(folder / "model.txt")
    table = pa.table({"id": np.arange(ROWS), **dict(zip(names, x.T, strict=True))})
    pq.write_table(table, folder / "rows.parquet", row_group_size=500)
    return str(folder / "model.txt"), str(folder / "rows.parquet")


def decided(trained: tuple[str, str], staging: Path) -> tuple[PlanSummary, dict[str, Any]]:
    """A plan, and what was decided of it."""
    for name in ("plan", "parts", "spool"):
        (staging / name).mkdir(parents=True)
    spec = JobSpec(
        model=trained[0],
        input=InputSpec(path=[trained[1]]),
        output=OutputSpec(path=str(staging / "scores"), format="parquet"),
        compute=ComputeSpec(rows_per_chunk=700),
    )
    model = {**models.identify(trained[0]), "trusted": True}
    request = {"brief": spec.brief().to_json(), "staging": str(staging), "epoch": 1, "model": model}
    plan = PlanSummary.from_json(planner.plan(request, lambda told: None)["plan"])
    asked = {"staging": str(staging), "plan_digest": plan.digest, "model": model}
    return plan, json.loads(json.dumps(acceleration.check(asked, lambda told: None)["acceleration"]))


def test_a_kernel_that_agrees_is_chosen(trained: tuple[str, str], tmp_path: Path) -> None:
    plan, found = decided(trained, tmp_path)
    assert plan.model.kernel == "trees"
    assert found["why_not"] is None
    kernel = found["kernel"]
    assert (kernel["name"], kernel["checked_rows"], kernel["largest_difference"]) == ("trees", CHECKED, 0)


def test_rows_that_are_compared_come_from_all_over_the_input(trained: tuple[str, str], tmp_path: Path) -> None:
    plan, _ = decided(trained, tmp_path)
    heads = list(acceleration._heads(plan, tmp_path))
    assert len(heads) == plan.chunks == 8
    assert [head.row_start for head in heads] == [700 * number for number in range(8)]
    assert all(1 <= head.rows <= 700 for head in heads)


@pytest.mark.parametrize("name", ["breast_cancer", "diabetes", "digits", "iris", "wine"])
def test_forests_of_real_data_agree(name: str, tmp_path: Path) -> None:
    import joblib
    from sklearn import datasets, ensemble

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    kind = ensemble.RandomForestRegressor if name == "diabetes" else ensemble.RandomForestClassifier
    joblib.dump(kind(n_estimators=10, random_state=0).fit(x, y), tmp_path / "model.pkl")
    columns = {f"f{number}": column for number, column in enumerate(x.T)}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    _, found = decided((str(tmp_path / "model.pkl"), str(tmp_path / "rows.parquet")), tmp_path / "staging")
    assert found["why_not"] is None
    assert (found["kernel"]["checked_rows"], found["kernel"]["largest_difference"]) == (len(x), 0)


def test_one_wrong_leaf_of_a_large_tree_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import joblib
    from sklearn.tree import DecisionTreeRegressor

    class Wrong(WalkKernel):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self._walks.leaves[17] += 1e-9

    monkeypatch.setattr(trees, "WalkKernel", Wrong)
    x = np.random.default_rng(0).normal(size=(500, 3))
    joblib.dump(DecisionTreeRegressor(random_state=0).fit(x, x.sum(axis=1)), tmp_path / "model.pkl")
    pq.write_table(pa.table(dict(zip("abc", x.T, strict=True))), tmp_path / "rows.parquet")
    _, found = decided((str(tmp_path / "model.pkl"), str(tmp_path / "rows.parquet")), tmp_path / "staging")
    assert found["kernel"] is None
    assert "prediction differs by" in found["why_not"]


def test_one_wrong_leaf_is_caught(trained: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = trees.compile_tables

    def wrong(*given: Any, **named: Any) -> Tables:
        tables = right(*given, **named)
        tables.leaves[17] += 1e-9
        return tables

    monkeypatch.setattr(trees, "compile_tables", wrong)
    _, found = decided(trained, tmp_path)
    assert found["kernel"] is None
    assert "the kernel trees disagrees with the library: prediction differs by" in found["why_not"]


@pytest.mark.parametrize(
    ("step", "error"), [("compare", ValueError("too much")), ("_sample", InputUnreadable("too much", remedy="None."))]
)
def test_rows_that_cannot_be_read_or_predicted_keep_the_kernel_off_and_fail_nothing(
    trained: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    def fails(*given: Any, **named: Any) -> Any:
        raise error

    monkeypatch.setattr(acceleration, step, fails)
    _, found = decided(trained, tmp_path)
    assert found["kernel"] is None
    assert "cannot be read or predicted together: too much" in found["why_not"]


def test_a_sample_without_a_row_proves_nothing(
    trained: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = acceleration._sample
    monkeypatch.setattr(acceleration, "_sample", lambda *given, **named: drawn(*given, **named).slice(0, 0))
    assert decided(trained, tmp_path)[1] == {"kernel": None, "why_not": "no row of the sample can be read"}
