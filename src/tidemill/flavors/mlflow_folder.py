"""What a folder that MLflow wrote says of itself, in the file MLmodel: read without MLflow."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tidemill.domain.errors import ModelUnusable

MLMODEL = "MLmodel"
MAX_BYTES = 64 << 20

_SMALL_INTS = ("int8", "int16", "int32", "uint8", "uint16")
_TYPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "boolean": ("bool", ("bool",)),
    "integer": ("int32", _SMALL_INTS),
    "long": ("int64", (*_SMALL_INTS, "int64", "uint32")),
    "float": ("float", ("halffloat", "float")),
    "double": ("double", ("halffloat", "float", "double", *_SMALL_INTS, "uint32", "decimal128", "decimal256")),
    "string": ("string", ("string", "large_string", "string_view")),
    "binary": ("any", ("binary", "large_binary")),
    "datetime": (
        "timestamp[ns]",
        (*(f"timestamp[{unit}]" for unit in ("s", "ms", "us", "ns")), "date32[day]", "date64[ms]"),
    ),
}
"""MLflow's types: the Arrow type, and the Arrow types that MLflow converts to it. It never narrows a number, nor
makes a float of whole numbers that the float might not hold."""
_DTYPES = {
    "bool": "boolean",
    "int32": "integer",
    "int64": "long",
    "float32": "float",
    "float64": "double",
    "str": "string",
    "object": "string",
}
"""Element types of tensors: MLflow's type for the same values in columns."""
_NATIVE = {"lightgbm": "data", "xgboost": "data", "catboost": "data", "onnx": "data", "sklearn": "pickled_model"}
"""Frameworks whose loader module gives a model as it is: where the flavor's own words name its file."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One input or output of a signature. `shape` is None for a column, else that of a tensor (first: rows)."""

    name: str | None
    type: str = "any"
    accepts: tuple[str, ...] = ()
    required: bool = True
    shape: tuple[int, ...] | None = None

    @property
    def width(self) -> int | None:
        """How many columns of single values it stands for; None for a tensor of more dimensions."""
        if self.shape is None or len(self.shape) == 1:
            return 1
        return self.shape[1] if len(self.shape) == 2 and self.shape[1] > 0 else None


@dataclass(frozen=True, kw_only=True)
class Folder:
    """An MLflow folder. `said` is the content of MLmodel."""

    path: str
    said: Mapping[str, Any]

    @property
    def function(self) -> Mapping[str, Any]:
        """The words of the flavor python_function; empty if the folder has none."""
        return self._flavor("python_function")

    @cached_property
    def inputs(self) -> tuple[Column, ...]:
        """Of the signature; empty without one. Raises ModelUnusable for what cannot be understood."""
        return self._columns("inputs")

    @cached_property
    def outputs(self) -> tuple[Column, ...]:
        """Of the signature; empty without one. Raises ModelUnusable."""
        return self._columns("outputs")

    @cached_property
    def params(self) -> tuple[str, ...]:
        """Names of the parameters that predict takes."""
        return tuple(str(each["name"]) for each in self._entries("params"))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the input columns; empty unless the signature names all of them."""
        names = tuple(column.name for column in self.inputs)
        return tuple(name for name in names if name) if all(names) else ()

    @property
    def native(self) -> Path | None:
        """The file that a framework of its own wrote, if predicting with it is all that the folder's
        python_function does; None otherwise."""
        loader = str(self.function.get("loader_module", ""))
        framework = loader.removeprefix("mlflow.")
        if framework not in _NATIVE or self.function.get("predict_fn", "predict") != "predict":
            return None
        file = self._flavor(framework).get(_NATIVE[framework])
        # Only what lies in the folder has part in its digest.
        if not isinstance(file, str) or os.path.isabs(file) or os.path.normpath(file).startswith(os.pardir):
            return None
        path = Path(self.path, file)
        return path if path.is_file() else None

    @property
    def untrusted_types(self) -> frozenset[str]:
        """Types in a skops file that whoever saved it had to allow."""
        framework = str(self.function.get("loader_module", "")).removeprefix("mlflow.")
        return frozenset(map(str, self._flavor(framework).get("skops_trusted_types") or ()))

    def _flavor(self, name: str) -> Mapping[str, Any]:
        flavors = self.said.get("flavors")
        found = flavors.get(name) if isinstance(flavors, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def _columns(self, part: str) -> tuple[Column, ...]:
        try:
            return tuple(_column(entry) for entry in self._entries(part))
        except (KeyError, TypeError, ValueError) as exc:
            raise self._unclear(part) from exc

    def _entries(self, part: str) -> list[dict[str, Any]]:
        signature = self.said.get("signature")
        if not isinstance(signature, Mapping) or not signature.get(part):
            return []
        try:
            found = json.loads(signature[part])
        except (TypeError, ValueError) as exc:
            raise self._unclear(part) from exc
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise self._unclear(part)
        return found

    def _unclear(self, part: str) -> ModelUnusable:
        return ModelUnusable(
            f"{Path(self.path, MLMODEL)} has a signature whose {part} cannot be understood.",
            remedy="Save the model again with MLflow.",
        )


def is_folder(path: str) -> bool:
    """Whether MLflow wrote this folder."""
    return os.path.isfile(os.path.join(path, MLMODEL))


def read(path: str) -> Folder:
    """What the folder says. Raises ModelUnusable if its MLmodel is damaged."""
    file = Path(path, MLMODEL)
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
        said = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as exc:
        raise ModelUnusable(
            f"{file} cannot be read: {_first_line(exc)}.", remedy="Copy the folder again, or save it again with MLflow."
        ) from exc
    if not isinstance(said, Mapping) or not isinstance(said.get("flavors"), Mapping):
        raise ModelUnusable(
            f"{file} names no flavors: it is no whole file of MLflow.",
            remedy="Copy the folder again, or save it again with MLflow.",
        )
    return Folder(path=path, said=said)


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]


def _column(entry: Mapping[str, Any]) -> Column:
    name = entry.get("name")
    if entry["type"] == "tensor":
        spec = entry["tensor-spec"]
        shape = tuple(int(size) for size in spec["shape"])
        kind, accepts = _TYPES.get(_DTYPES.get(str(spec["dtype"]), ""), ("any", ()))
        return Column(name=name, type=kind, accepts=accepts, shape=shape)
    kind, accepts = _TYPES.get(str(entry["type"]), ("any", ()))
    return Column(name=name, type=kind, accepts=accepts, required=bool(entry.get("required", True)))


def names_or(columns: Sequence[Column], base: str) -> list[str]:
    """A name for each single value of a row: the column's own, or `base` and a number."""
    widths = [column.width or 1 for column in columns]
    if sum(widths) == 1:
        return [columns[0].name or base]
    names: list[str] = []
    for column, width in zip(columns, widths, strict=True):
        stem = column.name or base
        numbered = width > 1 or (column.name is None and len(columns) > 1)
        names += (
            [f"{stem}_{len(names) + n if column.name is None else n}" for n in range(width)] if numbered else [stem]
        )
    return names
