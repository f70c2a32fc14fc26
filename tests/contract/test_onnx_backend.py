"""The cases that come with the package onnx, for backends: those that are tables, through the flavor.

A case is a table if all its inputs and outputs are tensors of one dimension or two with as many rows. Cases have fixed
shapes; here the number of rows is left open, as in models that score batches. Expected values are the package's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

from tidemill.domain.errors import ModelUnusable
from tidemill.flavors.onnx import OnnxFlavor

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
FOLDERS = ("simple", "pytorch-converted", "pytorch-operator")
TOLERANCE = {"rtol": 1e-3, "atol": 1e-7}
"""What the package grants backends, where the case does not say."""


LIMITS = ("does not have one row of values for each input row", "has outputs of different types")

TAKEN = 268
OUT = {
    "tensors that are no table": 1392,
    "another number of rows in each tensor": 222,
    "sequences, maps or optional values": 29,
    "no inputs": 5,
    "ONNX Runtime does not run it or is wrong": 101,
    LIMITS[0]: 2,
    LIMITS[1]: 5,
}
"""Of the 2,024 cases of the package's version in requirements/test.lock. Nothing leaves unseen."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """A case: a model, and what goes in and must come out, by name."""

    name: str
    model: Any
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    tolerance: dict[str, float]


def cases() -> Iterator[tuple[str, Any, Any, Any, dict[str, float]]]:
    for folder in FOLDERS:
        for path in sorted((DATA / folder).iterdir()):
            inputs, outputs = (
                [_tensor(path / "test_data_set_0" / f"{part}_{n}.pb") for n in range(_count(path, part))]
                for part in ("input", "output")
            )
            yield path.name, onnx.load(path / "model.onnx"), inputs, outputs, TOLERANCE
    for case in collect_testcases(None):
        inputs, outputs = case.data_sets[0]
        yield case.name, case.model, inputs, outputs, {"rtol": case.rtol, "atol": case.atol}


def _count(path: Path, part: str) -> int:
    return len(list((path / "test_data_set_0").glob(f"{part}_*.pb")))


def _tensor(path: Path) -> Any:
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(tensor)


def sorted_out() -> tuple[list[Given], Counter[str]]:
    """The cases that are tables, and how many of the others are out for which reason."""
    tables, out = [], Counter[str]()
    for name, model, inputs, outputs, tolerance in cases():
        reason = _reason(model)
        if reason:
            out[reason] += 1
            continue
        names = [[each.name for each in part] for part in (_fed(model.graph), model.graph.output)]
        tables.append(
            Given(
                name=name,
                model=_with_open_rows(model),
                inputs=dict(zip(names[0], inputs, strict=True)),
                outputs=dict(zip(names[1], outputs, strict=True)),
                tolerance=tolerance,
            )
        )
    return tables, out


def _fed(graph: Any) -> list[Any]:
    known = {each.name for each in graph.initializer}
    return [each for each in graph.input if each.name not in known]


def _reason(model: Any) -> str:
    inputs, outputs = _fed(model.graph), list(model.graph.output)
    if not inputs:
        return "no inputs"
    if not all(each.type.HasField("tensor_type") for each in (*inputs, *outputs)):
        return "sequences, maps or optional values"
    shapes = [each.type.tensor_type.shape.dim for each in (*inputs, *outputs)]
    if not all(1 <= len(shape) <= 2 for shape in shapes):
        return "tensors that are no table"
    if len({shape[0].dim_value for shape in shapes}) != 1:
        return "another number of rows in each tensor"
    return ""


def _with_open_rows(model: Any) -> Any:
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    for each in (*_fed(opened.graph), *opened.graph.output):
        each.type.tensor_type.shape.dim[0].dim_param = "rows"
    del opened.graph.value_info[:]
    return opened


def own(given: Given, path: Path) -> dict[str, Any] | None:
    """What ONNX Runtime says of the case, if it can run it and is right."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found = session.run(list(given.outputs), given.inputs)
    except Exception:
        return None
    right = all(_close(a, b, given.tolerance) for a, b in zip(found, given.outputs.values(), strict=True))
    return dict(zip(given.outputs, found, strict=True)) if right else None


def _close(found: Any, wanted: Any, tolerance: dict[str, float]) -> bool:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    if found.dtype.kind in "OUS":
        return bool((found.astype(str) == wanted.astype(str)).all())
    return bool(np.allclose(found, wanted, **tolerance, equal_nan=True))


def columns(tensors: dict[str, Any]) -> list[pa.Array]:
    return [pa.array(column.tolist(), _arrow(each.dtype)) for each in tensors.values() for column in _columns(each)]


def _columns(tensor: Any) -> list[Any]:
    return [tensor] if tensor.ndim == 1 else list(tensor.T)


def _arrow(dtype: Any) -> pa.DataType:
    return pa.string() if dtype.kind in "OUS" else pa.float32() if dtype == np.float16 else pa.from_numpy_dtype(dtype)


def through_the_flavor(given: Given, path: Path) -> list[list[Any]]:
    fed = columns(given.inputs)
    names = [f"c{number}" for number in range(len(fed))]
    model = OnnxFlavor().load(str(path), {"features": names})
    predicted = model.predict(pa.RecordBatch.from_arrays(fed, names=names))
    assert predicted.row_errors == {}
    return [column.to_pylist() for column in predicted.columns.columns]


def refusal(given: Given, path: Path) -> str:
    """Which of the known limits of the flavor the case is beyond; "" if it is within."""
    try:
        OnnxFlavor().load(str(path), {"features": [f"c{number}" for number in range(len(columns(given.inputs)))]})
    except ModelUnusable as exc:
        return next(limit for limit in LIMITS if limit in exc.message)
    return ""


def test_tables_of_the_backend_cases(tmp_path: Path) -> None:
    """All in one test: making the cases takes longer than running them."""
    tables, out = sorted_out()
    taken, wrong = 0, {}
    for given in tables:
        path = tmp_path / f"{given.name}.onnx"
        path.write_bytes(given.model.SerializeToString())
        said = own(given, path)
        limit = "ONNX Runtime does not run it or is wrong" if said is None else refusal(given, path)
        if said is None or limit:
            out[limit] += 1
            continue
        taken += 1
        wanted = [column.tolist() for each in said.values() for column in _columns(each)]
        found = through_the_flavor(given, path)
        if repr(found) != repr(wanted):
            wrong[given.name] = (found, wanted)
    assert wrong == {}
    assert (taken, dict(out)) == (TAKEN, OUT)
