"""ONNX models on the shipped suite, with what its extra brings; the package `onnx` writes them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper

from tidemill.flavors.onnx import OnnxFlavor
from tidemill.testing.flavor import Case, FileFlavorContract

NAMES = ["a", "b", "c"]


@cache
def data() -> np.ndarray[Any, Any]:
    return np.random.default_rng(4).normal(size=(200, 3)).astype(np.float32)


def network() -> onnx.ModelProto:
    """Two layers with random weights."""
    random = np.random.default_rng(2)
    weights = {"w1": random.normal(size=(3, 8)), "b1": random.normal(size=8), "w2": random.normal(size=(8, 1))}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "two layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(values.astype("f4"), name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


class TestOnnx(FileFlavorContract):
    flavor_class = OnnxFlavor
    framework = ("onnx", "onnxruntime", "pandas", "google")

    @pytest.fixture(autouse=True)
    def _made(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        path = tmp_path_factory.getbasetemp() / "network.onnx"
        self._path = str(path)
        if not path.exists():
            path.write_bytes(network().SerializeToString())

    def case(self) -> Case:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(self._path, settings, providers=["CPUExecutionProvider"])
        rows = pa.RecordBatch.from_arrays([pa.array(data()[:, n]) for n in range(3)], names=NAMES)
        expected = {"prediction": pa.array(session.run(None, {"x": data()})[0][:, 0])}
        return Case(path=self._path, rows=rows, expected=expected, options={"features": NAMES})
