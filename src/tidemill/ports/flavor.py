"""Models: what an adapter of one framework must be able to do.

Flavors are matched in a child, loaded and called in scorers. The engine hands `predict` exactly the
columns of `ModelInfo.inputs`, in order, cast to their types (all columns when `takes_all`, the only one of
text when `takes_text` too; those that a model says it would rather have otherwise, `Model.encoded` and `Model.widens`,
are not).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from tidemill.domain.signature import Kernel, ModelInfo

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What came of one batch of n rows.

    `columns` has n rows and the columns of `ModelInfo.outputs`; rows in `row_errors` (position in the
    batch -> message) failed and their values mean nothing.
    """

    columns: pa.RecordBatch
    row_errors: Mapping[int, str] = field(default_factory=dict)
    by_kernel: bool = False
    """Whether a kernel gave the values, not the library."""
    sizes: Mapping[str, float] = field(default_factory=dict)
    """By column, where a kernel gave sums: how large the numbers are that were added up. What is left where they cancel
    is as exact as they are, not more."""


class Model(ABC):
    """A loaded model. `predict` is called from several threads at once if `info.layout` is "threads"."""

    info: ModelInfo
    kernel: Kernel | None = None
    """What predicts in place of the library, where that was asked for (`accelerate`) and can be done."""
    encoded: tuple[str, ...] = ()
    """Inputs of text that `predict` would rather have encoded with a dictionary; it takes them plain, too."""
    widens: bool = False
    """Whether `predict` takes inputs of type "double" or "float" as columns of numbers or booleans of any type that
    these hold exactly, too: what lays columns out as a matrix converts them on the way."""
    not_accelerated: str = ""
    """Why no kernel predicts though it was asked for: the end of a sentence."""

    @abstractmethod
    def predict(self, batch: pa.RecordBatch) -> Predicted:
        """Predict one batch. An exception blames the batch: the engine bisects it to find the rows.

        Raises Unrecoverable if no call of this process could succeed any more, and MemoryError.
        A wrong number of outputs must raise ModelUnusable or ValueError, never be padded or cut.
        """

    def close(self) -> None:
        """Give back what the model holds outside Python memory."""


class Flavor(ABC):
    """One framework's model format."""

    name: ClassVar[str]
    carries_code: ClassVar[bool] = False
    """Whether loading such a file can run code: it must be trusted first."""
    preload: ClassVar[tuple[str, ...]] = ()
    """Modules that the zygote imports before it forks scorers. Import only: no predict, no threads."""

    @classmethod
    def preload_for(cls, path: str) -> tuple[str, ...]:
        """`preload`, and what else the model at `path` needs as far as it can be seen without loading it. What is
        missing here each scorer imports by itself."""
        return cls.preload

    @classmethod
    @abstractmethod
    def matches(cls, head: bytes, path: str) -> bool:
        """Whether the model at `path` (a file, a folder or "module:Class") that begins with `head`
        (up to 64 KiB) is of this flavor. Decides by content, imports no framework."""

    @abstractmethod
    def load(self, path: str, options: Mapping[str, Any]) -> Model:
        """Load the model. `options` are `spec.predict` (probabilities, threshold), `threads`, the number of
        threads that will share it, and `accelerate`, whether a kernel is to predict if one can. Raises
        ModelUnusable or MissingExtra."""
