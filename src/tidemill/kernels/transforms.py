"""What turns sums of trees into predictions, by the C library's `exp`: models' libraries call the same, so the last
bit is theirs, where numpy's own may differ in it."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from tidemill.kernels.library import address, library

Array = np.ndarray[Any, Any]


def logistic(scores: Array, slope: float = 1.0) -> Array:
    """1 / (1 + exp(-slope * score)) of float64 scores, in their place."""
    library().tidemill_logistic(address(scores), ctypes.c_int64(scores.size), ctypes.c_double(slope))
    return scores


def exponential(scores: Array) -> Array:
    """exp(score) of float64 scores, in their place."""
    library().tidemill_exp(address(scores), ctypes.c_int64(scores.size))
    return scores


def log1p_exp(scores: Array) -> Array:
    """log(1 + exp(score)) of float64 scores, in their place."""
    library().tidemill_log1p_exp(address(scores), ctypes.c_int64(scores.size))
    return scores


def softmax(scores: Array) -> Array:
    """Shares of each row, (rows, groups), of float64 scores (groups, rows)."""
    groups, rows = scores.shape
    out = np.empty((rows, groups))
    library().tidemill_softmax(address(scores), ctypes.c_int64(rows), ctypes.c_int32(groups), address(out))
    return out
