"""What the writers of all formats share: one durable file, poisoned by its first failure, cut by row count."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.domain.errors import InvalidSpec, OutputUnwritable, TidemillError
from tidemill.durable.files import DurableFile, fsync_folder, remove_file, translated, unwritable
from tidemill.ports.encoder import PartWriter, Written

METADATA_PREFIX = "tidemill."

_OF_THE_SINK = frozenset({"single_file", "mode"})


def check_options(name: str, options: Mapping[str, Any], known: Mapping[str, Sequence[Any]]) -> None:
    """Raise InvalidSpec for an option or value that a format does not know; those of the sink pass."""
    for option, value in options.items():
        if option in _OF_THE_SINK:
            continue
        if option not in known:
            raise InvalidSpec(
                f"The output format {name} has no option {option!r}.", remedy=f"It knows: {', '.join(known)}."
            )
        if value not in known[option]:
            allowed = ", ".join("none" if each is None else str(each) for each in known[option])
            raise InvalidSpec(f"{option}={value!r} is not possible for {name}.", remedy=f"Choose one of: {allowed}.")


def repeated_names(schema: pa.Schema) -> frozenset[str]:
    """Names that more than one column has."""
    return frozenset(name for name, count in Counter(schema.names).items() if count > 1)


def named_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata as it stands in a file: each key once prefixed, in order of keys."""
    return {METADATA_PREFIX + key.removeprefix(METADATA_PREFIX): metadata[key] for key in sorted(metadata)}


class FileWriter(PartWriter):
    """A `PartWriter` on a DurableFile. Members fill in `_begin`, `_append` and `_end`."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self._file = DurableFile(path)
        self._rows = 0
        self._failure: TidemillError | None = None

    def begin(self) -> Self:
        """Write the file's beginning; if that fails the file is gone."""
        try:
            with self._poisoning():
                self._begin()
        except BaseException:
            self._file.discard()
            raise
        return self

    def write(self, batch: pa.RecordBatch) -> None:
        with self._poisoning():
            self._append(pa.RecordBatch.from_arrays(batch.columns, schema=self.schema))
            self._rows += batch.num_rows

    def close(self) -> Written:
        with self._poisoning():
            self._end()
            sha256 = self._file.commit()
        return Written(rows=self._rows, size_bytes=self._file.size_bytes, sha256=sha256)

    def abort(self) -> None:
        self._fail(self._failure or OutputUnwritable(f"{self._file.path} was given up."))
        self._file.discard()

    def _begin(self) -> None:
        """Write what the format wants at its start."""

    @abstractmethod
    def _append(self, batch: pa.RecordBatch) -> None:
        """Write rows of exactly `self.schema`."""

    @abstractmethod
    def _end(self) -> None:
        """Write what is still held back and what the format wants at its end."""

    def _drop(self) -> None:
        """Keep the library's writer from ending a file that failed. Never raises."""

    def _fail(self, failure: TidemillError) -> TidemillError:
        self._failure = failure
        self._drop()
        return failure

    @contextmanager
    def _poisoning(self) -> Iterator[None]:
        if self._failure:
            raise self._failure
        try:
            yield
        except TidemillError as exc:
            self._fail(exc)
            raise
        except OSError as exc:
            raise self._fail(unwritable(self._file.path, exc)) from exc
        except (pa.ArrowException, ValueError, OverflowError) as exc:
            failure = OutputUnwritable(
                f"Cannot write {self._file.path}: {exc}.",
                remedy="Choose another output format, or --keep without that column.",
            )
            raise self._fail(failure) from exc


class Recutter:
    """Cuts rows into tables of a fixed number of rows, whatever batches they come in.

    Rows that are large make smaller tables: after a multiple of `step_rows`, where the values passed
    `max_bytes`. Both depend on the rows alone, so equal rows give equal tables.
    """

    def __init__(self, schema: pa.Schema, *, rows: int, step_rows: int, max_bytes: int) -> None:
        self._schema = schema
        self._rows = rows
        self._step_rows = step_rows
        self._max_bytes = max_bytes
        self._steps: list[pa.RecordBatch] = []
        self._step_rows_held = 0
        self._held_rows = 0
        self._held_bytes = 0

    def add(self, batch: pa.RecordBatch) -> Iterator[pa.Table]:
        """Take rows in; gives the tables that became full."""
        start = 0
        while start < batch.num_rows:
            piece = batch.slice(start, self._step_rows - self._step_rows_held)
            start += piece.num_rows
            self._steps.append(piece)
            self._step_rows_held += piece.num_rows
            self._held_rows += piece.num_rows
            self._held_bytes += sum(value_bytes(column) for column in piece.columns)
            if self._step_rows_held == self._step_rows:
                self._step_rows_held = 0
                if self._held_rows >= self._rows or self._held_bytes >= self._max_bytes:
                    yield self._cut()

    def rest(self) -> Iterator[pa.Table]:
        """The last, smaller table, if there are rows left."""
        if self._held_rows:
            yield self._cut()

    def _cut(self) -> pa.Table:
        table = pa.Table.from_batches(self._steps, schema=self._schema)
        self._steps = []
        self._step_rows_held = self._held_rows = self._held_bytes = 0
        return pa.table([_contiguous(column) for column in table.columns], schema=self._schema)


def value_bytes(array: pa.Array) -> int:
    """How many bytes the values take, by the values alone: not by slices, bitmaps or spare buffers."""
    kind = array.type
    if not len(array):
        return 0
    if pa.types.is_dictionary(kind):
        return 4 * len(array)
    if isinstance(array, pa.ExtensionArray):
        return value_bytes(array.storage)
    if pa.types.is_struct(kind):
        return len(array) + sum(value_bytes(child) for child in array.flatten())
    if pa.types.is_map(kind):
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return 4 * len(array) + sum(value_bytes(each.slice(first, last - first)) for each in (array.keys, array.items))
    if any(is_kind(kind) for is_kind in _LISTS):
        return 4 * len(array) + value_bytes(array.flatten())
    if any(is_kind(kind) for is_kind in _LONG):
        return 4 * len(array) + (pc.sum(pc.binary_length(array)).as_py() or 0)
    try:
        return int(len(array) * kind.bit_width // 8)
    except ValueError:
        return len(array)


_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_LONG = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)


def _contiguous(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """One chunk whose content depends on the values alone; more only where Arrow's offsets end."""
    kind = column.type
    if pa.types.is_dictionary(kind) and not kind.ordered:
        # Dictionaries differ by batch: made anew, in order of first appearance.
        column = column.cast(kind.value_type).combine_chunks()
        return pa.chunked_array([column.dictionary_encode().cast(kind)], type=kind)
    if pa.types.is_dictionary(kind):
        column = column.unify_dictionaries()
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.ChunkedArray) else pa.chunked_array([combined], type=kind)


def write_whole(target: Path, fill: Callable[[Path], Written]) -> Written:
    """Make a file under a scratch name beside `target` and rename it when it is whole and durable."""
    scratch = target.with_name(f".{target.name}.partial")
    with translated(target):
        remove_file(scratch)
        try:
            written = fill(scratch)
            os.rename(scratch, target)
        except BaseException:
            remove_file(scratch)
            raise
        fsync_folder(target.parent)
    return written


def write_batches(writer: PartWriter, batches: Iterator[pa.RecordBatch]) -> Written:
    """Write all, close; after any error the file is gone."""
    try:
        for batch in batches:
            writer.write(batch)
        return writer.close()
    except BaseException:
        writer.abort()
        raise
