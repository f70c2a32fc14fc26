"""A chunk under suspicion, one step at a time: a death can then be blamed on rows. Runs in children."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from tidemill.engine.batching import Batch, read_batches
from tidemill.engine.chunkscorer import ChunkScorer, check_start
from tidemill.engine.pipeline import Send, progress_of
from tidemill.ports.executor import ChunkRun

log = logging.getLogger(__name__)


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
        features, fits, _ = scorer.features.of(data, numbers)
        features = features if fits is None else features.filter(pa.array(fits))
        step("model", start, stop)
        with _surviving():
            scorer.model.predict(features)
        return
