"""Five real data sets through every flavor and every format: what comes out is what the library itself predicts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.integration.real.data_sets import DATA_SETS, DataSet, write
from tests.integration.real.engine import Engine
from tests.integration.real.makers import MAKERS

FORMATS = ("parquet", "csv", "jsonl")
KERNELS = ("lightgbm", "xgboost")
"""Flavors whose models a kernel predicts as well."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A data set as a file of a format."""
    folder = tmp_path_factory.mktemp("inputs")

    @cache
    def made(name: str, form: str) -> Path:
        return write(DATA_SETS[name](), form, folder / f"{name}.{form}")

    return made


@pytest.mark.parametrize("flavor", MAKERS)
@pytest.mark.parametrize("name", DATA_SETS)
def test_predictions_are_the_library_s(
    name: str, flavor: str, inputs: Callable[[str, str], Path], tmp_path: Path
) -> None:
    data = DATA_SETS[name]()
    made = MAKERS[flavor](data, tmp_path)
    library = Engine(model=made.path, predict=made.predict, features=made.features)
    kernel = replace(library, accelerate=True)
    for engine, form in product([library, kernel] if flavor in KERNELS else [library], FORMATS):
        table, receipt = engine.score(inputs(name, form), tmp_path / f"{form} {engine.accelerate}")
        assert receipt.usage.kernel_rows == (receipt.predicted if engine is kernel else 0)
        assert {row.row for row in receipt.rejections} == made.rejected, receipt.rejections[:1]
        assert (receipt.rows, receipt.predicted) == (len(data.frame), len(data.frame) - len(made.rejected))
        assert table.schema.names[-len(made.expected) :] == list(made.expected)
        for column, values in made.expected.items():
            assert bits(table[column].to_pylist()) == bits(values), (form, column)


def bits(values: Any) -> list[Any]:
    """Values that are equal only to the bit; a 32-bit float is its double."""
    listed = values.tolist() if isinstance(values, np.ndarray | pd.Series) else list(values)
    return [value.hex() if isinstance(value, float) else value for value in listed]


@pytest.mark.parametrize("name", DATA_SETS)
def test_kept_columns_are_those_of_the_file(name: str, inputs: Callable[[str, str], Path], tmp_path: Path) -> None:
    data = DATA_SETS[name]()
    made = MAKERS["python"](data, tmp_path)
    engine = Engine(model=made.path, predict=made.predict, features=made.features)
    readers = {"parquet": of_parquet, "csv": of_csv, "jsonl": of_jsonl}
    for form, read in readers.items():
        table, _ = engine.score(inputs(name, form), tmp_path / form)
        wanted = read(inputs(name, form), data)
        for column in data.kept:
            assert table[column].combine_chunks().equals(wanted[column]), (form, column)


def of_parquet(path: Path, data: DataSet) -> dict[str, pa.Array]:
    table = pa.Table.from_pandas(data.frame[list(data.kept)], preserve_index=False)
    return {name: table[name].combine_chunks() for name in data.kept}


def of_csv(path: Path, data: DataSet) -> dict[str, pa.Array]:
    """Text, to the letter; nothing is nothing."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: pa.array([row[name] or None for row in rows], pa.string()) for name in data.kept}


def of_jsonl(path: Path, data: DataSet) -> dict[str, pa.Array]:
    rows = [json.loads(line, parse_float=str, parse_int=str) for line in path.read_text().splitlines()]
    return {name: pa.array([row[name] for row in rows], pa.string()) for name in data.kept}
