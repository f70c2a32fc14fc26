"""Batches: borders at multiples of the batch size whatever could not be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.errors import InputChanged
from tidemill.domain.plan import Chunk, InputFile, PlanSummary, Segment
from tidemill.domain.signature import ModelInfo
from tidemill.engine.batching import Batch, keys_of, read_batches
from tidemill.ports.source import FileFacts, Rows, Source, UnreadRow

SCHEMA = pa.schema([("n", pa.int64())])


class Listed(Source):
    """Row k of file f is 1000 f + k; rows in `bad` cannot be read; it comes `step` rows at a time."""

    name = "listed"
    suffixes = ()
    typed = True

    def __init__(self, step: int, bad: frozenset[tuple[int, int]] = frozenset(), cut: int = 0) -> None:
        super().__init__({}, Path())
        self.step, self.bad, self.cut = step, bad, cut

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        return False

    def examine(self, file: InputFile, *, infer: bool = False) -> FileFacts:
        raise NotImplementedError

    def read(
        self, segment: Segment, columns: Sequence[str], types: Mapping[str, str], batch_rows: int
    ) -> Iterator[Rows]:
        for start in range(segment.row_start, segment.row_stop - self.cut, self.step):
            stop = min(start + self.step, segment.row_stop - self.cut)
            good = [row for row in range(start, stop) if (segment.file_number, row) not in self.bad]
            unread = [row for row in range(start, stop) if (segment.file_number, row) in self.bad]
            values = pa.array([1000 * segment.file_number + row for row in good], pa.int64())
            yield Rows(
                batch=pa.RecordBatch.from_arrays([values], schema=SCHEMA),
                row_start=start,
                planned=stop - start,
                row_numbers=np.array(good, dtype=np.int64) if unread else None,
                unread=tuple(UnreadRow(row=row, error="E", message=f"row {row}") for row in unread),
            )


def chunk_of(spans: Sequence[tuple[int, int]]) -> Chunk:
    segments = tuple(
        Segment(
            file_number=number,
            file=InputFile(path=f"/in/{number}", size_bytes=1, mtime_ns=1),
            row_start=start,
            row_stop=stop,
            block_row=0,
            start=0,
            stop=1,
        )
        for number, (start, stop) in enumerate(spans)
    )
    return Chunk(number=0, segments=segments)


def plan_of(batch_rows: int) -> PlanSummary:
    facts: dict[str, Any] = {"digest": "", "snapshot_digest": "", "files": 1, "chunks": 1, "rows": 1, "input_bytes": 1}
    model = ModelInfo(flavor="python", inputs=(), outputs=())
    return PlanSummary(**facts, source="listed", columns=("n",), model=model, batch_rows=batch_rows)


def batches(
    source: Source, spans: Sequence[tuple[int, int]], batch_rows: int, unreadable: tuple[int, ...] = ()
) -> list[Batch]:
    return list(read_batches(source, chunk_of(spans), plan_of(batch_rows), SCHEMA, unreadable))


SPANS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 25)).map(lambda s: (s[0], s[0] + s[1])), min_size=1, max_size=4
)
BAD = st.frozensets(st.tuples(st.integers(0, 3), st.integers(0, 45)), max_size=30)


@settings(deadline=None)
@given(SPANS, BAD, st.integers(1, 30), st.integers(1, 30))
def test_borders_and_rows(
    spans: list[tuple[int, int]], bad: frozenset[tuple[int, int]], step: int, batch_rows: int
) -> None:
    found = batches(Listed(step, bad), spans, batch_rows)
    planned = [(number, row) for number, (start, stop) in enumerate(spans) for row in range(start, stop)]
    total = len(planned)
    assert [(b.row_start, b.row_stop) for b in found] == [
        (start, min(start + batch_rows, total)) for start in range(0, total, batch_rows)
    ]
    assert [b.number for b in found] == [*range(len(found))]
    values, numbers, rejected = [], [], []
    for batch in found:
        assert all(batch.row_start <= n < batch.row_stop for n in batch.numbers.tolist())
        assert all(batch.row_start <= row.row < batch.row_stop for row in batch.bad)
        values += batch.data.column("n").to_pylist()
        numbers += batch.numbers.tolist()
        rejected += [row.row for row in batch.bad]
    assert values == [1000 * number + row for number, row in planned if (number, row) not in bad]
    assert numbers == [k for k, key in enumerate(planned) if key not in bad]
    assert rejected == [k for k, key in enumerate(planned) if key in bad]


def test_keys_of_rows() -> None:
    chunk = chunk_of([(5, 8), (0, 2)])
    assert [keys_of(chunk, row) for row in range(5)] == [
        ("/in/0", 5), ("/in/0", 6), ("/in/0", 7), ("/in/1", 0), ("/in/1", 1)
    ]  # fmt: skip
    with pytest.raises(IndexError):
        keys_of(chunk, 5)


def test_a_segment_that_kills_the_reader_is_not_touched() -> None:
    found = batches(Listed(3), [(0, 4), (10, 15), (0, 2)], 6, unreadable=(1,))
    assert [row.row for batch in found for row in batch.bad] == [4, 5, 6, 7, 8]
    assert {(row.stage, row.error) for batch in found for row in batch.bad} == {("read", "ReaderCrashed")}
    assert [n for batch in found for n in batch.numbers.tolist()] == [0, 1, 2, 3, 9, 10]


def test_a_file_with_fewer_rows_than_planned_changed() -> None:
    with pytest.raises(InputChanged, match="/in/0"):
        batches(Listed(3, cut=1), [(0, 9)], 4)


def test_columns_are_widened_and_missing_ones_null() -> None:
    wide = pa.schema([("n", pa.float64()), ("more", pa.string())])
    (batch,) = read_batches(Listed(5), chunk_of([(0, 3)]), plan_of(10), wide)
    assert batch.data.schema == wide
    assert batch.data.to_pydict() == {"n": [0.0, 1.0, 2.0], "more": [None, None, None]}


class Worded(Listed):
    """The same with words, each piece encoded in a type of its own."""

    def read(
        self, segment: Segment, columns: Sequence[str], types: Mapping[str, str], batch_rows: int
    ) -> Iterator[Rows]:
        kinds = cycle(
            [pa.string(), pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.large_string())]
        )
        for rows, kind in zip(super().read(segment, columns, types, batch_rows), kinds, strict=False):
            words = pa.array([f"word {number % 3}" for number in rows.batch["n"].to_pylist()])
            plain = words.cast(kind.value_type if pa.types.is_dictionary(kind) else kind)
            column = plain.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else plain
            yield replace(rows, batch=pa.RecordBatch.from_arrays([rows.batch["n"], column], names=["n", "word"]))


def test_columns_that_are_wanted_encoded_are_so_however_they_come() -> None:
    """Also where pieces with dictionaries of their own make one batch."""
    wanted = pa.schema([("n", pa.int64()), ("word", pa.dictionary(pa.int32(), pa.string()))])
    for rows in (2, 50):
        found = list(read_batches(Worded(2), chunk_of([(0, 9), (20, 29)]), plan_of(rows), wanted))
        assert all(batch.data.schema == wanted for batch in found)
        numbers = [*range(9), *range(20, 29)]
        assert [word for batch in found for word in batch.data["word"].to_pylist()] == [
            f"word {(1000 * (n >= 20) + n) % 3}" for n in numbers
        ]
