"""Every source must pass this. Subclass `SourceContract`, say how to write a file, done."""

from __future__ import annotations

import os
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from tidemill.domain.errors import InputChanged, InputUnreadable
from tidemill.domain.plan import InputFile, Segment
from tidemill.ports.source import FileFacts, Rows, Source

ROWS = 1_000


@dataclass(frozen=True, kw_only=True)
class ReadBack:
    """All of a reading: `table` holds the rows that could be read, `numbers` their row numbers."""

    table: pa.Table
    numbers: list[int]
    unread: dict[int, tuple[str, str, bytes | None]]


def pin(path: Path) -> InputFile:
    """The file as a plan would name it."""
    found = path.stat()
    return InputFile(path=str(path), size_bytes=found.st_size, mtime_ns=found.st_mtime_ns)


def segment(file: InputFile, facts: FileFacts, start: int = 0, stop: int | None = None) -> Segment:
    """The segment that reads rows [start, stop) from as few blocks as possible."""
    stop = facts.rows if stop is None else stop
    row, touched, first_row = 0, [], None
    for block in facts.blocks:
        if row < stop and row + block.rows > start:
            touched.append(block)
            first_row = row if first_row is None else first_row
        row += block.rows
    return Segment(
        file_number=0,
        file=file,
        row_start=start,
        row_stop=stop,
        block_row=first_row or 0,
        start=touched[0].start if touched else 0,
        stop=touched[-1].stop if touched else 0,
    )


def collect(rows: Iterator[Rows], start: int, stop: int) -> ReadBack:
    """Gather a reading of rows [start, stop), holding every `Rows` to what its docstring promises."""
    batches: list[pa.RecordBatch] = []
    numbers: list[int] = []
    unread: dict[int, tuple[str, str, bytes | None]] = {}
    row = start
    for item in rows:
        assert item.row_start == row, "Rows must follow one another without gap or overlap"
        assert item.planned == item.batch.num_rows + len(item.unread)
        assert item.planned > 0
        own = list(range(row, row + item.planned)) if item.row_numbers is None else item.row_numbers.tolist()
        assert item.row_numbers is None or item.row_numbers.dtype == np.int64
        assert sorted([*own, *(bad.row for bad in item.unread)]) == list(range(row, row + item.planned))
        assert own == sorted(own)
        row += item.planned
        batches.append(item.batch)
        numbers.extend(own)
        unread.update({bad.row: (bad.error, bad.message, bad.raw) for bad in item.unread})
    assert row == stop, "every planned row must come"
    table = pa.Table.from_batches(batches) if batches else pa.table({})
    return ReadBack(table=table, numbers=numbers, unread=unread)


class SourceContract(ABC):
    """The exam. `small_blocks` are options under which `write` makes a file of several blocks."""

    source_class: ClassVar[type[Source]]
    small_blocks: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def write(self, path: Path, table: pa.Table) -> None:
        """Write a table with the columns `row` (int64), `text` (string, some null), `value` (double)."""

    @pytest.fixture
    def table(self) -> pa.Table:
        numbers = range(ROWS)
        return pa.table(
            {
                "row": pa.array(list(numbers), pa.int64()),
                "text": pa.array([None if n % 7 == 3 else f'té "{n}", x\ny' for n in numbers], pa.string()),
                "value": pa.array([n / 4 for n in numbers], pa.float64()),
            }
        )

    @pytest.fixture
    def file(self, tmp_path: Path, table: pa.Table) -> InputFile:
        path = tmp_path / f"data{self.source_class.suffixes[0]}"
        self.write(path, table)
        return pin(path)

    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        return self.source_class(self.small_blocks, tmp_path / "spool")

    @property
    def types(self) -> dict[str, str]:
        return {"row": "int64", "value": "double"}

    def read(
        self,
        source: Source,
        file: InputFile,
        columns: Sequence[str] = ("row", "text", "value"),
        start: int = 0,
        stop: int | None = None,
        batch_rows: int = 100,
    ) -> ReadBack:
        """Rows [start, stop) by a source made anew, as in a scorer."""
        facts = source.examine(file)
        stop = facts.rows if stop is None else stop
        part = pickle.loads(pickle.dumps(segment(file, facts, start, stop)))
        again = type(source)(pickle.loads(pickle.dumps(source.options)), source.spool)
        return collect(again.read(part, columns, self.types, batch_rows), start, stop)

    def test_recognises_its_own_files(self, file: InputFile) -> None:
        with open(file.path, "rb") as raw:
            assert self.source_class.matches(raw.read(1 << 16), file.path)

    def test_blocks_cover_every_row_once(self, source: Source, file: InputFile) -> None:
        facts = source.examine(file)
        assert facts.rows == ROWS
        assert len(facts.blocks) > 1
        assert all(block.rows > 0 and block.decoded_bytes > 0 for block in facts.blocks)
        assert all(a.stop <= b.start for a, b in zip(facts.blocks, facts.blocks[1:], strict=False))
        assert facts.schema.names == ["row", "text", "value"]

    def test_examines_the_same_way_twice(self, source: Source, file: InputFile) -> None:
        assert source.examine(file) == source.examine(file)

    def test_reads_every_row(self, source: Source, file: InputFile, table: pa.Table) -> None:
        found = self.read(source, file)
        assert found.numbers == list(range(ROWS))
        assert not found.unread
        assert found.table.to_pylist() == table.to_pylist()

    def test_blocks_read_alone_give_the_whole(self, source: Source, file: InputFile, table: pa.Table) -> None:
        rows: list[dict[str, Any]] = []
        for block in source.examine(file).blocks:
            rows += self.read(source, file, start=len(rows), stop=len(rows) + block.rows).table.to_pylist()
        assert rows == table.to_pylist()

    @pytest.mark.parametrize("start, stop", [(0, 1), (499, 501), (1, ROWS), (ROWS - 1, ROWS), (250, 777)])
    def test_reads_any_range(self, source: Source, file: InputFile, table: pa.Table, start: int, stop: int) -> None:
        found = self.read(source, file, start=start, stop=stop)
        assert found.table.to_pylist() == table.slice(start, stop - start).to_pylist()

    @pytest.mark.parametrize("stops", [(1, 2, 150, 700, ROWS), (333, ROWS), (300, 301)])
    def test_one_source_reads_one_range_after_the_other(
        self, source: Source, file: InputFile, table: pa.Table, stops: tuple[int, ...]
    ) -> None:
        """Chunks of one file follow one another in a scorer; a range may also come again, or lie before."""
        facts = source.examine(file)
        ranges = [*pairwise((0, *stops)), (0, 5), (50, 60), (70, 80), (stops[0], stops[1])]
        for start, stop in ranges:
            part = segment(file, facts, start, stop)
            found = collect(source.read(part, ["value", "text"], self.types, 40), start, stop)
            assert found.table.to_pylist() == table.slice(start, stop - start).select(["value", "text"]).to_pylist()

    def test_a_range_that_was_left_in_the_middle_harms_no_other(
        self, source: Source, file: InputFile, table: pa.Table
    ) -> None:
        facts = source.examine(file)
        rows = source.read(segment(file, facts, 0, 500), ["value"], self.types, 40)
        next(rows)
        rows.close()  # type: ignore[attr-defined]
        for start, stop in ((500, 600), (10, 30)):
            found = collect(source.read(segment(file, facts, start, stop), ["value"], self.types, 40), start, stop)
            assert found.table["value"].to_pylist() == table["value"].slice(start, stop - start).to_pylist()

    @pytest.mark.parametrize("columns", [("value", "row"), ("text",), ()])
    def test_reads_only_the_named_columns(self, source: Source, file: InputFile, columns: tuple[str, ...]) -> None:
        found = self.read(source, file, columns)
        assert found.table.column_names == list(columns)
        assert found.numbers == list(range(ROWS))

    @pytest.mark.parametrize("batch_rows", [1, 7, 1 << 20])
    def test_keeps_to_the_batch_size(self, source: Source, file: InputFile, batch_rows: int) -> None:
        part = segment(file, source.examine(file))
        sizes = [item.planned for item in source.read(part, ["row"], self.types, batch_rows)]
        assert sum(sizes) == ROWS
        assert max(sizes) <= batch_rows

    def test_types_are_the_files_or_the_plans(self, source: Source, file: InputFile) -> None:
        schema = self.read(source, file).table.schema
        assert [str(field.type) for field in schema] == ["int64", "string", "double"]

    def test_a_file_without_rows_has_no_rows(self, source: Source, tmp_path: Path, table: pa.Table) -> None:
        path = tmp_path / f"none{self.source_class.suffixes[0]}"
        self.write(path, table.slice(0, 0))
        facts = source.examine(pin(path))
        assert facts.rows == 0
        assert list(source.read(segment(pin(path), facts), facts.schema.names, {}, 10)) == []

    def test_a_file_that_changes_between_two_ranges_is_refused(self, source: Source, file: InputFile) -> None:
        facts = source.examine(file)
        collect(source.read(segment(file, facts, 0, 300), ["row"], self.types, 100), 0, 300)
        _change(file.path, "touched")
        with pytest.raises(InputChanged, match=r"data\."):
            list(source.read(segment(file, facts, 300, 600), ["row"], self.types, 100))

    @pytest.mark.parametrize("change", ["longer", "touched", "gone"])
    def test_a_changed_file_is_refused(self, source: Source, file: InputFile, change: str) -> None:
        part = segment(file, source.examine(file))
        _change(file.path, change)
        with pytest.raises(InputChanged, match=r"data\."):
            list(source.read(part, ["row"], self.types, 100))
        with pytest.raises(InputChanged, match=r"data\."):
            source.examine(file)

    def test_a_file_that_changes_while_it_is_read_is_refused(self, source: Source, file: InputFile) -> None:
        part = segment(file, source.examine(file))
        rows = source.read(part, ["row"], self.types, 100)
        got = next(rows).planned
        _change(file.path, "touched")
        with pytest.raises(InputChanged) as caught:
            got += sum(item.planned for item in rows)
        assert caught.value.remedy
        assert got < ROWS

    def test_a_link_that_came_after_the_plan_is_not_followed(self, file: InputFile, tmp_path: Path) -> None:
        """Whoever may write beside an input must not make a job read what its owner may not."""
        place, elsewhere = tmp_path / "place", tmp_path / "elsewhere"
        place.mkdir()
        path = place / os.path.basename(file.path)
        os.rename(file.path, path)
        planned = replace(pin(path), real_path=str(path))
        source, late = (self.source_class(self.small_blocks, tmp_path / f"spool-{n}") for n in range(2))
        part = segment(planned, source.examine(planned))
        place.rename(elsewhere)
        place.symlink_to(elsewhere)
        with pytest.raises(InputChanged, match="leads to another file"):
            late.examine(planned)
        if not (tmp_path / "spool-0").exists():  # Else it reads the copy that it made when it was allowed to.
            with pytest.raises(InputChanged, match="leads to another file"):
                list(source.read(part, ["row"], self.types, 100))

    def test_a_missing_column_is_named(self, source: Source, file: InputFile) -> None:
        part = segment(file, source.examine(file))
        if source.typed:
            with pytest.raises(InputUnreadable, match="nowhere"):
                list(source.read(part, ["row", "nowhere"], {}, 100))


def _change(path: str, how: str) -> None:
    if how == "gone":
        os.unlink(path)
    elif how == "longer":
        with open(path, "ab") as file:
            file.write(b"x")
    else:
        found = os.stat(path)
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
