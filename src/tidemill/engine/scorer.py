"""The scorer: a model and a pipeline of three stages. Runs in children.

Reading, the model and writing overlap; so many batches are between reading and writing that every
predicting thread has one to do and one waiting, and no more: memory is bounded. Only messages leave.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import queue
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill import registry
from tidemill.domain.errors import JobFailed, TidemillError, TooManyRejected
from tidemill.domain.plan import Chunk, PlanSummary
from tidemill.domain.receipt import Rejection
from tidemill.engine import models, planfile
from tidemill.engine.batching import BadRow, Batch, read_batches
from tidemill.engine.chunkout import Busy, ChunkOutput, Meter, Scored, Stopwatch, rejected_rows, rejection_of
from tidemill.engine.modelkey import Stamp, load_options, model_key, stamp
from tidemill.engine.planner import unpack_schema
from tidemill.engine.predicting import Errors, Predictor, features_of
from tidemill.ports.executor import ChunkRun
from tidemill.ports.flavor import Model
from tidemill.ports.source import Source

log = logging.getLogger(__name__)

HOPELESS_ROWS = 1_000
"""If all of the first so many planned rows are rejected, the job stops at once."""
TELL_SECONDS = 0.25

Send = Callable[[dict[str, Any]], None]


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

    def __init__(self, job: Mapping[str, Any], keeper: ModelKeeper, meter: Meter) -> None:
        """job: {"staging", "plan_digest", "model", "threads", "max_rejected"}. Raises Damaged,
        ModelUnusable, NotTrusted, MissingExtra."""
        self.meter = meter
        self.staging = Path(job["staging"])
        self.plan: PlanSummary = planfile.read_summary(self.staging, job["plan_digest"])
        self.threads = int(job["threads"])
        self.max_rejected = int(job["max_rejected"])
        self.model = keeper.model_for(job["model"], self.plan, self.threads)
        self.encoder = registry.encoders.get(self.plan.output_format)(self.plan.output_options)
        self.read_schema, self.predictions_schema, self.rejected_schema = (
            unpack_schema(self.plan.schemas[name]) for name in ("read", "predictions", "rejected")
        )
        self.predicted_schema = pa.schema(list(self.predictions_schema)[len(self.plan.kept) :])
        self.inputs = tuple((field.name, field.type) for field in self.plan.model.inputs)
        self.reader = planfile.PlanReader(self.staging)
        source = self.source()
        self.cast_text = source.cast_text if source.casts_text else None

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
        features, fits, unfit = features_of(data, numbers, self.inputs, self.cast_text)
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
        outcome = Predictor(self.model, self.predicted_schema, guard).predict(features, run.splits.get(batch.number))
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


def _without_poison(batch: Batch, run: ChunkRun) -> tuple[pa.RecordBatch, np.ndarray[Any, Any], list[BadRow]]:
    rows = {row: (error, text) for row, error, text in run.poison if batch.row_start <= row < batch.row_stop}
    if not rows:
        return batch.data, batch.numbers, []
    bad = [BadRow(row=row, stage="predict", error=error, message=text) for row, (error, text) in sorted(rows.items())]
    keep = ~np.isin(batch.numbers, np.fromiter(rows, dtype=np.int64))
    return batch.data.filter(pa.array(keep)), batch.numbers[keep], bad


def _failed_row(row: int, error: str, message: str) -> BadRow:
    return BadRow(row=row, stage="predict", error=error, message=message)


@dataclass(kw_only=True)
class _Item:
    """One thing on its way through the pipeline. `batch` None opens or closes a chunk."""

    number: int
    run: ChunkRun
    chunk: Chunk | None = None
    batch: Batch | None = None
    scored: Scored | None = None
    reading: Busy = Busy()  # noqa: RUF009 - it is frozen
    error: BaseException | None = None
    last: bool = False


@dataclass(kw_only=True)
class _Ordered:
    """Items come in any order and leave by number."""

    waiting: dict[int, _Item] = field(default_factory=dict)
    next: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def put(self, item: _Item) -> None:
        with self.changed:
            self.waiting[item.number] = item
            self.changed.notify_all()

    def get(self) -> _Item:
        with self.changed:
            while self.next not in self.waiting:
                self.changed.wait()
            self.next += 1
            return self.waiting.pop(self.next - 1)


_END = ChunkRun(chunk=-1, attempt="")
"""Comes after the last run of a job."""


class Pipeline:
    """Scores runs one after the other; the next is read while the last is still being written."""

    def __init__(self, scorer: ChunkScorer, send: Send) -> None:
        self.scorer, self.send = scorer, send
        self._runs: queue.SimpleQueue[ChunkRun] = queue.SimpleQueue()
        self._work: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._scored = _Ordered()
        self._room = threading.BoundedSemaphore(2 * scorer.threads + 1)
        self._failed: set[str] = set()
        self._told = 0.0
        stages = [self._read, *[self._predict] * scorer.threads, self._write]
        self._threads = [threading.Thread(target=self._or_die, args=(stage,), daemon=True) for stage in stages]

    def start(self) -> None:
        """Start the stages' threads."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """End the stages when all that was submitted has gone through."""
        self._runs.put(_END)
        for thread in self._threads:
            thread.join()

    def submit(self, run: ChunkRun) -> None:
        """Take one more run."""
        self._runs.put(run)

    def _or_die(self, stage: Callable[[], None]) -> None:
        """A stage that breaks takes the scorer with it: the worker sees a death, never a silent stop."""
        try:
            stage()
            return
        except MemoryError as exc:
            self.send({"memory": str(exc) or "out of memory"})
        except BaseException:
            # The log of this child is what the worker explains its death with.
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(70)

    def _read(self) -> None:
        source, number = self.scorer.source(), 0
        while (run := self._runs.get()) is not _END:
            for item in self._items(source, run, number):
                number = item.number + 1
                self._room.acquire()
                self._work.put(item)
        for _ in range(self.scorer.threads):
            self._work.put(_Item(number=number, run=_END))
        self._scored.put(_Item(number=number, run=_END))

    def _items(self, source: Source, run: ChunkRun, number: int) -> Iterator[_Item]:
        chunk = self.scorer.reader.chunk(run.chunk)
        batches = read_batches(source, chunk, self.scorer.plan, self.scorer.read_schema, run.unreadable)
        error: BaseException | None = None
        while True:
            watch = Stopwatch()
            try:
                batch = next(batches, None)
            except MemoryError:
                raise
            except Exception as exc:
                batch, error = None, exc
            if batch is None or run.attempt in self._failed:
                break
            yield _Item(number=number, run=run, chunk=chunk, batch=batch, reading=watch.read())
            number += 1
        yield _Item(number=number, run=run, chunk=chunk, error=error, last=True)

    def _predict(self) -> None:
        while (item := self._work.get()).run is not _END:
            if item.batch is not None and item.chunk is not None and item.run.attempt not in self._failed:
                try:
                    item.scored = self.scorer.score(item.run, item.chunk, item.batch)
                except MemoryError:
                    raise
                except Exception as exc:
                    item.error = exc
                item.batch = None
            self._scored.put(item)

    def _write(self) -> None:
        output: ChunkOutput | None = None
        while (item := self._scored.get()).run is not _END:
            if item.run.attempt not in self._failed:
                try:
                    output = self._write_item(item, output)
                except Exception as exc:
                    self._fail(item.run, exc, output)
                    output = None
            if item.last:
                self._failed.discard(item.run.attempt)
                output = None
            self._room.release()

    def _write_item(self, item: _Item, output: ChunkOutput | None) -> ChunkOutput:
        assert item.chunk is not None
        output = output or self.scorer.output(item.run, item.chunk)
        if item.error is not None:
            self._fail(item.run, item.error, output)
        elif item.scored is not None:
            output.busy["read"] += item.reading
            output.add(item.scored)
            check_start(output)
            self._tell(output)
        else:
            receipt = output.close()
            self.send({"op": "done", "attempt": item.run.attempt, "receipt": receipt.to_json()})
        return output

    def _fail(self, run: ChunkRun, exc: BaseException, output: ChunkOutput | None) -> None:
        self._failed.add(run.attempt)
        if output is not None:
            output.abort()
        self.send({"op": "failed", "attempt": run.attempt, "error": as_error(exc).to_json()})

    def _tell(self, output: ChunkOutput) -> None:
        if time.monotonic() - self._told >= TELL_SECONDS:
            self._told = time.monotonic()
            self.send(progress_of(output))


def progress_of(output: ChunkOutput) -> dict[str, Any]:
    """The message that says how far a chunk is."""
    return {
        "op": "progress",
        "attempt": output.run.attempt,
        "rows": output.predicted + output.rejected,
        "rejected": output.rejected,
        "busy_seconds": {stage: busy.seconds for stage, busy in output.busy.items()},
    }


def check_start(output: ChunkOutput) -> None:
    """Raises TooManyRejected if this is the job's start and nothing but rejected rows came so far."""
    if output.chunk.number == 0 and not output.predicted and output.rejected >= HOPELESS_ROWS:
        raise hopeless(output.rejected, output.first_rejection)


def as_error(exc: BaseException) -> TidemillError:
    """Any exception as one that a person can read."""
    if isinstance(exc, TidemillError):
        return exc
    return JobFailed(f"{type(exc).__name__}: {exc}")


def run_carefully(scorer: ChunkScorer, run: ChunkRun, send: Send) -> None:
    """One step at a time, each announced, so that a death can be blamed on rows."""

    def step(stage: str, row_start: int = 0, row_stop: int = 0, segment: int = 0) -> None:
        send({"op": "step", "attempt": run.attempt, "stage": stage, "row_start": row_start, "row_stop": row_stop,
              "segment": segment})  # fmt: skip

    chunk = scorer.reader.chunk(run.chunk)
    batches = read_batches(
        scorer.source(), chunk, scorer.plan, scorer.read_schema, run.unreadable, lambda k: step("read", segment=k)
    )
    if run.probe is not None:
        _probe(scorer, batches, run.probe, step)
        send({"op": "done", "attempt": run.attempt, "receipt": None})
        return
    output = scorer.output(run, chunk)
    try:
        for batch in batches:
            scored = scorer.score(run, chunk, batch, lambda b=batch: step("model", b.row_start, b.row_stop))  # type: ignore[misc]
            step("write")
            output.add(scored)
            check_start(output)
            send(progress_of(output))
        send({"op": "done", "attempt": run.attempt, "receipt": output.close().to_json()})
    except BaseException:
        output.abort()
        raise


@contextmanager
def _surviving() -> Iterator[None]:
    """Let pass what the model raises: a probe asks only whether the scorer lives."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as exc:
        log.info("the probe raised %s: %s", type(exc).__name__, exc)


def _probe(scorer: ChunkScorer, batches: Iterator[Batch], rows: tuple[int, int], step: Callable[..., None]) -> None:
    """Predict those rows in one call and forget the result: does it live?"""
    start, stop = rows
    for batch in batches:
        if batch.row_stop <= start:
            continue
        first, last = np.searchsorted(batch.numbers, [start, stop]).tolist()
        data, numbers = batch.data.slice(first, last - first), batch.numbers[first:last]
        features, fits, _ = features_of(data, numbers, scorer.inputs, scorer.cast_text)
        features = features if fits is None else features.filter(pa.array(fits))
        step("model", start, stop)
        with _surviving():
            scorer.model.predict(features)
        return


class _Service:
    """What a scorer does for one job after the other, the model staying where it can."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.keeper = ModelKeeper()
        self.folder = os.getcwd()
        self.scorer: ChunkScorer | None = None
        self.pipeline: Pipeline | None = None
        self.meter = Meter()

    def take_job(self, job: Mapping[str, Any]) -> None:
        self.scorer = ChunkScorer(job, self.keeper, self.meter)
        self.pipeline = Pipeline(self.scorer, self.send)
        self.pipeline.start()
        self.send({"op": "ready"})

    def take_run(self, run: ChunkRun) -> None:
        assert self.scorer is not None and self.pipeline is not None, "a run belongs to a job"
        if not run.alone:
            self.pipeline.submit(run)
            return
        try:
            run_carefully(self.scorer, run, self.send)
        except MemoryError:
            raise
        except Exception as exc:
            self.send({"op": "failed", "attempt": run.attempt, "error": as_error(exc).to_json()})

    def rest(self) -> bool:
        """Let go of everything of the job but the model; say what is held now. False if there is nothing
        worth keeping."""
        if self.pipeline is not None:
            self.pipeline.end()
        if not self.keeper.may_be_kept:
            return False
        self.scorer = self.pipeline = None
        os.chdir(self.folder)
        _give_memory_back()
        self.send({"op": "rested", "memory_bytes": held_bytes()})
        self.meter.lap()
        _forget_peak()
        return True


def _give_memory_back() -> None:
    gc.collect()
    pa.default_memory_pool().release_unused()
    # Only glibc has it; elsewhere the allocator decides itself.
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def held_bytes() -> int:
    """Memory of this process, what it shares with others counted by its share."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _forget_peak() -> None:
    """Measure the peak of memory from now on: until now it was another job's."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def serve(receive: Callable[[], dict[str, Any] | None], send: Send, job: Mapping[str, Any]) -> None:
    """The scorer's life: load, say ready, take runs until told to stop or the worker is gone; in between
    perhaps rest and take another job."""
    service = _Service(send)
    service.take_job(job)
    while (message := receive()) is not None and message["op"] != "stop":
        if message["op"] == "rest":
            if not service.rest():
                return
        elif message["op"] == "job":
            service.take_job(message["job"])
        else:
            service.take_run(ChunkRun.from_json(message["run"]))
