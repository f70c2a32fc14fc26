"""The frozen plan of a job: files, chunks, and everything that was tuned or inferred."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tidemill.domain.signature import ModelInfo


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One pinned file of the snapshot."""

    path: str
    size_bytes: int
    mtime_ns: int
    real_path: str | None = None
    """Where it lay when it was listed, links followed: only there it is opened. None: wherever `path` leads."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A run of rows that a source can start to read at: a row group, a span of text.

    `start`/`stop` mean what the source wants (row group numbers, byte offsets into the file);
    `decoded_bytes` is an estimate of the needed columns in memory.
    """

    rows: int
    decoded_bytes: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The part of one file that a chunk reads: rows [row_start, row_stop) of the file, which lie in
    blocks that span [start, stop) in the source's units; `block_row` is the row number of the first
    row at `start`, so a source skips `row_start - block_row` rows.

    With `selected`, only those rows of the file are meant (ascending, all within the range): a source
    reads the whole range, and what was not selected is dropped right after."""

    file_number: int
    file: InputFile
    row_start: int
    row_stop: int
    block_row: int
    start: int
    stop: int
    selected: tuple[int, ...] | None = None

    @property
    def rows(self) -> int:
        return self.row_stop - self.row_start if self.selected is None else len(self.selected)

    def row_number(self, position: int) -> int:
        """The number in the file of the segment's row at that position."""
        return self.row_start + position if self.selected is None else self.selected[position]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A contiguous row range of the snapshot: the unit of dispatch, retry and commit."""

    number: int
    segments: tuple[Segment, ...]

    @property
    def rows(self) -> int:
        return sum(segment.rows for segment in self.segments)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which rows of the snapshot a job scores, when not all: those that another job rejected.

    `first_rows` say for each file with such rows, in input order, how many rows of the snapshot lie
    before it: with the row key that gives a row's place among all rows.
    """

    parent_id: str
    snapshot_rows: int
    first_rows: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Selection:
        return Selection(**{**data, "first_rows": tuple(data["first_rows"])})


@dataclass(frozen=True, kw_only=True)
class Increment:
    """Which files of the input a job scores, when not all: those that no job of its series scored before."""

    series: str
    number: int
    """Of the job in its series, from 1."""
    known: int = 0
    """Files that were left out because they were scored before."""
    changed: int = 0
    """Files among those to score of which an earlier content was scored before."""
    unsettled: int = 0
    """Files that were left out because they were written to just now."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Increment:
        return Increment(**data)


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """What the worker and the store know of a plan; the files and chunks lie in staging.

    `digest` is over the plan's files in staging; `rows` are those to be scored. `columns` are the input
    columns to read, in file order; `kept` those that go to the output. Everything here was decided before
    the first chunk.
    """

    digest: str
    snapshot_digest: str
    files: int
    chunks: int
    rows: int
    input_bytes: int
    source: str
    source_options: dict[str, Any] = field(default_factory=dict)
    partitions: dict[str, str] = field(default_factory=dict)
    """Columns that come from the names of folders, with their types."""
    columns: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    types: dict[str, str] = field(default_factory=dict)
    """What an untyped source casts while reading; other casts are made before predicting."""
    model: ModelInfo
    batch_rows: int
    predict: dict[str, Any] = field(default_factory=dict)
    """Which output columns: {"probabilities": bool, "threshold": float | None}."""
    output_format: str = "parquet"
    output_options: dict[str, Any] = field(default_factory=dict)
    """{"compression": ..., "single_file": bool, "mode": ...}."""
    output_schema: tuple[tuple[str, str], ...] = ()
    """(name, Arrow type by name) of the predictions, in order: for people and for the manifest."""
    schemas: dict[str, str] = field(default_factory=dict)
    """Exact Arrow schemas, serialized, in base64: "read", "predictions", "rejected"."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Digests that every part carries; equal runs give equal bytes."""
    libraries: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    acceleration: dict[str, Any] = field(default_factory=dict)
    """What was decided of a kernel, if one was thought of: {"kernel": {"name", "distribution", "version",
    "checked_rows", "largest_difference"} | None, "why_not": str | None}. Decided after the files in
    staging were sealed."""
    selection: Selection | None = None
    """None: every row of the snapshot."""
    increment: Increment | None = None
    """None: every file of the input."""

    @property
    def kernel(self) -> dict[str, Any] | None:
        """What predicts in place of the model's library."""
        return self.acceleration.get("kernel")

    def to_json(self) -> dict[str, Any]:
        # `asdict` of thousands of fields, each a copy of what never changes, takes a tenth of a second.
        fields = {name: [{**vars(field)} for field in getattr(self.model, name)] for name in ("inputs", "outputs")}
        return {
            **vars(self),
            "model": {**vars(self.model), **fields},
            "selection": self.selection and self.selection.to_json(),
            "increment": self.increment and self.increment.to_json(),
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> PlanSummary:
        return PlanSummary(
            **{
                **data,
                "columns": tuple(data["columns"]),
                "kept": tuple(data["kept"]),
                "model": ModelInfo.from_json(data["model"]),
                "output_schema": tuple((name, kind) for name, kind in data["output_schema"]),
                "libraries": tuple((name, version) for name, version in data["libraries"]),
                "warnings": tuple(data["warnings"]),
                "selection": Selection.from_json(selection) if (selection := data.get("selection")) else None,
                "increment": Increment.from_json(increment) if (increment := data.get("increment")) else None,
            }
        )
