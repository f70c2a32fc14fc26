"""A registry with its children, shared by all tests; each test is a tenant of its own."""

from __future__ import annotations

import hashlib
import itertools
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.access import Principal, Role
from tidemill.service.context import Context

_numbers = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Model files to add. `roots` is where keys may read."""

    roots: Path
    outside: Path

    def put(self, name: str, data: bytes, *, outside: bool = False) -> Path:
        """A file with these bytes."""
        folder = (self.outside if outside else self.roots) / f"{next(_numbers)}"
        folder.mkdir()
        (folder / name).write_bytes(data)
        return folder / name


@cache
def lightgbm_text() -> bytes:
    """A real booster; it gives a number."""
    return (files("tidemill.cli") / "demo_data" / "model.txt").read_bytes()


@cache
def regression(seed: int) -> object:
    from sklearn.linear_model import LinearRegression

    return LinearRegression().fit(*_points(seed))


def _points(seed: int) -> tuple[object, object]:
    import pandas as pd

    x = np.random.default_rng(seed).normal(size=(40, 2))
    return pd.DataFrame(x, columns=["a", "b"]), x[:, 0] - x[:, 1] * (seed + 2)


@cache
def skops_file(seed: int = 0) -> bytes:
    import skops.io

    return bytes(skops.io.dumps(regression(seed)))


@cache
def joblib_file(seed: int = 0) -> bytes:
    return pickle.dumps(regression(seed))


@cache
def onnx_file() -> bytes:
    """y = 2 a - b + 1 over a matrix x of two columns."""
    from onnx import TensorProto, helper

    node = helper.make_node(
        "LinearRegressor", ["x"], ["y"], domain="ai.onnx.ml", coefficients=[2.0, -1.0], intercepts=[1.0]
    )
    graph = helper.make_graph(
        [node],
        "line",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def code(number: int) -> bytes:
    """A pickle that is quickly told from others and never loaded."""
    return pickle.dumps({"number": number})


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="package")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(roots=tmp_path_factory.mktemp("roots"), outside=tmp_path_factory.mktemp("outside"))


@pytest.fixture(scope="package")
def context(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Iterator[Context]:
    with opened(Settings(home=tmp_path_factory.mktemp("home"), data_roots=[shelf.roots])) as wired:
        yield wired


@pytest.fixture
def tenant() -> str:
    return f"tenant-{next(_numbers)}"


@pytest.fixture
def person(tenant: str) -> Principal:
    """Somebody at the machine."""
    return Principal(name="ann", tenant=tenant)


@pytest.fixture
def key(tenant: str) -> Callable[[Role], Principal]:
    """Somebody with a key of that role."""
    return lambda role: Principal(name=f"a {role.value}", tenant=tenant, role=role, id=f"key_{tenant}")
