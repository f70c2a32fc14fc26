"""What an ONNX file says of itself, read from its bytes: no framework, and no copy of the weights.

An ONNX model is one protobuf message. Only its skeleton is walked: lengths of everything else are skipped.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

from tidemill.domain.errors import ModelUnusable

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_FIELDS = {
    1: _VARINT,  # ir_version
    2: _BYTES,  # producer_name
    3: _BYTES,  # producer_version
    4: _BYTES,  # domain
    5: _VARINT,  # model_version
    6: _BYTES,  # doc_string
    7: _BYTES,  # graph
    8: _BYTES,  # opset_import
    14: _BYTES,  # metadata_props
    20: _BYTES,  # training_info
    25: _BYTES,  # functions
    26: _BYTES,  # configuration
}
_IR_VERSION, _GRAPH, _OPSETS = 1, 7, 8
_MAX_IR_VERSION = 100
_NODE, _INITIALIZER = 1, 5
_NODE_OPERATOR, _NODE_ATTRIBUTE = 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_TENSOR, _ATTRIBUTE_INTS, _ATTRIBUTE_STRINGS = 1, 5, 8, 9
_TENSOR_DIMS = 1

Buffer = bytes | memoryview


class _EndError(Exception):
    """The bytes end within a field: all before it was in order."""


class _GarbageError(Exception):
    """These bytes are no protobuf message."""


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """Operators by name, the classes that a classifier among them names (empty if it names none), and the largest
    dimension of a weight (0 if there are none)."""

    operators: frozenset[str]
    labels: tuple[str | int, ...]
    widest: int


def looks_like(head: bytes) -> bool:
    """Whether a file that begins so is an ONNX model: known fields of the right kind, a plausible version."""
    seen = set()
    try:
        for field, kind, value in _fields(head):
            if _MODEL_FIELDS.get(field) != kind:
                return False
            if field == _IR_VERSION and not (isinstance(value, int) and 0 < value < _MAX_IR_VERSION):
                return False
            seen.add(field)
    except _EndError as exc:
        seen.add(exc.args[0])
    except _GarbageError:
        return False
    return _IR_VERSION in seen and bool({_GRAPH, _OPSETS} & seen)


def read(path: str) -> Skeleton:
    """Walk the file. Raises ModelUnusable if it is cut off or damaged."""
    try:
        with open(path, "rb") as file:
            # Closing it by hand would fail while an exception still holds views of it.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _skeleton(memoryview(mapped))
    except (OSError, ValueError, _EndError, _GarbageError) as exc:
        raise ModelUnusable(f"{path} is not a whole ONNX model.", remedy="Copy or export the model again.") from exc


def _skeleton(whole: memoryview) -> Skeleton:
    operators: set[str] = set()
    labels: tuple[str | int, ...] = ()
    widest = 0
    for field, _, graph in _fields(whole):
        if field != _GRAPH or isinstance(graph, int):
            continue
        for part, _, value in _fields(graph):
            if isinstance(value, int):
                continue
            if part == _NODE:
                operator, found, width = _node(value)
                operators.add(operator)
                labels, widest = found or labels, max(widest, width)
            elif part == _INITIALIZER:
                widest = max(widest, _width(value))
    return Skeleton(operators=frozenset(operators), labels=labels, widest=widest)


def _node(node: Buffer) -> tuple[str, tuple[str | int, ...], int]:
    """The operator, the classes that it names, and the largest dimension of a tensor among its attributes."""
    operator = ""
    labels: tuple[str | int, ...] = ()
    widest = 0
    for field, _, value in _fields(node):
        if isinstance(value, int):
            continue
        if field == _NODE_OPERATOR:
            operator = bytes(value).decode()
        elif field == _NODE_ATTRIBUTE:
            labels = _labels(value) or labels
            tensors = (each for part, _, each in _fields(value) if part == _ATTRIBUTE_TENSOR)
            widest = max([widest, *(_width(each) for each in tensors if not isinstance(each, int))])
    return operator, labels, widest


def _width(tensor: Buffer) -> int:
    """The largest dimension of a tensor; 0 of a single number."""
    dims: list[int] = []
    for field, _, value in _fields(tensor):
        if field == _TENSOR_DIMS:
            dims += [value] if isinstance(value, int) else list(_packed(value))
    return max(dims, default=0)


def _labels(attribute: Buffer) -> tuple[str | int, ...]:
    """The values of an attribute `classlabels_...`, else nothing."""
    name, ints, strings = "", [], []
    for field, kind, value in _fields(attribute):
        if field == _ATTRIBUTE_NAME and not isinstance(value, int):
            name = bytes(value).decode()
        elif field == _ATTRIBUTE_INTS:
            ints += [value] if isinstance(value, int) else list(_packed(value))
        elif field == _ATTRIBUTE_STRINGS and kind == _BYTES and not isinstance(value, int):
            strings.append(bytes(value).decode())
    if not name.startswith("classlabels_"):
        return ()
    return tuple(strings) or tuple(_signed(each) for each in ints)


def _packed(data: Buffer) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _fields(data: Buffer) -> Iterator[tuple[int, int, int | Buffer]]:
    """(field number, wire type, value) of a message. Raises _EndError with the number of a field that is
    cut off, _GarbageError."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        field, kind = key >> 3, key & 7
        if not field:
            raise _GarbageError
        value: int | Buffer
        if kind == _VARINT:
            value, position = _varint(data, position)
        elif kind in (_FIXED64, _FIXED32, _BYTES):
            if kind == _BYTES:
                length, position = _varint(data, position)
            else:
                length = 8 if kind == _FIXED64 else 4
            if position + length > len(data):
                raise _EndError(field)
            value = data[position : position + length]
            position += length
        else:
            raise _GarbageError
        yield field, kind, value


def _varint(data: Buffer, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise _EndError(0)
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _GarbageError
