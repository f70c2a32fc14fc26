"""Columns laid out at once, against each cast on its own: the same bits, the same rows refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.errors import SchemaMismatch
from tidemill.engine.features import Features
from tidemill.flavors.lightgbm import MANY_COLUMNS, LightGBMFlavor
from tidemill.flavors.matrix import Vectors, to_matrix
from tidemill.flavors.xgboost import XGBoostFlavor
from tidemill.ports.flavor import Flavor, Model
from tidemill.testing.flavor import bits

FLOATS = {"f4": pa.float32(), "f8": pa.float64()}
WHOLE = {
    pa.int8(): (-(2**7), 2**7 - 1),
    pa.int16(): (-(2**15), 2**15 - 1),
    pa.int32(): (-(2**31), 2**31 - 1),
    pa.int64(): (-(2**63), 2**63 - 1),
    pa.uint8(): (0, 2**8 - 1),
    pa.uint16(): (0, 2**16 - 1),
    pa.uint32(): (0, 2**32 - 1),
    pa.uint64(): (0, 2**64 - 1),
}
EDGES = [
    sign * (2**power + more) for power in (8, 11, 16, 24, 31, 32, 53, 63) for more in (-1, 0, 1) for sign in (1, -1)
]
"""Whole numbers about where a type of float begins to leave some out."""
ROWS = 24
NAMES = [f"f{number}" for number in range(MANY_COLUMNS + 3)]


def _values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if kind in WHOLE:
        low, high = WHOLE[kind]
        edges = [edge for edge in EDGES if low <= edge <= high]
        return st.sampled_from([low, high, *edges]) | st.integers(low, high)
    if pa.types.is_floating(kind):
        return st.floats(width=kind.bit_width) | st.integers(-20, 20).map(float)
    if pa.types.is_boolean(kind):
        return st.booleans()
    return st.decimals(-99_999, 99_999, places=2)


KINDS: list[pa.DataType] = [*WHOLE, pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.decimal128(9, 2)]


@st.composite
def columns(draw: st.DrawFn, kinds: list[pa.DataType], rows: int, before: int) -> pa.Array:
    """A column of so many rows, perhaps encoded, all of one value, without nulls, or without values; a part of a longer
    one."""
    kind = draw(st.sampled_from([*kinds, pa.null()]))
    if kind == pa.null():
        return pa.nulls(rows)
    value = _values(kind)
    value = value if draw(st.booleans()) else st.none() | value
    length = before + rows
    found = draw(st.lists(value, min_size=length, max_size=length) | value.map(lambda one: [one] * length))
    # A half is made of numpy's, which leaves no place for nulls.
    mask = np.array([each is None for each in found], bool)
    if kind == pa.float16():
        halves = np.array([0.0 if each is None else each for each in found], np.float16)
        column = pa.array(halves, kind, mask=mask)
    else:
        column = pa.array(found, kind)
    if kind in (pa.int32(), pa.float64()) and draw(st.booleans()):
        column = column.dictionary_encode()
    return column.slice(before)


@st.composite
def batches(draw: st.DrawFn, kinds: list[pa.DataType] = KINDS, width: int | None = None) -> pa.RecordBatch:
    """Rows of columns of any types; of the first `width` names, if given: then few are different."""
    rows, before = draw(st.integers(0, ROWS)), draw(st.integers(0, 9))
    one = columns(kinds, rows, before)
    if width is None:
        made = draw(st.lists(one, min_size=1, max_size=5))
    else:
        several = draw(st.lists(one, min_size=1, max_size=3))
        made = [several[place % len(several)] for place in range(width)]
    return pa.RecordBatch.from_arrays(made, names=NAMES[: len(made)])


def vector(column: pa.Array, dtype: str) -> np.ndarray[Any, Any]:
    """A column cast, and its gaps filled, as Arrow does both."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan, dtype)
    cast = pc.cast(column, FLOATS[dtype], safe=False)
    return np.asarray(pc.fill_null(cast, pa.scalar(float("nan"), FLOATS[dtype])))


def same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    """Whether numbers are the same to the bit; of NaN it is enough that both are."""
    bare = [np.where(np.isnan(each), 0, each).tobytes() for each in (one, other)]
    return one.dtype == other.dtype and bare[0] == bare[1] and np.array_equal(np.isnan(one), np.isnan(other))


@settings(deadline=None, max_examples=150)
@given(batches(), st.sampled_from(["C", "F"]), st.sampled_from(["f4", "f8"]))
def test_the_matrix_has_what_each_column_is_cast_to(rows: pa.RecordBatch, order: Any, dtype: str) -> None:
    expected = np.column_stack([vector(column, dtype) for column in rows.columns])
    found = to_matrix(rows, order=order, dtype=dtype)
    assert found.flags.writeable and found.flags[f"{order}_CONTIGUOUS"]
    assert same(found, expected)
    vectors = Vectors(rows, dtype)
    assert len(vectors) == rows.num_columns
    for place in range(rows.num_columns):
        assert vectors[place].flags.c_contiguous
        assert same(vectors[place], expected[:, place])


@settings(deadline=None, max_examples=60)
@given(batches())
def test_without_a_type_the_matrix_is_as_narrow_as_is_exact(rows: pa.RecordBatch) -> None:
    found = to_matrix(rows, dtype=None)
    assert same(found.astype(np.float64), np.column_stack([vector(column, "f8") for column in rows.columns]))
    narrow = {pa.int8(), pa.int16(), pa.uint8(), pa.uint16(), pa.float32()}
    if set(rows.schema.types) == {pa.float32()}:
        assert found.dtype == np.float32
    if not set(rows.schema.types) <= narrow:
        assert found.dtype == np.float64


def test_whole_numbers_are_rounded_once() -> None:
    """By way of 64 bits, whose nearest number is the middle of two of 32 bits, this one would come to the lower."""
    above_the_middle = 2**60 + 2**36 + 1
    rows = pa.record_batch({"x": [above_the_middle], "y": pa.array([1.5], pa.float32())})
    assert to_matrix(rows, dtype="f4").tolist() == [[2.0**60 + 2**37, 1.5]]
    assert Vectors(rows, "f4")[0].tolist() == [2.0**60 + 2**37]


@pytest.mark.parametrize("rows", [0, 3])
def test_no_columns_make_a_matrix_of_none(rows: int) -> None:
    bare = pa.record_batch({"a": [1.0] * rows}).select([])
    assert to_matrix(bare, order="C", dtype="f4").shape == (rows, 0)


def test_a_column_of_text_is_named() -> None:
    with pytest.raises(SchemaMismatch, match="'word' holds string"):
        to_matrix(pa.record_batch({"x": [1.0], "word": ["a"]}))


@cache
def _trained(folder: Path) -> dict[str, Path]:
    """Models of the same columns, by library."""
    random = np.random.default_rng(3)
    x = random.normal(size=(400, len(NAMES))) * 30
    y = np.sin(x).sum(axis=1)
    data = lightgbm.Dataset(x, y, feature_name=NAMES)
    lightgbm.train({"verbose": -1, "num_threads": 1, "num_leaves": 12}, data, 12).save_model(folder / "model.txt")
    matrix = xgboost.DMatrix(x, y, feature_names=NAMES)
    xgboost.train({"max_depth": 4, "nthread": 1}, matrix, 12).save_model(folder / "model.ubj")
    return {"lightgbm": folder / "model.txt", "xgboost": folder / "model.ubj"}


FLAVORS: dict[str, type[Flavor]] = {"lightgbm": LightGBMFlavor, "xgboost": XGBoostFlavor}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Model]:
    """By library, and whether a kernel predicts in its place."""
    paths = _trained(tmp_path_factory.mktemp("models"))
    return {
        (name, fast): FLAVORS[name]().load(str(paths[name]), {"accelerate": fast})
        for name in paths
        for fast in (False, True)
    }


@pytest.mark.parametrize("fast", [False, True], ids=["library", "kernel"])
@pytest.mark.parametrize("name", FLAVORS)
@settings(deadline=None, max_examples=40)
@given(rows=batches(width=len(NAMES)))
def test_columns_left_to_the_model_are_predicted_as_those_that_were_cast(
    models: dict[tuple[str, bool], Model], name: str, fast: bool, rows: pa.RecordBatch
) -> None:
    model, numbers = models[name, fast], np.arange(rows.num_rows)
    assert model.widens and (model.kernel is not None) == fast
    inputs = tuple((field.name, field.type) for field in model.info.inputs)
    cast, fits, bad = Features(rows.schema, inputs).of(rows, numbers)
    left, fits_left, bad_left = Features(rows.schema, inputs, widens=model.widens).of(rows, numbers)
    assert cast.schema == pa.schema([(each, pa.float64()) for each in NAMES])
    exact = {pa.int64(), pa.uint64(), pa.null(), pa.decimal128(9, 2)}
    for found, was in zip(left.schema.types, rows.schema.types, strict=True):
        assert found == (pa.float64() if was in exact or pa.types.is_dictionary(was) else was)
    assert (fits, bad) == (fits_left, bad_left) == (None, [])
    assert bits(model.predict(left)) == bits(model.predict(cast))
