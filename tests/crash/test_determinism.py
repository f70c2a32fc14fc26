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
from tests.crash.rig.strike import check_visible, judge, strike_between_commits

SEEDS = int(os.environ.get("TIDEMILL_CRASH_SEEDS", "20"))
FEATURES = [f"f{i}" for i in range(8)]
ROWS = (5200, 4900, 5150, 4750, 5000)
"""25 chunks of 1,000 rows."""


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
def alone(model: str, featured: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one scorer publishes, never disturbed."""
    found = _published(_job(tmp_path_factory.mktemp("alone"), featured, model, 1))
    assert len(found) >= 20
    return found


@pytest.mark.parametrize("scorers", [2, 5])
def test_same_bytes(
    scorers: int, model: str, alone: dict[str, str], featured: tuple[Path, ...], tmp_path: Path
) -> None:
    """However many scorers."""
    assert _published(_job(tmp_path, featured, model, scorers)) == alone


@pytest.mark.parametrize("seed", range(0, SEEDS, 20))
def test_same_bytes_after_a_kill(
    seed: int, model: str, alone: dict[str, str], featured: tuple[Path, ...], tmp_path: Path
) -> None:
    """Killed between two commits. Each model has a twentieth of the seeds: `test_instants` has all of them."""
    job = _job(tmp_path, featured, model, 2)
    blow = strike_between_commits(job, 0, 1 + 2 * (seed // 20 % 4))
    check_visible(job, blow.look.state, ())
    assert blow.hit and 0 < len(blow.look.committed) < len(alone), blow
    assert _published(job, run=1) == alone
    judge(job, [blow], model.rpartition("/")[2], seed, 2, suite="determinism")


def _job(folder: Path, files: tuple[Path, ...], model: str, scorers: int) -> CrashJob:
    return new_job(folder, files, model=model, scorers=scorers, sleep=0.0, keep="file_no,row_no")


def _published(job: CrashJob, run: int = 0) -> dict[str, str]:
    ran = once(job, run)
    assert ran.code in (0, 3), ran
    values = job.model.startswith("keymodel")
    return checker.check(job.inputs, job.output, kept=("file_no", "row_no"), values=values).sha256
