"""What a finished chunk hands back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

PartKind = Literal["predictions", "rejected"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One durable file in staging: written, fsynced, checked.

    `name` is relative to the staging folder and unique per attempt; `sha256` is over the file's bytes.
    """

    kind: PartKind
    name: str
    rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What work cost, summed over threads and processes; memory is a peak in bytes."""

    read_seconds: float = 0.0
    model_seconds: float = 0.0
    write_seconds: float = 0.0
    """How long the stages were busy, by the clock: a model that waits for something is busy."""
    cpu_seconds: float = 0.0
    """CPU time of everything: the stages, and what belongs to none, as loading the model."""
    read_cpu_seconds: float = 0.0
    model_cpu_seconds: float = 0.0
    write_cpu_seconds: float = 0.0
    """CPU time of the stages' own threads."""
    plan_cpu_seconds: float = 0.0
    assemble_cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    kernel_rows: int = 0
    """Rows that a kernel predicted, not the model's library."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            read_seconds=self.read_seconds + other.read_seconds,
            model_seconds=self.model_seconds + other.model_seconds,
            write_seconds=self.write_seconds + other.write_seconds,
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
            read_cpu_seconds=self.read_cpu_seconds + other.read_cpu_seconds,
            model_cpu_seconds=self.model_cpu_seconds + other.model_cpu_seconds,
            write_cpu_seconds=self.write_cpu_seconds + other.write_cpu_seconds,
            plan_cpu_seconds=self.plan_cpu_seconds + other.plan_cpu_seconds,
            assemble_cpu_seconds=self.assemble_cpu_seconds + other.assemble_cpu_seconds,
            peak_memory_bytes=max(self.peak_memory_bytes, other.peak_memory_bytes),
            input_bytes=self.input_bytes + other.input_bytes,
            output_bytes=self.output_bytes + other.output_bytes,
            kernel_rows=self.kernel_rows + other.kernel_rows,
        )


NO_USAGE = Usage()


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """One rejected row: its key (`file` path, `row` in that file from 0), stage, class and message."""

    file: str
    row: int
    stage: str
    error: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row:,}: {self.error}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A finished chunk. Small, picklable, JSON-able; rows == predicted + rejected."""

    chunk: int
    attempt: str
    rows: int
    predicted: int
    rejected: int
    parts: tuple[Part, ...]
    usage: Usage = field(default_factory=Usage)
    rejections: tuple[Rejection, ...] = ()
    """The first few rejected rows, for people; all of them are in the rejected part."""
    split_batches: tuple[int, ...] = ()
    """Numbers of batches that had to be scored in smaller pieces."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Receipt:
        return Receipt(
            **{
                **data,
                "parts": tuple(Part(**part) for part in data["parts"]),
                "usage": Usage(**data["usage"]),
                "rejections": tuple(Rejection(**row) for row in data["rejections"]),
                "split_batches": tuple(data["split_batches"]),
            }
        )
