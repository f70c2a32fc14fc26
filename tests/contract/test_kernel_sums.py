"""Sums of linear models, compiled and by numpy: the same bits, which are those of a loop over rows in Python."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tidemill.flavors.coded import lookup_of
from tidemill.flavors.matrix import validity, values
from tidemill.kernels import linear_compiled
from tidemill.kernels.library import NotCompilable, address, library
from tidemill.kernels.linear import (
    Arithmetic,
    Codes,
    Function,
    LinearKernel,
    Numbers,
    Operation,
    Scores,
    Step,
    Table,
    Term,
    Validity,
)
from tidemill.kernels.linear_compiled import CompiledLinearKernel, linear_kernel

Array = np.ndarray[Any, Any]

EXAMPLES = 5_000 if os.environ.get("TIDEMILL_TEST_LONG") else 250
SIZES = [0, 1, 2, 7, 8, 9, 63, 64, 65, 1_023, 1_024, 1_025, 8_192, 8_193]
SUMS = [1, 2, 1, 3, 40]
TINY = (0.0, -0.0, 5e-324, -5e-324, 2.0**-1074 * 3, 1e-300)
TAME = (*TINY, 1.0, -1.0, 12.5, 1e9)
EDGES = (*TINY, 1.0, -1.0, 1e150, -1e150, 1.7e308, float("nan"))
WHOLE = {
    "i1": pa.int8(), "u1": pa.uint8(), "i2": pa.int16(), "u2": pa.uint16(), "i4": pa.int32(), "u4": pa.uint32(),
    "i8": pa.int64(), "u8": pa.uint64(),
}  # fmt: skip
FUNCTIONS = (np.sqrt, np.log1p, np.arctan)


@pytest.fixture(autouse=True)
def compiled() -> None:
    """Nothing here says anything if there is no compiled library."""
    library()


def sliced(random: np.random.Generator, array: Array, kind: pa.DataType, missing: Array | None) -> pa.Array:
    """An Arrow column that begins somewhere in its memory."""
    before = int(random.integers(0, 20))
    column = pa.array(
        np.concatenate([np.resize(array, before) if len(array) else np.zeros(before, array.dtype), array]),
        type=kind,
        mask=None if missing is None else np.concatenate([random.random(before) < 0.5, missing]),
    )
    return column.slice(before)


def numbers_of(column: pa.Array) -> Numbers:
    return Numbers(values=values(column), valid=validity(column))


def made_numbers(random: np.random.Generator, rows: int, edges: Sequence[float]) -> pa.Array:
    kind = random.choice(["f8", "f8", "i4", "u4", "i8"])
    missing = random.random(rows) < random.choice([0.02, 0.5, 1.0]) if random.random() < 0.5 else None
    if kind == "f8":
        found = np.where(random.random(rows) < 0.3, random.choice(edges, rows), random.normal(3, 10, rows))
        return sliced(random, found, pa.float64(), missing)
    limits = [np.iinfo(kind).min, np.iinfo(kind).max, 0, 1]
    found = np.where(random.random(rows) < 0.3, random.choice(limits, rows), random.integers(0, 9, rows))
    return sliced(random, found.astype(kind), WHOLE[kind], missing)


def made_steps(random: np.random.Generator) -> tuple[Step, ...]:
    """Some steps, and nearly always one that puts a number where there is none."""
    steps: list[Step] = []
    for _ in range(random.integers(0, 4)):
        operation = random.choice(get_args(Operation))
        operand = random.choice([random.normal(0, 5), -0.0, 1.0]) if operation != "divide" else random.normal(3, 5)
        steps.append(Arithmetic(operation=operation, operand=float(operand)))
    if random.random() < 0.2:
        steps.insert(int(random.integers(0, len(steps) + 1)), Function(ufunc=FUNCTIONS[random.integers(0, 3)]))
    if random.random() < 0.95:
        place = int(random.integers(0, len(steps) + 1)) if random.random() < 0.3 else len(steps)
        steps.insert(place, Arithmetic(operation="fill", operand=float(random.normal())))
    return tuple(steps)


@dataclass(frozen=True, kw_only=True)
class Case:
    rows: int
    numbers: dict[int, pa.Array]
    coded: dict[int, pa.DictionaryArray]
    start: Array
    terms: list[Term]
    tables: list[Table]


def made(seed: int, rows: int, sums: int, *, edges: Sequence[float] = TAME) -> Case:
    random = np.random.default_rng(seed)
    numbers = {column: made_numbers(random, rows, edges) for column in range(random.integers(0, 4))}
    terms = [
        Term(column=int(random.integers(0, len(numbers))), steps=made_steps(random), weights=random.normal(size=sums))
        for _ in range(random.integers(1, 5) if numbers else 0)
    ]
    coded, tables = {}, []
    for column in range(10, 10 + random.integers(0, 3)):
        kind, places = random.choice(sorted(WHOLE)), random.choice([1, 5, 100])
        missing = random.random(rows) < 0.3 if random.random() < 0.5 else None
        coded[column] = pa.DictionaryArray.from_arrays(
            sliced(random, random.integers(0, places, rows).astype(kind), WHOLE[kind], missing),
            pa.array([f"word {place}" for place in range(places)]),
        )
        tables.append(Table(column=column, added=random.normal(size=(sums, 7))))
    return Case(
        rows=rows, numbers=numbers, coded=coded, start=random.normal(size=sums), terms=terms, tables=tables
    )  # fmt: skip


def codes_of(column: pa.DictionaryArray) -> Codes:
    """Seven codes, the last of which is that of what is missing."""
    places = column.indices
    codes = np.append(np.arange(len(column.dictionary)) * 5 % 6, 6)
    return Codes(places=values(places), codes=codes, valid=validity(places))


def by_hand(case: Case) -> Array:
    """Row by row, in Python's own arithmetic and with Arrow's own idea of what is null."""
    sums = np.repeat(case.start[:, None], case.rows, axis=1)
    lists = {column: each.to_pylist() for column, each in case.numbers.items()}
    places = {column: each.indices.to_pylist() for column, each in case.coded.items()}
    with np.errstate(all="ignore"):
        for row in range(case.rows):
            for term in case.terms:
                value = lists[term.column][row]
                number = math.nan if value is None else float(value)
                for step in term.steps:
                    number = stepped(step, number)
                sums[:, row] += number * term.weights
            for table in case.tables:
                place = places[table.column][row]
                codes = codes_of(case.coded[table.column]).codes
                sums[:, row] += table.added[:, 6 if place is None else codes[place]]
    return sums


def stepped(step: Step, x: float) -> float:
    if isinstance(step, Function):
        return float(step.ufunc(x))
    operand = step.operand
    match step.operation:
        case "subtract":
            return x - operand
        case "add":
            return x + operand
        case "multiply":
            return x * operand
        case "divide":
            return float(np.float64(x) / operand)
        case "at_least":
            return float(np.maximum(x, operand))
        case "at_most":
            return float(np.minimum(x, operand))
        case "fill":
            return operand if math.isnan(x) else x
        case "is_missing":
            return float(math.isnan(x))


def scores(kernel: type[LinearKernel], case: Case) -> Scores:
    return kernel(case.start, case.terms, case.tables).scores(
        case.rows,
        {column: numbers_of(each) for column, each in case.numbers.items()},
        {column: codes_of(each) for column, each in case.coded.items()},
    )


def check(case: Case) -> bool:
    """Both kernels, and in few rows Python, agree on everything. Whether there were sums to compare."""
    found, expected = scores(CompiledLinearKernel, case), scores(LinearKernel, case)
    assert found.known == expected.known
    sums = by_hand(case) if case.rows <= 65 else expected.sums
    if not found.known:
        # Steps may have hidden an infinite number; nothing else is a reason.
        hides = any(step.hides_infinity for term in case.terms for step in term.steps)
        assert case.rows > 65 or hides or not np.isfinite(sums).all()
        return False
    assert found.size == expected.size
    assert np.array_equal(found.sums, expected.sums)
    assert np.array_equal(found.sums, sums)
    assert np.abs(found.sums).max(initial=0.0) <= found.size * (1 + 1e-12)
    return case.rows > 0 and len(case.terms) + len(case.tables) > 0


def test_both_sum_to_the_same_bits() -> None:
    compared = [check(made(seed, SIZES[seed % len(SIZES)], SUMS[seed % len(SUMS)])) for seed in range(EXAMPLES)]
    assert sum(compared) > EXAMPLES / 2


@settings(max_examples=EXAMPLES // 5, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(SIZES[:9]), st.sampled_from(SUMS))
def test_both_sum_to_the_same_bits_at_the_edges(seed: int, rows: int, sums: int) -> None:
    check(made(seed, rows, sums, edges=EDGES))


@pytest.mark.parametrize("operation", get_args(Operation))
@pytest.mark.parametrize("rows", [1, 7, 65, 1_100])
def test_each_step_is_python_s(operation: Operation, rows: int) -> None:
    random = np.random.default_rng(rows)
    values = random.choice([*TAME, 3.25, -7.125, 1e-9, math.nan], rows)
    for operand in (0.3, -2.0, 7.0, -0.0):
        if operation == "divide" and not operand:
            continue
        steps = (Arithmetic(operation=operation, operand=operand), Arithmetic(operation="fill", operand=0.1))
        for shown in range(2):
            # The second sum shows the sign of what is subtracted from nothing, and NaN where there was one.
            case = Case(
                rows=rows,
                numbers={0: sliced(random, values, pa.float64(), None)},
                coded={},
                start=np.zeros(1),
                terms=[Term(column=0, steps=steps[: 2 - shown], weights=np.ones(1))],
                tables=[],
            )
            found, expected = scores(CompiledLinearKernel, case).sums, scores(LinearKernel, case).sums
            assert np.array_equal(found, expected, equal_nan=True)
            assert np.array_equal(found, by_hand(case), equal_nan=True)


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 1_024, 5_000])
def test_the_size_is_that_of_the_largest_wherever_it_is(rows: int) -> None:
    terms = [Term(column=0, steps=(), weights=np.array([-2.0]))]
    for kernel in (CompiledLinearKernel, LinearKernel):
        made = kernel(np.array([1.0]), terms, [])
        for row in {0, rows // 2, rows - 1, min(17, rows - 1), min(40, rows - 1)}:
            values = np.full(rows, 0.5)
            values[row] = -8.0
            assert made.scores(rows, {0: Numbers(values=values)}, {}).size == 17.0


@pytest.mark.parametrize("kernel", [CompiledLinearKernel, LinearKernel])
@pytest.mark.parametrize("row", [0, 5, 1_023, 1_024, 9_998, 9_999])
def test_an_infinite_number_is_seen_wherever_it_is(kernel: type[LinearKernel], row: int) -> None:
    for steps in ((Arithmetic(operation="at_most", operand=1.0),), (Function(ufunc=np.arctan),)):
        terms = [Term(column=0, steps=steps, weights=np.ones(1))]
        made = kernel(np.zeros(1), terms, [])
        found = np.zeros(10_000)
        assert made.scores(len(found), {0: Numbers(values=found)}, {}).known
        found[row] = np.inf
        assert not made.scores(len(found), {0: Numbers(values=found)}, {}).known
        # Where there is no value, what stands there means nothing.
        bits = np.packbits(np.arange(len(found)) != row, bitorder="little")
        there = Numbers(values=found, valid=Validity(bits=bits, first=0))
        filled = [Term(column=0, steps=(Arithmetic(operation="fill", operand=2.0), *steps), weights=np.ones(1))]
        assert kernel(np.zeros(1), filled, []).scores(len(found), {0: there}, {}).known


@pytest.mark.parametrize("kernel", [CompiledLinearKernel, LinearKernel])
@pytest.mark.parametrize("hiding", [step for step in get_args(Operation) if Arithmetic(operation=step).hides_infinity])
def test_an_infinite_number_that_steps_make_is_seen_before_it_is_hidden(
    kernel: type[LinearKernel], hiding: Operation
) -> None:
    """The library refuses it, from one transformer to the next."""
    steps = (Arithmetic(operation="multiply", operand=1e300), Arithmetic(operation=hiding, operand=2.0))
    made = kernel(np.zeros(1), [Term(column=0, steps=steps, weights=np.zeros(1))], [])
    for value, known in ((3.0, True), (1e300, False), (-1e300, False)):
        values = np.ones(1_500)
        values[1_400] = value
        assert made.scores(len(values), {0: Numbers(values=values)}, {}).known is known


@pytest.mark.parametrize("kernel", [CompiledLinearKernel, LinearKernel])
@pytest.mark.parametrize("kind", sorted(WHOLE))
def test_a_place_that_has_no_code_is_seen(kernel: type[LinearKernel], kind: str) -> None:
    made = kernel(np.zeros(1), [], [Table(column=0, added=np.ones((1, 3)))])
    codes = np.array([0, 1, 2])
    for place, known in ((0, True), (1, True), (3, False), (np.iinfo(kind).max, False), (np.iinfo(kind).min, None)):
        places = np.ones(2_000, kind)
        places[1_999] = place
        expected = known if known is not None else np.iinfo(kind).min == 0
        assert made.scores(2_000, {}, {0: Codes(places=places, codes=codes)}).known is expected
        # What stands where a value is missing is no place.
        valid = Validity(bits=np.packbits(np.arange(2_000) != 1_999, bitorder="little"), first=0)
        assert made.scores(2_000, {}, {0: Codes(places=places, codes=codes, valid=valid)}).known


@pytest.mark.parametrize("kernel", [CompiledLinearKernel, LinearKernel])
def test_columns_of_another_length_are_refused(kernel: type[LinearKernel]) -> None:
    made = kernel(np.zeros(1), [Term(column=0, steps=(), weights=np.ones(1))], [])
    short = Validity(bits=np.zeros(2, np.uint8), first=8)
    for strange in (Numbers(values=np.zeros(9)), Numbers(values=np.zeros(10), valid=short)):
        with pytest.raises(ValueError, match="10 rows"):
            made.scores(10, {0: strange}, {})
    with pytest.raises(ValueError, match="10 rows"):
        made.scores(10, {}, {1: Codes(places=np.zeros(11, np.int32), codes=np.zeros(2, np.int64))})


def test_numpy_sums_where_no_library_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(linear_kernel(np.zeros(1), [], [])) is CompiledLinearKernel

    def missing() -> None:
        raise NotCompilable("tidemill-kernels is not installed")

    monkeypatch.setattr(linear_compiled, "library", missing)
    assert type(linear_kernel(np.zeros(1), [], [])) is LinearKernel


@settings(max_examples=EXAMPLES // 4, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["text", "large", "number", "whole"]), st.sampled_from(SIZES))
@example(1, "text", 1_024)
def test_codes_are_those_of_a_dictionary_in_python(seed: int, kind: str, rows: int) -> None:
    random = np.random.default_rng(seed)
    met: list[Any] = {"number": [0.0, 1.5, -3.0], "whole": [0, 7, -2]}.get(kind, ["", "red", "grün", "a" * 40])
    strange: list[Any] = {"number": [0.25, -0.0, math.nan], "whole": [3, 9]}.get(kind, ["Red", "gruen", "b"])
    made = [[*met, *strange, None][place] for place in random.integers(0, len(met) + len(strange) + 1, rows)]
    types = {"text": pa.string(), "large": pa.large_string(), "number": pa.float64(), "whole": pa.int16()}
    column = pa.array([None, *made, met[0]], types[kind]).slice(1, rows)
    lookup = lookup_of("x", met)
    wanted = [
        len(met) + 1 if each is None or each != each else met.index(each) if each in met else len(met) for each in made
    ]
    index_type = [pa.int8(), pa.int32(), pa.int64()][seed % 3]
    encoded = pa.chunked_array([column]).dictionary_encode(null_encoding=["mask", "encode"][seed % 2])
    again = encoded.combine_chunks() if rows else column.dictionary_encode()
    narrow = pa.DictionaryArray.from_arrays(again.indices.cast(index_type), again.dictionary)
    for each in (column, column.dictionary_encode(), narrow, narrow.slice(rows // 3)):
        codes = lookup.codes(each)
        assert codes is not None
        places = codes.places.astype(np.int64)
        if codes.valid is not None:
            places[codes.valid.missing(0, len(places))] = len(codes.codes) - 1
        assert codes.codes[places].tolist() == wanted[rows - len(each) :]


MALFORMED: dict[str, dict[str, Any]] = {
    "no sums": {"sums": 0},
    "rows below zero": {"rows": -1},
    "a column of bytes": {"columns": [(0, 0, 0, 1)]},
    "a column of no type": {"columns": [(0, 0, 0, 9)]},
    "a term of no column": {"terms": [(1, 0), (-1, 1)]},
    "a term of a column before the first": {"terms": [(-1, 0), (-1, 1)]},
    "steps that end before they begin": {"terms": [(0, 1), (-1, 0)]},
    "a step that is none": {"operations": [8]},
    "a step below zero": {"operations": [-1]},
    "a table of fractions": {"tables": [((0, 0, 0, 0), 0, 2)]},
    "a table of nothing": {"tables": [((0, 0, 0, 3), 0, 0)]},
    "a table of too much": {"tables": [((0, 0, 0, 3), 0, 2**31)]},
}


@pytest.mark.parametrize("why", MALFORMED)
def test_a_description_that_is_none_is_told_before_anything_is_read(why: str) -> None:
    told: dict[str, Any] = {
        "rows": 5, "sums": 1, "columns": [(0, 0, 0, 0)], "terms": [(0, 0), (-1, 1)], "operations": [0],
        "tables": [((0, 0, 0, 3), 0, 2)],
    } | MALFORMED[why]  # fmt: skip
    columns = np.array(told["columns"], linear_compiled._COLUMN)
    terms = np.array(told["terms"], linear_compiled._TERM)
    tables = np.array(told["tables"], linear_compiled._TABLE)
    operations, none = np.array(told["operations"], np.int32), ctypes.c_void_p()
    call = library().tidemill_linear
    call.restype = ctypes.c_int32
    # Whatever it would read or write is at no address.
    answer = call(
        ctypes.c_int64(told["rows"]), ctypes.c_int32(told["sums"]), none, ctypes.c_int32(len(columns)),
        address(columns), ctypes.c_int32(len(terms) - 1), address(terms), address(operations), none, none,
        ctypes.c_int32(len(tables)), address(tables), none, none,
    )  # fmt: skip
    assert answer == linear_compiled._MALFORMED
