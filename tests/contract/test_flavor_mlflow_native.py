"""MLflow folders with a file that is no code, on the shipped suite: read by the flavor of their framework."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.contract import mlflow_models as models
from tidemill import registry
from tidemill.domain.errors import ModelUnusable, NotTrusted
from tidemill.engine.models import check_trusted, identify
from tidemill.flavors.mlflow_native import MlflowNativeFlavor
from tidemill.testing.flavor import Case, FlavorContract

Make = Callable[[], str]


class TestMlflowNative(FlavorContract):
    flavor_class = MlflowNativeFlavor
    framework = ("mlflow", "lightgbm", "sklearn", "pandas")

    def case(self) -> Case:
        probability = models.says(models.lightgbm(), models.frame())
        expected = {
            "prediction": pa.array((probability > 0.5).astype(np.int64)),
            "probability": pa.array(probability),
        }
        return Case(path=models.lightgbm(), rows=models.batch(), expected=expected)


@pytest.mark.parametrize(
    "make, reader, column",
    [
        (models.sklearn, "sklearn", "prediction"),
        (models.forest, "sklearn", "prediction"),
        (models.lightgbm, "lightgbm", "probability"),
        (lambda: models.lightgbm("classifier"), "lightgbm", "prediction"),
        (models.xgboost, "xgboost", "probability"),
        (lambda: models.xgboost("classifier"), "xgboost", "prediction"),
        (models.catboost, "catboost", "prediction"),
    ],
    ids=["sklearn", "forest", "booster", "lgbm classifier", "xgb booster", "xgb classifier", "catboost"],
)
def test_what_mlflow_predicts_is_among_the_columns(make: Make, reader: str, column: str) -> None:
    path = make()
    found = identify(path)
    if reader not in registry.flavors.names():
        # Nothing here reads such a file: MLflow does, and its code is asked trust for.
        assert (found["flavor"], found["carries_code"]) == ("mlflow", True)
        return
    assert (found["flavor"], found["carries_code"]) == ("mlflow_native", False)
    check_trusted(found)
    columns = MlflowNativeFlavor().load(path, {}).predict(models.batch()).columns
    assert columns.column(column).to_pylist() == np.asarray(models.says(path, models.frame())).reshape(-1).tolist()


def test_onnx_takes_its_names_from_the_signature() -> None:
    data = models.frame().astype(np.float32)
    rows = pa.RecordBatch.from_pandas(data)
    model = MlflowNativeFlavor().load(models.onnx(), {})
    assert [(each.name, each.type) for each in model.info.inputs] == [(name, "float") for name in models.NAMES]
    expected = models.says(models.onnx(), data)["variable"]
    assert model.predict(rows).columns.to_pydict() == {"prediction": expected.tolist()}


def test_onnx_names_of_ones_own_go_first() -> None:
    model = MlflowNativeFlavor().load(models.onnx(), {"features": ["x", "y", "z"]})
    assert [each.name for each in model.info.inputs] == ["x", "y", "z"]


def test_onnx_without_names_anywhere(tmp_path: Path) -> None:
    path = models.edited(models.onnx(), tmp_path / "m", ("signature:", "former:"))
    assert MlflowNativeFlavor().load(path, {}).info.positional == 3


def test_lightgbm_trained_without_names_has_those_of_the_signature(tmp_path: Path) -> None:
    path = models.edited(models.lightgbm(), tmp_path / "m")
    file = Path(path, "model.lgb")
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("feature_names=a b c", "feature_names=Column_0 Column_1 Column_2"), encoding="utf-8")
    model = MlflowNativeFlavor().load(path, {})
    assert [each.name for each in model.info.inputs] == list(models.NAMES)


def test_inputs_let_pass_what_the_signature_does() -> None:
    fields = MlflowNativeFlavor().load(models.lightgbm(), {}).info.inputs
    assert all("int32" in field.accepts and "int64" not in field.accepts for field in fields)


def test_it_says_how_the_model_is_read() -> None:
    assert (
        "an MLflow folder; its model is read as sklearn" in MlflowNativeFlavor().load(models.sklearn(), {}).info.notes
    )


@pytest.mark.parametrize(
    "make, change",
    [
        (models.lightgbm, ("loader_module: mlflow.lightgbm", "loader_module: evil")),
        (models.lightgbm, ("data: model.lgb", "data: ../model.lgb")),
        (models.lightgbm, ("data: model.lgb", "data: /etc/passwd")),
        (models.lightgbm, ("data: model.lgb", "data: gone.lgb")),
        (models.lightgbm, ("data: model.lgb", "data: conda.yaml")),
        (models.lightgbm, ("data: model.lgb", "data: [1]")),
        (models.sklearn, ("predict_fn: predict", "predict_fn: predict_proba")),
        (models.sklearn, ("skops_trusted_types: null", "skops_trusted_types: [builtins.eval]")),
        (lambda: models.sklearn("cloudpickle"), ("predict_fn: predict", "predict_fn: predict ")),
        (lambda: models.sklearn("proba"), ("predict_fn: predict_proba", "predict_fn: 'predict_proba'")),
        (models.own, ("python_model:", "python_model:")),
        (lambda: models.pytorch("pickle"), ("loader_module:", "loader_module:")),
    ],
)
def test_anything_else_is_left_to_mlflow(tmp_path: Path, make: Make, change: tuple[str, str]) -> None:
    (tmp_path / "model.lgb").write_bytes(Path(models.lightgbm(), "model.lgb").read_bytes())
    path = models.edited(make(), tmp_path / "m", change)
    found = identify(path)
    assert (found["flavor"], found["carries_code"]) == ("mlflow", True)
    with pytest.raises(NotTrusted):
        check_trusted(found)
    with pytest.raises(ModelUnusable, match="without running code") as caught:
        MlflowNativeFlavor().load(path, {})
    assert "--flavor mlflow" in (caught.value.remedy or "")


def test_a_skops_file_that_holds_more_than_the_folder_says_is_not_loaded(tmp_path: Path) -> None:
    import skops.io
    from sklearn.preprocessing import FunctionTransformer

    path = models.edited(models.sklearn(), tmp_path / "m")
    skops.io.dump(FunctionTransformer(np.polyval), Path(path, "model.skops"))
    assert identify(path)["flavor"] == "mlflow_native"
    with pytest.raises(NotTrusted, match="polyval") as caught:
        MlflowNativeFlavor().load(path, {})
    assert "--flavor mlflow --trust" in (caught.value.remedy or "")


@pytest.mark.parametrize("make, file", [(models.lightgbm, "model.lgb"), (models.sklearn, "model.skops")])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, make: Make, file: str) -> None:
    path = models.edited(make(), tmp_path / "m")
    whole = Path(path, file).read_bytes()
    Path(path, file).write_bytes(whole[: len(whole) * 7 // 10])
    if not MlflowNativeFlavor.matches(b"", path):
        return  # A zip without its end is no skops file: the flavor mlflow says so.
    with pytest.raises(ModelUnusable, match=file) as caught:
        MlflowNativeFlavor().load(path, {})
    assert caught.value.remedy


def test_folders_of_others(tmp_path: Path) -> None:
    assert not MlflowNativeFlavor.matches(b"", str(tmp_path))
    shutil.copy(Path(models.lightgbm(), "model.lgb"), tmp_path)
    assert not MlflowNativeFlavor.matches(b"", str(tmp_path))
