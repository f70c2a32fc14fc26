"""Where chunks begin and end: a pure function of blocks and constants.

Borders decide bytes, so nothing measured may enter here. Blocks (row groups, spans of text) are kept
whole where that is cheap: reading from the middle of one means to read and drop what lies before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from tidemill.domain.plan import Block, Chunk, InputFile, Segment
from tidemill.domain.signature import Layout, ModelInfo

MAX_FILES_PER_CHUNK = 1_000
MAX_FILES_HELD = 10_000
"""While chunks are still doubled. With more files they get their full size at once: a plan is not held in memory."""
BYTES_PER_CHUNK = 256 << 20
WHOLE_BLOCK_FACTOR = 4
"""A block up to so many times the target stays whole."""
ALIGNED_ROWS = 16_384
"""Larger pieces of a block begin at multiples of this: most batches are then read as they lie."""


LEAST_CHUNKS: dict[Layout, tuple[int, int]] = {"threads": (65_536, 64), "processes": (16_384, 128)}
"""With how many rows chunks begin where the job is small, and how many there may be before they grow. All threads of a
process work at one chunk, but every process at one of its own: the last ones, and those in flight when the job is
killed, weigh more there."""


@dataclass(frozen=True, kw_only=True)
class Borders:
    """Targets of a chunk.

    With `least_rows`, chunks begin so small and are doubled, all of them, while there are more than `chunks` and they
    have not `rows` yet: so there are enough of them for every scorer, and a scorer that dies loses little. `exact`
    cuts after precisely `rows` rows, wherever that falls.
    """

    rows: int
    least_rows: int | None = None
    chunks: int = 64
    decoded_bytes: int = BYTES_PER_CHUNK
    exact: bool = False


Rows = int | Literal["auto"]
"""A number that was asked for, or none."""


def borders_of(model: ModelInfo, *, rows_per_chunk: Rows = "auto", batch_rows: Rows = "auto") -> Borders:
    """What a job's chunks are to be like. They are not smaller than a batch, unless that was asked for."""
    if rows_per_chunk != "auto":
        return Borders(rows=rows_per_chunk, exact=True)
    least, chunks = LEAST_CHUNKS[model.layout]
    batch = model.batch_rows if batch_rows == "auto" else batch_rows
    return Borders(rows=model.rows_per_chunk, least_rows=max(least, batch), chunks=chunks)


@dataclass(frozen=True)
class _Piece:
    file_number: int
    file: InputFile
    block: Block
    block_row: int
    row_start: int
    row_stop: int

    @property
    def decoded_bytes(self) -> int:
        share = (self.row_stop - self.row_start) / max(self.block.rows, 1)
        return int(self.block.decoded_bytes * share)

    def segment(self) -> Segment:
        return Segment(
            file_number=self.file_number,
            file=self.file,
            row_start=self.row_start,
            row_stop=self.row_stop,
            block_row=self.block_row,
            start=self.block.start,
            stop=self.block.stop,
        )


@dataclass
class _Run:
    """Segments that follow each other: what becomes a chunk."""

    segments: list[Segment] = field(default_factory=list)
    rows: int = 0
    decoded_bytes: int = 0

    def is_full(self, rows: int, borders: Borders) -> bool:
        return self.rows >= rows or (self.decoded_bytes >= borders.decoded_bytes and not borders.exact)

    def has_room(self, file_number: int, segments: int = 1) -> bool:
        """For so many segments of which the first is of that file."""
        joined = bool(self.segments) and self.segments[-1].file_number == file_number
        return len(self.segments) + segments - joined <= MAX_FILES_PER_CHUNK

    def add(self, segments: Sequence[Segment], decoded_bytes: int) -> None:
        for segment in segments:
            last = self.segments[-1] if self.segments else None
            if last and last.file_number == segment.file_number and last.row_stop == segment.row_start:
                self.segments[-1] = replace(last, row_stop=segment.row_stop, stop=segment.stop)
            else:
                self.segments.append(segment)
            self.rows += segment.rows
        self.decoded_bytes += decoded_bytes


def cut_chunks(files: Iterable[tuple[int, InputFile, Iterable[Block]]], borders: Borders) -> Iterator[Chunk]:
    """Chunks over (file number, file, its blocks), in order; every row of every block once.

    Without any row there is one chunk without segments: its part gives the output its columns.
    """
    if borders.least_rows is None or borders.least_rows >= borders.rows:
        runs = _runs(files, borders)
    else:
        runs = _doubled(_runs(files, replace(borders, rows=borders.least_rows)), borders.least_rows, borders)
    number = -1
    for number, run in enumerate(runs):
        yield Chunk(number=number, segments=tuple(run.segments))
    if number < 0:
        yield Chunk(number=0, segments=())


def _runs(files: Iterable[tuple[int, InputFile, Iterable[Block]]], borders: Borders) -> Iterator[_Run]:
    run = _Run()
    for piece in _pieces(files, borders):
        if not run.has_room(piece.file_number):
            yield run
            run = _Run()
        for part in _fit(piece, borders.rows - run.rows, borders):
            run.add([part.segment()], part.decoded_bytes)
            if run.is_full(borders.rows, borders):
                yield run
                run = _Run()
    if run.segments:
        yield run


def _doubled(runs: Iterator[_Run], rows: int, borders: Borders) -> Iterator[_Run]:
    """Join runs of `rows` rows to ones of twice as many, again and again, while they are too many."""
    held: list[_Run] = []
    files = 0
    for run in runs:
        _join(held, run, rows, borders)
        files += len(run.segments)
        while rows < borders.rows and (len(held) > borders.chunks or files > MAX_FILES_HELD):
            rows, before, held = min(2 * rows, borders.rows), held, []
            for earlier in before:
                _join(held, earlier, rows, borders)
        if rows == borders.rows:
            yield from held[:-1]
            del held[:-1]
    yield from held


def _join(held: list[_Run], run: _Run, rows: int, borders: Borders) -> None:
    last = held[-1] if held else None
    if last and not last.is_full(rows, borders) and last.has_room(run.segments[0].file_number, len(run.segments)):
        last.add(run.segments, run.decoded_bytes)
    else:
        held.append(run)


def _pieces(files: Iterable[tuple[int, InputFile, Iterable[Block]]], borders: Borders) -> Iterator[_Piece]:
    for file_number, file, blocks in files:
        row = 0
        for block in blocks:
            count = _split_count(block, borders)
            for k in range(count):
                start, stop = (row + _aligned(block.rows * j // count, block, count) for j in (k, k + 1))
                if stop > start:
                    yield _Piece(file_number, file, block, row, start, stop)
            row += block.rows


def _aligned(row: int, block: Block, count: int) -> int:
    """The border nearest to a row of a block that is cut into so many pieces."""
    if row == block.rows or block.rows < 2 * ALIGNED_ROWS * count:
        return row
    return round(row / ALIGNED_ROWS) * ALIGNED_ROWS


def _split_count(block: Block, borders: Borders) -> int:
    if borders.exact:
        return 1
    most = max(
        block.rows / (borders.rows * WHOLE_BLOCK_FACTOR),
        block.decoded_bytes / (borders.decoded_bytes * WHOLE_BLOCK_FACTOR),
    )
    return max(1, min(block.rows, -int(-most // 1)))


def _fit(piece: _Piece, room: int, borders: Borders) -> Iterator[_Piece]:
    if not borders.exact:
        yield piece
        return
    start = piece.row_start
    while start < piece.row_stop:
        stop = min(piece.row_stop, start + room)
        yield _Piece(piece.file_number, piece.file, piece.block, piece.block_row, start, stop)
        start, room = stop, borders.rows


def cut_selected(
    files: Iterable[tuple[int, InputFile, Iterable[Block], Sequence[int]]], borders: Borders
) -> Iterator[Chunk]:
    """Chunks over (file number, file, its blocks, the rows wanted of it, ascending), in order.

    Only blocks with such rows are read. A chunk has at most `borders.rows` wanted rows, and ends once
    what must be decoded for them passes `borders.decoded_bytes`.
    """
    number, rows, size = 0, 0, 0
    segments: list[Segment] = []
    for piece in _selected_pieces(files):
        taken = 0
        while taken < len(piece.wanted):
            if len(segments) >= MAX_FILES_PER_CHUNK and not piece.continues(segments[-1]):
                yield Chunk(number=number, segments=tuple(segments))
                number, rows, size, segments = number + 1, 0, 0, []
            some = piece.wanted[taken : taken + borders.rows - rows]
            piece.append(segments, some)
            taken, rows, size = taken + len(some), rows + len(some), size + piece.block.decoded_bytes
            if rows >= borders.rows or size >= borders.decoded_bytes:
                yield Chunk(number=number, segments=tuple(segments))
                number, rows, size, segments = number + 1, 0, 0, []
    if segments or number == 0:
        yield Chunk(number=number, segments=tuple(segments))


@dataclass(frozen=True)
class _SelectedPiece:
    """The wanted rows of one block; there is at least one."""

    file_number: int
    file: InputFile
    block: Block
    block_row: int
    wanted: tuple[int, ...]

    def continues(self, last: Segment) -> bool:
        """Whether that segment ends where this block begins."""
        return last.file_number == self.file_number and last.stop == self.block.start

    def append(self, segments: list[Segment], some: tuple[int, ...]) -> None:
        """Add these of the wanted rows, to the last segment if it ends where this block begins."""
        if segments and self.continues(segments[-1]):
            last = segments[-1]
            selected = (*(last.selected or ()), *some)
            segments[-1] = replace(last, row_stop=some[-1] + 1, stop=self.block.stop, selected=selected)
            return
        segments.append(
            Segment(
                file_number=self.file_number,
                file=self.file,
                row_start=some[0],
                row_stop=some[-1] + 1,
                block_row=self.block_row,
                start=self.block.start,
                stop=self.block.stop,
                selected=some,
            )
        )


def _selected_pieces(
    files: Iterable[tuple[int, InputFile, Iterable[Block], Sequence[int]]],
) -> Iterator[_SelectedPiece]:
    for file_number, file, blocks, wanted in files:
        row = first = 0
        for block in blocks:
            last = bisect_left(wanted, row + block.rows, first)
            if last > first:
                yield _SelectedPiece(file_number, file, block, row, tuple(wanted[first:last]))
            row, first = row + block.rows, last
