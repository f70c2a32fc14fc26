"""LightGBM's own library by its C interface, without importing the Python package around it.

Importing `lightgbm` drags in scikit-learn, SciPy and pandas: 1.3 s of CPU and 100 MB in every child, for
two calls of the C library. They are the calls that `lightgbm.Booster` makes, so values are equal bit for
bit. The library file is found by LightGBM's own `libpath.py`, which imports nothing of the rest.

Importing this module loads the library (no thread starts, nothing is predicted), so it can be preloaded
before a fork; a missing package is only reported by `Booster`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.domain.errors import ModelUnusable
from tidemill.registry import missing_extra

LOG = logging.getLogger(__name__)

_FLOATS = {"f4": 0, "f8": 1}
"""What the library calls types of numbers."""
_NORMAL_PREDICTION = 0
_ONE_THREAD = b"num_threads=1"
_ALL_ITERATIONS = -1


def _open() -> ctypes.CDLL | ModuleNotFoundError:
    """The loaded library, or why it is not there."""
    package = importlib.util.find_spec("lightgbm")
    if package is None or package.origin is None:
        return ModuleNotFoundError("No module named 'lightgbm'", name="lightgbm")
    finder = importlib.util.spec_from_file_location(f"{__name__}.path", Path(package.origin).with_name("libpath.py"))
    if finder is None or finder.loader is None:
        return ModuleNotFoundError("The package lightgbm has no libpath.py", name="lightgbm")
    module = importlib.util.module_from_spec(finder)
    finder.loader.exec_module(module)
    library: ctypes.CDLL = module._LIB
    library.LGBM_GetLastError.restype = ctypes.c_char_p
    return library


def _log(message: bytes) -> None:
    if text := message.decode(errors="replace").strip():
        LOG.debug("%s", text)


_LOG_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(_log)
"""LightGBM prints to stdout otherwise, which belongs to the child's protocol. Kept alive for the library."""

_LIBRARY = _open()


def version() -> str:
    """The version of the installed library."""
    return distribution_version("lightgbm")


class Booster:
    """A loaded model. `predict` may be called from several threads at once."""

    def __init__(self, text: bytes) -> None:
        """`text` is a whole model file that was found complete: the library aborts the process on a
        truncated one. Raises ModelUnusable, MissingExtra."""
        if isinstance(_LIBRARY, ModuleNotFoundError):
            raise missing_extra("lightgbm", _LIBRARY)
        self._library = _LIBRARY
        self._handle = ctypes.c_void_p()
        iterations, width = ctypes.c_int(), ctypes.c_int()
        try:
            self._call("LGBM_BoosterLoadModelFromString", text, ctypes.byref(iterations), ctypes.byref(self._handle))
            self._call("LGBM_BoosterGetNumClasses", self._handle, ctypes.byref(width))
        except RuntimeError as exc:
            raise ModelUnusable(f"LightGBM cannot load the model: {exc}.", remedy="Save the model again.") from exc
        self.iterations = iterations.value
        self.width = width.value
        """Numbers that one row's prediction has."""

    def predict(self, matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Predictions of a float64 or float32 matrix in C or Fortran order: (rows,), or (rows, width) if width > 1.

        Runs in the calling thread alone. Raises ValueError with the library's words.
        """
        if not self._handle:
            raise ValueError("the model is closed")
        rows, columns = matrix.shape
        if not rows:
            return np.empty((0, self.width) if self.width > 1 else 0, np.float64)
        out = np.empty(rows * self.width, np.float64)
        written = ctypes.c_int64()
        try:
            self._call(
                "LGBM_BoosterPredictForMat",
                self._handle,
                ctypes.c_void_p(matrix.ctypes.data),
                ctypes.c_int(_FLOATS[matrix.dtype.str[1:]]),
                ctypes.c_int32(rows),
                ctypes.c_int32(columns),
                ctypes.c_int(bool(matrix.flags.c_contiguous)),
                ctypes.c_int(_NORMAL_PREDICTION),
                ctypes.c_int(0),
                ctypes.c_int(_ALL_ITERATIONS),
                _ONE_THREAD,
                ctypes.byref(written),
                ctypes.c_void_p(out.ctypes.data),
            )
        except RuntimeError as exc:
            raise ValueError(f"LightGBM cannot predict: {exc}") from exc
        if written.value != out.size:
            raise ValueError(f"LightGBM gave {written.value} numbers for {rows} rows, not {out.size}")
        return out.reshape(rows, self.width) if self.width > 1 else out

    def close(self) -> None:
        """Give the model's memory back. Safe to repeat."""
        handle, self._handle = self._handle, ctypes.c_void_p()
        if handle:
            self._call("LGBM_BoosterFree", handle)

    def _call(self, function: str, *arguments: Any) -> None:
        # The library keeps one callback per thread.
        self._library.LGBM_RegisterLogCallback(_LOG_CALLBACK)
        if getattr(self._library, function)(*arguments) != 0:
            raise RuntimeError(self._library.LGBM_GetLastError().decode(errors="replace"))
