"""Text to typed columns, and the types that text seems to have."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.domain.errors import InvalidSpec
from tidemill.kernels.delimited import MissingValues
from tidemill.ports.source import Source, UnreadRow

MAX_VALUE_CHARS = 100
MAX_RAW_BYTES = 4096

PANDAS_NULLS = (
    "", " ", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
    "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
_PANDAS_BOOLS = ("True", "TRUE", "true", "False", "FALSE", "false")


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type that prints as `name`. Raises InvalidSpec."""
    if found := re.fullmatch(r"timestamp\[(s|ms|us|ns), tz=(.+)\]", name):
        return pa.timestamp(found[1], found[2])
    if found := re.fullmatch(r"decimal(128|256)\((\d+), ?(-?\d+)\)", name):
        build = pa.decimal128 if found[1] == "128" else pa.decimal256
        return build(int(found[2]), int(found[3]))
    try:
        return pa.type_for_alias(name)
    except ValueError as exc:
        raise InvalidSpec(
            f"There is no type {name!r}.", remedy='Use an Arrow type such as "double", "int64", "string", "bool".'
        ) from exc


class NullValues:
    """Texts that are missing values in columns with a type."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = pa.array(list(texts), pa.string())
        numbers = (_try_cast(self.texts.slice(place, 1), pa.float64()) for place in range(len(texts)))
        self.numeric = any(number is not None and not np.isnan(number[0].as_py()) for number in numbers)
        """Whether some are numbers, as -999 is: then a value that casts may be missing all the same."""
        self.plain = MissingValues([text.encode() for text in texts], numeric=self.numeric)
        """The same, for kernels."""


class Caster:
    """Turns the columns that have a type in the plan from text, row by row: rows that fail are left out."""

    def __init__(self, columns: Sequence[str], types: Mapping[str, str], nulls: NullValues) -> None:
        self.targets = {name: arrow_type(types[name]) for name in columns if types.get(name, "any") != "any"}
        self.nulls = nulls
        for name, target in self.targets.items():
            try:
                pc.cast(pa.array([], pa.string()), target)
            except pa.ArrowNotImplementedError as exc:
                raise InvalidSpec(
                    f"Text cannot become {target}, the type of column {name!r}.",
                    remedy="Choose another type for it, or give the input as Parquet.",
                ) from exc

    def cast(
        self, batch: pa.RecordBatch, numbers: np.ndarray[Any, Any]
    ) -> tuple[pa.RecordBatch, np.ndarray[Any, Any], list[UnreadRow]]:
        """The rows that cast, their numbers, and the others with the first column that failed."""
        failures: dict[int, tuple[str, str]] = {}
        arrays = []
        for field, array in zip(batch.schema, batch.columns, strict=True):
            target = self.targets.get(field.name)
            if target is not None and (array.type != target or pa.types.is_string(target)):
                array, failed = cast_feature(array, target, self.nulls)
                for position in failed:
                    failures.setdefault(position, (field.name, str(target)))
            arrays.append(array)
        # Without columns there is no array to tell the number of rows.
        result = pa.RecordBatch.from_arrays(arrays, names=batch.schema.names) if arrays else batch
        if not failures:
            return result, numbers, []
        good = np.ones(batch.num_rows, bool)
        good[list(failures)] = False
        unread = [
            _failure(batch.slice(position, 1), int(numbers[position]), *failures[position])
            for position in sorted(failures)
        ]
        return result.filter(pa.array(good)), numbers[good], unread


def _failure(row: pa.RecordBatch, number: int, column: str, target: str) -> UnreadRow:
    values = row.to_pylist()[0]
    text = str(values[column])
    shown = text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}..."
    return UnreadRow(
        row=number,
        error="ConversionError",
        message=f"Column {column!r}: {shown!r} is not {target}.",
        raw=json.dumps(values, ensure_ascii=False).encode()[:MAX_RAW_BYTES],
    )


def cast_text(array: pa.Array, target: pa.DataType, nulls: NullValues) -> tuple[pa.Array, list[int]]:
    """Cast strings. Missing values become null; so do values that do not cast, whose positions are returned."""
    if pa.types.is_string(target) or pa.types.is_large_string(target):
        return pc.cast(_nullify(array, array, nulls), target), []
    result = _try_cast(array, target)
    if result is not None and not (pa.types.is_integer(target) and _has_x(array)):
        if nulls.numeric or (pa.types.is_floating(target) and _any(pc.is_nan(result))):
            result = _nullify(result, array, nulls)
        return result, []
    text = _normalised(array, target, nulls)
    pieces: list[pa.Array] = []
    failed: list[int] = []
    _cast_by_halves(text, target, 0, pieces, failed)
    return pa.concat_arrays(pieces), failed


def cast_feature(array: pa.Array, target: pa.DataType, nulls: NullValues) -> tuple[pa.Array, list[int]]:
    """As `cast_text`, but truth values are numbers too: a model that was trained on them wants 1 and 0."""
    result, failed = cast_text(array, target, nulls)
    if not failed or not (pa.types.is_integer(target) or pa.types.is_floating(target)):
        return result, failed
    text = pc.replace_substring_regex(array, r"^\s*(?:True|TRUE|true)\s*$", "1")
    return cast_text(pc.replace_substring_regex(text, r"^\s*(?:False|FALSE|false)\s*$", "0"), target, nulls)


def _try_cast(array: pa.Array, target: pa.DataType) -> pa.Array | None:
    try:
        return pc.cast(array, target)
    except pa.ArrowInvalid:
        return None


def _cast_by_halves(text: pa.Array, target: pa.DataType, start: int, pieces: list[pa.Array], failed: list[int]) -> None:
    result = _try_cast(text, target)
    if result is not None:
        pieces.append(result)
    elif len(text) == 1:
        pieces.append(pa.nulls(1, target))
        failed.append(start)
    else:
        middle = len(text) // 2
        _cast_by_halves(text.slice(0, middle), target, start, pieces, failed)
        _cast_by_halves(text.slice(middle), target, start + middle, pieces, failed)


def _normalised(array: pa.Array, target: pa.DataType, nulls: NullValues) -> pa.Array:
    """Spaces, a plus sign, and the `.0` that tools write behind integers do not make a value wrong."""
    text = pc.utf8_trim_whitespace(array)
    text = _nullify(text, text, nulls)
    if pa.types.is_integer(target):
        # Arrow would read 0x1F as a number; nobody who writes CSV means that.
        text = pc.replace_substring_regex(text, r"^(.*[xX])", r"not a decimal: \1")
        text = pc.replace_substring_regex(text, r"^([+-]?\d+)\.0*$", r"\1")
    if pa.types.is_integer(target) or pa.types.is_floating(target):
        text = pc.replace_substring_regex(text, r"^\+(\d|\.)", r"\1")
    return text


def _nullify(values: pa.Array, text: pa.Array, nulls: NullValues) -> pa.Array:
    missing = pc.is_in(text, value_set=nulls.texts)
    return pc.if_else(missing, pa.scalar(None, values.type), values) if _any(missing) else values


def _any(mask: pa.Array) -> bool:
    return bool(pc.any(mask).as_py())


class Inference:
    """The type that pandas would give a text column, learned piece by piece.

    Integers beyond 64 bits count as double; integers beside missing values do too.
    """

    def __init__(self, nulls: NullValues) -> None:
        self.nulls = nulls
        self._kind = "null"
        self._missing = False

    def learn(self, array: pa.Array) -> None:
        """Look at more values of the column, as text."""
        if self.final or self._confirms(array):
            return
        valid = pc.drop_null(_nullify(array, array, self.nulls))
        self.learn_kind(_kind_of(valid, self._kind), missing=len(valid) < len(array))

    def _confirms(self, array: pa.Array) -> bool:
        """Whether the values are what those before them were, as they mostly are: to know that costs one cast."""
        if self._kind == "double":
            return _try_cast(array, pa.float64()) is not None
        if self._kind != "int64" or self.nulls.numeric or not _is_int64(array):
            return False
        self._missing |= array.null_count > 0
        return True

    def learn_kind(self, kind: str, *, missing: bool) -> None:
        """Take in what is known of more values: their type, and whether some are missing."""
        self._kind = Source.merge_types(self._kind, kind)
        self._missing |= missing

    @property
    def final(self) -> bool:
        """Whether nothing that comes can change the type."""
        return self._kind == "string"

    @property
    def kind(self) -> str:
        """null, int64, double, bool or string."""
        return "double" if self._kind == "int64" and self._missing else self._kind


def _kind_of(valid: pa.Array, known: str) -> str:
    """The type of values that are all there; what the column's earlier values were saves trying less."""
    if not len(valid):
        return "null"
    if known != "double" and _is_int64(valid):
        return "int64"
    if _try_cast(valid, pa.float64()) is not None:
        # Only now is it worth looking for integers that are written with a sign or spaces.
        return "int64" if known != "double" and _is_int64(_trimmed(valid)) else "double"
    if _is_int64(_trimmed(valid)):
        return "int64"
    if _try_cast(_trimmed(valid), pa.float64()) is not None:
        return "double"
    return "bool" if pc.all(pc.is_in(valid, value_set=pa.array(_PANDAS_BOOLS))).as_py() else "string"


_NO_NULLS = NullValues(())


def _is_int64(valid: pa.Array) -> bool:
    return _try_cast(valid, pa.int64()) is not None and not _has_x(valid)


def _trimmed(valid: pa.Array) -> pa.Array:
    return _normalised(valid, pa.float64(), _NO_NULLS)


def _has_x(text: pa.Array) -> bool:
    """Whether any value could be hexadecimal, which Arrow would take for an integer."""
    _, offsets, data = text.buffers()
    if data is None:
        return False
    first, last = np.frombuffer(offsets, np.int32)[[text.offset, text.offset + len(text)]].tolist()
    found = data[first:last].to_pybytes()
    return b"x" in found or b"X" in found
