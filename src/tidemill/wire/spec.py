"""The job spec: the same words in YAML, on the command line, in Python and in the REST API."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
)

from tidemill.domain.brief import Brief
from tidemill.domain.errors import InvalidSpec

Mode = Literal["error", "overwrite", "append"]
OutputFormat = Literal["auto", "parquet", "csv", "jsonl", "arrow", "orc", "avro"]
InputFormat = Literal["auto", "parquet", "csv", "jsonl", "arrow", "orc", "avro", "excel"]


_STRINGS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_ROWS_OR_SHARE = r"^(auto|none|[0-9]{1,15}|(100|[0-9]{1,2}(\.[0-9]{1,9})?)%)$"
_SIZE = r"^([1-9][0-9]{2,6} ?M|[1-9][0-9]{0,4} ?G)i?B$"
_SERIES = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
DURATION = r"^([1-9][0-9]{0,8}(\.[0-9]{1,9})?|0\.[0-9]{0,8}[1-9])[smhd]?$"


class _Words(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def whole(value: Any) -> Any:
    """4.0 is the integer 4 in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(whole)
Names = Annotated[list[str], BeforeValidator(_as_list), WithJsonSchema(_STRINGS)]


class SeriesSpec(_Words):
    """Jobs over an input that grows, each of which scores what is new."""

    name: Annotated[str, Field(pattern=_SERIES)]
    settle: Annotated[
        str | None, WithJsonSchema({"anyOf": [{"type": "string", "pattern": DURATION}, {"type": "null"}]})
    ] = None
    """Files that were written to within this time, for example "1m", are left for the next job."""
    changed: Literal["auto", "score", "skip"] = "auto"
    """What to do with a file whose earlier content was scored. "auto" scores it, but refuses to append its rows to
    an output that has the earlier ones."""

    @field_validator("settle")
    @classmethod
    def _settle(cls, value: str | None) -> str | None:
        if value is not None:
            seconds_of(value)
        return value

    def settle_seconds(self) -> float:
        """How long a file must have rested to be scored."""
        return 0.0 if self.settle is None else seconds_of(self.settle)


def _as_series(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


SeriesWords = Annotated[
    SeriesSpec | None,
    BeforeValidator(_as_series, json_schema_input_type=Annotated[str, Field(pattern=_SERIES)] | SeriesSpec | None),
]


class InputSpec(_Words):
    """What to score."""

    path: Annotated[
        list[str],
        BeforeValidator(_as_list),
        Field(min_length=1),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
    ]
    """Files, folders, glob patterns, `@FILE` for the paths on its lines. Of a service, also `upload:ID`."""
    rejected_of: str | None = None
    """A finished job's id: only the rows of this input that it rejected."""
    series: SeriesWords = None
    """For an input that grows: only files that no job of this series has scored with success. A name alone will do."""
    format: InputFormat = "auto"
    options: dict[str, Any] = {}
    """Of the format: see the page of formats. Of all: `partitions`, whether folder names are columns."""


class OutputSpec(_Words):
    """Where predictions go."""

    path: str
    """A folder, or one file if it ends in .parquet, .csv, .jsonl, .arrow, .orc or .avro (with .gz or .zst for text)."""
    format: OutputFormat = "auto"
    mode: Mode = "error"
    options: dict[str, Any] = {}


class PredictSpec(_Words):
    """What to write of a prediction."""

    probabilities: bool = False
    """One `probability_<class>` column for each class."""
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of a binary classifier: the positive class is predicted at or above this probability."""
    options: dict[str, Any] = {}
    """Handed to the flavor."""


class ComputeSpec(_Words):
    """How to run; never changes a result unless it names rows."""

    executor: str = "local"
    scorers: Annotated[int, Field(ge=1, le=1024), WHOLE] | Literal["auto"] = "auto"
    rows_per_chunk: Annotated[int, Field(ge=1), WHOLE] | Literal["auto"] = "auto"
    batch_rows: Annotated[int, Field(ge=1), WHOLE] | Literal["auto"] = "auto"
    memory_per_scorer: Annotated[
        Annotated[ByteSize, Field(ge=1 << 26, le=1 << 50), WHOLE] | Literal["auto"],
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "integer", "minimum": 1 << 26, "maximum": 1 << 50},
                    {"type": "string", "pattern": _SIZE},
                    {"const": "auto"},
                ]
            }
        ),
    ] = "auto"
    """Private memory that one scorer may use: bytes, or for example "2GB"."""
    accelerate: Literal["auto", "off", "strict"] = "auto"
    """Whether a kernel predicts in place of the model's library, where both agree on rows of the input:
    in large jobs, never, or always (and else the job is refused)."""
    gpus: Annotated[int, Field(ge=0, le=64), WHOLE] = 0
    """GPUs of the host that the job keeps for itself while it runs (service only)."""


class LimitsSpec(_Words):
    """What the job may not pass."""

    rejected: Annotated[
        str | Annotated[int, WHOLE],
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string", "pattern": _ROWS_OR_SHARE},
                    {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
                ]
            }
        ),
    ] = "auto"
    """Rows, a share of the planned rows ("1%"), "none" for no limit; "auto" is 1 %, but at least 100 rows."""
    runtime: Annotated[
        str | None, WithJsonSchema({"anyOf": [{"type": "string", "pattern": DURATION}, {"type": "null"}]})
    ] = None
    """For example "2h", "90m", "30s"."""

    @field_validator("rejected")
    @classmethod
    def _rejected(cls, value: str | int) -> str | int:
        LimitsSpec.max_rejected_of(value, 0)
        return value

    @field_validator("runtime")
    @classmethod
    def _runtime(cls, value: str | None) -> str | None:
        LimitsSpec.seconds_of(value)
        return value

    @staticmethod
    def max_rejected_of(value: str | int, planned_rows: int) -> int:
        """The limit in rows; "none" allows every row."""
        text = str(value)
        if not re.fullmatch(_ROWS_OR_SHARE, text):
            raise ValueError(f'{value!r} is not a number of rows, a share such as "1%", or "none"')
        if text == "none":
            return planned_rows
        if text == "auto":
            return max(100, planned_rows // 100)
        return int(planned_rows * Decimal(text[:-1]) / 100) if text.endswith("%") else int(text)

    @staticmethod
    def seconds_of(value: str | None) -> float | None:
        """The run time limit in seconds."""
        return None if value is None else seconds_of(value)

    def max_rejected(self, planned_rows: int) -> int:
        """How many rows may be rejected of so many planned."""
        return self.max_rejected_of(self.rejected, planned_rows)

    def runtime_seconds(self) -> float | None:
        """How long the job may run in all, or None."""
        return self.seconds_of(self.runtime)


class JobSpec(_Words):
    """One job: a model, an input, an output and how."""

    name: str | None = None
    model: str
    """A path or "module:Class"; of a service "name@alias" or "name@3" as well."""
    flavor: str | None = None
    input: InputSpec
    output: OutputSpec | None = None
    id: Names = []
    keep: Annotated[Literal["auto", "all", "none"] | Names, WithJsonSchema(_STRINGS)] = "auto"
    """Input columns to write beside the predictions; "auto" is all non-features, if at most 50."""
    features: Names = []
    """The model's input columns, when the model does not know them."""
    schema_: Annotated[dict[str, str], Field(alias="schema")] = {}
    """Types, by Arrow name, for columns of text input."""
    predict: PredictSpec = PredictSpec()
    compute: ComputeSpec = ComputeSpec()
    limits: LimitsSpec = LimitsSpec()
    priority: Annotated[int, Field(ge=-100, le=100), WHOLE] = 0
    """In a service: higher goes first; above 0 needs an admin's key."""
    labels: dict[str, str] = {}

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True, serialize_by_alias=True)

    @field_validator("keep", mode="before")
    @classmethod
    def _keep(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in ("auto", "all", "none"):
            return [column.strip() for column in value.split(",") if column.strip()]
        return value

    def canonical(self) -> dict[str, Any]:
        """What the predictions depend on beside the model and the snapshot, which have digests of their
        own: everything but names, labels, limits, places and compute.

        Of compute, rows per chunk and per batch stay: they decide borders, and borders decide bytes.
        """
        left_out = {"name", "labels", "limits", "priority", "output", "compute", "model", "input"}
        data = self.model_dump(mode="json", exclude=left_out)
        # Which of its files are scored is said by the snapshot.
        data["input"] = self.input.model_dump(mode="json", exclude={"path", "series"}, exclude_none=True)
        data["borders"] = self.compute.model_dump(mode="json", include={"rows_per_chunk", "batch_rows"})
        if self.output is not None:
            data["output"] = self.output.model_dump(mode="json", include={"format", "options"})
            # One file or a folder is a place, too: a folder of one part holds the bytes of that file.
            data["output"]["options"].pop("single_file", None)
        return data

    def brief(self) -> Brief:
        """What children are told of it."""
        output = self.output
        return Brief(
            paths=tuple(self.input.path),
            input_format=self.input.format,
            input_options=self.input.options,
            rejected_of=self.input.rejected_of,
            id=tuple(self.id),
            keep=tuple(self.keep) if isinstance(self.keep, list) else self.keep,
            features=tuple(self.features),
            schema=self.schema_,
            predict=self.predict.model_dump(),
            rows_per_chunk=self.compute.rows_per_chunk,
            batch_rows=self.compute.batch_rows,
            output_path=None if output is None else output.path,
            output_format="auto" if output is None else output.format,
            output_options={} if output is None else output.options,
            digest=self.digest(),
        )

    def digest(self) -> str:
        """sha256 of `canonical`."""
        return hashlib.sha256(json.dumps(self.canonical(), sort_keys=True).encode()).hexdigest()


def seconds_of(text: str) -> float:
    """The seconds of "30s", "90m", "2h", "1d" or a plain number. Raises ValueError."""
    if not re.fullmatch(DURATION, text):
        raise ValueError(f'{text!r} is not a time such as "30s", "90m", "2h"')
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], text[-1]) if text[-1] in units else (text, "s")
    return float(number) * units[unit]


def invalid_words(error: ValidationError) -> InvalidSpec:
    """The first few faults of a spec as one sentence each."""
    faults: dict[str, str] = {}
    for fault in error.errors():
        where = place_of(fault["loc"])
        faults.setdefault(where, f"{where}: {fault['msg'].removeprefix('Value error, ')}")
    listed = "; ".join(list(faults.values())[:3])
    return InvalidSpec(f"The job spec is not valid. {listed}.", remedy="See `tidemill spec schema`.")


def place_of(steps: Sequence[str | int]) -> str:
    """Where a fault of pydantic lies, for people: "compute.scorers"."""
    return ".".join(str(step) for step in steps if not _is_alternative(step))


def _is_alternative(part: str | int) -> bool:
    """Whether a step of a fault's place names one of several allowed types and no word of the spec."""
    return isinstance(part, str) and ("[" in part or part in ("int", "str") or part.startswith("constrained-"))
