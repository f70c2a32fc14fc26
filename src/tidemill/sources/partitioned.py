"""Any source, and the columns that the names of folders add to its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.domain.errors import InputUnreadable
from tidemill.domain.partition import is_integer, partitions_of
from tidemill.domain.plan import InputFile, Segment
from tidemill.ports.source import FileFacts, Rows, Source
from tidemill.registry import sources
from tidemill.sources.cast import arrow_type
from tidemill.sources.text import option

OPTION = "partitions"


def open_source(
    name: str, options: Mapping[str, Any], spool: Path | None, partitions: Mapping[str, str] | None = None
) -> Source:
    """The source of that name. The option `partitions` (true) says whether folder names are columns;
    `partitions` are their types, once the plan has settled them. Raises InvalidSpec, MissingExtra."""
    own = {key: value for key, value in options.items() if key != OPTION}
    source = sources.get(name)(own, spool)
    return PartitionedSource(source, partitions) if option(options, OPTION, bool, True) else source


class PartitionedSource(Source):
    """Reads as the source within; a partition is int64 if all values that were seen are whole numbers, else string."""

    def __init__(self, within: Source, partitions: Mapping[str, str] | None = None) -> None:
        super().__init__(within.options, within.spool)
        self.within = within
        # Instances of one class stand for all formats: what a format is, they say themselves.
        for fact in ("name", "suffixes", "typed", "casts_text", "mixes", "fixed_columns", "encodes"):
            setattr(self, fact, getattr(within, fact))
        self._known = dict(partitions or {})
        self._valued: set[str] = set()
        self.partitions = self._known

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        return False

    def examine(self, file: InputFile, *, infer: bool = False) -> FileFacts:
        facts = self.within.examine(file, infer=infer)
        values = partitions_of(file.path)
        twice = [name for name in values if name in facts.schema.names]
        if twice:
            raise InputUnreadable(
                f"{file.path} has a column {twice[0]!r}, and so have the folders that it lies in.",
                remedy="Rename one of them; or say --input-option partitions=false, and folders add no columns.",
            )
        for name, value in values.items():
            self._learn(name, value)
        if not values or (not len(facts.schema) and not facts.rows):
            return facts
        return replace(facts, schema=pa.schema([*facts.schema, *((name, pa.string()) for name in values)]))

    def _learn(self, name: str, value: str | None) -> None:
        before = self._known.setdefault(name, "string")
        if value is not None:
            stays = name not in self._valued or before == "int64"
            self._valued.add(name)
            self._known[name] = "int64" if stays and is_integer(value) else "string"

    def read(
        self, segment: Segment, columns: Sequence[str], types: Mapping[str, str], batch_rows: int
    ) -> Iterator[Rows]:
        values = {name: value for name, value in partitions_of(segment.file.path).items() if name in columns}
        if not values:
            yield from self.within.read(segment, columns, types, batch_rows)
            return
        scalars = {
            name: pc.cast(pa.scalar(value, pa.string()), arrow_type(types.get(name) or self.partitions[name]))
            for name, value in values.items()
        }
        own = [name for name in columns if name not in values]
        for rows in self.within.read(segment, own, types, batch_rows):
            count = rows.planned - len(rows.unread)
            arrays = [pa.repeat(scalars[name], count) if name in scalars else rows.batch[name] for name in columns]
            yield replace(rows, batch=pa.RecordBatch.from_arrays(arrays, names=list(columns)))

    def cast_text(self, column: pa.Array, wanted: pa.DataType) -> tuple[pa.Array, Sequence[int]]:
        return self.within.cast_text(column, wanted)
