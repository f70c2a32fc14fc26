"""Looking before running, and looking at what is there. Runs in children."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from tidemill import registry
from tidemill.domain.brief import Brief
from tidemill.domain.errors import InputUnreadable, NotFound
from tidemill.domain.plan import Block, Chunk, InputFile, PlanSummary, Segment
from tidemill.engine import models
from tidemill.engine.batching import BadRow, batches_of_file, by_reason, read_batches
from tidemill.engine.features import Features
from tidemill.engine.planner import check_writable
from tidemill.engine.predicting import Predictor
from tidemill.engine.schema import Columns, InputSchema
from tidemill.ports.flavor import Model
from tidemill.ports.source import FileFacts, Source

ROWS = 5
MOST_REASONS = 3
TIMED_ROWS = 10_000

Progress = Callable[[dict[str, Any]], None]


def preview(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Match model and input on the first file and predict its first rows; nothing is written.

    request: {"brief", "model" (with "trusted"), "spool"}. Returns {"model", "files", "bytes",
    "first_file", "rows_in_first_file", "columns", "rows" (of predictions), "rejected" (a count), "rejections"
    (some reasons), "estimated_rows", "estimated_seconds" (of one core in the model)}.
    """
    brief = Brief.from_json(request["brief"])
    options = brief.load_options()
    model = models.load(request["model"], options)
    listed = registry.list_inputs()(brief.paths, registry.suffixes_of(brief.input_format))
    first = next(listed, None)
    if first is None:
        raise NotFound("The input has no files.", remedy="Check the path; names that begin with . or _ are left out.")
    name = brief.input_format if brief.input_format != "auto" else registry.detect_format()(first)
    source = registry.open_source()(name, brief.input_options, Path(request["spool"]))
    schema = InputSchema(model.info, brief, source)
    facts = source.examine(first, infer=schema.needs_inference)
    schema.add(first, facts)
    columns = schema.resolve()
    if model.info.positional:
        model.close()
        model = models.load(request["model"], {**options, "features": [field.name for field in columns.inputs]})
    if brief.output_path is not None:
        encoder = registry.encoders.get(brief.output_format)(brief.output_options)
        check_writable(encoder, columns.predictions, [field.name for field in model.info.outputs])
    files, size = 1, first.size_bytes
    for file in listed:
        files, size = files + 1, size + file.size_bytes
    seen = _Sample(model, source, first, facts, columns).predict()
    rows = facts.rows * size / max(first.size_bytes, 1)
    return {
        "model": replace(model.info, notes=columns.warnings).to_json(),
        "source": name,
        "files": files,
        "bytes": size,
        "first_file": first.path,
        "first_bytes": first.size_bytes,
        "rows_in_first_file": facts.rows,
        "features": [field.to_json() for field in columns.inputs],
        "kept": columns.kept.names,
        "columns": [(field.name, str(field.type)) for field in columns.predictions],
        "estimated_rows": round(rows),
        "estimated_seconds": rows * seen["seconds_per_row"],
        **seen,
    }


class _Sample:
    """The first rows of a file, read and predicted as a job would."""

    def __init__(self, model: Model, source: Source, file: InputFile, facts: FileFacts, columns: Columns) -> None:
        self.model, self.source, self.columns = model, source, columns
        self.rows = min(facts.rows, TIMED_ROWS)
        blocks = list(itertools.takewhile(lambda block: block is not None, _first_blocks(facts.blocks, self.rows)))
        segment = Segment(
            file_number=0,
            file=file,
            row_start=0,
            row_stop=self.rows,
            block_row=0,
            start=blocks[0].start if blocks else 0,
            stop=blocks[-1].stop if blocks else 0,
        )
        self.chunk = Chunk(number=0, segments=(segment,) if self.rows else ())

    def predict(self) -> dict[str, Any]:
        plan = PlanSummary(
            digest="",
            snapshot_digest="",
            files=1,
            chunks=1,
            rows=self.rows,
            input_bytes=0,
            source=self.source.name,
            columns=tuple(self.columns.read.names),
            kept=tuple(self.columns.kept.names),
            types=self.columns.source_types,
            model=replace(self.model.info, inputs=self.columns.inputs),
            batch_rows=max(self.rows, 1),
        )
        if not self.rows:
            return {"rows": [], "rejected": 0, "rejections": [], "seconds_per_row": 0.0}
        cast_text = self.source.cast_text if self.source.casts_text else None
        batch = next(read_batches(self.source, self.chunk, plan, self.columns.read))
        inputs = tuple((field.name, field.type) for field in self.columns.inputs)
        predicted_schema = pa.schema(list(self.columns.predictions)[len(plan.kept) :])
        features, fits, unfit = Features(self.columns.read, inputs, cast_text).of(batch.data, batch.numbers)
        kept = batch.data.select(plan.kept)
        if fits is not None:
            features, kept = features.filter(pa.array(fits)), kept.filter(pa.array(fits))
        predictor = Predictor(self.model, predicted_schema)
        predictor.predict(features.slice(0, min(features.num_rows, 64)))
        started = time.perf_counter()
        outcome = predictor.predict(features)
        seconds = time.perf_counter() - started
        table = pa.RecordBatch.from_arrays(
            [*kept.take(pa.array(outcome.good)).columns, *outcome.columns.columns], schema=self.columns.predictions
        )
        good_numbers = batch.numbers if fits is None else batch.numbers[fits]
        failed = [_failed(int(good_numbers[row]), *error) for row, error in outcome.errors.items()]
        return {
            "rows": jsonable(table.slice(0, ROWS).to_pylist()),
            "rejected": self.rows - table.num_rows,
            "rejections": by_reason([*batch.bad, *unfit, *failed])[:MOST_REASONS],
            "seconds_per_row": seconds / max(features.num_rows, 1),
        }


def _failed(row: int, error: str, message: str) -> BadRow:
    return BadRow(row=row, stage="predict", error=error, message=message)


def _first_blocks(blocks: tuple[Block, ...], rows: int) -> Iterator[Block]:
    seen = 0
    for block in blocks:
        if seen >= rows:
            return
        yield block
        seen += block.rows


def jsonable(value: Any) -> Any:
    """Values as JSON can hold them: numbers, text, truth and null stay, all else becomes text."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def head(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """The first rows of published files: {"paths", "format", "rows"} -> {"rows": [...], "columns": [...]}."""
    wanted = int(request["rows"])
    rows: list[Any] = []
    columns: list[tuple[str, str]] = []
    for path in request["paths"]:
        schema, batches = _open(path, request["format"])
        columns = [(field.name, str(field.type)) for field in schema]
        for batch in batches:
            rows += batch.slice(0, wanted - len(rows)).to_pylist()
            if len(rows) >= wanted:
                return {"rows": jsonable(rows), "columns": columns}
    return {"rows": jsonable(rows), "columns": columns}


def _open(path: str, form: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    if form == "arrow":
        reader = pa.ipc.open_file(pa.memory_map(path))
        return reader.schema, (reader.get_batch(k) for k in range(reader.num_record_batches))
    stat = Path(path).stat()
    file = InputFile(path=path, size_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)
    source = registry.sources.get(form)(spool=Path(path).parent)
    if Path(path).suffix in (".gz", ".zst"):
        raise InputUnreadable(f"{path} is compressed.", remedy="Read it with zcat, pandas or Polars.")
    facts = source.examine(file)
    return facts.schema, batches_of_file(source, file, facts, 4_096)
