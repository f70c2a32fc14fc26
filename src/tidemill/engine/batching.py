"""Rows as they are read, cut into the batches that the plan says. Runs in children.

Batch k of a chunk covers its planned rows [k * batch_rows, (k + 1) * batch_rows): a row that could not
be read leaves a gap, it never moves a border.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.domain.errors import InputChanged
from tidemill.domain.plan import Chunk, InputFile, PlanSummary, Segment
from tidemill.ports.source import FileFacts, Rows, Source, UnreadRow, part_of


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that will be rejected. `row` is its number within the chunk."""

    row: int
    stage: str
    error: str
    message: str
    raw: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Planned rows [row_start, row_stop) of a chunk; `numbers` (int64) say which rows `data` holds."""

    number: int
    row_start: int
    row_stop: int
    data: pa.RecordBatch
    numbers: np.ndarray[Any, Any]
    bad: tuple[BadRow, ...] = field(default=())


def keys_of(chunk: Chunk, row: int) -> tuple[str, int]:
    """(file path, row number in the file) of a row of the chunk."""
    for segment in chunk.segments:
        if row < segment.rows:
            return segment.file.path, segment.row_number(row)
        row -= segment.rows
    raise IndexError(f"the chunk has no row {row}")


def by_reason(bad: Sequence[BadRow]) -> list[dict[str, Any]]:
    """Rows with one reason together: {"stage", "error", "message", "rows", "first_row"}, by their first row."""
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in sorted(bad, key=lambda row: row.row):
        group = groups.setdefault(
            (row.stage, row.error, row.message),
            {"stage": row.stage, "error": row.error, "message": row.message, "rows": 0, "first_row": row.row},
        )
        group["rows"] += 1
    return list(groups.values())


def read_batches(
    source: Source,
    chunk: Chunk,
    plan: PlanSummary,
    read_schema: pa.Schema,
    unreadable: tuple[int, ...] = (),
    on_segment: Callable[[int], None] = lambda number: None,
) -> Iterator[Batch]:
    """The chunk's batches, in order. Segments at the positions in `unreadable` are not touched: all
    their rows are bad. Raises InputChanged if a file has more or fewer rows than planned."""
    cutter = _Cutter(plan.batch_rows, read_schema)
    offset = 0
    for position, segment in enumerate(chunk.segments):
        on_segment(position)
        if position in unreadable:
            yield from cutter.add_bad(_unreadable_rows(segment, offset), segment.rows)
        else:
            yield from _read_segment(source, segment, plan, read_schema, cutter, offset)
        offset += segment.rows
    yield from cutter.finish()


def _read_segment(
    source: Source, segment: Segment, plan: PlanSummary, schema: pa.Schema, cutter: _Cutter, offset: int
) -> Iterator[Batch]:
    expected = segment.row_start
    selected = None if segment.selected is None else np.array(segment.selected, dtype=np.int64)
    for rows in source.read(segment, plan.columns, plan.types, plan.batch_rows):
        if rows.row_start != expected or rows.row_start + rows.planned > segment.row_stop:
            raise _different_rows(segment)
        expected += rows.planned
        if selected is None:
            yield from cutter.add(rows, offset - segment.row_start, schema)
        else:
            yield from cutter.add(_of_selected(rows, selected), offset, schema)
    if expected != segment.row_stop:
        raise _different_rows(segment)


def _of_selected(rows: Rows, selected: np.ndarray[Any, Any]) -> Rows:
    """Only the selected rows, numbered by their place among all that are selected of the segment."""
    low, high = np.searchsorted(selected, [rows.row_start, rows.row_start + rows.planned]).tolist()
    wanted = selected[low:high]
    there = rows.row_numbers
    if there is None:
        there = np.arange(rows.row_start, rows.row_start + rows.planned, dtype=np.int64)
    mask = np.isin(there, wanted)
    place = {number: low + k for k, number in enumerate(wanted.tolist())} if rows.unread else {}
    return Rows(
        batch=rows.batch.filter(pa.array(mask)),
        row_start=low,
        planned=high - low,
        row_numbers=np.searchsorted(selected, there[mask]),
        unread=tuple(replace(row, row=place[row.row]) for row in rows.unread if row.row in place),
    )


def _different_rows(segment: Segment) -> InputChanged:
    return InputChanged(
        f"{segment.file.path} does not have the rows that were planned.",
        remedy="Do not write into the input while a job runs; run the command again.",
    )


def _unreadable_rows(segment: Segment, offset: int) -> Iterator[BadRow]:
    message = f"reading rows {segment.row_start} to {segment.row_stop - 1} of this file kills the reader"
    return (BadRow(row=offset + k, stage="read", error="ReaderCrashed", message=message) for k in range(segment.rows))


class _Cutter:
    def __init__(self, batch_rows: int, schema: pa.Schema) -> None:
        self.batch_rows, self.schema = batch_rows, schema
        self.cursor = 0
        self.number = 0
        self._data: list[pa.RecordBatch] = []
        self._numbers: list[np.ndarray[Any, Any]] = []
        self._bad: list[BadRow] = []

    def add(self, rows: Rows, shift: int, schema: pa.Schema) -> Iterator[Batch]:
        data = _aligned(rows.batch, schema)
        numbers = rows.row_numbers
        if numbers is None:
            numbers = np.arange(rows.row_start, rows.row_start + rows.planned, dtype=np.int64)
        numbers = numbers + shift
        bad = [_bad_row(row, shift) for row in rows.unread]
        stop, given = self.cursor + rows.planned, 0
        while self.cursor < stop:
            border = min(stop, (self.number + 1) * self.batch_rows)
            taken = int(np.searchsorted(numbers, border))
            if taken > given:
                self._data.append(part_of(data, given, taken))
                self._numbers.append(numbers[given:taken])
                given = taken
            while bad and bad[0].row < border:
                self._bad.append(bad.pop(0))
            self.cursor = border
            if border == (self.number + 1) * self.batch_rows:
                yield self._flush()

    def add_bad(self, rows: Iterator[BadRow], count: int) -> Iterator[Batch]:
        for row in rows:
            self._bad.append(row)
            self.cursor += 1
            if self.cursor == (self.number + 1) * self.batch_rows:
                yield self._flush()

    def finish(self) -> Iterator[Batch]:
        if self.cursor > self.number * self.batch_rows:
            yield self._flush()

    def _flush(self) -> Batch:
        data = self._data[0] if len(self._data) == 1 else _joined(self._data, self.schema)
        numbers = np.concatenate(self._numbers) if self._numbers else np.empty(0, dtype=np.int64)
        batch = Batch(
            number=self.number,
            row_start=self.number * self.batch_rows,
            row_stop=self.cursor,
            data=data,
            numbers=numbers,
            bad=tuple(self._bad),
        )
        self.number += 1
        self._data, self._numbers, self._bad = [], [], []
        return batch


def _bad_row(row: UnreadRow, shift: int) -> BadRow:
    return BadRow(row=row.row + shift, stage="read", error=row.error, message=row.message, raw=row.raw)


def _joined(pieces: list[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    if not pieces:
        return pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in schema], schema=schema)
    return pa.concat_batches(pieces)


def _aligned(data: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with exactly the planned columns and types; widening only, the plan saw to that."""
    if data.schema.equals(schema):
        return data
    columns = []
    for planned in schema:
        index = data.schema.get_field_index(planned.name)
        if index < 0:
            columns.append(pa.nulls(data.num_rows, planned.type))
        elif data.schema.field(index).type == planned.type:
            columns.append(data.column(index))
        else:
            columns.append(_as(data.column(index), planned.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _as(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(wanted):
        # Not every source encodes, nor every file of one that does in the same type.
        plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        return pc.cast(pc.cast(plain, wanted.value_type).dictionary_encode(), wanted)
    return pc.cast(column, wanted)


def batches_of_file(source: Source, file: InputFile, facts: FileFacts, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """All rows of a file that can be read, in order, at most `batch_rows` at a time."""
    if not facts.blocks:
        return
    segment = Segment(
        file_number=0,
        file=file,
        row_start=0,
        row_stop=facts.rows,
        block_row=0,
        start=facts.blocks[0].start,
        stop=facts.blocks[-1].stop,
    )
    for rows in source.read(segment, facts.schema.names, {}, batch_rows):
        yield rows.batch
