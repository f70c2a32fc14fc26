"""How many rows an ONNX network gets at once: by the widest of its layers, and by nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.neural_network import MLPRegressor

from tidemill.flavors.onnx import OnnxFlavor

UNKNOWN = 1_024


def weight(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(np.zeros(shape, np.float32), name)


def saved(folder: Path, nodes: list[NodeProto], weights: list[TensorProto], columns: int = 3) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        weights,
    )
    path = folder / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def network(folder: Path, width: int, columns: int = 3) -> Path:
    nodes = [
        helper.make_node("Gemm", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    return saved(folder, nodes, [weight("w1", columns, width), weight("w2", width, 1)], columns)


def rows_of(path: Path) -> int:
    return OnnxFlavor().load(str(path), {}).info.batch_rows


@pytest.mark.parametrize(
    ("width", "rows"),
    [(8, 16_384), (32, 16_384), (33, 8_192), (128, 4_096), (256, 2_048), (512, 1_024), (1_000, 512), (5_000, 256)],
)
def test_the_wider_a_network_the_fewer_rows_it_gets(tmp_path: Path, width: int, rows: int) -> None:
    assert rows_of(network(tmp_path, width)) == rows


def test_a_wide_input_counts_too(tmp_path: Path) -> None:
    assert rows_of(network(tmp_path, 8, columns=512)) == 1_024


@pytest.mark.parametrize("packed", [True, False])
def test_weights_among_the_nodes_count(tmp_path: Path, packed: bool) -> None:
    """Sizes are written one by one or packed: protobuf's readers take both."""
    nodes = [
        helper.make_node("Constant", [], ["w1"], value=weight("w1", 3, 600)),
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["y"]),
    ]
    path = saved(tmp_path, nodes, [weight("w2", 600, 1)])
    content = path.read_bytes()
    apart, together = b"\x08\xd8\x04\x08\x01", b"\x0a\x03\xd8\x04\x01"
    assert len(apart) == len(together)
    assert apart in content
    path.write_bytes(content.replace(apart, together) if packed else content)
    assert rows_of(path) == 512


def test_a_layer_that_its_weights_do_not_tell_leaves_it_as_it_was(tmp_path: Path) -> None:
    axes = numpy_helper.from_array(np.array([2]), "axes")
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axes"], ["u"]),
        helper.make_node("Mul", ["u", "w"], ["wide"]),
        helper.make_node("Flatten", ["wide"], ["flat"]),
        helper.make_node("ReduceSum", ["flat", "one"], ["y"], keepdims=1),
    ]
    one = numpy_helper.from_array(np.array([1]), "one")
    assert rows_of(saved(tmp_path, nodes, [axes, one, weight("w", 24)])) == UNKNOWN


def test_networks_of_scikit_learn_are_known(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    model = MLPRegressor(hidden_layer_sizes=(64, 16), max_iter=200, tol=0.1).fit(data, data[:, 0])
    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(model, data[:1]).SerializeToString())
    assert rows_of(path) == 8_192
