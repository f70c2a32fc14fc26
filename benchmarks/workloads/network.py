"""W3: a small network in ONNX, on the 15 features of the usual table that have no nulls."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.workloads import rows
from benchmarks.workloads.line_ups import MAIN
from benchmarks.workloads.workload import Prepared, Workload, made

FEATURES = tuple(name for number, name in enumerate(rows.FEATURES) if number % 4)
WIDTHS = (len(FEATURES), 128, 64, 1)


def model_file() -> Path:
    """Three layers with random weights; the first scales what comes in."""

    def make(folder: Path) -> None:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        rng = np.random.default_rng(3)
        scale = np.nan_to_num(rows.training()[0]).std(axis=0)[[rows.FEATURES.index(name) for name in FEATURES]]
        nodes, weights, last = [], [], "features"
        for number, (width, next_width) in enumerate(pairwise(WIDTHS)):
            matrix = rng.normal(size=(width, next_width)) / np.sqrt(width)
            matrix = matrix / scale[:, None] if number == 0 else matrix
            weights += [
                numpy_helper.from_array(matrix.astype(np.float32), f"w{number}"),
                numpy_helper.from_array(rng.normal(size=next_width).astype(np.float32), f"b{number}"),
            ]
            final = number == len(WIDTHS) - 2
            out = "prediction" if final else f"sum{number}"
            nodes.append(helper.make_node("Gemm", [last, f"w{number}", f"b{number}"], [out]))
            last = out
            if not final:
                nodes.append(helper.make_node("Relu", [out], [f"layer{number}"]))
                last = f"layer{number}"
        graph = helper.make_graph(
            nodes,
            "network",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(FEATURES)])],
            [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 1])],
            weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, folder / "model.onnx")

    return made("network-15-128-64-1", make) / "model.onnx"


def _prepared(count: int) -> Prepared:
    return Prepared(
        model=model_file(), source=rows.input_folder(count), small=rows.input_folder(1_000), features=FEATURES
    )


WORKLOADS = (
    Workload(
        name="W3-network",
        title="ONNX: a network of 15-128-64-1",
        rows=4_000_000,
        quick_rows=100_000,
        make=_prepared,
        # 32-bit sums depend on the size of the batch.
        tolerance=1e-4,
        contestants=MAIN,
        family="onnx",
    ),
)
