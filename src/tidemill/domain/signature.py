"""What a model takes and gives: fields with types, as names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Layout = Literal["threads", "processes"]
Task = Literal["regression", "binary", "multiclass", "other"]


@dataclass(frozen=True, kw_only=True)
class Field:
    """One column. `type` is an Arrow type by name ("double", "int64", "string", "bool",
    "timestamp[us, tz=UTC]", ...) or "any": whatever the input has."""

    name: str
    type: str = "any"
    nullable: bool = True
    accepts: tuple[str, ...] = ()
    """Of an input: the Arrow types that a column of a typed format may have, "decimal128" meaning any such;
    empty: whatever can be cast to `type`."""
    optional: bool = False
    """Of an input: whether it may be absent. Then the model is loaded without it."""

    def to_json(self) -> dict[str, Any]:
        """As JSON; what is only said of some inputs is left out of all others."""
        only_some = {name: value for name, value in vars(self).items() if name in ("accepts", "optional") and value}
        return {"name": self.name, "type": self.type, "nullable": self.nullable, **only_some}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Field:
        return Field(**{**data, "accepts": tuple(data.get("accepts", ()))})


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """What predicts in place of a model's own library."""

    name: str
    version: str
    tolerance: float
    """How far a number may be from the library's, relative to it, or to the size of what was added up to it."""
    distribution: str = "tidemill-kernels"
    """What it came with: `version` is of that."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """All that the engine must know of a loaded model.

    `inputs` are the feature columns in the model's order, empty if it takes whatever columns come
    (`takes_all`). `batch_rows` and `rows_per_chunk` are constants of the flavor, never measured: they
    decide borders, and borders decide bytes. `libraries` are the versions that can change a value.
    """

    flavor: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    task: Task = "other"
    classes: tuple[str | int | float | bool, ...] | None = None
    positive_class: str | int | float | bool | None = None
    takes_all: bool = False
    positional: int = 0
    """How many columns the model takes by position, since it knows no names for them: those of `inputs` are made
    up then. With `takes_all` so many columns, or a single one of lists."""
    takes_text: bool = False
    """With `takes_all`: of all columns the one that holds text."""
    kernel: str | None = None
    """The kernel that may predict in place of the library, if there is one for such models."""
    layout: Layout = "processes"
    on_gpu: bool = False
    """Whether it computes on a GPU, of whose memory each process takes its own share."""
    batch_invariant: bool = False
    batch_rows: int = 65_536
    rows_per_chunk: int = 262_144
    libraries: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    """What the summary must say (e.g. "class names unknown: 0 and 1")."""

    def to_json(self) -> dict[str, Any]:
        fields = {"inputs": [f.to_json() for f in self.inputs], "outputs": [f.to_json() for f in self.outputs]}
        return {**vars(self), **fields}

    @staticmethod
    def from_json(data: dict[str, Any]) -> ModelInfo:
        return ModelInfo(
            **{
                **data,
                "inputs": tuple(Field.from_json(f) for f in data["inputs"]),
                "outputs": tuple(Field.from_json(f) for f in data["outputs"]),
                "classes": None if data["classes"] is None else tuple(data["classes"]),
                "libraries": tuple((name, version) for name, version in data["libraries"]),
                "notes": tuple(data["notes"]),
            }
        )
