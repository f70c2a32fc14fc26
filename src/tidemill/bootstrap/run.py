"""`tidemill.run()`: the same job from Python, in a script or a notebook, without guards."""

from __future__ import annotations

import html
from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any, overload

from pydantic import ValidationError

from tidemill.bootstrap.wiring import opened
from tidemill.domain.errors import JobFailed, from_json
from tidemill.service import jobs, outputs
from tidemill.wire.spec import JobSpec, invalid_words

Path = str | PathLike[str]


class Result:
    """A finished job: its manifest, and its rows when they are asked for."""

    def __init__(self, manifest: dict[str, Any], *, up_to_date: bool, resumed_chunks: int) -> None:
        self.manifest = manifest
        self.up_to_date = up_to_date
        """Whether the output was there already and nothing ran."""
        self.resumed_chunks = resumed_chunks
        """Chunks that an earlier, interrupted run had done."""

    @property
    def total(self) -> int:
        """Rows of the input."""
        return int(self.manifest["counts"]["total"])

    @property
    def predicted(self) -> int:
        """Rows with a prediction."""
        return int(self.manifest["counts"]["predicted"])

    @property
    def rejected_count(self) -> int:
        """Rows without one."""
        return int(self.manifest["counts"]["rejected"])

    @property
    def paths(self) -> list[str]:
        """The files with predictions, in input order."""
        return outputs.paths_of(self.manifest, "predictions")

    @property
    def predictions(self) -> Any:
        """The predictions as a `pyarrow.dataset.Dataset`: nothing is read until you ask."""
        return self._dataset("predictions")

    @property
    def rejected(self) -> Any:
        """The rejected rows as a `pyarrow.dataset.Dataset`, or None if there are none."""
        return self._dataset("rejected") if self.rejected_count else None

    def to_pandas(self) -> Any:
        """All predictions as a pandas DataFrame."""
        return self.predictions.to_table().to_pandas()

    def to_polars(self) -> Any:
        """All predictions as a Polars DataFrame. Needs polars."""
        import polars

        return polars.from_arrow(self.predictions.to_table())

    def _dataset(self, kind: str) -> Any:
        import pyarrow.dataset

        form = {"jsonl": "json"}.get(self.manifest["format"], self.manifest["format"])
        return pyarrow.dataset.dataset(outputs.paths_of(self.manifest, kind), format=form)

    def __repr__(self) -> str:
        return (
            f"Result({self.manifest['output']!r}, {self.total:,} = {self.predicted:,} predicted"
            f" + {self.rejected_count:,} rejected)"
        )

    def _repr_html_(self) -> str:
        cells = {
            "output": self.manifest["output"],
            "rows": f"{self.total:,} = {self.predicted:,} predicted + {self.rejected_count:,} rejected",
            "columns": ", ".join(column["name"] for column in self.manifest["schema"]),
            "model": self.manifest["model"]["path"],
        }
        rows = "".join(f"<tr><th>{name}</th><td>{html.escape(str(text))}</td></tr>" for name, text in cells.items())
        return f"<table>{rows}</table>"


class Preview:
    """What a run would do. Nothing was written."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        """All that is known: model, files, columns, reasons of rows that would be rejected."""

    @property
    def features(self) -> list[str]:
        """The input's columns that the model gets."""
        return [field["name"] for field in self.answer["features"]]

    @property
    def predictions(self) -> list[dict[str, Any]]:
        """The first five rows, as they would be written."""
        return list(self.answer["rows"])

    @property
    def rows(self) -> int:
        """About how many rows the whole input has, judged by its first file."""
        return int(self.answer["estimated_rows"])

    @property
    def seconds(self) -> float:
        """About how long one core would be busy with the model."""
        return float(self.answer["estimated_seconds"])

    def __repr__(self) -> str:
        lines = [
            f"Preview of {self.answer['path']} ({self.answer['model']['flavor']}) on {self.answer['first_file']}",
            f"match: {', '.join(self.features)}: all there",
            *(f"  {row}" for row in self.predictions),
            f"estimate: about {self.rows:,} rows, {self.seconds:,.1f} s of one core in the model",
        ]
        if self.answer["rejected"]:
            why = self.answer["rejections"][0]
            lines.insert(-1, f"rejected: {self.answer['rejected']:,} of the first rows, one with {why['message']}")
        return "\n".join(lines)


@overload
def run(
    model: Path,
    input: Path | Sequence[Path],
    output: None = None,
    *,
    trust: bool = ...,
    restart: bool = ...,
    **spec: Any,
) -> Preview: ...


@overload
def run(
    model: Path, input: Path | Sequence[Path], output: Path, *, trust: bool = ..., restart: bool = ..., **spec: Any
) -> Result: ...


def run(
    model: Path,
    input: Path | Sequence[Path],
    output: Path | None = None,
    *,
    trust: bool = False,
    restart: bool = False,
    **spec: Any,
) -> Result | Preview:
    """Score `input` with `model` into `output` and wait; goes on with what an earlier call left there.

    Without an output it writes nothing and previews: does the model fit, what do predictions look like.

    `spec` are the words of a job spec: id, keep, features, predict, compute, limits, ... `output` may
    be a path or the words of an output ({"path", "mode", ...} as `output_spec`). Raises the errors of
    `tidemill.domain.errors`: Refused kinds if nothing was started, JobFailed kinds otherwise.
    """
    words: dict[str, Any] = {"model": fspath(model), **spec}
    words["input"] = {**spec.get("input_spec", {}), "path": _paths(input)}
    if output is not None:
        words["output"] = {**spec.get("output_spec", {}), "path": fspath(output)}
    elif "output_spec" in spec:
        words["output"] = spec["output_spec"]
    for name in ("input_spec", "output_spec"):
        words.pop(name, None)
    try:
        parsed = JobSpec.model_validate(words)
    except ValidationError as exc:
        raise invalid_words(exc) from exc
    with opened(spec=parsed) as context:
        options = jobs.RunOptions(restart=restart, ask_trust=lambda model: trust)
        if parsed.output is None:
            return Preview(jobs.preview(context, parsed, options))
        outcome = jobs.run(context, parsed, (), options)
    if outcome.manifest is None:
        error = outcome.job.error if outcome.job else None
        raise from_json(error) if error else JobFailed("The job did not finish.", remedy="Call it again to go on.")
    return Result(outcome.manifest, up_to_date=outcome.up_to_date, resumed_chunks=outcome.resumed_chunks)


def _paths(value: Path | Sequence[Path]) -> list[str]:
    return [fspath(value)] if isinstance(value, str | PathLike) else [fspath(path) for path in value]
