"""Where chunks begin and end: a pure function of blocks and constants.

Borders decide bytes, so nothing measured may enter here. Blocks (row groups, spans of text) are kept
whole where that is cheap: reading from the middle of one means to read and drop what lies before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tidemill.domain.plan import Block, Chunk, InputFile, Segment

MAX_FILES_PER_CHUNK = 1_000
BYTES_PER_CHUNK = 256 << 20
WHOLE_BLOCK_FACTOR = 4
"""A block up to so many times the target stays whole."""


@dataclass(frozen=True, kw_only=True)
class Borders:
    """Targets of a chunk. `exact` cuts after precisely `rows` rows, wherever that falls."""

    rows: int
    decoded_bytes: int = BYTES_PER_CHUNK
    exact: bool = False


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


def cut_chunks(files: Iterable[tuple[int, InputFile, Iterable[Block]]], borders: Borders) -> Iterator[Chunk]:
    """Chunks over (file number, file, its blocks), in order; every row of every block once.

    Without any row there is one chunk without segments: its part gives the output its columns.
    """
    number, rows, size = 0, 0, 0
    segments: list[Segment] = []
    for piece in _pieces(files, borders):
        opens_file = not segments or segments[-1].file_number != piece.file_number
        if segments and opens_file and len(segments) >= MAX_FILES_PER_CHUNK:
            yield Chunk(number=number, segments=tuple(segments))
            number, rows, size, segments = number + 1, 0, 0, []
        for part in _fit(piece, borders.rows - rows, borders):
            _append(segments, part)
            rows, size = rows + part.row_stop - part.row_start, size + part.decoded_bytes
            if rows >= borders.rows or (size >= borders.decoded_bytes and not borders.exact):
                yield Chunk(number=number, segments=tuple(segments))
                number, rows, size, segments = number + 1, 0, 0, []
    if segments or number == 0:
        yield Chunk(number=number, segments=tuple(segments))


def _pieces(files: Iterable[tuple[int, InputFile, Iterable[Block]]], borders: Borders) -> Iterator[_Piece]:
    for file_number, file, blocks in files:
        row = 0
        for block in blocks:
            count = _split_count(block, borders)
            for k in range(count):
                start, stop = row + block.rows * k // count, row + block.rows * (k + 1) // count
                if stop > start:
                    yield _Piece(file_number, file, block, row, start, stop)
            row += block.rows


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


def _append(segments: list[Segment], piece: _Piece) -> None:
    if segments:
        last = segments[-1]
        if last.file_number == piece.file_number and last.row_stop == piece.row_start:
            segments[-1] = Segment(
                file_number=last.file_number,
                file=last.file,
                row_start=last.row_start,
                row_stop=piece.row_stop,
                block_row=last.block_row,
                start=last.start,
                stop=piece.block.stop,
            )
            return
    segments.append(
        Segment(
            file_number=piece.file_number,
            file=piece.file,
            row_start=piece.row_start,
            row_stop=piece.row_stop,
            block_row=piece.block_row,
            start=piece.block.start,
            stop=piece.block.stop,
        )
    )


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
