"""What every encoder must do: subclass `EncoderContract` and say how to read a file back."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tidemill.domain.errors import InvalidSpec, OutputUnwritable
from tidemill.ports.encoder import Encoder, PartWriter, Written

METADATA = {"model": "sha256:1", "spec": "sha256:2"}

_TEXTS = [
    "plain",
    "",
    None,
    'a "quoted", one',
    "two\nlines\r\n",
    "NA",
    "null",
    "ü€😀\t\\ \x01",
    " padded ",
    "007",
    "nan",
]
_INSTANTS = [datetime(2024, 2, 29, 23, 59, 59), datetime(1969, 12, 31, 23, 59, 59), None, datetime(1970, 1, 1)]


def _times(unit: str, zone: str | None) -> pa.Array:
    fraction = {"s": 0, "ms": 123, "us": 123_456, "ns": 123_456_789}[unit]
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    ticks = [
        None if at is None else round(at.replace(tzinfo=UTC).timestamp()) * per_second + fraction for at in _INSTANTS
    ]
    return pa.array(ticks, pa.timestamp(unit, zone))


def _ints(kind: pa.DataType) -> pa.Array:
    bits, unsigned = kind.bit_width, pa.types.is_unsigned_integer(kind)
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return pa.array([low, high, None, 1, high - 1], kind)


_FLOATS = [0.1, -0.0, float("nan"), float("inf"), float("-inf"), None, 1.0, 1e300, 5e-324, 1 / 3, 1e22]
_SMALL_FLOATS = [0.1, -0.0, float("nan"), float("inf"), float("-inf"), None, 1.0, 1.5e38, 1e-45, 16777216.0]
_DECIMALS = [Decimal("1.20000"), Decimal("-0.00001"), None, Decimal("12345678901234567890123.45678")]

MATRIX: dict[str, pa.Array] = {
    **{str(kind): _ints(kind) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{str(kind): _ints(kind) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    "int64 beyond 2**53": pa.array([2**53 + 1, -(2**53) - 1, None], pa.int64()),
    "float16": pa.array([0.5, -0.0, None, 65504.0, float("inf")], pa.float16()),
    "float32": pa.array(_SMALL_FLOATS, pa.float32()),
    "float64": pa.array(_FLOATS, pa.float64()),
    "bool": pa.array([True, False, None]),
    "null": pa.nulls(3),
    "string": pa.array(_TEXTS, pa.string()),
    "large_string": pa.array(_TEXTS, pa.large_string()),
    "string_view": pa.array(_TEXTS, pa.string_view()),
    "dictionary of string": pa.array(["b", None, "a", "b"]).dictionary_encode(),
    "dictionary int8 of string": pa.array(["b", None, "a"]).cast(pa.dictionary(pa.int8(), pa.string())),
    "dictionary of int64": pa.array([3, None, 1, 3]).dictionary_encode(),
    "ordered dictionary": pa.DictionaryArray.from_arrays(
        pa.array([1, None, 0], pa.int32()), ["low", "high", "never"], ordered=True
    ),
    "binary": pa.array([b"\x00\xff", b"", None], pa.binary()),
    "large_binary": pa.array([b"\x00\xff", b"", None], pa.large_binary()),
    "fixed_size_binary": pa.array([b"ab", None], pa.binary(2)),
    "decimal32": pa.array([Decimal("1.20"), Decimal("-0.01"), None], pa.decimal32(7, 2)),
    "decimal64": pa.array([Decimal("1.20"), Decimal("-0.01"), None], pa.decimal64(12, 2)),
    "decimal128": pa.array(_DECIMALS, pa.decimal128(38, 5)),
    "decimal128 of tiny ones": pa.array([Decimal("-1E-20"), Decimal("0E-20"), None], pa.decimal128(38, 20)),
    "decimal256": pa.array([*_DECIMALS, Decimal("1" * 60)], pa.decimal256(70, 5)),
    "date32": pa.array([date(2024, 2, 29), date(1, 1, 1), date(9999, 12, 31), None], pa.date32()),
    "date64": pa.array([date(2024, 2, 29), date(1969, 1, 1), None], pa.date64()),
    "time32 s": pa.array([time(23, 59, 59), time(0), None], pa.time32("s")),
    "time32 ms": pa.array([time(23, 59, 59, 1000), None], pa.time32("ms")),
    "time64 us": pa.array([time(23, 59, 59, 999_999), None], pa.time64("us")),
    "time64 ns": pa.array([1, None, 86_399_999_999_999], pa.time64("ns")),
    **{f"timestamp {unit}": _times(unit, None) for unit in ("s", "ms", "us", "ns")},
    **{f"timestamp {unit} UTC": _times(unit, "UTC") for unit in ("s", "ms", "us", "ns")},
    "timestamp us Berlin": _times("us", "Europe/Berlin"),
    "timestamp ms +05:30": _times("ms", "+05:30"),
    "duration s": pa.array([timedelta(days=1), timedelta(seconds=-1), None], pa.duration("s")),
    "duration ns": pa.array([1, None, -1], pa.duration("ns")),
    "list": pa.array([[1, None], [], None, [2**60]], pa.list_(pa.int64())),
    "large_list": pa.array([["a", None, '"'], [], None], pa.large_list(pa.string())),
    "fixed_size_list": pa.array([[1.5, float("nan")], None, [-0.0, 2.0]], pa.list_(pa.float64(), 2)),
    "struct": pa.array(
        [{"a": 1, "b": ["x"], "c": None}, None, {"a": None, "b": None, "c": datetime(2024, 1, 1)}],
        pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string())), ("c", pa.timestamp("us"))]),
    ),
    "map": pa.array([[("k", 1), ("l", None)], [], None], pa.map_(pa.string(), pa.int64())),
    "list of struct": pa.array(
        [[{"d": Decimal("1.50")}, None], [], None], pa.list_(pa.struct([("d", pa.decimal128(10, 2))]))
    ),
    "list of binary": pa.array([[b"\x00"], None], pa.list_(pa.binary())),
    "interval": pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
    "run_end_encoded": pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["a", "b"])),
    "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0123456789abcdef", None], pa.binary(16))),
}
"""Type by type, values that formats like to change."""


def values_of(array: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Values to compare: instants as whole ticks, floats by their bits, dictionaries decoded."""
    chunked = array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])
    return [_value(kind, each) for chunk in chunked.chunks for kind, each in _scalars(chunk)]


def _scalars(array: pa.Array) -> Iterator[tuple[pa.DataType, Any]]:
    return ((array.type, each) for each in array)


def _value(kind: pa.DataType, scalar: pa.Scalar) -> Any:
    if not scalar.is_valid:
        return None
    if pa.types.is_dictionary(kind):
        return scalar.as_py()
    if pa.types.is_floating(kind):
        return repr(float(scalar.as_py()))
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return int(scalar.value)
    if pa.types.is_struct(kind):
        return {name: _value(scalar[name].type, scalar[name]) for name in scalar}
    if pa.types.is_map(kind) or hasattr(scalar, "values"):
        return [_value(each.type, each) for each in scalar.values]
    return scalar.as_py()


def table_of_rows(rows: int) -> pa.Table:
    """Rows with repeated and rare values of the common types, and nulls."""
    return pa.table(
        {
            "id": pa.array(range(rows), pa.int64()),
            "text": pa.array([None if n % 11 == 0 else f'row "{n % 977}",\n' for n in range(rows)], pa.string()),
            "score": pa.array([None if n % 13 == 0 else n / 7 for n in range(rows)], pa.float64()),
            "group": pa.array([f"g{n % 5}" for n in range(rows)], pa.string()).dictionary_encode(),
        }
    )


class EncoderContract(ABC):
    """Tests that every output format passes."""

    rows_across_groups = 150_000
    """More rows than the format puts into one group."""

    @abstractmethod
    def make(self, options: dict[str, Any] | None = None) -> Encoder:
        """A fresh encoder."""

    @abstractmethod
    def read(self, path: Path, schema: pa.Schema) -> pa.Table:
        """The file's rows; a format without types is told them."""

    def write(self, path: Path, data: pa.Table, encoder: Encoder | None = None, batch_rows: int = 10**9) -> Written:
        writer = (encoder or self.make()).open(path, data.schema, METADATA)
        for batch in data.to_batches(max_chunksize=batch_rows):
            writer.write(batch)
        return writer.close()

    def path(self, folder: Path, name: str = "a", encoder: Encoder | None = None) -> Path:
        return folder / f"{name}{(encoder or self.make()).file_suffix}"

    def check(self, path: Path, data: pa.Table) -> None:
        found = self.read(path, data.schema)
        assert found.schema.names == data.schema.names
        assert found.num_rows == data.num_rows
        for name in data.schema.names:
            kind = data.schema.field(name).type
            column = found[name]
            if column.type != kind and not pa.types.is_dictionary(kind) and not pa.types.is_dictionary(column.type):
                column = column.cast(kind)
            assert values_of(column) == values_of(data[name])

    @pytest.mark.parametrize("kind", MATRIX)
    def test_every_type_reads_back_equal_or_is_refused(self, kind: str, tmp_path: Path) -> None:
        array = MATRIX[kind]
        data = pa.table({"id": pa.array(range(len(array))), "c": array})
        refused = self.make().unwritable(data.schema)
        if refused:
            assert [(each.column, each.type) for each in refused] == [("c", str(array.type))]
            assert "--keep" in refused[0].remedy
        else:
            self.write(self.path(tmp_path), data)
            self.check(self.path(tmp_path), data)

    def test_common_types_are_held(self) -> None:
        common = ("int64", "float64", "string", "bool", "date32", "timestamp us", "timestamp us UTC", "decimal128")
        for kind in (*common, "dictionary of string", "null", "uint64", "float32"):
            assert list(self.make().unwritable(pa.schema([("c", MATRIX[kind].type)]))) == [], kind

    def test_slices_of_every_type_are_the_same_as_copies(self, tmp_path: Path) -> None:
        for number, array in enumerate(MATRIX.values()):
            longer = pa.chunked_array([array, array.slice(1), array.slice(0, 1)]).combine_chunks()
            longer = longer.chunk(0) if isinstance(longer, pa.ChunkedArray) else longer
            data = pa.table({"id": pa.array(range(len(longer))), "c": longer}).slice(1, len(longer) - 2)
            if self.make().unwritable(data.schema):
                continue
            path = self.path(tmp_path, f"s{number}")
            self.write(path, data)
            self.check(path, data)

    def test_names_of_columns_come_back_or_are_refused(self, tmp_path: Path) -> None:
        names = ["plain", 'quo"te', "com,ma", "ü €", "two\nlines", " padded", "a.b", "{brace}"]
        data = pa.table({name: pa.array([number]) for number, name in enumerate(names)})
        refused = self.make().unwritable(data.schema)
        assert all("rename" in each.remedy for each in refused)
        data = data.drop_columns([each.column for each in refused])
        assert "plain" in data.schema.names
        self.write(self.path(tmp_path), data)
        self.check(self.path(tmp_path), data)

    def test_what_close_says_is_what_is_there(self, tmp_path: Path) -> None:
        path = self.path(tmp_path)
        written = self.write(path, table_of_rows(1000))
        data = path.read_bytes()
        assert written == Written(rows=1000, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    def test_no_rows_make_a_file_that_reads(self, tmp_path: Path) -> None:
        data = table_of_rows(0)
        written = self.write(self.path(tmp_path), data)
        assert written.rows == 0
        self.check(self.path(tmp_path), data)

    def test_bytes_depend_on_rows_not_on_batches(self, tmp_path: Path) -> None:
        data = table_of_rows(self.rows_across_groups)
        found = set()
        for batch_rows in (10**9, 65_536, 9_999):
            pieces = pa.concat_tables([data.slice(n, batch_rows) for n in range(0, data.num_rows, batch_rows)])
            found.add(self.write(self.path(tmp_path, str(batch_rows)), pieces, batch_rows=batch_rows).sha256)
        assert len(found) == 1

    def test_dictionaries_of_batches_do_not_show(self, tmp_path: Path) -> None:
        one = pa.table({"c": pa.DictionaryArray.from_arrays([0, 1, 0], ["a", "b"])})
        other = pa.concat_tables(
            [
                pa.table({"c": pa.DictionaryArray.from_arrays([1], ["unused", "a"])}),
                pa.table({"c": pa.DictionaryArray.from_arrays([0, 1], ["b", "a"])}),
            ]
        )
        assert self.write(self.path(tmp_path, "1"), one) == self.write(self.path(tmp_path, "2"), other)
        self.check(self.path(tmp_path, "2"), other)

    def test_assembled_parts_are_the_rows_in_order(self, tmp_path: Path) -> None:
        data = table_of_rows(1003)
        starts = [0, 1, 500, 500, 1003]
        parts = []
        for number, (start, stop) in enumerate(zip([0, *starts], [*starts, 1003], strict=True)):
            parts.append(self.path(tmp_path, f"part{number}"))
            self.write(parts[-1], data.slice(start, stop - start))
        target = self.path(tmp_path, "whole")
        target.write_bytes(b"left by a dead attempt")
        written = self.make().assemble(parts, target, METADATA)
        content = target.read_bytes()
        assert written == Written(rows=1003, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        self.check(target, data)
        assert written == self.make().assemble(parts, target, METADATA)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in [*parts, target])

    def test_assembling_parts_without_rows_gives_an_empty_file(self, tmp_path: Path) -> None:
        data = table_of_rows(0)
        parts = [self.path(tmp_path, "a"), self.path(tmp_path, "b")]
        for part in parts:
            self.write(part, data)
        assert self.make().assemble(parts, self.path(tmp_path, "whole"), METADATA).rows == 0
        self.check(self.path(tmp_path, "whole"), data)

    def test_a_file_that_is_there_is_not_overwritten(self, tmp_path: Path) -> None:
        self.path(tmp_path).write_bytes(b"mine")
        with pytest.raises(OutputUnwritable):
            self.make().open(self.path(tmp_path), pa.schema([("a", pa.int64())]), METADATA)
        assert self.path(tmp_path).read_bytes() == b"mine"

    def test_abort_leaves_nothing(self, tmp_path: Path) -> None:
        writer = self.make().open(self.path(tmp_path), table_of_rows(1).schema, METADATA)
        writer.write(table_of_rows(10).to_batches()[0])
        writer.abort()
        writer.abort()
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(OutputUnwritable):
            writer.close()

    @pytest.mark.parametrize("code, word", [(errno.ENOSPC, "space"), (errno.EIO, "run the same command")])
    @pytest.mark.parametrize("allowed_bytes", [0, 200])
    def test_a_failed_write_poisons_the_file(
        self, code: int, word: str, allowed_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, left = os.write, [allowed_bytes]

        def write(fd: int, data: Any) -> int:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return real(fd, data)
            if left[0] == 0:
                raise OSError(code, os.strerror(code))
            done = real(fd, data[: left[0]])
            left[0] -= done
            return done

        data = table_of_rows(2000)
        monkeypatch.setattr(os, "write", write)
        writer: PartWriter | None = None
        with pytest.raises(OutputUnwritable) as caught:
            writer = self.make().open(self.path(tmp_path), data.schema, METADATA)
            writer.write(data.combine_chunks().to_batches()[0])
            writer.close()
        assert str(self.path(tmp_path)) in str(caught.value)
        assert word in str(caught.value.remedy).lower()
        monkeypatch.setattr(os, "write", real)
        if writer is None:
            assert list(tmp_path.iterdir()) == []
            return
        for again in (writer.close, lambda: writer.write(data.to_batches()[0])):
            with pytest.raises(OutputUnwritable):
                again()
        writer.abort()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("call", ["fsync", "write"])
    def test_a_full_disk_while_assembling_leaves_the_target_alone(
        self, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        part, target = self.path(tmp_path, "part"), self.path(tmp_path, "whole")
        self.write(part, table_of_rows(10))
        real = getattr(os, call)

        def full(fd: int, *args: Any) -> Any:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(fd, *args)

        monkeypatch.setattr(os, call, full)
        with pytest.raises(OutputUnwritable, match="No space left"):
            self.make().assemble([part], target, METADATA)
        assert [path.name for path in tmp_path.iterdir()] == [part.name]

    def test_a_write_that_stops_short_goes_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real: Callable[[int, Any], int] = os.write

        def short(fd: int, data: Any) -> int:
            return real(fd, data[:1000] if stat.S_ISREG(os.fstat(fd).st_mode) else data)

        monkeypatch.setattr(os, "write", short)
        self.write(self.path(tmp_path), table_of_rows(2000))
        self.check(self.path(tmp_path), table_of_rows(2000))

    def test_unknown_options_are_refused_and_those_of_the_sink_pass(self) -> None:
        assert self.make({"mode": "append", "single_file": True}).file_suffix == self.make().file_suffix
        with pytest.raises(InvalidSpec, match="no option 'colour'"):
            self.make({"colour": "red"})
        with pytest.raises(InvalidSpec, match="compression='brotli'"):
            self.make({"compression": "brotli"})
