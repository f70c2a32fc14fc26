"""The compiled library of kernels, which is a distribution of its own: `pip install tidemill-kernels`."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

ABI = 5
"""What the library must answer: raised whenever a call changes."""

DISTRIBUTION = "tidemill-kernels"
_PACKAGE = "tidemill_kernels"


class NotCompilable(Exception):
    """Why a model cannot be scored by a kernel: the end of a sentence."""


def library() -> ctypes.CDLL:
    """The loaded library: its calls release the interpreter's lock, start no thread and keep no state.

    Raises NotCompilable if it is not installed, cannot be loaded or is of another version.
    """
    found = _found()
    if isinstance(found, str):
        raise NotCompilable(found)
    return found


def version() -> str:
    """The version of the installed library."""
    return importlib.metadata.version(DISTRIBUTION)


def address(array: np.ndarray[Any, Any]) -> ctypes.c_void_p:
    """Where the numbers of a contiguous array begin."""
    return ctypes.c_void_p(array.ctypes.data)


@cache
def _found() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or package.origin is None:
        return f"{DISTRIBUTION} is not installed"
    for path in sorted(Path(package.origin).parent.glob("_kernels*.so")):
        try:
            found = ctypes.CDLL(str(path))
            answer: int = found.tidemill_abi()
        except (OSError, AttributeError):
            continue
        if answer == ABI:
            return found
    return f"the installed {DISTRIBUTION} does not fit this version of Tidemill"
