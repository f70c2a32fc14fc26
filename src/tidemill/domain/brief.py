"""What children are told of a job spec: its words that decide about rows, checked by the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Brief:
    """The words of a spec under their own names; see `wire.spec`."""

    paths: tuple[str, ...]
    input_format: str
    input_options: Mapping[str, Any]
    rejected_of: str | None
    id: tuple[str, ...]
    keep: Literal["auto", "all", "none"] | tuple[str, ...]
    features: tuple[str, ...]
    schema: Mapping[str, str]
    predict: Mapping[str, Any]
    """"probabilities", "threshold" and "options"."""
    rows_per_chunk: int | Literal["auto"]
    batch_rows: int | Literal["auto"]
    output_path: str | None
    """None: nothing is written, it is a preview."""
    output_format: str
    output_options: Mapping[str, Any]
    digest: str
    """`JobSpec.digest`."""

    def load_options(self) -> dict[str, Any]:
        """What a flavor is told to load the model only to look at it."""
        return {**self.predict, "features": list(self.features), "threads": 1}

    def to_json(self) -> dict[str, Any]:
        """For a message between processes."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Brief:
        """What `to_json` made."""
        lists = {name: tuple(data[name]) for name in ("paths", "id", "features")}
        keep = data["keep"]
        return cls(**{**data, **lists, "keep": keep if isinstance(keep, str) else tuple(keep)})
