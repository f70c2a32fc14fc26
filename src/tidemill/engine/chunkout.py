"""What a chunk leaves in staging: its parts and its receipt. Runs in children."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa

from tidemill.domain.errors import CountsDiffer
from tidemill.domain.plan import Chunk, PlanSummary
from tidemill.domain.receipt import Part, PartKind, Receipt, Rejection, Usage
from tidemill.engine.batching import BadRow, Batch, keys_of
from tidemill.ports.encoder import Encoder, PartWriter
from tidemill.ports.executor import ChunkRun

REJECTIONS_IN_RECEIPT = 20

Stage = Literal["read", "model", "write"]


@dataclass(frozen=True, kw_only=True)
class Busy:
    """How long a stage worked: by the clock, and on a CPU."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __add__(self, other: Busy) -> Busy:
        return Busy(seconds=self.seconds + other.seconds, cpu_seconds=self.cpu_seconds + other.cpu_seconds)


class Stopwatch:
    """Runs from when it is made. One thread makes it and reads it: CPU time is that thread's."""

    def __init__(self) -> None:
        self._started, self._cpu_started = time.perf_counter(), time.thread_time()

    def read(self) -> Busy:
        return Busy(seconds=time.perf_counter() - self._started, cpu_seconds=time.thread_time() - self._cpu_started)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A batch after the model: rows to write, rows to reject, how long that took."""

    number: int
    rows: int
    predictions: pa.RecordBatch
    rejected: pa.RecordBatch | None
    bad: Sequence[BadRow]
    split: bool
    kernel_rows: int
    busy: Busy


def rejection_of(chunk: Chunk, row: BadRow) -> Rejection:
    """A bad row of a chunk, as people are told of it."""
    path, number = keys_of(chunk, row.row)
    return Rejection(file=path, row=number, stage=row.stage, error=row.error, message=row.message)


def rejected_rows(batch: Batch, chunk: Chunk, bad: Sequence[BadRow], schema: pa.Schema) -> pa.RecordBatch:
    """The rows `bad` (ascending) of a batch in the schema of the rejected output."""
    keys = [keys_of(chunk, row.row) for row in bad]
    positions = {int(number): position for position, number in enumerate(batch.numbers)}
    own: dict[str, list[object]] = {
        "_file": [path for path, _ in keys],
        "_row": [row for _, row in keys],
        "_stage": [row.stage for row in bad],
        "_error": [row.error for row in bad],
        "_message": [row.message for row in bad],
        "_raw": [None if row.raw is None else row.raw.decode("utf-8", "backslashreplace") for row in bad],
    }
    taken = batch.data.take(pa.array([positions.get(row.row) for row in bad], type=pa.int64()))
    columns = [
        pa.array(own[f.name], type=f.type) if k < len(own) else _typed(taken.column(f.name), f.type)
        for k, f in enumerate(schema)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _typed(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """A column as it was planned: it may have been read encoded."""
    return column if column.type == wanted else column.cast(wanted)


class Meter:
    """What this process used since the last chunk was finished: stages overlap, so chunks share it out."""

    def __init__(self) -> None:
        self._cpu_seconds, self._bytes = 0.0, bytes_read()

    def lap(self) -> tuple[float, int]:
        """(CPU seconds, bytes read) since the last call; at first since the process began."""
        cpu_seconds, read = time.process_time(), bytes_read()
        used = cpu_seconds - self._cpu_seconds, read - self._bytes
        self._cpu_seconds, self._bytes = cpu_seconds, read
        return used


@dataclass(kw_only=True)
class ChunkOutput:
    """One attempt at one chunk, being written."""

    run: ChunkRun
    chunk: Chunk
    plan: PlanSummary
    staging: Path
    encoder: Encoder
    predictions_schema: pa.Schema
    rejected_schema: pa.Schema
    meter: Meter
    predicted: int = 0
    rejected: int = 0
    kernel_rows: int = 0
    busy: dict[Stage, Busy] = field(default_factory=lambda: {"read": Busy(), "model": Busy(), "write": Busy()})
    _writers: dict[PartKind, PartWriter] = field(default_factory=dict)
    _rejections: list[Rejection] = field(default_factory=list)
    _split: list[int] = field(default_factory=list)

    def add(self, scored: Scored) -> None:
        """Write a batch. Batches come in order."""
        watch = Stopwatch()
        self._writer("predictions").write(scored.predictions)
        if scored.rejected is not None:
            self._writer("rejected").write(scored.rejected)
            self._remember(scored.bad)
        self.predicted += scored.predictions.num_rows
        self.rejected += len(scored.bad)
        self.kernel_rows += scored.kernel_rows
        if scored.split:
            self._split.append(scored.number)
        self.busy["model"] += scored.busy
        self.busy["write"] += watch.read()

    @property
    def first_rejection(self) -> Rejection | None:
        """The chunk's first rejected row, if any was."""
        return self._rejections[0] if self._rejections else None

    def close(self) -> Receipt:
        """Make the parts durable. Raises OutputUnwritable; CountsDiffer if a row went missing."""
        watch = Stopwatch()
        if self.predicted + self.rejected != self.chunk.rows:
            raise CountsDiffer(
                f"Chunk {self.chunk.number}: {self.chunk.rows} rows planned,"
                f" {self.predicted} predicted and {self.rejected} rejected."
            )
        self._writer("predictions")
        parts = tuple(self._close(kind, writer) for kind, writer in list(self._writers.items()))
        self._writers.clear()
        self.busy["write"] += watch.read()
        return Receipt(
            chunk=self.chunk.number,
            attempt=self.run.attempt,
            rows=self.chunk.rows,
            predicted=self.predicted,
            rejected=self.rejected,
            parts=parts,
            usage=self._usage(sum(part.size_bytes for part in parts)),
            rejections=tuple(self._rejections),
            split_batches=tuple(self._split),
        )

    def abort(self) -> None:
        """Drop what was written. Never raises."""
        for writer in self._writers.values():
            writer.abort()
        self._writers.clear()

    def _writer(self, kind: PartKind) -> PartWriter:
        if kind not in self._writers:
            schema = self.predictions_schema if kind == "predictions" else self.rejected_schema
            self._writers[kind] = self.encoder.open(self.staging / self._name(kind), schema, self.plan.metadata)
        return self._writers[kind]

    def _name(self, kind: PartKind) -> str:
        return f"parts/{self.chunk.number:07d}.{self.run.attempt}.{kind}{self.encoder.file_suffix}"

    def _close(self, kind: PartKind, writer: PartWriter) -> Part:
        written = writer.close()
        return Part(
            kind=kind, name=self._name(kind), rows=written.rows, size_bytes=written.size_bytes, sha256=written.sha256
        )

    def _remember(self, bad: Sequence[BadRow]) -> None:
        for row in bad[: REJECTIONS_IN_RECEIPT - len(self._rejections)]:
            self._rejections.append(rejection_of(self.chunk, row))

    def _usage(self, output_bytes: int) -> Usage:
        cpu_seconds, input_bytes = self.meter.lap()
        read, model, write = self.busy["read"], self.busy["model"], self.busy["write"]
        return Usage(
            read_seconds=read.seconds,
            model_seconds=model.seconds,
            write_seconds=write.seconds,
            cpu_seconds=cpu_seconds,
            read_cpu_seconds=read.cpu_seconds,
            model_cpu_seconds=model.cpu_seconds,
            write_cpu_seconds=write.cpu_seconds,
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            input_bytes=input_bytes,
            output_bytes=output_bytes,
            kernel_rows=self.kernel_rows,
        )


def bytes_read() -> int:
    """Bytes that this process has read so far, as the kernel counts them; 0 where it does not."""
    try:
        with open("/proc/self/io", "rb") as file:
            return int(file.readline().split()[1])
    except OSError:
        return 0
