"""ONNX models of scikit-learn and by hand, and the many ways in which they are exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tidemill.domain.errors import InvalidSpec, ModelUnusable
from tidemill.domain.signature import Field
from tidemill.flavors import onnx_file
from tidemill.flavors.onnx import OnnxFlavor
from tidemill.ports.flavor import Model
from tidemill.testing.flavor import Case, FileFlavorContract, bits

ROWS = 200
NAMES = ("a", "b", "c")


@cache
def data() -> np.ndarray[Any, Any]:
    return np.random.default_rng(4).normal(size=(ROWS, 3)).astype(np.float32)


@cache
def labels(kind: str) -> np.ndarray[Any, Any]:
    score = data()[:, 0] - data()[:, 1] * data()[:, 2]
    if kind == "many":
        return np.array(["x", "y", "z"])[np.digitize(score, [-0.5, 0.5])]
    return {"text": np.where(score > 0, "yes", "no"), "int": (score > 0) * 5 - 1}[kind]


@cache
def forest(kind: str) -> RandomForestClassifier:
    return RandomForestClassifier(6, max_depth=5, random_state=0).fit(data(), labels(kind))


def batch(*columns: pa.Array) -> pa.RecordBatch:
    arrays = columns or [pa.array(data()[:, n].tolist(), pa.float32()) for n in range(3)]
    return pa.RecordBatch.from_arrays(list(arrays), names=list(NAMES[: len(arrays)]))


def own(path: str, feed: Any = None) -> list[Any]:
    """What ONNX Runtime itself says in one thread: with several, sums over trees differ in last bits."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return session.run(None, feed or {session.get_inputs()[0].name: data()})


def saved(model: onnx.ModelProto, path: Path) -> str:
    path.write_bytes(model.SerializeToString())
    return str(path)


def load(path: str, **options: Any) -> Model:
    return OnnxFlavor().load(path, {"features": NAMES, **options})


class TestOnnx(FileFlavorContract):
    flavor_class = OnnxFlavor
    framework = ("onnx", "onnxruntime", "pandas", "google")

    @pytest.fixture(autouse=True)
    def _made(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        path = tmp_path_factory.getbasetemp() / "forest.onnx"
        self._path = str(path) if path.exists() else saved(to_onnx(forest("text"), data()[:1]), path)

    def case(self) -> Case:
        label, probability = own(self._path)
        expected = {
            "prediction": pa.array(label.tolist()),
            "probability": pa.array([row["yes"] for row in probability], pa.float32()),
        }
        return Case(path=self._path, rows=batch(), expected=expected, options={"features": list(NAMES)})


@pytest.mark.parametrize("zipmap", [True, False], ids=["dicts", "matrix"])
@pytest.mark.parametrize("kind", ["text", "int", "many"])
def test_classifiers_give_their_labels_and_probabilities(tmp_path: Path, kind: str, zipmap: bool) -> None:
    estimator = forest(kind)
    path = saved(to_onnx(estimator, data()[:1], options={"zipmap": zipmap}), tmp_path / "m.onnx")
    label, probability = own(path)
    table = probability if not zipmap else np.array([[row[c] for c in estimator.classes_] for row in probability], "f4")
    model = load(path, probabilities=True)
    assert model.info.classes == tuple(estimator.classes_.tolist())
    found = model.predict(batch()).columns
    assert found.column("prediction").to_pylist() == label.tolist()
    every = [found.column(f"probability_{each}") for each in estimator.classes_]
    assert {each.type for each in every} == {pa.float32()}
    assert np.column_stack(every).tobytes() == np.ascontiguousarray(table).tobytes()


def test_threshold(tmp_path: Path) -> None:
    path = saved(to_onnx(forest("text"), data()[:1], options={"zipmap": False}), tmp_path / "m.onnx")
    probability = own(path)[1][:, 1]
    found = load(path, threshold=0.25).predict(batch()).columns.column("prediction").to_pylist()
    assert found == np.where(probability >= np.float32(0.25), "yes", "no").tolist()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_linear_models_and_networks(tmp_path: Path) -> None:
    network = MLPClassifier((4,), max_iter=20).fit(data(), labels("many"))
    path = saved(to_onnx(network, data()[:1], options={"zipmap": False}), tmp_path / "net.onnx")
    model = load(path, options={"classes": ["x", "y", "z"]})
    assert model.predict(batch()).columns.column(0).to_pylist() == own(path)[0].tolist()
    assert (model.info.batch_rows, model.info.batch_invariant, model.info.layout) == (16_384, False, "threads")
    linear = LogisticRegression().fit(data(), labels("int"))
    path = saved(to_onnx(linear, data()[:1], options={"zipmap": False}), tmp_path / "linear.onnx")
    model = load(path)
    assert model.predict(batch()).columns.column(0).to_pylist() == own(path)[0].tolist()
    assert (model.info.batch_rows, model.info.classes) == (65_536, (-1, 4))


def test_regressor_is_one_column_of_values(tmp_path: Path) -> None:
    regressor = LinearRegression().fit(data(), data()[:, 0] * 2)
    path = saved(to_onnx(regressor, data()[:1]), tmp_path / "m.onnx")
    model = load(path)
    assert model.info.outputs == (Field(name="prediction", type="float", nullable=False),)
    assert model.predict(batch()).columns.column(0).to_pylist() == own(path)[0][:, 0].tolist()
    with pytest.raises(InvalidSpec, match="probabilities"):
        load(path, probabilities=True)


def graph(
    folder: Path, inputs: list[Any], outputs: list[Any], nodes: list[Any], weights: dict[str, Any], **meta: str
) -> str:
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    made = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    for key, value in meta.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return saved(model, folder / "g.onnx")


def info(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def matmul(folder: Path, *, rows: Any = "N", kind: int = TensorProto.FLOAT, columns: Any = 3, **meta: str) -> str:
    dtype = {TensorProto.FLOAT: "f4", TensorProto.DOUBLE: "f8", TensorProto.FLOAT16: "f2"}[kind]
    weights = {"w": np.arange(6).reshape(3, 2).astype(dtype)}
    inputs, outputs = [info("x", kind, [rows, columns])], [info("y", kind, [rows, 2])]
    return graph(folder, inputs, outputs, [helper.make_node("MatMul", ["x", "w"], ["y"])], weights, **meta)


@pytest.mark.parametrize(
    "kind, dtype, named",
    [(TensorProto.FLOAT, "f4", "float"), (TensorProto.DOUBLE, "f8", "double"), (TensorProto.FLOAT16, "f2", "float")],
)
def test_several_columns_of_one_output_are_numbered(tmp_path: Path, kind: int, dtype: str, named: str) -> None:
    path = matmul(tmp_path, kind=kind)
    model = load(path)
    assert [(each.name, each.type) for each in model.info.inputs] == [(name, named) for name in NAMES]
    columns = [pa.array(data()[:, n].tolist()).cast(pa.type_for_alias(named)) for n in range(3)]
    found = model.predict(batch(*columns)).columns
    assert found.schema.names == ["prediction_0", "prediction_1"]
    wanted = own(path, {"x": data().astype(dtype)})[0]
    assert np.column_stack(found.columns).tolist() == wanted.tolist()


@pytest.mark.parametrize("text", [json.dumps(NAMES), "a, b,c"])
def test_names_in_the_metadata_are_taken(tmp_path: Path, text: str) -> None:
    model = OnnxFlavor().load(matmul(tmp_path, feature_names=text), {})
    assert [each.name for each in model.info.inputs] == list(NAMES)


@pytest.mark.parametrize("text", ["", "a,b", "[1, 2, 3]", '{"a": 1}'])
def test_without_names_columns_are_taken_by_position(tmp_path: Path, text: str) -> None:
    assert OnnxFlavor().load(matmul(tmp_path, feature_names=text), {}).info.positional == 3


@pytest.mark.parametrize(
    "shape, words",
    [
        ({"rows": 1}, r"takes exactly 1 row"),
        ({"columns": "C"}, r"does not say how many columns"),
    ],
)
def test_shapes_that_cannot_be_fed_are_refused(tmp_path: Path, shape: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelUnusable, match=words) as caught:
        load(matmul(tmp_path, **shape))
    assert "Export" in str(caught.value.remedy)


def test_images_are_refused(tmp_path: Path) -> None:
    inputs, outputs = [info("x", TensorProto.FLOAT, ["N", 3, 8, 8])], [info("y", TensorProto.FLOAT, ["N", 3, 8, 8])]
    path = graph(tmp_path, inputs, outputs, [helper.make_node("Relu", ["x"], ["y"])], {})
    with pytest.raises(ModelUnusable, match="not a table of columns"):
        load(path)
    inputs, outputs = [info("x", TensorProto.FLOAT, ["N", 3])], [info("y", TensorProto.FLOAT, [])]
    path = graph(tmp_path, inputs, outputs, [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], {})
    with pytest.raises(ModelUnusable, match="'y' does not have one row of values"):
        load(path)


def test_outputs_keep_their_names(tmp_path: Path) -> None:
    inputs = [info("x", TensorProto.FLOAT, ["N", 3])]
    outputs = [info("mean", TensorProto.FLOAT, ["N"]), info("both", TensorProto.FLOAT, ["N", 2])]
    nodes = [
        helper.make_node("ReduceMean", ["x", "axis"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["x", "w"], ["both"]),
    ]
    weights = {"axis": np.array([1]), "w": np.ones((3, 2), "f4")}
    path = graph(tmp_path, inputs, outputs, nodes, weights)
    found = load(path).predict(batch()).columns
    assert found.schema.names == ["mean", "both_0", "both_1"]
    assert found.column(0).to_pylist() == own(path)[0].tolist()


def columns_model(folder: Path) -> str:
    """The usual of skl2onnx: one input of the graph for each column."""
    frame = pd.DataFrame({"age": data()[:, 0], "count": np.arange(ROWS) % 7, "city": labels("many")})
    transformer = make_column_transformer((StandardScaler(), ["age", "count"]), (OneHotEncoder(), ["city"]))
    fitted = make_pipeline(transformer, LogisticRegression()).fit(frame, labels("text"))
    types = [
        ("age", FloatTensorType([None, 1])),
        ("count", Int64TensorType([None, 1])),
        ("city", StringTensorType([None, 1])),
    ]
    return saved(to_onnx(fitted, initial_types=types, options={"zipmap": False}), folder / "columns.onnx")


def test_one_input_for_each_column(tmp_path: Path) -> None:
    path = columns_model(tmp_path)
    model = OnnxFlavor().load(path, {})
    assert [(each.name, each.type) for each in model.info.inputs] == [
        ("age", "float"),
        ("count", "int64"),
        ("city", "string"),
    ]
    count, city = np.arange(ROWS) % 7, labels("many")
    rows = pa.RecordBatch.from_arrays(
        [pa.array(data()[:, 0].tolist(), pa.float32()), pa.array(count.tolist()), pa.array(city.tolist())],
        names=["age", "count", "city"],
    )
    feed = {"age": data()[:, :1], "count": count.reshape(-1, 1), "city": city.astype(object).reshape(-1, 1)}
    label, probability = own(path, feed)
    found = model.predict(rows).columns
    assert found.column("prediction").to_pylist() == label.tolist()
    assert found.column("probability").to_pylist() == probability[:, 1].tolist()


@pytest.mark.parametrize("zipmap", [True, False], ids=["dicts", "matrix"])
def test_what_a_made_up_row_cannot_show_is_read_from_the_graph(tmp_path: Path, zipmap: bool) -> None:
    """A one-hot encoder that refuses words it never saw."""
    words = labels("many").reshape(-1, 1)
    fitted = make_pipeline(OneHotEncoder(handle_unknown="error"), LogisticRegression()).fit(words, labels("text"))
    made = to_onnx(fitted, initial_types=[("w", StringTensorType([None, 1]))], options={"zipmap": zipmap})
    model = OnnxFlavor().load(saved(made, tmp_path / "m.onnx"), {"probabilities": True})
    assert model.info.classes == ("no", "yes")
    found = model.predict(pa.RecordBatch.from_pydict({"w": words[:, 0].tolist()})).columns
    assert found.column("prediction").to_pylist() == fitted.predict(words).tolist()
    assert np.allclose(found.column("probability_no").to_pylist(), fitted.predict_proba(words)[:, 0], atol=1e-6)


def test_missing_values_are_nan_or_rejected(tmp_path: Path) -> None:
    model = OnnxFlavor().load(columns_model(tmp_path), {})
    rows = pa.RecordBatch.from_arrays(
        [
            pa.array([1.0, 1.0, 1.0, 1.0], pa.float32()),
            pa.array([3, None, 3, None]),
            pa.array(["x", "x", None, None]),
        ],
        names=["age", "count", "city"],
    )
    found = model.predict(rows)
    assert sorted(found.row_errors) == [1, 2, 3]
    assert found.row_errors[1].startswith("column 'count' is missing")
    assert found.row_errors[2].startswith("column 'city' is missing")
    assert bits(found.columns.slice(0, 1)) == bits(model.predict(rows.slice(0, 1)))
    path = matmul(tmp_path)
    gaps = batch(
        pa.array([None, 1.0], pa.float32()), pa.array([2.0, 2.0], pa.float32()), pa.array([3.0, 3.0], pa.float32())
    )
    answer = load(path).predict(gaps)
    assert answer.row_errors == {}
    assert np.isnan(answer.columns.column(1)[0].as_py())
    assert answer.columns.column(1)[1].as_py() == own(path, {"x": np.array([[1, 2, 3]], "f4")})[0][0, 1]


def test_booleans_and_flat_inputs(tmp_path: Path) -> None:
    inputs = [info("flag", TensorProto.BOOL, ["N"]), info("x", TensorProto.DOUBLE, ["N"])]
    outputs = [info("y", TensorProto.DOUBLE, ["N"])]
    nodes = [helper.make_node("Where", ["flag", "x", "zero"], ["y"])]
    path = graph(tmp_path, inputs, outputs, nodes, {"zero": np.array(0.0)})
    model = OnnxFlavor().load(path, {})
    rows = pa.RecordBatch.from_pydict({"flag": [True, False, None, True], "x": [1.5, 2.5, 3.5, None]})
    found = model.predict(rows)
    assert list(found.row_errors) == [2]
    values = found.columns.column("prediction").to_pylist()
    assert values[:2] == [1.5, 0.0]
    assert np.isnan(values[3])


def test_graph_that_gives_another_number_of_rows_is_found_out(tmp_path: Path) -> None:
    inputs, outputs = [info("x", TensorProto.FLOAT, ["N", 3])], [info("y", TensorProto.FLOAT, ["M", 3])]
    nodes = [helper.make_node("Slice", ["x", "start", "end"], ["y"])]
    path = graph(tmp_path, inputs, outputs, nodes, {"start": np.array([0]), "end": np.array([1])})
    model = load(path)
    assert model.predict(batch().slice(0, 1)).columns.num_rows == 1
    with pytest.raises(ValueError, match=r"'y' has 1 rows, not 200"):
        model.predict(batch())


def test_unknown_operator_is_unusable(tmp_path: Path) -> None:
    inputs, outputs = [info("x", TensorProto.FLOAT, ["N", 3])], [info("y", TensorProto.FLOAT, ["N", 3])]
    path = graph(tmp_path, inputs, outputs, [helper.make_node("NoSuchThing", ["x"], ["y"])], {})
    with pytest.raises(ModelUnusable, match=r"cannot load .*g\.onnx"):
        load(path)


def test_skeleton_names_operators_and_labels(tmp_path: Path) -> None:
    forest_path = saved(to_onnx(forest("many"), data()[:1], options={"zipmap": False}), tmp_path / "f.onnx")
    found = onnx_file.read(forest_path)
    assert found.operators >= {"TreeEnsembleClassifier"}
    assert found.labels == ("x", "y", "z")
    linear = LogisticRegression().fit(data(), labels("int"))
    found = onnx_file.read(saved(to_onnx(linear, data()[:1], options={"zipmap": False}), tmp_path / "l.onnx"))
    assert found.labels == (-1, 4)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"\x0a" + data,
        lambda data: b"\x08\x00" + data[2:],
        lambda data: b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        lambda data: data[2:],
        lambda data: b"\x08\x09",
        lambda data: b"\x08\x09\x78\x01",
    ],
)
def test_other_messages_are_no_models(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    whole = Path(matmul(tmp_path)).read_bytes()
    assert OnnxFlavor.matches(whole, "m.onnx")
    assert not OnnxFlavor.matches(change(whole), "m.onnx")


def test_a_long_model_is_known_by_its_head(tmp_path: Path) -> None:
    path = saved(
        to_onnx(RandomForestClassifier(60, random_state=0).fit(data(), labels("text")), data()[:1]), tmp_path / "m"
    )
    whole = Path(path).read_bytes()
    assert len(whole) > 65_536
    assert OnnxFlavor.matches(whole[:65_536], path)
