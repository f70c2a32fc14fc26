"""Scoring in three stages that overlap: reading, the model, writing. Runs in children.

So many batches are between reading and writing that every predicting thread has one to do and one waiting, and no
more: memory is bounded.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tidemill.domain.errors import JobFailed, TidemillError, Unrecoverable
from tidemill.domain.plan import Chunk
from tidemill.engine.batching import Batch, read_batches
from tidemill.engine.chunkout import Busy, ChunkOutput, Scored, Stopwatch
from tidemill.engine.chunkscorer import ChunkScorer, check_start
from tidemill.ports.executor import ChunkRun
from tidemill.ports.source import Source

TELL_SECONDS = 0.25

Send = Callable[[dict[str, Any]], None]


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
        except Unrecoverable as exc:
            self.send({"error": JobFailed(str(exc)).to_json(), "expected": False})
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


def as_error(exc: BaseException) -> TidemillError:
    """Any exception as one that a person can read."""
    if isinstance(exc, TidemillError):
        return exc
    return JobFailed(f"{type(exc).__name__}: {exc}")
