"""XGBoost's own library by its C interface, without importing the Python package around it.

Importing `xgboost` drags in scikit-learn, SciPy and pandas: 1.7 s of CPU and 180 MB in every child,
against 0.01 s and 5 MB for the library alone. The calls are those that the package makes, so values are
equal bit for bit.

Importing this module loads the library (no thread starts, nothing is predicted), so it can be preloaded
before a fork; a missing package is only reported by `Booster`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import logging
import math
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.domain.errors import ModelUnusable
from tidemill.flavors.matrix import Array
from tidemill.registry import missing_extra

LOG = logging.getLogger(__name__)

_DISTRIBUTIONS = ("xgboost-cpu", "xgboost")
_PLACE_AND_TIME = re.compile(r"^\[[\d:]+\] \S+?:\d+: ")
"""What the library puts before its words."""


def _open() -> ctypes.CDLL | ModuleNotFoundError:
    """The loaded library, or why it is not there."""
    package = importlib.util.find_spec("xgboost")
    if package is None or package.origin is None:
        return ModuleNotFoundError("No module named 'xgboost'", name="xgboost")
    finder = importlib.util.spec_from_file_location(f"{__name__}.path", Path(package.origin).with_name("libpath.py"))
    if finder is None or finder.loader is None:
        return ModuleNotFoundError("The package xgboost has no libpath.py", name="xgboost")
    module = importlib.util.module_from_spec(finder)
    finder.loader.exec_module(module)
    library = ctypes.CDLL(module.find_lib_path()[0])
    library.XGBGetLastError.restype = ctypes.c_char_p
    return library


def _log(message: bytes) -> None:
    if text := message.decode(errors="replace").strip():
        LOG.debug("%s", text)


_LOG_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(_log)
"""Kept alive for the library, which prints otherwise."""

_LIBRARY = _open()


def distribution() -> tuple[str, str]:
    """Name and version of what was installed: the library comes without and with code for GPUs."""
    for name in _DISTRIBUTIONS:
        with suppress(PackageNotFoundError):
            return name, distribution_version(name)
    raise missing_extra("xgboost", ModuleNotFoundError("No package xgboost is installed", name="xgboost"))


class Booster:
    """A loaded model. `predict` may be called from several threads at once."""

    def __init__(self, content: bytes, path: str) -> None:
        """`content` is a model in JSON or UBJSON that was found whole: the library crashes on changed
        numbers. Raises ModelUnusable naming `path`, MissingExtra."""
        if isinstance(_LIBRARY, ModuleNotFoundError):
            raise missing_extra("xgboost", _LIBRARY)
        self._library = _LIBRARY
        self._handle = ctypes.c_void_p()
        try:
            self._call("XGBoosterCreate", None, ctypes.c_uint64(0), ctypes.byref(self._handle))
            self._call("XGBoosterLoadModelFromBuffer", self._handle, content, ctypes.c_uint64(len(content)))
            self._call("XGBoosterSetParam", self._handle, b"nthread", b"1")
            self.rounds = self._number("XGBoosterBoostedRounds")
            """Rounds of boosting that it was trained for."""
        except RuntimeError as exc:
            self.close()
            raise ModelUnusable(
                f"XGBoost cannot load {path}: {exc}.",
                remedy="Copy or save the model again, with a version of XGBoost that is not newer than the one here.",
            ) from exc

    def predict(self, matrix: Array, *, rounds: int = 0, missing: float = math.nan, margin: bool = False) -> Array:
        """Predictions of a matrix of floats with at least one row: (rows, width) as float32, of trees.

        `rounds` are the rounds of boosting that count, 0 for all; `missing` is the number that stands for
        a missing one, beside NaN. Runs in the calling thread alone. Raises ValueError with the library's words.
        """
        return self._predicted(
            "XGBoosterPredictFromDense",
            _interface(matrix),
            _settings(margin=margin, rounds=rounds, missing=missing, cache_id=0),
            ctypes.c_void_p(),
        )

    def predict_linear(self, matrix: Array, *, missing: float = math.nan, margin: bool = False) -> Array:
        """The same, of linear functions, for which the library copies the matrix first."""
        data = ctypes.c_void_p()
        settings = json.dumps({"missing": missing, "nthread": 1}).encode()
        try:
            self._call("XGDMatrixCreateFromDense", _interface(matrix), settings, ctypes.byref(data))
        except RuntimeError as exc:
            raise ValueError(f"XGBoost cannot read the rows: {exc}") from exc
        try:
            return self._predicted("XGBoosterPredictFromDMatrix", data, _settings(margin=margin, rounds=0))
        finally:
            self._call("XGDMatrixFree", data)

    def close(self) -> None:
        """Give the model's memory back. Safe to repeat."""
        handle, self._handle = self._handle, ctypes.c_void_p()
        if handle:
            self._call("XGBoosterFree", handle)

    def _predicted(self, function: str, *arguments: Any) -> Array:
        if not self._handle:
            raise ValueError("the model is closed")
        shape, dimensions = ctypes.POINTER(ctypes.c_uint64)(), ctypes.c_uint64()
        values = ctypes.POINTER(ctypes.c_float)()
        out = ctypes.byref(shape), ctypes.byref(dimensions), ctypes.byref(values)
        try:
            self._call(function, self._handle, *arguments, *out)
        except RuntimeError as exc:
            raise ValueError(f"XGBoost cannot predict: {exc}") from exc
        sizes = tuple(shape[position] for position in range(dimensions.value))
        # The library's memory is the calling thread's, and is written over by its next call.
        return np.ctypeslib.as_array(values, sizes).copy().reshape(sizes[0], -1)

    def _number(self, function: str) -> int:
        found = ctypes.c_int()
        self._call(function, self._handle, ctypes.byref(found))
        return found.value

    def _call(self, function: str, *arguments: Any) -> None:
        # The library keeps one callback per thread.
        self._library.XGBRegisterLogCallback(_LOG_CALLBACK)
        if getattr(self._library, function)(*arguments) != 0:
            words = self._library.XGBGetLastError().decode(errors="replace").strip().partition("\n")[0]
            raise RuntimeError(_PLACE_AND_TIME.sub("", words).rstrip("."))


def _settings(*, margin: bool, rounds: int, **more: Any) -> bytes:
    settings = {"type": int(margin), "training": False, "iteration_begin": 0, "iteration_end": rounds}
    return json.dumps({**settings, "strict_shape": True, **more}).encode()


def _interface(array: Array) -> bytes:
    """Where and how an array lies in memory."""
    return json.dumps(array.__array_interface__).encode()
