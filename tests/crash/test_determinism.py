"""However many scorers, however often killed: the same bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import checker
from tests.crash.rig.job import CrashJob, new_job, once
from tests.crash.rig.life import Life
from tests.crash.rig.strike import check

SEEDS = int(os.environ.get("TIDEMILL_CRASH_SEEDS", "20"))
FEATURES = [f"f{i}" for i in range(8)]
ROWS = (1040, 980, 1030, 950, 1000)
ROWS_PER_CHUNK = 60
"""85 chunks, each of two batches: enough for several kills, before each of which some are committed."""
KILLS = 5
"""Each model has a quarter of the seeds, and so many of them share a job."""


@pytest.fixture(scope="session")
def featured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Input with row keys and eight features, some null."""
    folder, rng = tmp_path_factory.mktemp("featured"), np.random.default_rng(7)
    paths = []
    for number, count in enumerate(ROWS):
        columns = {"file_no": np.full(count, number, dtype=np.int64), "row_no": np.arange(count, dtype=np.int64)}
        values = {name: np.round(rng.normal(size=count), 3).astype(np.float32) for name in FEATURES}
        path = folder / f"featured-{number}.parquet"
        pq.write_table(pa.table({**columns, **values}), path, row_group_size=800)
        paths.append(path)
    return tuple(paths)


def _matrix(files: tuple[Path, ...]) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    table = checker.read_inputs(files[:2])
    x = np.column_stack([table[name].to_numpy() for name in FEATURES]).astype(np.float32)
    return x, x[:, 0] * 2 - x[:, 1] ** 2 + x[:, 2] * x[:, 3]


def _lightgbm(folder: Path, files: tuple[Path, ...]) -> str:
    import lightgbm

    x, y = _matrix(files)
    data = lightgbm.Dataset(x, label=y, feature_name=FEATURES)
    options = {"objective": "regression", "num_leaves": 31, "verbose": -1, "num_threads": 1, "seed": 1}
    lightgbm.train(options, data, num_boost_round=500).save_model(folder / "trees.txt")
    return str(folder / "trees.txt")


def _python(folder: Path, files: tuple[Path, ...]) -> str:
    return "keymodel:KeyModel"


def _linear(folder: Path, files: tuple[Path, ...]) -> str:
    """Its last bits depend on which rows share a batch."""
    import pandas as pd
    import skops.io
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    x, y = _matrix(files)
    model = make_pipeline(StandardScaler(), PolynomialFeatures(7), Ridge())
    model.fit(pd.DataFrame(x[:2000].astype(np.float64), columns=FEATURES), y[:2000])
    skops.io.dump(model, folder / "linear.skops")
    return str(folder / "linear.skops")


def _network(folder: Path, files: tuple[Path, ...]) -> str:
    """Three wide layers with random weights; one input for each column."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng, widths = np.random.default_rng(3), (len(FEATURES), 1024, 1024, 1024, 1)
    nodes, weights, last = [helper.make_node("Concat", FEATURES, ["x0"], axis=1)], [], len(widths) - 2
    for layer, (before, after) in enumerate(pairwise(widths)):
        w = rng.normal(scale=before**-0.5, size=(before, after)).astype(np.float32)
        weights.append(numpy_helper.from_array(w, f"w{layer}"))
        linear = "y" if layer == last else f"z{layer}"
        nodes.append(helper.make_node("MatMul", [f"x{layer}", f"w{layer}"], [linear]))
        if layer < last:
            nodes.append(helper.make_node("Relu", [linear], [f"x{layer + 1}"]))
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in FEATURES]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])
    graph = helper.make_graph(nodes, "network", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "network.onnx")
    return str(folder / "network.onnx")


MODELS: dict[str, Callable[[Path, tuple[Path, ...]], str]] = {
    "python": _python,
    "lightgbm": _lightgbm,
    "linear": _linear,
    "network": _network,
}


@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(f"determinism-{name}")) for name in MODELS],
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, featured: tuple[Path, ...]) -> str:
    return MODELS[request.param](tmp_path_factory.mktemp("model"), featured)


@pytest.fixture(scope="session")
def alone(
    model: str, featured: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory, store: Path
) -> dict[str, str]:
    """What one scorer publishes, never disturbed."""
    found = _published(_job(tmp_path_factory.mktemp("alone"), featured, model, 1, store))
    assert len(found) >= 20
    return found


def test_same_bytes(model: str, alone: dict[str, str], featured: tuple[Path, ...], tmp_path: Path, store: Path) -> None:
    """However many scorers: here five, below two."""
    assert _published(_job(tmp_path, featured, model, 5, store)) == alone


@pytest.mark.parametrize("first", range(0, SEEDS // len(MODELS), KILLS))
def test_same_bytes_after_kills(
    first: int, model: str, alone: dict[str, str], featured: tuple[Path, ...], tmp_path: Path, store: Path
) -> None:
    """Killed at its second commit, and at that of each run that goes on."""
    life = Life(job=_job(tmp_path, featured, model, 2, store), suite="determinism", values=_is_keyed(model))
    done: frozenset[int] = frozenset()
    for seed in range(first, first + KILLS):
        blow = life.strike_commit(2, case=model.rpartition("/")[2], seed=seed)
        assert blow.hit and blow.look.committed > done, life.blows
        done = blow.look.committed
    assert life.finish().sha256 == alone


def _job(folder: Path, files: tuple[Path, ...], model: str, scorers: int, store: Path) -> CrashJob:
    return new_job(
        folder,
        files,
        store=store,
        model=model,
        scorers=scorers,
        sleep=0.0,
        keep="file_no,row_no",
        rows_per_chunk=ROWS_PER_CHUNK,
        batch_rows=30,
    )


def _is_keyed(model: str) -> bool:
    """Whether its predictions are a function of the row key."""
    return model.startswith("keymodel")


def _published(job: CrashJob) -> dict[str, str]:
    ran = once(job)
    assert ran.code in (0, 3), ran
    return check(job, values=_is_keyed(job.model)).sha256
