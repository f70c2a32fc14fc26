"""ONNX models, run by ONNX Runtime on the CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tidemill.domain.errors import ModelUnusable
from tidemill.domain.signature import Field, ModelInfo
from tidemill.flavors import dense, onnx_file
from tidemill.flavors.bad_rows import missing, predicted_without
from tidemill.flavors.inputs import column_names
from tidemill.flavors.matrix import Array, plain, strings, to_arrow, to_matrix, values
from tidemill.flavors.onnx_outputs import Outputs, described_row, outputs_of
from tidemill.flavors.options import PredictOptions
from tidemill.ports.flavor import Flavor, Model, Predicted
from tidemill.registry import missing_extra

_TENSOR_TYPES = {
    "tensor(float)": "float",
    "tensor(double)": "double",
    "tensor(float16)": "float",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "string",
}
_FLOATS = {"float": "f4", "double": "f8"}

_TREE_OPERATORS = frozenset({"TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"})
_LINEAR_OPERATORS = frozenset({"LinearClassifier", "LinearRegressor"})
_DENSE_OPERATORS = frozenset(
    {
        *("Gemm", "MatMul", "BatchNormalization", "LayerNormalization", "Dropout", "Scaler", "Normalizer", "Imputer"),
        *(
            "Relu",
            "LeakyRelu",
            "PRelu",
            "Elu",
            "Selu",
            "Celu",
            "Gelu",
            "Mish",
            "ThresholdedRelu",
            "Softplus",
            "Softsign",
        ),
        *("Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Tanh", "Erf", "Softmax", "LogSoftmax", "Clip"),
        *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Mean", "Neg", "Abs", "Exp", "Log", "Sqrt", "Sign"),
        *("Reciprocal", "Floor", "Ceil", "Round", "IsNaN", "IsInf", "Where", "Equal", "Not", "And", "Or"),
        *(
            "Less",
            "LessOrEqual",
            "Greater",
            "GreaterOrEqual",
            "ArgMax",
            "ArgMin",
            "ReduceMean",
            "ReduceSum",
            "ReduceMax",
        ),
        *("Cast", "CastLike", "Constant", "Identity", "Concat", "Split", "Slice", "Flatten", "Reshape", "Squeeze"),
        *("ArrayFeatureExtractor", "FeatureVectorizer", "LabelEncoder", "ZipMap"),
    }
)
"""With these alone no layer holds more numbers for a row than the largest dimension of a weight. Convolutions,
attention and what adds a dimension hold more, and their weights do not say how many."""
_TREE_BATCH_ROWS, _LINEAR_BATCH_ROWS = 8_192, 65_536
_ROWS_PER_CHUNK = 262_144


class OnnxFlavor(Flavor):
    """Files of one ONNX model."""

    name: ClassVar[str] = "onnx"
    preload: ClassVar[tuple[str, ...]] = ("tidemill.flavors.onnx_library",)

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        return onnx_file.looks_like(head)

    def load(self, path: str, options: Mapping[str, Any]) -> Model:
        skeleton = onnx_file.read(path)
        try:
            import onnxruntime
        except ModuleNotFoundError as exc:
            raise missing_extra("onnx", exc) from exc
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        except Exception as exc:
            raise ModelUnusable(f"ONNX Runtime cannot load {path}: {exc}.", remedy="Export the model again.") from exc
        return OnnxModel(session, path, PredictOptions.of(options), skeleton, onnxruntime.__version__)


@dataclass(frozen=True, kw_only=True)
class _Input:
    """One input of the graph: `width` columns of `type`, in a tensor of one dimension or two."""

    name: str
    type: str
    width: int
    flat: bool
    half: bool = False

    @staticmethod
    def of(path: str, found: Any) -> _Input:
        """The input that ONNX Runtime describes. Raises ModelUnusable for what cannot take rows of columns."""
        shape, kind = list(found.shape), _TENSOR_TYPES.get(found.type)
        if kind is None or not 1 <= len(shape) <= 2:
            raise ModelUnusable(
                f"{path}: the input {found.name!r} is a {found.type} of shape {shape}, not a table of columns.",
                remedy="Export the model with inputs of shape [rows, columns].",
            )
        if isinstance(shape[0], int):
            raise ModelUnusable(
                f"{path}: the input {found.name!r} takes exactly {shape[0]} row(s).",
                remedy="Export the model with a dynamic first dimension (dynamic_axes or dynamic_shapes).",
            )
        width = 1 if len(shape) == 1 else shape[1]
        if not isinstance(width, int):
            raise ModelUnusable(
                f"{path}: the input {found.name!r} does not say how many columns it takes.",
                remedy="Export the model with a fixed second dimension.",
            )
        half = found.type == "tensor(float16)"
        return _Input(name=found.name, type=kind, width=width, flat=len(shape) == 1, half=half)

    def tensor(self, rows: pa.RecordBatch) -> Array:
        """The columns as the tensor that the graph wants; nulls are NaN."""
        if self.type in _FLOATS:
            matrix = to_matrix(rows, order="C", dtype=_FLOATS[self.type])
            matrix = matrix.astype(np.float16) if self.half else matrix
        elif rows.num_columns == 1:
            matrix = _vector(rows.column(0)).reshape(-1, 1)
        else:
            matrix = np.column_stack([_vector(column) for column in rows.columns])
        return matrix[:, 0] if self.flat else matrix


def _vector(column: pa.Array) -> Array:
    column = plain(column)
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    if pa.types.is_boolean(column.type):
        return values(column.cast(pa.int8())).astype(bool)
    return values(column)


class OnnxModel(Model):
    """A session; thread-safe, each run stays in its own thread."""

    widens = True

    def __init__(
        self, session: Any, path: str, options: PredictOptions, skeleton: onnx_file.Skeleton, version: str
    ) -> None:
        options.refuse_extra("onnx")
        self._session = session
        self._inputs = [_Input.of(path, each) for each in session.get_inputs()]
        self._fields, positional = self._columns(options)
        sample = self._sample(path, skeleton.labels)
        self._outputs: Outputs = outputs_of(path, sample, skeleton.labels, options)
        rule = self._outputs.rule
        self.info = ModelInfo(
            flavor="onnx",
            inputs=self._fields,
            outputs=rule.outputs,
            positional=positional,
            task=rule.task,
            classes=rule.labels,
            positive_class=rule.positive,
            layout="threads",
            batch_rows=_batch_rows(skeleton),
            rows_per_chunk=_ROWS_PER_CHUNK,
            libraries=(("onnxruntime", version),),
            notes=rule.notes,
        )

    def _sample(self, path: str, labels: Sequence[Any]) -> dict[str, Any]:
        """The outputs for one made-up row, or as the graph describes them if it refuses such a row."""
        try:
            row = [_made_up(field.type) for field in self._fields]
            return self._run(pa.RecordBatch.from_arrays(row, names=[field.name for field in self._fields]))
        except Exception as exc:
            described = described_row(self._session.get_outputs(), labels)
            if described is None:
                raise ModelUnusable(
                    f"{path} cannot score one row of zeros and empty text, and does not say what it gives: {exc}.",
                    remedy="Export the model with the shapes of its outputs.",
                ) from exc
            return described

    def _columns(self, options: PredictOptions) -> tuple[tuple[Field, ...], int]:
        """The job's columns: one for each input of the graph, or named by the model or the user; how many of them
        are taken by position."""
        kinds = [each.type for each in self._inputs for _ in range(each.width)]
        known: Sequence[str] = [each.name for each in self._inputs]
        if len(known) == 1 or len(known) != len(kinds):
            known = self._remembered(len(kinds)) or (known if len(kinds) == 1 else [])
        called = column_names(known, options.features, len(kinds))
        fields = tuple(Field(name=name, type=kind) for name, kind in zip(called.names, kinds, strict=True))
        return fields, called.positional

    def _remembered(self, count: int) -> list[str]:
        """Feature names in the model's metadata, under `feature_names`: JSON, or separated by commas."""
        text = self._session.get_modelmeta().custom_metadata_map.get("feature_names", "")
        try:
            found = json.loads(text)
        except ValueError:
            found = [name.strip() for name in text.split(",")]
        fits = isinstance(found, list) and len(found) == count and all(isinstance(name, str) and name for name in found)
        return found if fits else []

    def _run(self, rows: pa.RecordBatch) -> dict[str, Any]:
        feed, start = {}, 0
        for each in self._inputs:
            stop = start + each.width
            feed[each.name] = each.tensor(rows.select(range(start, stop)))
            start = stop
        outputs = [output.name for output in self._session.get_outputs()]
        return dict(zip(outputs, self._session.run(outputs, feed), strict=True))

    def predict(self, batch: pa.RecordBatch) -> Predicted:
        def columns(good: pa.RecordBatch) -> pa.RecordBatch:
            return self._outputs.columns(self._run(good), good.num_rows)

        return predicted_without(batch, missing(self._fields, batch), self._outputs.rule, columns)


def _made_up(kind: str) -> pa.Array:
    if kind == "string":
        return strings([""])
    return to_arrow(np.zeros(1)).cast(pa.type_for_alias(kind))


def _batch_rows(skeleton: onnx_file.Skeleton) -> int:
    if skeleton.operators & _TREE_OPERATORS:
        return _TREE_BATCH_ROWS
    if skeleton.operators & _LINEAR_OPERATORS:
        return _LINEAR_BATCH_ROWS
    return dense.batch_rows(skeleton.widest if skeleton.operators <= _DENSE_OPERATORS else None)
