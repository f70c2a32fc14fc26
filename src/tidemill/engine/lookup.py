"""Rows of Parquet files by the values of columns, without reading what statistics exclude. Runs in children."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidemill.domain.errors import Damaged, InvalidSpec, NotFound

BATCH_ROWS = 65_536

Positions = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A column has a value. `value` is a scalar of the column's type, dictionaries taken as their values."""

    column: str
    value: pa.Scalar

    def holds(self, batch: pa.RecordBatch) -> pa.Array:
        """Which rows meet it; a null does not."""
        column = batch.column(self.column)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        return pc.fill_null(pc.equal(column, self.value), False)

    def may_hold(self, statistics: Any) -> bool:
        """Whether a column chunk with such statistics may hold the value."""
        if statistics is None or not statistics.has_min_max or not _is_ordered(self.value.type):
            return True
        value = self.value.as_py()
        return bool(statistics.min <= value <= statistics.max)


def _is_ordered(kind: pa.DataType) -> bool:
    """Whether Python orders values of the type as the statistics' minimum and maximum come to us."""
    return bool(
        pa.types.is_signed_integer(kind)
        or pa.types.is_float32(kind)
        or pa.types.is_float64(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_date32(kind)
    )


def conditions_of(where: Mapping[str, str], schema: pa.Schema) -> list[Condition]:
    """What a query means in these columns. Raises NotFound for an unknown column, InvalidSpec for a bad value."""
    return [Condition(column=name, value=_value(text, _field(name, schema))) for name, text in where.items()]


def _field(name: str, schema: pa.Schema) -> pa.Field:
    if schema.names.count(name) == 1:
        return schema.field(name)
    folded = {other.lower(): other for other in schema.names}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    hint = f"Did you mean {folded[close[0]]!r}?" if close else f"There are: {', '.join(schema.names[:20])}."
    raise NotFound(f"The result has no column {name!r}.", remedy=hint)


def _value(text: str, column: pa.Field) -> pa.Scalar:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_null(kind):
        raise InvalidSpec(
            f"Column {column.name!r} is {kind}: rows cannot be looked up by it.", remedy="Name another column."
        )
    whole = pa.types.is_integer(kind)
    try:
        if whole and not re.fullmatch(r"[+-]?[0-9]+", text):
            raise pa.ArrowInvalid(text)
        return pa.scalar(text.removeprefix("+") if whole else text, pa.string()).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
        raise InvalidSpec(
            f"{text[:100]!r} is not {kind}, the type of column {column.name!r}.",
            remedy="Give a value as it stands in the result.",
        ) from exc


def matches(path: str, conditions: Sequence[Condition]) -> Iterator[tuple[pa.RecordBatch, Positions]]:
    """Rows of a file that meet all conditions, with their numbers in the file; at most a batch at a time.

    The columns of the conditions are read first, the others only where a row was found.
    """
    try:
        with pq.ParquetFile(path) as file:
            first = 0
            for number in range(file.num_row_groups):
                rows = file.metadata.row_group(number).num_rows
                if _may_match(file, number, conditions):
                    found = _positions(file, number, conditions)
                    if len(found):
                        yield from ((batch, first + some) for batch, some in _rows_at(file, number, found))
                first += rows
    except FileNotFoundError as exc:
        raise NotFound(f"{path} is gone.", remedy="The result was removed or replaced.") from exc
    except (pa.ArrowException, OSError) as exc:
        raise Damaged(f"{path} cannot be read: {exc}.", remedy="See `tidemill verify`.") from exc


def _may_match(file: pq.ParquetFile, number: int, conditions: Sequence[Condition]) -> bool:
    group = file.metadata.row_group(number)
    leaves = {group.column(k).path_in_schema: group.column(k).statistics for k in range(group.num_columns)}
    return all(condition.may_hold(leaves.get(condition.column)) for condition in conditions)


def _positions(file: pq.ParquetFile, number: int, conditions: Sequence[Condition]) -> Positions:
    """Where in the row group the conditions hold."""
    names = sorted({condition.column for condition in conditions})
    found: list[Positions] = []
    start = 0
    for batch in file.iter_batches(BATCH_ROWS, row_groups=[number], columns=names, use_threads=False):
        mask = conditions[0].holds(batch)
        for condition in conditions[1:]:
            mask = pc.and_(mask, condition.holds(batch))
        found.append(np.flatnonzero(mask.to_numpy(zero_copy_only=False)) + start)
        start += batch.num_rows
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def _rows_at(file: pq.ParquetFile, number: int, wanted: Positions) -> Iterator[tuple[pa.RecordBatch, Positions]]:
    start = 0
    for batch in file.iter_batches(BATCH_ROWS, row_groups=[number], use_threads=False):
        low, high = np.searchsorted(wanted, [start, start + batch.num_rows]).tolist()
        if high > low:
            yield batch.take(pa.array(wanted[low:high] - start)), wanted[low:high]
        start += batch.num_rows
        if high == len(wanted):
            return
