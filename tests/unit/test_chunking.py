"""Borders of chunks: every row once, in order, and a function of blocks and constants alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.plan import Block, Chunk, InputFile
from tidemill.domain.signature import ModelInfo
from tidemill.engine.chunking import MAX_FILES_HELD, MAX_FILES_PER_CHUNK, Borders, borders_of, cut_chunks

ROW_BYTES = 10


def file_of(number: int, rows: Sequence[int], row_bytes: int = ROW_BYTES) -> tuple[int, InputFile, list[Block]]:
    blocks = [Block(rows=n, decoded_bytes=n * row_bytes, start=k, stop=k + 1) for k, n in enumerate(rows)]
    return number, InputFile(path=f"/in/{number}", size_bytes=1, mtime_ns=1), blocks


def cut(files: Sequence[Sequence[int]], borders: Borders, row_bytes: int = ROW_BYTES) -> list[Chunk]:
    return list(cut_chunks([file_of(k, rows, row_bytes) for k, rows in enumerate(files)], borders))


def rows_of(chunks: Sequence[Chunk]) -> list[tuple[int, int]]:
    return [
        (segment.file_number, row)
        for chunk in chunks
        for segment in chunk.segments
        for row in range(segment.row_start, segment.row_stop)
    ]


FILES = st.lists(st.lists(st.integers(0, 50), max_size=6), max_size=8)


@settings(deadline=None)
@given(FILES, st.integers(1, 60), st.integers(1, 600), st.booleans())
def test_every_row_is_in_one_chunk_in_order(files: list[list[int]], rows: int, decoded_bytes: int, exact: bool) -> None:
    chunks = cut(files, Borders(rows=rows, decoded_bytes=decoded_bytes, exact=exact))
    assert rows_of(chunks) == [(k, row) for k, blocks in enumerate(files) for row in range(sum(blocks))]
    assert [chunk.number for chunk in chunks] == [*range(len(chunks))]
    assert all(chunk.rows for chunk in chunks) or (len(chunks) == 1 and not rows_of(chunks))


@settings(deadline=None)
@given(FILES, st.integers(1, 60))
def test_exact_chunks_have_exactly_so_many_rows(files: list[list[int]], rows: int) -> None:
    counts = [chunk.rows for chunk in cut(files, Borders(rows=rows, exact=True, decoded_bytes=1))]
    assert all(count == rows for count in counts[:-1])
    assert all(0 < count <= rows for count in counts) or counts == [0]


@settings(deadline=None)
@given(FILES, st.integers(1, 60), st.booleans())
def test_a_segment_names_the_blocks_that_hold_its_rows(files: list[list[int]], rows: int, exact: bool) -> None:
    for chunk in cut(files, Borders(rows=rows, exact=exact)):
        for segment in chunk.segments:
            blocks = files[segment.file_number]
            assert segment.block_row == sum(blocks[: segment.start])
            assert segment.block_row <= segment.row_start < segment.block_row + max(blocks[segment.start], 1)
            assert segment.row_stop <= sum(blocks[: segment.stop])
            assert segment.row_stop > sum(blocks[: segment.stop - 1])


@settings(deadline=None)
@given(FILES, st.integers(1, 20), st.integers(1, 60), st.integers(1, 600), st.integers(1, 12))
def test_chunks_that_were_doubled_hold_every_row_once(
    files: list[list[int]], least: int, rows: int, decoded_bytes: int, most: int
) -> None:
    borders = Borders(rows=rows, least_rows=least, chunks=most, decoded_bytes=decoded_bytes)
    chunks = cut(files, borders)
    assert rows_of(chunks) == [(k, row) for k, blocks in enumerate(files) for row in range(sum(blocks))]
    assert [chunk.number for chunk in chunks] == [*range(len(chunks))]
    for chunk in chunks:
        for before, after in pairwise(chunk.segments):
            assert (before.file_number, before.row_stop) != (after.file_number, after.row_start), "joined, not listed"


@pytest.mark.parametrize(
    "blocks, sizes",
    [
        (1, {10}),
        (8, {10}),
        (9, {20, 10}),
        (16, {20}),
        (17, {40, 10}),
        (32, {40}),
        (33, {80, 10}),
        (64, {80}),
        (65, {80, 10}),
        (800, {80}),
    ],
)
def test_chunks_are_doubled_while_there_are_too_many(blocks: int, sizes: set[int]) -> None:
    """From 10 rows to 80, until there are at most 8; with 80 rows there are as many as it takes."""
    chunks = cut([[10] * blocks], Borders(rows=80, least_rows=10, chunks=8))
    assert {chunk.rows for chunk in chunks} == sizes
    assert len(chunks) == -(-blocks * 10 // max(sizes))


def test_few_chunks_are_held_while_many_are_cut() -> None:
    """Once they have their full size they leave one by one: a plan of a million files needs no memory for them."""
    taken = 0

    def blocks() -> Iterator[tuple[int, InputFile, list[Block]]]:
        nonlocal taken
        for number in range(10_000):
            taken += 1
            yield file_of(number, [10])

    first = next(cut_chunks(blocks(), Borders(rows=80, least_rows=10, chunks=8)))
    assert first.rows == 80
    assert taken < 100


def test_few_files_are_held_while_many_are_listed() -> None:
    taken = 0

    def blocks() -> Iterator[tuple[int, InputFile, list[Block]]]:
        nonlocal taken
        for number in range(3 * MAX_FILES_HELD):
            taken += 1
            yield file_of(number, [1])

    chunks = cut_chunks(blocks(), Borders(rows=262_144, least_rows=16_384, chunks=128))
    assert len(next(chunks).segments) == MAX_FILES_PER_CHUNK
    assert taken <= MAX_FILES_HELD + 2 * MAX_FILES_PER_CHUNK
    assert sum(chunk.rows for chunk in chunks) == 3 * MAX_FILES_HELD - MAX_FILES_PER_CHUNK


@pytest.mark.parametrize("blocks", [[125_000] * 16, [1_000_000], [1_048_576, 1_048_576, 300_000], [28_000] * 24])
def test_two_scorers_end_together(blocks: list[int]) -> None:
    """Each takes the next chunk when it has done one: what one does while the other has nothing left is little."""
    chunks = cut([blocks], Borders(rows=262_144, least_rows=16_384, chunks=128), row_bytes=1)
    busy = [0, 0]
    for chunk in chunks:
        busy[busy.index(min(busy))] += chunk.rows
    assert sum(blocks) / max(busy) >= 1.9


@pytest.mark.parametrize(
    "layout, batch_rows, asked, least",
    [
        ("threads", 16_384, {}, 65_536),
        ("processes", 16_384, {}, 16_384),
        ("processes", 65_536, {}, 65_536),
        ("processes", 1_024, {}, 16_384),
        ("processes", 1_024, {"batch_rows": 100_000}, 100_000),
        ("processes", 65_536, {"batch_rows": 10}, 16_384),
    ],
)
def test_the_least_chunk_is_the_layouts_or_a_batch(
    layout: Any, batch_rows: int, asked: dict[str, int], least: int
) -> None:
    info = ModelInfo(flavor="python", inputs=(), outputs=(), layout=layout, batch_rows=batch_rows)
    borders = borders_of(info, **asked)  # type: ignore[arg-type]
    assert (borders.least_rows, borders.rows, borders.exact) == (least, 262_144, False)


def test_chunks_that_were_asked_for_are_exact() -> None:
    info = ModelInfo(flavor="python", inputs=(), outputs=())
    assert borders_of(info, rows_per_chunk=7) == Borders(rows=7, exact=True)


def test_large_pieces_of_a_block_begin_where_batches_do() -> None:
    chunks = cut([[1_000_000]], Borders(rows=262_144, least_rows=16_384, chunks=128), row_bytes=1)
    starts = [chunk.segments[0].row_start for chunk in chunks]
    assert len(starts) == 16
    assert all(start % 16_384 == 0 for start in starts)
    assert {chunk.segments[0].block_row for chunk in chunks} == {0}


def test_blocks_stay_whole_up_to_four_times_the_target() -> None:
    assert [chunk.rows for chunk in cut([[400, 100]], Borders(rows=100))] == [400, 100]
    assert [chunk.rows for chunk in cut([[500]], Borders(rows=100))] == [250, 250]


def test_wide_rows_end_a_chunk_by_bytes() -> None:
    borders = Borders(rows=1_000, decoded_bytes=100)
    assert [chunk.rows for chunk in cut([[10] * 4], borders, row_bytes=5)] == [20, 20]


def test_a_block_that_decodes_to_too_much_is_split() -> None:
    chunks = cut([[1_000]], Borders(rows=1_000, decoded_bytes=1_000), row_bytes=100)
    assert len(chunks) == 25
    assert {chunk.rows for chunk in chunks} == {40}


def test_a_chunk_never_has_more_than_a_thousand_files() -> None:
    chunks = cut([[1]] * 2_500, Borders(rows=100_000))
    assert [len(chunk.segments) for chunk in chunks] == [MAX_FILES_PER_CHUNK, MAX_FILES_PER_CHUNK, 500]


def test_no_rows_make_one_empty_chunk() -> None:
    assert cut([[], [0, 0]], Borders(rows=10)) == [Chunk(number=0, segments=())]
