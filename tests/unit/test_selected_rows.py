"""Selected rows: every one once, in order, with its own key, through chunks, plan files and batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.errors import Damaged
from tidemill.domain.plan import Block, Chunk, InputFile, PlanSummary, Segment, Selection
from tidemill.domain.signature import ModelInfo
from tidemill.engine import planfile
from tidemill.engine.batching import keys_of, read_batches
from tidemill.engine.chunking import MAX_FILES_PER_CHUNK, Borders, cut_selected
from tidemill.ports.source import FileFacts, Rows, Source, UnreadRow

SCHEMA = pa.schema([("n", pa.int64())])
FILES = st.lists(st.lists(st.integers(0, 30), max_size=5), min_size=1, max_size=5)
Wanted = list[tuple[int, ...]]


@st.composite
def inputs(draw: st.DrawFn) -> tuple[list[list[int]], Wanted]:
    """Rows of each block of each file, and the rows wanted of each file."""
    files = draw(FILES)
    wanted = [
        tuple(sorted(draw(st.sets(st.integers(0, sum(rows) - 1), max_size=40)))) if sum(rows) else () for rows in files
    ]
    return files, wanted


def cut(files: Sequence[Sequence[int]], wanted: Wanted, borders: Borders) -> list[Chunk]:
    return list(
        cut_selected(
            [
                (
                    number,
                    InputFile(path=f"/in/{number}", size_bytes=1, mtime_ns=1),
                    [Block(rows=rows, decoded_bytes=rows * 10, start=k, stop=k + 1) for k, rows in enumerate(blocks)],
                    wanted[number],
                )
                for number, blocks in enumerate(files)
            ],
            borders,
        )
    )


def keys(chunks: Sequence[Chunk]) -> list[tuple[str, int]]:
    return [keys_of(chunk, row) for chunk in chunks for row in range(chunk.rows)]


def expected(wanted: Wanted) -> list[tuple[str, int]]:
    return [(f"/in/{number}", row) for number, rows in enumerate(wanted) for row in rows]


@settings(deadline=None)
@given(inputs(), st.integers(1, 25), st.integers(1, 400))
def test_every_wanted_row_is_in_one_chunk_in_order(
    made: tuple[list[list[int]], Wanted], rows: int, decoded_bytes: int
) -> None:
    files, wanted = made
    chunks = cut(files, wanted, Borders(rows=rows, decoded_bytes=decoded_bytes))
    assert keys(chunks) == expected(wanted)
    assert [chunk.number for chunk in chunks] == [*range(len(chunks))]
    assert all(0 < chunk.rows <= rows for chunk in chunks) or chunks == [Chunk(number=0, segments=())]


@settings(deadline=None)
@given(inputs(), st.integers(1, 25))
def test_only_blocks_with_wanted_rows_are_read(made: tuple[list[list[int]], Wanted], rows: int) -> None:
    files, wanted = made
    for chunk in cut(files, wanted, Borders(rows=rows)):
        for segment in chunk.segments:
            blocks, selected = files[segment.file_number], segment.selected
            assert selected is not None
            assert (segment.row_start, segment.row_stop) == (selected[0], selected[-1] + 1)
            assert segment.block_row == sum(blocks[: segment.start])
            for block in range(segment.start, segment.stop):
                first = sum(blocks[:block])
                assert any(first <= row < first + blocks[block] for row in selected)


def test_a_chunk_has_at_most_a_thousand_pieces_of_files() -> None:
    chunks = cut([[1]] * 2_500, [(0,)] * 2_500, Borders(rows=100_000))
    assert [len(chunk.segments) for chunk in chunks] == [MAX_FILES_PER_CHUNK, MAX_FILES_PER_CHUNK, 500]


def summary(chunks: Sequence[Chunk], **words: object) -> PlanSummary:
    return PlanSummary(
        digest="",
        snapshot_digest="s",
        files=1,
        chunks=len(chunks),
        rows=sum(chunk.rows for chunk in chunks),
        input_bytes=1,
        source="listed",
        columns=("n",),
        model=ModelInfo(flavor="python", inputs=(), outputs=()),
        batch_rows=7,
        selection=Selection(parent_id="job_1", snapshot_rows=99, first_rows=(0, 30)),
    )


def test_plan_files_hold_them_and_the_digest_covers_them(tmp_path: Path) -> None:
    (tmp_path / "plan").mkdir()
    wanted = [tuple(range(0, 150_000, 2)), tuple(range(5, 80_000))]
    chunks = cut([[150_000], [40_000, 40_000]], wanted, Borders(rows=60_000))
    with planfile.files_table(tmp_path) as table:
        for number in range(2):
            table.add(asdict(InputFile(path=f"/in/{number}", size_bytes=1, mtime_ns=1)))
    assert planfile.write_chunks(tmp_path, chunks, selected=True) == len(chunks) == 3
    sealed = planfile.write_summary(tmp_path, summary(chunks))
    assert planfile.read_summary(tmp_path, sealed.digest) == sealed == replace(summary(chunks), digest=sealed.digest)
    reader = planfile.PlanReader(tmp_path)
    for number in (2, 0, 1):
        assert reader.chunk(number) == chunks[number]
    rows = tmp_path / planfile.ROWS
    before = rows.read_bytes()
    rows.write_bytes(before[:700] + bytes([before[700] ^ 1]) + before[701:])
    with pytest.raises(Damaged, match="was changed"):
        planfile.read_summary(tmp_path, sealed.digest)


class Listed(Source):
    """Row k of file f is 1000 f + k, `step` rows at a time; rows of `bad` cannot be read."""

    name = "listed"
    suffixes = ()
    typed = True

    def __init__(self, step: int, bad: frozenset[tuple[int, int]]) -> None:
        super().__init__({}, Path())
        self.step, self.bad = step, bad

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        return False

    def examine(self, file: InputFile, *, infer: bool = False) -> FileFacts:
        raise NotImplementedError

    def read(
        self, segment: Segment, columns: Sequence[str], types: Mapping[str, str], batch_rows: int
    ) -> Iterator[Rows]:
        for start in range(segment.row_start, segment.row_stop, self.step):
            stop = min(start + self.step, segment.row_stop)
            good = [row for row in range(start, stop) if (segment.file_number, row) not in self.bad]
            unread = [row for row in range(start, stop) if (segment.file_number, row) in self.bad]
            yield Rows(
                batch=pa.RecordBatch.from_arrays(
                    [pa.array([1000 * segment.file_number + row for row in good], pa.int64())], schema=SCHEMA
                ),
                row_start=start,
                planned=stop - start,
                row_numbers=np.array(good, dtype=np.int64) if unread else None,
                unread=tuple(UnreadRow(row=row, error="E", message=f"row {row}") for row in unread),
            )


@settings(deadline=None)
@given(
    inputs(),
    st.frozensets(st.tuples(st.integers(0, 4), st.integers(0, 100)), max_size=40),
    st.integers(1, 40),
    st.integers(1, 25),
)
def test_batches_hold_selected_rows_alone_at_their_borders(
    made: tuple[list[list[int]], Wanted], bad: frozenset[tuple[int, int]], step: int, batch_rows: int
) -> None:
    files, wanted = made
    chunks = cut(files, wanted, Borders(rows=10_000))
    plan = replace(summary(chunks), batch_rows=batch_rows)
    (chunk,) = chunks
    found = list(read_batches(Listed(step, bad), chunk, plan, SCHEMA))
    total = chunk.rows
    assert [(b.row_start, b.row_stop) for b in found] == [
        (start, min(start + batch_rows, total)) for start in range(0, total, batch_rows)
    ]
    selected = [(number, row) for number, rows in enumerate(wanted) for row in rows]
    assert [n for b in found for n in b.data.column("n").to_pylist()] == [
        1000 * number + row for number, row in selected if (number, row) not in bad
    ]
    assert [n for b in found for n in b.numbers.tolist()] == [k for k, key in enumerate(selected) if key not in bad]
    assert [row.row for b in found for row in b.bad] == [k for k, key in enumerate(selected) if key in bad]
    assert all(row.message == f"row {keys_of(chunk, row.row)[1]}" for b in found for row in b.bad)
