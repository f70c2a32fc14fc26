"""MLflow folders scored by MLflow on the shipped suite: signatures, and all that predict returns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.models.signature import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Array

from tests.contract import mlflow_models as models
from tidemill.domain.errors import InvalidSpec, MissingExtra, ModelUnusable, SchemaMismatch
from tidemill.domain.plan import InputFile
from tidemill.engine.features import Features
from tidemill.engine.models import identify
from tidemill.engine.schema import InputSchema
from tidemill.flavors import mlflow_folder, mlflow_result
from tidemill.flavors.mlflow import MlflowFlavor, MlflowModel
from tidemill.ports.flavor import Model
from tidemill.ports.source import FileFacts
from tidemill.sources.parquet import ParquetSource
from tidemill.testing.flavor import Case, FlavorContract
from tidemill.wire.spec import JobSpec

Make = Callable[[], str]


class TestMlflow(FlavorContract):
    flavor_class = MlflowFlavor
    framework = ("mlflow", "pandas", "sklearn")

    def case(self) -> Case:
        said = models.says(models.own(), models.frame())
        expected = {"sum": pa.array(said["sum"].tolist()), "sign": pa.array(said["sign"].tolist())}
        return Case(path=models.own(), rows=models.batch(), expected=expected)


def load(path: str, **options: Any) -> Model:
    return MlflowFlavor().load(path, options)


# -- what predict returns


def returning(name: str, function: Callable[[pd.DataFrame], Any], **more: Any) -> Model:
    class Own(mlflow.pyfunc.PythonModel):  # type: ignore[misc,unused-ignore]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return function(model_input)

    more.setdefault("signature", ModelSignature(Schema([ColSpec(DataType.double, "a")])))
    return load(models.saved(name, Own(), **more))


ONE = pa.RecordBatch.from_pydict({"a": [1.0, 2.5, -3.0]})


@pytest.mark.parametrize(
    "name, function, wanted",
    [
        ("array", lambda f: f["a"].to_numpy() * 2, {"prediction": [2.0, 5.0, -6.0]}),
        ("column", lambda f: f[["a"]].to_numpy() * 2, {"prediction": [2.0, 5.0, -6.0]}),
        ("matrix", lambda f: np.c_[f["a"], -f["a"]], {"prediction_0": [1, 2.5, -3], "prediction_1": [-1, -2.5, 3]}),
        ("series", lambda f: f["a"].rename("x"), {"prediction": [1.0, 2.5, -3.0]}),
        ("list", lambda f: ["p" if a > 0 else "n" for a in f["a"]], {"prediction": ["p", "p", "n"]}),
        ("ints", lambda f: [int(a) for a in f["a"]], {"prediction": [1, 2, -3]}),
        ("lists", lambda f: [[a, a] for a in f["a"]], {"prediction_0": [1, 2.5, -3], "prediction_1": [1, 2.5, -3]}),
        ("frame", lambda f: pd.DataFrame({"x": f["a"], 7: "t"}), {"x": [1, 2.5, -3], "7": ["t", "t", "t"]}),
        ("counted", lambda f: pd.DataFrame(np.c_[f["a"], f["a"]]), {"prediction_0": [1, 2.5, -3]}),
        ("one", lambda f: pd.DataFrame(f["a"].to_numpy()), {"prediction": [1.0, 2.5, -3.0]}),
        ("dicts", lambda f: [{"x": a, "y": "t"} for a in f["a"]], {"x": [1, 2.5, -3], "y": ["t", "t", "t"]}),
        ("dict", lambda f: {"x": list(f["a"]), "m": np.c_[f["a"], f["a"]]}, {"x": [1, 2.5, -3], "m_1": [1, 2.5, -3]}),
        ("flags", lambda f: (f["a"] > 0).to_numpy(), {"prediction": [True, True, False]}),
        ("words", lambda f: pd.Categorical(f["a"].astype(str)), {"prediction": ["1.0", "2.5", "-3.0"]}),
    ],
)  # fmt: skip
def test_anything_that_holds_a_value_for_each_row(name: str, function: Any, wanted: dict[str, list[Any]]) -> None:
    model = returning(f"returns-{name}", function)
    found = model.predict(ONE).columns
    assert {**found.to_pydict(), **wanted} == found.to_pydict()
    assert [(field.name, field.type) for field in model.info.outputs] == [
        (field.name, str(field.type)) for field in found.schema
    ]


@pytest.mark.parametrize(
    "result, words",
    [
        (np.zeros((3, 2, 2)), "shape (3, 2, 2)"),
        (None, "None"),
        (7.5, "one float"),
        ("yes", "one str"),
        ([{"x": 1}, 2], "only some rows are dicts"),
    ],
)
def test_anything_else_is_no_prediction(result: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        mlflow_result.columns(result)
    assert words in str(caught.value)


def test_dicts_may_leave_values_out() -> None:
    model = returning("sparse", lambda f: [{"x": a, "y": a} if a > 0 or len(f) == 2 else {"x": a} for a in f["a"]])
    assert model.predict(ONE).columns.to_pydict() == {"x": [1, 2.5, -3], "y": [1, 2.5, None]}
    assert model.predict(ONE.slice(2)).columns.to_pydict() == {"x": [-3.0], "y": [None]}


def test_other_columns_than_were_promised_are_told_with_the_remedy() -> None:
    model = returning("fickle", lambda f: pd.DataFrame({"x" if len(f) == 2 else "y": f["a"]}))
    with pytest.raises(ValueError, match="returned the columns y; expected x: save the model with a signature"):
        model.predict(ONE)


@pytest.mark.parametrize("count", [2, 4])
def test_wrong_numbers_of_predictions_are_told(count: int) -> None:
    model = returning(f"count{count}", lambda f: f["a"].to_numpy() if len(f) == 2 else np.zeros(count))
    with pytest.raises(ValueError, match=f"{count} values of 'prediction' for 3 rows"):
        model.predict(ONE)


def test_values_that_are_lists_are_refused() -> None:
    with pytest.raises(ModelUnusable, match="returns a list"):
        returning("nested", lambda f: pd.DataFrame({"x": [[1.0]] * len(f)}))


def test_numbers_are_as_wide_as_the_signature_says() -> None:
    signature = ModelSignature(Schema([ColSpec(DataType.double, "a")]), Schema([ColSpec(DataType.double, "x")]))
    model = returning(
        "wide", lambda f: pd.DataFrame({"x": [0] * len(f) if (f["a"] == 0).all() else f["a"]}), signature=signature
    )
    assert model.predict(ONE).columns.to_pydict() == {"x": [1.0, 2.5, -3.0]}


def _picky(frame: pd.DataFrame) -> Any:
    if (frame["a"] == 0).any():
        raise ValueError("no zeros, please")
    return pd.DataFrame({"x": frame["a"], "t": "t"})


def test_a_model_that_takes_no_made_up_rows_is_believed_by_its_signature() -> None:
    outputs = Schema([ColSpec(DataType.double, "x"), ColSpec(DataType.string, "t")])
    model = returning("believed", _picky, signature=ModelSignature(Schema([ColSpec(DataType.double, "a")]), outputs))
    assert [(field.name, field.type) for field in model.info.outputs] == [("x", "double"), ("t", "string")]
    assert model.predict(ONE).columns.column("x").to_pylist() == [1.0, 2.5, -3.0]


def test_its_own_example_goes_first() -> None:
    example = pd.DataFrame({"a": [2.0]})
    signature = ModelSignature(Schema([ColSpec(DataType.double, "a")]))
    model = returning("example", _picky, signature=signature, input_example=example)
    assert [(field.name, field.type) for field in model.info.outputs] == [("x", "double"), ("t", "string")]


def test_without_any_hint_it_says_what_it_assumes() -> None:
    model = returning("assumed", lambda f: f.iloc[:, 0] * 2, signature=None)
    assert model.info.takes_all
    assert "one column of doubles is assumed" in model.info.notes[0]
    assert model.predict(ONE).columns.to_pydict() == {"prediction": [2.0, 5.0, -6.0]}


# -- signatures

ARROW_TYPES = [
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.string(), pa.large_string(), pa.binary()),
    *(pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.date32()),
    pa.decimal128(5, 2),
]
"""Columns as they come from Parquet files."""


def column(kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        return pa.array(["2", "3"], pa.string()).cast(kind)
    if pa.types.is_temporal(kind):
        return pa.array([86_400, 172_800], pa.timestamp("s")).cast(kind) if kind.num_fields == 0 else None
    if pa.types.is_boolean(kind):
        return pa.array([True, False])
    return pa.array([2, 3], pa.int8()).cast(kind)


def settle(model: Model, **columns: pa.DataType) -> InputSchema:
    """The columns of a Parquet file against a model's, as the planner compares them."""
    words = JobSpec.model_validate({"model": "m", "input": {"path": "in"}, "keep": "none"})
    collected = InputSchema(model.info, words.brief(), ParquetSource)
    file = InputFile(path="/in/0.parquet", size_bytes=1, mtime_ns=1)
    collected.add(file, FileFacts(schema=pa.schema(list(columns.items())), blocks=()))
    return collected


@pytest.mark.parametrize("wanted", list(DataType), ids=lambda wanted: wanted.name)
def test_types_pass_exactly_where_mlflow_lets_them(wanted: DataType) -> None:
    """The values 2 and 3: that MLflow takes int64 for doubles as long as all are 0 or 1 depends on the data,
    and cannot be said before the first row."""
    signature = ModelSignature(Schema([ColSpec(wanted, "a")]))
    model = returning(f"typed-{wanted.name}", lambda f: [repr(value) for value in f["a"]], signature=signature)
    itself = mlflow.pyfunc.load_model(models.saved(f"same-{wanted.name}", models.Sums(), signature=signature))
    known = {
        # Numbers and dates are no text in a typed file; MLflow cannot tell columns of Python objects from text.
        "string": {"binary", "date32[day]", "decimal128(5, 2)"},
        # For the same reason it hands these on unchanged.
        "binary": {"string", "large_string", "date32[day]", "decimal128(5, 2)"},
        "boolean": {"binary", "date32[day]", "decimal128(5, 2)"},
        "datetime": {"binary", "decimal128(5, 2)"},
        "double": {"binary", "date32[day]"},
    }.get(wanted.name, set())
    for kind in ARROW_TYPES:
        frame = pa.table({"a": column(kind)}).to_pandas()
        try:
            itself._model_impl  # noqa: B018 (the folder loads)
            mlflow.pyfunc._validate_prediction_input(frame, None, itself.metadata.get_input_schema(), None)
            theirs = True
        except Exception:
            theirs = False
        try:
            settle(model, a=kind).resolve()
            ours = True
        except SchemaMismatch:
            ours = False
        assert ours == theirs or (theirs and str(kind) in known), f"{kind} for {wanted.name}: {theirs} by MLflow"
        if ours:
            rows = pa.RecordBatch.from_arrays([column(kind)], names=["a"])
            inputs = tuple((field.name, field.type) for field in model.info.inputs)
            features, _, bad = Features(rows.schema, inputs).of(rows, np.arange(2))
            assert not bad
            model.predict(features)


def test_all_faults_are_told_before_the_first_row() -> None:
    signature = ModelSignature(
        Schema([ColSpec(DataType.double, "a"), ColSpec(DataType.long, "b"), ColSpec(DataType.string, "c")])
    )
    model = returning("faults", lambda f: f["a"], signature=signature)
    with pytest.raises(SchemaMismatch) as caught:
        settle(model, a=pa.int64(), b=pa.float64(), d=pa.int64()).resolve()
    text = str(caught.value)
    assert "needs column 'c', which is not there" in text
    assert "Column 'a' is int64, which the model's signature does not take for double: it takes halffloat" in text
    assert "Column 'b' is double, which the model's signature does not take for int64" in text


OPTIONAL = ModelSignature(
    Schema([ColSpec(DataType.double, "a"), ColSpec(DataType.double, "b", required=False), ColSpec(DataType.long, "n")])
)


def test_optional_columns_may_be_absent() -> None:
    model = returning("optional", lambda f: pd.DataFrame({"seen": [",".join(f.columns)] * len(f)}), signature=OPTIONAL)
    assert [(field.name, field.optional) for field in model.info.inputs] == [("a", False), ("b", True), ("n", False)]
    without = settle(model, n=pa.int64(), a=pa.float64()).resolve().inputs
    assert [field.name for field in without] == ["a", "n"]
    path = models.saved("optional-again", models.Sums(), signature=OPTIONAL)
    assert [field.name for field in load(path, features=["n", "a"]).info.inputs] == ["a", "n"]
    rows = pa.RecordBatch.from_pydict({"a": [1.0], "n": [1]})
    assert model.predict(rows).columns.to_pydict() == {"seen": ["a,n"]}
    with pytest.raises(InvalidSpec, match="features names 1"):
        load(path, features=["n"])


def test_whole_numbers_that_are_missing_are_rows_of_their_own() -> None:
    model = returning("whole", lambda f: f["a"] + f["n"], signature=OPTIONAL)
    rows = pa.RecordBatch.from_pydict({"a": [1.0, 2.0, None], "b": [0.0, None, 0.0], "n": pa.array([1, None, 3])})
    found = model.predict(rows)
    assert found.row_errors == {1: "column 'n' is missing, and for int64 MLflow knows no missing value"}
    assert found.columns.column(0)[0].as_py() == 2.0
    assert np.isnan(found.columns.column(0)[2].as_py())
    assert model.predict(rows.slice(1, 1)).columns.num_rows == 1


def test_columns_without_names_are_named_by_the_user() -> None:
    signature = ModelSignature(Schema([ColSpec(DataType.double), ColSpec(DataType.string)]))
    path = models.saved("unnamed", Unnamed(), signature=signature)
    assert load(path).info.positional == 2
    model = load(path, features=["x", "t"])
    rows = pa.RecordBatch.from_pydict({"x": [1.5], "t": ["u"]})
    assert model.predict(rows).columns.to_pydict() == {"prediction": ["u1.5"]}


class Unnamed(mlflow.pyfunc.PythonModel):  # type: ignore[misc,unused-ignore]
    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return (model_input.iloc[:, 1] + model_input.iloc[:, 0].astype(str)).to_numpy()


def test_names_of_ones_own_stand_for_those_of_the_signature() -> None:
    model = load(models.own(), features=["x", "y", "z"])
    rows = models.batch().rename_columns(["x", "y", "z"])
    assert model.predict(rows).columns == load(models.own()).predict(models.batch()).columns


class Tensors(mlflow.pyfunc.PythonModel):  # type: ignore[misc,unused-ignore]
    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return model_input["image"].sum(axis=(1, 2)) + model_input["weight"]


def test_tensors_of_more_dimensions_come_as_lists() -> None:
    specs = [TensorSpec(np.dtype("float32"), (-1, 2, 2), "image"), TensorSpec(np.dtype("float64"), (-1,), "weight")]
    path = models.saved("tensors", Tensors(), signature=ModelSignature(Schema(specs)))
    model = load(path)
    assert [(field.name, field.type) for field in model.info.inputs] == [("image", "any"), ("weight", "double")]
    rows = pa.RecordBatch.from_pydict({"image": [[1.0, 2, 3, 4], [5.0, 6, 7, 8]], "weight": [0.5, 1.0]})
    assert model.predict(rows).columns.to_pydict() == {"prediction": [10.5, 27.0]}


class Lists(mlflow.pyfunc.PythonModel):  # type: ignore[misc,unused-ignore]
    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return [float(sum(each)) for each in model_input["l"]]


def test_columns_of_lists_pass_as_they_are() -> None:
    path = models.saved("lists", Lists(), signature=ModelSignature(Schema([ColSpec(Array(DataType.double), "l")])))
    found = load(path).predict(pa.RecordBatch.from_pydict({"l": [[1.0, 2.0], [3.0]]}))
    assert found.columns.to_pydict() == {"prediction": [3.0, 3.0]}


def test_what_the_signature_refuses_in_a_row_is_told_without_the_rows() -> None:
    path = models.saved("refused", Lists(), signature=ModelSignature(Schema([ColSpec(Array(DataType.double), "l")])))
    with pytest.raises(ValueError) as caught:
        load(path).predict(pa.RecordBatch.from_pydict({"l": [["a"]]}))
    assert str(caught.value).startswith("Failed to enforce schema of data") is False
    assert "a" in str(caught.value)


def test_parameters_of_the_signature_are_predict_options() -> None:
    twice = load(models.own(), options={"factor": 2.0}).predict(models.batch()).columns
    said = mlflow.pyfunc.load_model(models.own()).predict(models.frame(), params={"factor": 2.0})
    assert twice.column("sum").to_pylist() == said["sum"].tolist()
    with pytest.raises(InvalidSpec, match="no parameter called faktor") as caught:
        load(models.own(), options={"faktor": 2.0})
    assert caught.value.remedy == "It takes: factor."
    plain = models.saved("plain", Unnamed(), signature=ModelSignature(Schema([ColSpec(DataType.double, "a")])))
    with pytest.raises(InvalidSpec, match="no parameters"):
        load(plain, options={"factor": 2.0})
    with pytest.raises(InvalidSpec, match="decides itself"):
        load(plain, probabilities=True)


# -- what is damaged or lacking


@pytest.mark.parametrize("left", [0, 40, 90])
def test_a_folder_whose_files_are_cut_off(tmp_path: Path, left: int) -> None:
    for name in ("MLmodel", "python_model.pkl"):
        path = models.edited(models.own(), tmp_path / name)
        whole = Path(path, name).read_bytes()
        Path(path, name).write_bytes(whole[: len(whole) * left // 100])
        with pytest.raises(ModelUnusable) as caught:
            load(path)
        assert path in caught.value.message
        assert caught.value.remedy


@pytest.mark.parametrize("text", ["", "[]", "flavors: 3", "a: [", "\x00\x01", "!!python/object/apply:os.getcwd []"])
def test_a_file_that_is_no_mlmodel(tmp_path: Path, text: str) -> None:
    (tmp_path / "MLmodel").write_text(text, encoding="utf-8")
    assert identify(str(tmp_path))["flavor"] == "mlflow"
    with pytest.raises(ModelUnusable, match="MLmodel") as caught:
        load(str(tmp_path))
    assert caught.value.remedy


@pytest.mark.parametrize("inputs", ["3", "'not json'", "'{}'", "'[1]'", """'[{"name": "a"}]'"""])
def test_a_signature_that_cannot_be_understood(tmp_path: Path, inputs: str) -> None:
    (tmp_path / "MLmodel").write_text(f"flavors: {{}}\nsignature:\n  inputs: {inputs}\n", encoding="utf-8")
    with pytest.raises(ModelUnusable, match="inputs cannot be understood"):
        _ = mlflow_folder.read(str(tmp_path)).inputs


def test_a_folder_that_mlflow_cannot_predict_with(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors:\n  spark: {}\n", encoding="utf-8")
    with pytest.raises(ModelUnusable, match="no flavor python_function"):
        load(str(tmp_path))


def test_a_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = models.edited(
        models.own(), tmp_path / "m", ("loader_module: mlflow.pyfunc.model", "loader_module: nowhere.x")
    )
    with pytest.raises(MissingExtra, match="needs the module 'nowhere'") as caught:
        load(path)
    assert "requirements.txt" in (caught.value.remedy or "")


def test_without_mlflow_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['mlflow'] = None\n"
        "from tidemill.flavors.mlflow import MlflowFlavor\n"
        "try: MlflowFlavor().load(sys.argv[1], {})\n"
        "except Exception as exc: print(type(exc).__name__, exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, models.own()], capture_output=True, text=True)
    assert "MissingExtra" in done.stdout, done.stderr
    assert "tidemill[mlflow]" in done.stdout


def test_a_tensor_with_a_fixed_number_of_rows_is_refused() -> None:
    signature = ModelSignature(Schema([TensorSpec(np.dtype("float32"), (4, 3))]))
    with pytest.raises(ModelUnusable, match="exactly"):
        load(models.saved("fixed", models.Sums(), signature=signature), features=["a", "b", "c"])


def test_mlflow_reports_to_nobody() -> None:
    program = (
        "import os, threading, tidemill.flavors.mlflow_library as m, mlflow.telemetry.utils as t\n"
        "print(os.environ['MLFLOW_DISABLE_TELEMETRY'], t.is_telemetry_disabled(), threading.active_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["true", "True", "1"], done.stderr


def test_model_class_is_what_load_gives() -> None:
    assert isinstance(load(models.own()), MlflowModel)
