"""Rows that are drawn from an input: at even distances, of bounded reading."""

from __future__ import annotations

import itertools

import pytest

from tidemill.domain.plan import Block, InputFile
from tidemill.engine.sampling import MOST_BLOCKS, MOST_FILES, _segments, spread, thinned
from tidemill.ports.source import FileFacts


@pytest.mark.parametrize(
    "count, most, want",
    [(0, 3, []), (2, 3, [0, 1]), (3, 3, [0, 1, 2]), (10, 2, [0, 9]), (11, 3, [0, 5, 10]), (5, 1, [0])],
)
def test_spread(count: int, most: int, want: list[int]) -> None:
    assert spread(count, most) == want


@pytest.mark.parametrize("count", [0, 1, 8, 9, 16, 17, 18, 100, 12_345])
def test_thinned(count: int) -> None:
    kept = thinned(iter(range(count)), MOST_FILES)
    assert kept == sorted(set(kept))
    assert kept[:1] == list(range(count))[:1]
    if count <= MOST_FILES:
        assert kept == list(range(count))
    else:
        assert MOST_FILES // 2 < len(kept) <= MOST_FILES
        gaps = [after - before for before, after in itertools.pairwise(kept)]
        assert max(gaps) <= 2 * min(gaps)
        assert count - kept[-1] <= max(gaps)


def facts_of(*blocks: int) -> FileFacts:
    return FileFacts(
        schema=None,
        blocks=tuple(Block(rows=rows, decoded_bytes=1, start=k, stop=k + 1) for k, rows in enumerate(blocks)),
    )


def test_segments_select_rows_of_some_blocks() -> None:
    files = [InputFile(path=f"/{name}", size_bytes=1, mtime_ns=0) for name in "ab"]
    segments = list(_segments([(files[0], facts_of(*[10] * 30)), (files[1], facts_of(0, 5))], 20))
    assert len({(each.file_number, each.start) for each in segments}) == len(segments) <= MOST_BLOCKS
    assert sum(each.rows for each in segments) == 20
    assert (segments[0].row_start, segments[-1].file.path, segments[-1].row_stop) == (0, "/b", 5)
    for each in segments:
        assert each.selected is not None
        assert all(each.row_start <= row < each.row_stop for row in each.selected)
        assert each.block_row == each.row_start


def test_segments_take_all_there_is() -> None:
    file = InputFile(path="/a", size_bytes=1, mtime_ns=0)
    (first, second) = _segments([(file, facts_of(3, 2))], 500)
    assert (first.selected, second.selected) == ((0, 1, 2), (3, 4))
