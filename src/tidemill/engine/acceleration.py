"""Whether a kernel predicts in place of a model's own library: only where both agree on rows of this very input.

Runs in children, one for each job that was planned: a row that ends or holds up the process costs the kernel, not
the job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill import registry
from tidemill.domain.plan import Chunk, PlanSummary, Segment
from tidemill.domain.signature import Kernel
from tidemill.engine import models, planfile
from tidemill.engine.batching import read_batches
from tidemill.engine.casting import is_text
from tidemill.engine.features import Features
from tidemill.engine.modelkey import load_options
from tidemill.engine.planner import unpack_schema
from tidemill.engine.sampling import spread
from tidemill.ports.flavor import Model

Progress = Callable[[dict[str, Any]], None]

MOST_CHUNKS = 16
"""Whose first rows are looked through: so many, spread over the input."""
LOOKED_THROUGH_ROWS = 32_768
"""In all of them together."""
LOOKED_THROUGH_BATCHES = 4
"""Of tables so wide that a batch has few rows: no more than so many, or than are checked."""
CHECKED_ROWS = 4_096
NULL_ROWS = 16
"""Of each column, rows where it is null."""
MOST_VALUES = 256
"""Of each column of text, values that are seen to be there; so, too, where whole numbers are so few."""

SMALLEST = 1e-296
"""Numbers of a smaller size have fewer digits than others: a difference counts relative to this."""

Positions = np.ndarray[Any, Any]


def check(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Decide what predicts a planned job: {"staging", "plan_digest", "model" (with "trusted")} ->
    {"acceleration" as in `PlanSummary`, "cpu_seconds"}. Raises Damaged, and what loading the model raises."""
    started = time.process_time()
    staging = Path(request["staging"])
    plan = planfile.read_summary(staging, request["plan_digest"])
    kernel, why_not = _decide(plan, request["model"], staging)
    return {
        "acceleration": {"kernel": kernel, "why_not": why_not},
        "cpu_seconds": time.process_time() - started,
    }


def _decide(plan: PlanSummary, model: Mapping[str, Any], staging: Path) -> tuple[dict[str, Any] | None, str | None]:
    """What is said of the kernel that predicts, or why none does."""
    if plan.model.kernel is None:
        return None, f"there is no kernel for models of the flavor {plan.model.flavor}"
    if not plan.rows:
        return None, "there are no rows to check it on"
    options = load_options(plan, 1)
    fast = models.load(model, {**options, "accelerate": True})
    try:
        if fast.kernel is None:
            return None, fast.not_accelerated
        library = models.load(model, {**options, "accelerate": False})
        try:
            sample = _sample(plan, staging, widens=fast.widens and library.widens)
            if not sample.num_rows:
                return None, "no row of the sample can be read"
            found = compare(library, fast, fast.kernel, sample)
        except Exception as exc:
            # Bad files and rows are found when they are scored, one by one: here they only keep the kernel off.
            return None, f"rows of the sample cannot be read or predicted together: {exc}"
        finally:
            library.close()
    finally:
        fast.close()
    if found.disagreement is not None:
        return None, f"the kernel {fast.kernel.name} disagrees with the library: {found.disagreement}"
    return {
        "name": fast.kernel.name,
        "distribution": fast.kernel.distribution,
        "version": fast.kernel.version,
        "checked_rows": found.rows,
        "largest_difference": found.largest_difference,
    }, None


def _sample(plan: PlanSummary, staging: Path, *, widens: bool) -> pa.RecordBatch:
    """Rows from all over the input, nulls and rare values among them, as the model gets them (`Model.widens`)."""
    source = registry.open_source()(plan.source, plan.source_options, staging / "spool", plan.partitions)
    inputs = tuple((field.name, field.type) for field in plan.model.inputs)
    cast_text = source.cast_text if source.casts_text else None
    chunk = Chunk(number=0, segments=tuple(_heads(plan, staging)))
    schema = unpack_schema(plan.schemas["read"])
    taken, pieces = Features(schema, inputs, cast_text, widens=widens), []
    # No more than what is looked at is decoded of each head.
    short = replace(plan, batch_rows=min(plan.batch_rows, max(1, *(each.rows for each in chunk.segments))))
    for batch in read_batches(source, chunk, short, schema):
        features, fits, _ = taken.of(batch.data, batch.numbers)
        pieces.append(features if fits is None else features.filter(pa.array(fits)))
    table = pa.Table.from_batches(pieces).unify_dictionaries().combine_chunks()
    whole = table.to_batches()[0] if table.num_rows else pieces[0]
    return whole.take(pa.array(choose(whole, CHECKED_ROWS)))


def _heads(plan: PlanSummary, staging: Path) -> Iterator[Segment]:
    """The first rows of some chunks."""
    reader = planfile.PlanReader(staging)
    numbers = spread(plan.chunks, MOST_CHUNKS)
    rows = min(LOOKED_THROUGH_ROWS, max(LOOKED_THROUGH_BATCHES * plan.batch_rows, CHECKED_ROWS))
    most = -(-rows // len(numbers))
    for number in numbers:
        first = reader.chunk(number).segments[0]
        if first.selected is None:
            yield replace(first, row_stop=min(first.row_stop, first.row_start + most))
        else:
            chosen = first.selected[:most]
            yield replace(first, selected=chosen, row_start=chosen[0], row_stop=chosen[-1] + 1)


def choose(rows: pa.RecordBatch, most: int) -> Positions:
    """Positions of at most so many rows, ascending: nulls and each value of text, or of few whole numbers, first, then
    at even distances."""
    if rows.num_rows <= most:
        return np.arange(rows.num_rows, dtype=np.int64)
    telling: set[int] = set()
    for column in rows.columns:
        if column.null_count:
            telling.update(np.flatnonzero(_bools(column.is_null()))[:NULL_ROWS].tolist())
        if pa.types.is_dictionary(column.type) or is_text(column.type):
            telling.update(_first_of_each(column)[:MOST_VALUES])
        elif pa.types.is_integer(column.type) and len(found := _first_of_each(column)) <= MOST_VALUES:
            telling.update(found)
    chosen = sorted(telling)[: most // 2]
    others = np.setdiff1d(np.arange(rows.num_rows, dtype=np.int64), np.array(chosen, dtype=np.int64))
    even = others[spread(len(others), most - len(chosen))]
    return np.sort(np.concatenate([np.array(chosen, dtype=np.int64), even]))


def _first_of_each(column: pa.Array) -> list[int]:
    """Where each value stands for the first time, ascending."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    codes = np.asarray(pc.fill_null(encoded.indices.cast(pa.int64()), -1))
    positions = np.unique(codes, return_index=True)[1]
    return sorted(positions.tolist())


def _bools(column: pa.Array) -> np.ndarray[Any, Any]:
    return np.asarray(column.cast(pa.int8())).astype(bool)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Of a kernel and a library on some rows."""

    rows: int
    largest_difference: float
    """Relative, of all numbers."""
    disagreement: str | None
    """Where they are further apart than allowed."""


def compare(library: Model, fast: Model, kernel: Kernel, rows: pa.RecordBatch) -> Comparison:
    """Both predict the same rows: numbers may differ by the kernel's tolerance, all else by nothing."""
    expected, got = library.predict(rows), fast.predict(rows)
    largest = 0.0
    if not got.by_kernel:
        return _apart(rows, largest, "it did not predict")
    if dict(expected.row_errors) != dict(got.row_errors):
        return _apart(rows, largest, "it refuses other rows")
    if expected.columns.schema != got.columns.schema:
        return _apart(rows, largest, f"it gives {got.columns.schema.names}, not {expected.columns.schema.names}")
    for name, one, other in zip(
        expected.columns.schema.names, expected.columns.columns, got.columns.columns, strict=True
    ):
        if not pa.types.is_floating(one.type):
            if not one.equals(other):
                return _apart(rows, largest, f"{name} is not the same in all of {rows.num_rows:,} rows")
            continue
        differences = _differences(one, other, max(got.sizes.get(name, 0.0), SMALLEST))
        largest = max(largest, float(differences.max(initial=0.0)))
        if largest > kernel.tolerance:
            apart = int((differences > kernel.tolerance).sum())
            return _apart(
                rows, largest, f"{name} differs by up to {largest:.1e} in {apart:,} of {rows.num_rows:,} rows"
            )
    return Comparison(rows=rows.num_rows, largest_difference=largest, disagreement=None)


def _apart(rows: pa.RecordBatch, largest: float, what: str) -> Comparison:
    return Comparison(rows=rows.num_rows, largest_difference=largest, disagreement=what)


def _differences(one: pa.Array, other: pa.Array, size: float) -> np.ndarray[Any, Any]:
    """How far numbers are apart, relative to the larger or to `size`; infinite where only one is a number."""
    a, b = (np.asarray(pc.fill_null(each, np.nan)).astype(np.float64) for each in (one, other))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        apart = np.abs(a - b) / np.maximum(np.maximum(np.abs(a), np.abs(b)), size)
    return np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))
