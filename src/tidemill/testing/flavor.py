"""Every flavor must pass this. Subclass `FlavorContract`, say how to get a model and what it predicts, done."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from tidemill.domain.signature import ModelInfo
from tidemill.ports.flavor import Flavor, Model, Predicted

HEAD_BYTES = 64 << 10

STRANGERS: tuple[bytes, ...] = (
    b"",
    b"PAR1\x15\x04\x15\x10",
    b"a,b,c\n1,2,3\n",
    b'{"tree": 1}\n',
    b"tree of life\n",
    b"#!/usr/bin/env python\n",
    b"\x00" * 4096,
    b"\xff" * 4096,
    b"\x08\x01garbage",
    b"PK\x03\x04" + b"\x00" * 100,
    b"\x1f\x8b\x08\x00garbage",
    b"\x80abc",
)
"""Beginnings of files that are no model of any flavor."""

CUTS = (2, 30, 70, 97)
"""Percent of a file that are left of it."""

_LOAD = """
import importlib, json, sys
from tidemill.domain.errors import TidemillError
module, _, name = sys.argv[1].partition(":")
flavor = getattr(importlib.import_module(module), name)
for path in sys.argv[2:]:
    try:
        flavor().load(path, {})
    except TidemillError as exc:
        print(json.dumps(exc.to_json()), flush=True)
    else:
        print(json.dumps({"code": "loaded", "message": "", "remedy": ""}), flush=True)
"""

_MATCH = """
import importlib, json, sys
module, _, name = sys.argv[1].partition(":")
flavor = getattr(importlib.import_module(module), name)
path = sys.argv[2]
try:
    head = open(path, "rb").read(65536)
except OSError:
    head = b""
print(json.dumps([flavor.matches(head, path), sorted(set(sys.argv[3:]) & set(sys.modules))]))
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, rows for it in the model's own columns, and the predictions of the framework itself."""

    path: str
    rows: pa.RecordBatch
    expected: Mapping[str, pa.Array]
    """Column -> value, to the last bit, when all `rows` are predicted in one call."""
    options: Mapping[str, Any] = field(default_factory=dict)


def head_of(path: str) -> bytes:
    """What the engine reads before it asks a flavor whether a file is its own."""
    return Path(path).read_bytes()[:HEAD_BYTES] if Path(path).is_file() else b""


def bits(predicted: Predicted | pa.RecordBatch) -> tuple[Any, ...]:
    """The columns as something that is equal only if every bit is (also of NaN and -0.0)."""
    batch = predicted.columns if isinstance(predicted, Predicted) else predicted
    return tuple(_bits(batch.schema.names[number], column) for number, column in enumerate(batch.columns))


def _bits(name: str, column: pa.Array) -> tuple[str, str, tuple[Any, ...]]:
    if pa.types.is_floating(column.type):
        return name, str(column.type), tuple(None if v is None else float(v).hex() for v in column.to_pylist())
    return name, str(column.type), tuple(column.to_pylist())


def _narrowed(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Numbers near to those of a column that a narrower type holds; nulls stay."""
    whole = [
        None if each is None else math.remainder(each, 100) if each == each else 0.0 for each in column.to_pylist()
    ]
    if pa.types.is_floating(kind):
        return pa.array(whole, pa.float32()).cast(kind)
    small = [None if each is None else abs(int(each)) for each in whole]
    return pa.array(small, pa.int16()).cast(kind)


class FlavorContract(ABC):
    """The exam."""

    flavor_class: ClassVar[type[Flavor]]
    framework: ClassVar[tuple[str, ...]]
    """Modules that recognising a model must not import."""

    @abstractmethod
    def case(self) -> Case:
        """A model and what it must predict. Asked often: make models once."""

    @pytest.fixture
    def model(self) -> Model:
        case = self.case()
        return self.flavor_class().load(case.path, case.options)

    @property
    def _target(self) -> str:
        return f"{self.flavor_class.__module__}:{self.flavor_class.__qualname__}"

    def test_recognises_its_model_without_the_framework(self) -> None:
        command = [sys.executable, "-c", _MATCH, self._target, self.case().path, *self.framework]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == [True, []]

    @pytest.mark.parametrize("head", STRANGERS, ids=lambda head: repr(head[:12]))
    def test_takes_no_stranger_for_its_own(self, tmp_path: Path, head: bytes) -> None:
        path = tmp_path / "model.bin"
        path.write_bytes(head)
        assert not self.flavor_class.matches(head, str(path))

    def test_describes_itself(self, model: Model) -> None:
        info, case = model.info, self.case()
        assert ModelInfo.from_json(json.loads(json.dumps(info.to_json()))) == info
        assert info.batch_rows > 0
        assert info.rows_per_chunk >= info.batch_rows
        assert info.libraries
        assert all(name and version for name, version in info.libraries)
        assert info.takes_all == (not info.inputs)
        assert info.takes_all or info.positional in (0, len(info.inputs))
        if info.inputs:
            assert [each.name for each in info.inputs] == case.rows.schema.names
        assert len({each.name for each in info.outputs}) == len(info.outputs) > 0
        assert (info.task == "binary") == (info.positive_class is not None)
        assert info.positive_class is None or info.positive_class == (info.classes or ())[1]

    def test_two_loads_describe_themselves_alike(self, model: Model) -> None:
        case = self.case()
        assert self.flavor_class().load(case.path, case.options).info == model.info

    def test_predicts_what_the_framework_does(self, model: Model) -> None:
        case = self.case()
        predicted = model.predict(case.rows)
        assert predicted.row_errors == {}
        expected = pa.RecordBatch.from_arrays(list(case.expected.values()), names=list(case.expected))
        assert bits(predicted) == bits(expected)

    def test_gives_the_columns_it_promised(self, model: Model) -> None:
        columns = model.predict(self.case().rows).columns
        assert [(each.name, each.type) for each in model.info.outputs] == [
            (each.name, str(each.type)) for each in columns.schema
        ]
        nullable = [each.nullable for each in model.info.outputs]
        assert all(may or not column.null_count for may, column in zip(nullable, columns.columns, strict=True))

    @pytest.mark.parametrize("rows", [0, 1, 2])
    def test_predicts_few_rows(self, model: Model, rows: int) -> None:
        few = model.predict(self.case().rows.slice(0, rows)).columns
        assert few.num_rows == rows
        assert few.schema == model.predict(self.case().rows).columns.schema

    def test_slices_and_copies_are_the_same_to_it(self, model: Model) -> None:
        rows = self.case().rows
        piece = rows.slice(3, rows.num_rows - 5)
        copy = pa.RecordBatch.from_pydict(piece.to_pydict(), schema=piece.schema)
        assert bits(model.predict(piece)) == bits(model.predict(copy))

    def test_repeats_itself(self, model: Model) -> None:
        case = self.case()
        again = self.flavor_class().load(case.path, case.options)
        assert bits(model.predict(case.rows)) == bits(model.predict(case.rows)) == bits(again.predict(case.rows))

    @pytest.mark.parametrize("accelerate", [False, True])
    def test_narrower_numbers_are_the_same_to_it_if_it_says_so(self, accelerate: bool) -> None:
        case = self.case()
        model = self.flavor_class().load(case.path, {**case.options, "accelerate": accelerate})
        kinds = {field.name: field.type for field in model.info.inputs} if model.widens else {}
        for narrow in (pa.float32(), pa.float16(), pa.int16(), pa.uint8(), pa.bool_()):
            left, cast = [], []
            for name, column in zip(case.rows.schema.names, case.rows.columns, strict=True):
                if kinds.get(name) not in ("double", "float") or not pa.types.is_floating(column.type):
                    left.append(column)
                    cast.append(column)
                    continue
                left.append(_narrowed(column, narrow))
                cast.append(left[-1].cast(column.type))
            names = case.rows.schema.names
            wide = model.predict(pa.RecordBatch.from_arrays(cast, names=names))
            found = model.predict(pa.RecordBatch.from_arrays(left, names=names))
            assert bits(found) == bits(wide), f"columns of {narrow} are something else to it"
            assert found.row_errors == wide.row_errors

    def test_leaves_its_input_alone(self, model: Model) -> None:
        rows = self.case().rows
        before = rows.to_pydict()
        model.predict(rows)
        assert repr(rows.to_pydict()) == repr(before)

    def test_invariant_if_it_says_so(self, model: Model) -> None:
        rows = self.case().rows.slice(0, 60 if model.info.batch_invariant else 1)
        whole = bits(model.predict(rows))
        for size in (1, 7, rows.num_rows):
            pieces = [model.predict(rows.slice(start, size)).columns for start in range(0, rows.num_rows, size)]
            assert bits(pa.concat_batches(pieces)) == whole, f"batches of {size} rows differ"

    @pytest.mark.parametrize("threads", [2, 8])
    def test_threads_may_share_it_if_it_says_so(self, model: Model, threads: int) -> None:
        case = self.case()
        shared = model if model.info.layout == "threads" else None
        wanted = bits(model.predict(case.rows))

        def once(_: int) -> tuple[Any, ...]:
            own = shared or self.flavor_class().load(case.path, {**case.options, "threads": threads})
            return bits(own.predict(case.rows))

        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(once, range(threads * 2)))
        assert found == [wanted] * len(found)

    def test_closes_more_than_once(self, model: Model) -> None:
        model.close()
        model.close()


class FileFlavorContract(FlavorContract):
    """The exam of a flavor whose models are files, which can be cut off."""

    def test_refuses_a_model_that_is_cut_off(self, tmp_path: Path) -> None:
        whole = Path(self.case().path).read_bytes()
        paths = [tmp_path / f"{percent}.{Path(self.case().path).name}" for percent in CUTS]
        for percent, path in zip(CUTS, paths, strict=True):
            path.write_bytes(whole[: len(whole) * percent // 100])
        for path, answer in zip(paths, self.load_apart(paths), strict=True):
            assert answer["code"] == "model_unusable", f"{path.name}: {answer}"
            assert path.name in answer["message"], "the error does not name the file"
            assert answer["remedy"], "the error does not say what to do"

    def load_apart(self, paths: Sequence[Path]) -> list[dict[str, Any]]:
        """Load files in a process of its own, which must end by itself; what came of each, as JSON."""
        command = [sys.executable, "-c", _LOAD, self._target, *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0, f"{paths[len(answers)]} ended the process with {done.returncode}: {done.stderr}"
        return answers
