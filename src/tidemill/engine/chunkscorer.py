"""A batch of a chunk through the model, with all that is needed for it. Runs in children."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill import registry
from tidemill.domain.errors import ModelUnusable, TooManyRejected
from tidemill.domain.plan import Chunk, PlanSummary
from tidemill.domain.receipt import Rejection
from tidemill.domain.showing import redacted
from tidemill.engine import models, planfile
from tidemill.engine.batching import BadRow, Batch
from tidemill.engine.chunkout import ChunkOutput, Meter, Scored, Stopwatch, rejected_rows, rejection_of
from tidemill.engine.features import Features
from tidemill.engine.modelkey import Stamp, load_options, model_key, stamp
from tidemill.engine.planner import unpack_schema
from tidemill.engine.predicting import Errors, Predictor
from tidemill.ports.executor import ChunkRun
from tidemill.ports.flavor import Model
from tidemill.ports.source import ENCODED, Source

HOPELESS_ROWS = 1_000
"""If all of the first so many planned rows are rejected, the job stops at once."""


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    key: str | None
    stamp: Stamp
    model: Model


class ModelKeeper:
    """The model that is loaded, kept from job to job as long as each wants the same."""

    def __init__(self) -> None:
        self._loaded: _Loaded | None = None

    @property
    def may_be_kept(self) -> bool:
        """Whether there is a model that another job can use."""
        return self._loaded is not None and self._loaded.key is not None

    def model_for(self, model: Mapping[str, Any], plan: PlanSummary, threads: int) -> Model:
        """The model of a job, loaded if it is not the one that is there.

        Its digest is checked when it is loaded; one that is there must still be the very file. Trust is
        asked for each job. Raises ModelUnusable, NotTrusted, MissingExtra.
        """
        models.check_trusted(model)
        key, now = model_key(model, plan, threads), _stamp_of(model["path"])
        if self._loaded is not None:
            if key is not None and (key, now) == (self._loaded.key, self._loaded.stamp):
                return self._loaded.model
            self._loaded.model.close()
            self._loaded = None
        loaded = models.load(model, load_options(plan, threads))
        if plan.kernel is not None and loaded.kernel is None:
            raise ModelUnusable(
                f"The job was planned to be predicted by a kernel, but here {loaded.not_accelerated}.",
                remedy="Install the same packages on every machine, or score with --accelerate off.",
            )
        self._loaded = _Loaded(key=key, stamp=now, model=loaded)
        return loaded


def _stamp_of(path: str) -> Stamp:
    """The stamp; empty for what is no file, or is gone, as loading it will tell."""
    try:
        return stamp(path)
    except OSError:
        return ()


class ChunkScorer:
    """All that scoring the chunks of one job needs: plan, model, source, encoder."""

    def __init__(
        self, job: Mapping[str, Any], keeper: ModelKeeper, meter: Meter, after_call: Callable[[], None] = lambda: None
    ) -> None:
        """job: {"staging", "plan_digest", "acceleration", "model", "threads", "max_rejected"}. `after_call` is
        called, from any thread, when the model has answered. Raises Damaged, ModelUnusable, NotTrusted,
        MissingExtra."""
        self.meter, self.after_call = meter, after_call
        self.staging = Path(job["staging"])
        planned = planfile.read_summary(self.staging, job["plan_digest"])
        self.plan: PlanSummary = replace(planned, acceleration=job.get("acceleration") or {})
        self.threads = int(job["threads"])
        self.max_rejected = int(job["max_rejected"])
        self.model = keeper.model_for(job["model"], self.plan, self.threads)
        self.encoder = registry.encoders.get(self.plan.output_format)(self.plan.output_options)
        self.read_schema, self.predictions_schema, self.rejected_schema = (
            unpack_schema(self.plan.schemas[name]) for name in ("read", "predictions", "rejected")
        )
        self.predicted_schema = pa.schema(list(self.predictions_schema)[len(self.plan.kept) :])
        self.reader = planfile.PlanReader(self.staging)
        source = self.source()
        if source.encodes:
            self._read_encoded()
        inputs = tuple((field.name, field.type) for field in self.plan.model.inputs)
        cast_text = source.cast_text if source.casts_text else None
        self.features = Features(
            self.read_schema, inputs, cast_text, encoded=self.model.encoded, widens=self.model.widens
        )

    def _read_encoded(self) -> None:
        """Have columns of text encoded that the model wants so, unless they are written out again."""
        for name in set(self.model.encoded) - set(self.plan.kept) - set(self.plan.partitions):
            place = self.read_schema.get_field_index(name)
            if self.read_schema.field(place).type == pa.string():
                encoded = pa.field(name, pa.dictionary(pa.int32(), pa.string()))
                self.read_schema = self.read_schema.set(place, encoded)
                self.plan = replace(self.plan, types={**self.plan.types, name: ENCODED})

    def source(self) -> Source:
        """A fresh source; sources are not shared between threads."""
        plan = self.plan
        return registry.open_source()(plan.source, plan.source_options, self.staging / "spool", plan.partitions)

    def output(self, run: ChunkRun, chunk: Chunk) -> ChunkOutput:
        """Start to write an attempt."""
        return ChunkOutput(
            run=run,
            chunk=chunk,
            plan=self.plan,
            staging=self.staging,
            encoder=self.encoder,
            predictions_schema=self.predictions_schema,
            rejected_schema=self.rejected_schema,
            meter=self.meter,
        )

    def score(self, run: ChunkRun, chunk: Chunk, batch: Batch, before: Callable[[], None] = lambda: None) -> Scored:
        """A batch through casting and the model. `before` is called right before the model is."""
        watch = Stopwatch()
        data, numbers, poisoned = _without_poison(batch, run)
        features, fits, unfit = self.features.of(data, numbers)
        kept = data.select(self.plan.kept)
        if fits is not None:
            mask = pa.array(fits)
            features, kept, numbers = features.filter(mask), kept.filter(mask), numbers[fits]
        before()
        bad = [*batch.bad, *poisoned, *unfit]
        guard = _Guard(
            self.max_rejected,
            lambda row, error: rejection_of(chunk, _failed_row(int(numbers[row]), *error)),
            watch_start=chunk.number == 0 and batch.row_start == 0,
        )
        predictor = Predictor(self.model, self.predicted_schema, guard, self.after_call)
        outcome = predictor.predict(features, run.splits.get(batch.number))
        bad += [_failed_row(int(numbers[row]), *error) for row, error in outcome.errors.items()]
        if outcome.errors or len(outcome.good) != len(numbers):
            kept = kept.take(pa.array(outcome.good))
        bad.sort(key=lambda row: row.row)
        columns = [*kept.columns, *outcome.columns.columns]
        return Scored(
            number=batch.number,
            rows=batch.row_stop - batch.row_start,
            predictions=pa.RecordBatch.from_arrays(columns, schema=self.predictions_schema),
            rejected=rejected_rows(batch, chunk, bad, self.rejected_schema) if bad else None,
            bad=bad,
            split=outcome.split,
            kernel_rows=outcome.kernel_rows,
            busy=watch.read(),
        )


class _Guard:
    """Stops a batch that only fails: halving sixty thousand rows one by one takes long."""

    def __init__(
        self, max_rejected: int, told: Callable[[int, tuple[str, str]], Rejection], *, watch_start: bool
    ) -> None:
        self.max_rejected, self.told, self.watch_start = max_rejected, told, watch_start
        self.good = self.bad = 0
        self.first: Rejection | None = None

    def __call__(self, good: int, errors: Errors) -> None:
        self.good += good
        self.bad += len(errors)
        if errors and self.first is None:
            self.first = self.told(*min(errors.items()))
        if self.watch_start and not self.good and self.bad >= HOPELESS_ROWS:
            raise hopeless(self.bad, self.first)
        if self.bad > self.max_rejected:
            raise TooManyRejected(
                f"More than {self.max_rejected:,} rows were rejected, which is the limit; one of them: {self.first}",
                remedy="Mend the input or the model; the same command with a higher --max-rejected goes on.",
            )


def hopeless(rows: int, first: Rejection | None) -> TooManyRejected:
    """The error when every row from the start was rejected."""
    return TooManyRejected(
        f"All of the first {rows:,} rows were rejected, beginning with {first}",
        remedy="Model and input do not fit: look at a few rows with a preview, the same command without -o.",
    )


def check_start(output: ChunkOutput) -> None:
    """Raises TooManyRejected if this is the job's start and nothing but rejected rows came so far."""
    if output.chunk.number == 0 and not output.predicted and output.rejected >= HOPELESS_ROWS:
        raise hopeless(output.rejected, output.first_rejection)


def _without_poison(batch: Batch, run: ChunkRun) -> tuple[pa.RecordBatch, np.ndarray[Any, Any], list[BadRow]]:
    rows = {row: (error, text) for row, error, text in run.poison if batch.row_start <= row < batch.row_stop}
    if not rows:
        return batch.data, batch.numbers, []
    bad = [_failed_row(row, error, text) for row, (error, text) in sorted(rows.items())]
    keep = ~np.isin(batch.numbers, np.fromiter(rows, dtype=np.int64))
    return batch.data.filter(pa.array(keep)), batch.numbers[keep], bad


def _failed_row(row: int, error: str, message: str) -> BadRow:
    """What a model says of a row is published: not the password of the database that it could not reach."""
    return BadRow(row=row, stage="predict", error=error, message=redacted(message))
