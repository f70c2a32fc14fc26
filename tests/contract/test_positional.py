"""Models that know no names of columns take those of the input in their order: a preview, a plan and a check alike."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
import torch
import xgboost
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LinearRegression

from tests.contract import mlflow_models
from tidemill.domain.errors import SchemaMismatch
from tidemill.engine import models, planfile, planner, trials
from tidemill.engine.chunkscorer import load_options
from tidemill.engine.preview import preview
from tidemill.engine.sampling import sample
from tidemill.wire.spec import JobSpec

NAMES = ("x", "y", "z")
WEIGHTS = np.array([1.0, -0.5, 2.0])


@cache
def data() -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).normal(size=(60, 3)).astype(np.float32).astype(np.float64)


def target() -> np.ndarray[Any, Any]:
    return data() @ WEIGHTS


def _lightgbm(folder: Path) -> tuple[str, Sequence[float]]:
    settings = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 2}
    own = lightgbm.train(settings, lightgbm.Dataset(data(), target()), 5)
    own.save_model(folder / "m.txt")
    return str(folder / "m.txt"), own.predict(data(), num_threads=1)


def _xgboost(folder: Path) -> tuple[str, Sequence[float]]:
    own = xgboost.train({"nthread": 1}, xgboost.DMatrix(data(), target()), 5)
    own.save_model(folder / "m.ubj")
    return str(folder / "m.ubj"), own.predict(xgboost.DMatrix(data()))


def _catboost(folder: Path) -> tuple[str, Sequence[float]]:
    own = catboost.CatBoostRegressor(iterations=5, verbose=0, thread_count=1, allow_writing_files=False)
    own.fit(data(), target()).save_model(folder / "m.cbm")
    return str(folder / "m.cbm"), own.predict(data())


def _sklearn(folder: Path) -> tuple[str, Sequence[float]]:
    own = LinearRegression().fit(data(), target())
    skops.io.dump(own, folder / "m.skops")
    return str(folder / "m.skops"), own.predict(data())


def _pickle(folder: Path) -> tuple[str, Sequence[float]]:
    own = xgboost.XGBRegressor(n_estimators=4, n_jobs=1).fit(data(), target())
    (folder / "m.pkl").write_bytes(pickle.dumps(own))
    return str(folder / "m.pkl"), own.predict(data())


def _onnx(folder: Path) -> tuple[str, Sequence[float]]:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["i", "w"], ["o"])],
        "linear",
        [helper.make_tensor_value_info("i", TensorProto.DOUBLE, ["N", 3])],
        [helper.make_tensor_value_info("o", TensorProto.DOUBLE, ["N", 1])],
        [numpy_helper.from_array(WEIGHTS.reshape(3, 1), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, folder / "m.onnx")
    return str(folder / "m.onnx"), target()


def _torch(folder: Path) -> tuple[str, Sequence[float]]:
    torch.manual_seed(1)
    own = torch.nn.Linear(3, 1).eval()
    rows = torch.export.Dim("rows")
    made = torch.export.export(own, (torch.ones(2, 3),), dynamic_shapes=({0: rows},))
    torch.export.save(made, folder / "m.pt2")
    with torch.inference_mode():
        return str(folder / "m.pt2"), own(torch.from_numpy(data().astype("f4"))).numpy()[:, 0]


def _mlflow(folder: Path) -> tuple[str, Sequence[float]]:
    path = mlflow_models.pytorch("pickle")
    said = mlflow_models.says(path, data().astype("f4"))
    return path, said[:, 0]


MODELS: dict[str, Callable[[Path], tuple[str, Sequence[float]]]] = {
    "lightgbm": _lightgbm,
    "xgboost": _xgboost,
    "catboost": _catboost,
    "sklearn": _sklearn,
    "pickle": _pickle,
    "onnx": _onnx,
    "torch": _torch,
    "mlflow": _mlflow,
}


def inputs(folder: Path, kind: pa.DataType | None = None, **more: Any) -> str:
    """A file with the columns behind a key."""
    path = folder / "in.parquet"
    columns = {name: pa.array(data()[:, n]).cast(kind or pa.float64()) for n, name in enumerate(NAMES)}
    columns = {"row": pa.array(range(len(data()))), **columns}
    pq.write_table(pa.table({**columns, **more}), path)
    return str(path)


def request(path: str, table: str | Sequence[str], folder: Path, **words: Any) -> dict[str, Any]:
    spec = {
        "model": path,
        "input": {"path": table if isinstance(table, str) else list(table)},
        "output": {"path": str(folder / "out"), "format": "parquet"},
        "id": ["row"],
        **words,
    }
    brief = JobSpec.model_validate(spec).brief().to_json()
    return {"brief": brief, "model": {**models.identify(path), "trusted": True}, "spool": str(folder / "spool")}


def nothing(_: dict[str, Any]) -> None: ...


@pytest.mark.parametrize("flavor", MODELS)
def test_columns_are_taken_in_their_order_and_it_is_said(tmp_path: Path, flavor: str) -> None:
    path, expected = MODELS[flavor](tmp_path)
    # MLflow lets no wider type pass than the signature has.
    asked = request(path, inputs(tmp_path, pa.float32() if flavor == "mlflow" else None), tmp_path)
    seen = preview(asked, nothing)
    assert [field["name"] for field in seen["features"]] == list(NAMES)
    first = next(name for name in seen["rows"][0] if name.startswith("prediction"))
    assert [row["row"] for row in seen["rows"]] == list(range(5))
    named = {"features": list(NAMES)}
    assert seen["rows"] == preview(request(path, asked["brief"]["paths"], tmp_path, **named), nothing)["rows"]
    notes = [note for note in seen["model"]["notes"] if "knows no names of columns" in note]
    assert notes == ["the model knows no names of columns: it takes x, y, z, in this order; --features says others"]

    staging = tmp_path / "staging"
    (staging / "plan").mkdir(parents=True)
    answer = planner.plan({**asked, "staging": str(staging), "epoch": 1}, nothing)
    plan = planfile.read_summary(staging, answer["plan"]["digest"])
    assert notes[0] in plan.warnings
    loaded = models.load(asked["model"], load_options(plan, 1))
    kinds = {"float": pa.float32(), "double": pa.float64(), "any": pa.float64()}
    arrays = [pa.array(data()[:, n], kinds[field.type]) for n, field in enumerate(plan.model.inputs)]
    found = loaded.predict(pa.RecordBatch.from_arrays(arrays, names=list(NAMES))).columns.column(first)
    assert found.to_pylist() == np.asarray(expected).tolist()


def test_a_check_takes_them_alike(tmp_path: Path) -> None:
    path, _ = _xgboost(tmp_path)
    folder = tmp_path / "sample"
    folder.mkdir()
    asked = request(path, inputs(tmp_path), tmp_path)
    drawn = sample({**asked, "rows": 60, "folder": str(folder)}, nothing)
    assert [field["name"] for field in drawn["info"]["inputs"]] == list(NAMES)
    for name in (trials.REFERENCE, "reversed"):
        told = {**asked, "name": name, "info": drawn["info"], "predict": {}, "folder": str(folder)}
        assert trials.trial(told, nothing)["trial"]["answer"] in ("reference", "same")


@pytest.mark.parametrize("flavor", ["lightgbm", "sklearn", "onnx", "torch"])
def test_another_number_of_columns_is_refused_with_both_and_the_remedy(tmp_path: Path, flavor: str) -> None:
    path, _ = MODELS[flavor](tmp_path)
    asked = request(path, inputs(tmp_path, extra=pa.array(data()[:, 0])), tmp_path)
    with pytest.raises(SchemaMismatch, match=r"its 3 input .* has 4 beside those of --id: x, y, z, extra") as caught:
        preview(asked, nothing)
    assert "--features a,b,c" in str(caught.value.remedy)


def test_columns_that_are_only_kept_are_not_counted(tmp_path: Path) -> None:
    path, _ = _lightgbm(tmp_path)
    table = inputs(tmp_path, extra=pa.array(data()[:, 0]))
    seen = preview(request(path, table, tmp_path, keep=["extra"]), nothing)
    assert [field["name"] for field in seen["features"]] == list(NAMES)
    assert list(seen["rows"][0]) == ["row", "extra", "prediction"]
    seen = preview(request(path, inputs(tmp_path), tmp_path, keep=["x"]), nothing)
    assert list(seen["rows"][0]) == ["row", "x", "prediction"]


def test_the_names_that_a_library_made_up_are_found_wherever_they_stand(tmp_path: Path) -> None:
    path, expected = _lightgbm(tmp_path)
    names = ["Column_2", "other", "Column_0", "Column_1"]
    table = pa.table({name: data()[:, int(name[-1]) if name != "other" else 0] for name in names})
    pq.write_table(table, tmp_path / "in.parquet")
    seen = preview(request(path, str(tmp_path / "in.parquet"), tmp_path, id=[], keep="none"), nothing)
    assert [row["prediction"] for row in seen["rows"]] == list(expected)[:5]
    assert not any("in this order" in note for note in seen["model"]["notes"])


def test_a_column_of_another_type_is_named(tmp_path: Path) -> None:
    path, _ = _lightgbm(tmp_path)
    table = pa.table({"a": ["t"], "b": pa.array([[1.0]]), "c": [1.0]})
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(SchemaMismatch, match=r"Column 'b' is list.* but the model wants double"):
        preview(request(path, str(tmp_path / "in.parquet"), tmp_path, id=[]), nothing)
