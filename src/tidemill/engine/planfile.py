"""The plan's files in staging: which files, which chunks. Runs in children.

Compressed Arrow IPC in small record batches, so that a million files are written and looked up
without holding them in memory. Of a job that scores selected rows, `rows.arrow` holds their numbers,
chunk by chunk. `plan.json` is the summary; its digest covers them all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.ipc

from tidemill.domain.errors import Damaged
from tidemill.domain.plan import Chunk, InputFile, PlanSummary, Segment
from tidemill.durable.files import fsync_file, fsync_folder, translated, write_file

FILES_PER_BATCH = 4_096
CHUNKS_PER_BATCH = 64
ROWS_PER_BATCH = 65_536
FILES = "plan/files.arrow"
CHUNKS = "plan/chunks.arrow"
ROWS = "plan/rows.arrow"
SUMMARY = "plan/plan.json"

_FILE_SCHEMA = pa.schema(
    [("path", pa.string()), ("size_bytes", pa.int64()), ("mtime_ns", pa.int64()), ("real_path", pa.string())]
)
_SEGMENT_FIELDS = ("file_number", "row_start", "row_stop", "block_row", "start", "stop")
_SPAN_FIELDS = ("selected_start", "selected_stop")
"""Where in `ROWS` the numbers of a segment's selected rows are."""
_ROW_SCHEMA = pa.schema([("row", pa.int64())])


def _chunk_schema(fields: Sequence[str]) -> pa.Schema:
    return pa.schema([("segments", pa.list_(pa.struct([(name, pa.int64()) for name in fields])))])


class _Table:
    """Rows to an IPC file, `size` to a record batch.

    Rows to be looked up one by one are not compressed: they are mapped into memory.
    """

    def __init__(self, path: Path, schema: pa.Schema, size: int, *, compression: str | None = "zstd") -> None:
        self.path, self.schema, self.size = path, schema, size
        self.rows: list[dict[str, object]] = []
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with translated(path):
            self.writer = pa.ipc.new_file(str(path), schema, options=options)

    def add(self, row: dict[str, object]) -> None:
        self.rows.append(row)
        if len(self.rows) == self.size:
            self._flush()

    def _flush(self) -> None:
        if self.rows:
            with translated(self.path):
                self.writer.write_batch(pa.RecordBatch.from_pylist(self.rows, schema=self.schema))
            self.rows = []

    def __enter__(self) -> _Table:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        with translated(self.path):
            self.writer.close()
            fsync_file(self.path)


def files_table(staging: Path) -> _Table:
    """A writer of `InputFile` rows (as dicts of their fields)."""
    return _Table(staging / FILES, _FILE_SCHEMA, FILES_PER_BATCH)


def write_chunks(staging: Path, chunks: Iterable[Chunk], *, selected: bool = False) -> int:
    """Write all chunks, with `selected` also which rows each segment means; returns how many chunks."""
    if selected:
        with _Table(staging / ROWS, _ROW_SCHEMA, ROWS_PER_BATCH, compression=None) as rows:
            return _write_chunks(staging, chunks, rows)
    return _write_chunks(staging, chunks, None)


def _write_chunks(staging: Path, chunks: Iterable[Chunk], rows: _Table | None) -> int:
    fields = _SEGMENT_FIELDS if rows is None else (*_SEGMENT_FIELDS, *_SPAN_FIELDS)
    count = start = 0
    with _Table(staging / CHUNKS, _chunk_schema(fields), CHUNKS_PER_BATCH) as table:
        for chunk in chunks:
            segments = []
            for segment in chunk.segments:
                facts = {name: getattr(segment, name) for name in _SEGMENT_FIELDS}
                if rows is not None:
                    for row in segment.selected or ():
                        rows.add({"row": row})
                    stop = start + len(segment.selected or ())
                    facts, start = {**facts, "selected_start": start, "selected_stop": stop}, stop
                segments.append(facts)
            table.add({"segments": segments})
            count += 1
    return count


def write_summary(staging: Path, summary: PlanSummary) -> PlanSummary:
    """Seal the plan: the summary with its digest, durably."""
    sealed = replace(summary, digest=_digest(staging, summary))
    with translated(staging / SUMMARY):
        write_file(staging / SUMMARY, json.dumps(sealed.to_json()).encode())
        fsync_folder(staging / "plan")
    return sealed


def _digest(staging: Path, summary: PlanSummary) -> str:
    total = hashlib.sha256(json.dumps(replace(summary, digest="").to_json(), sort_keys=True).encode())
    for name in (FILES, CHUNKS) if summary.selection is None else (FILES, CHUNKS, ROWS):
        with (staging / name).open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def read_summary(staging: Path, expected_digest: str) -> PlanSummary:
    """The sealed summary. Raises Damaged if the plan is not the one that the store knows."""
    try:
        summary = PlanSummary.from_json(json.loads((staging / SUMMARY).read_bytes()))
        found = _digest(staging, summary)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise Damaged(f"The plan in {staging} cannot be read: {exc}.", remedy="Start over with --restart.") from exc
    if found != expected_digest:
        raise Damaged(f"The plan in {staging} was changed after it was made.", remedy="Start over with --restart.")
    return summary


class PlanReader:
    """Random access to a plan's files and chunks. One per thread."""

    def __init__(self, staging: Path) -> None:
        self._staging = staging
        self._files = _opened(staging / FILES)
        self._chunks = _opened(staging / CHUNKS)
        self._rows: pa.ipc.RecordBatchFileReader | None = None
        self._batch: tuple[int, list[InputFile]] = (-1, [])

    def chunk(self, number: int) -> Chunk:
        """Chunk `number` with its segments' files."""
        batch = self._chunks.get_batch(number // CHUNKS_PER_BATCH)
        rows = batch.column("segments")[number % CHUNKS_PER_BATCH].as_py()
        return Chunk(number=number, segments=tuple(self._segment(row) for row in rows))

    def _segment(self, facts: dict[str, int]) -> Segment:
        own = {name: facts[name] for name in _SEGMENT_FIELDS}
        selected = None
        if "selected_start" in facts:
            selected = tuple(self._selected(facts["selected_start"], facts["selected_stop"]))
        return Segment(file=self._file(facts["file_number"]), selected=selected, **own)

    def _selected(self, start: int, stop: int) -> Iterator[int]:
        if self._rows is None:
            self._rows = _opened(self._staging / ROWS)
        for number in range(start // ROWS_PER_BATCH, -(-stop // ROWS_PER_BATCH)):
            first = number * ROWS_PER_BATCH
            low, high = max(start - first, 0), min(stop - first, ROWS_PER_BATCH)
            yield from self._rows.get_batch(number).column("row").slice(low, high - low).to_pylist()

    def files(self) -> Iterator[InputFile]:
        """All files, in order, streamed."""
        for k in range(self._files.num_record_batches):
            yield from (InputFile(**row) for row in self._files.get_batch(k).to_pylist())

    def _file(self, number: int) -> InputFile:
        index = number // FILES_PER_BATCH
        if self._batch[0] != index:
            self._batch = (index, [InputFile(**row) for row in self._files.get_batch(index).to_pylist()])
        return self._batch[1][number % FILES_PER_BATCH]


def _opened(path: Path) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(str(path)))
