"""What turns sums of trees into predictions, by the C library's `exp`: models' libraries call the same, so the last
bit is theirs, where numpy's own may differ in it."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from tidemill.kernels.library import address, library

Array = np.ndarray[Any, Any]


def logistic(scores: Array, slope: float = 1.0) -> Array:
    """1 / (1 + exp(-slope * score)) of scores, in their place; of float32 ones without a slope."""
    if scores.dtype == np.float32:
        library().tidemill_logistic_f4(address(scores), ctypes.c_int64(scores.size))
        return scores
    library().tidemill_logistic(address(scores), ctypes.c_int64(scores.size), ctypes.c_double(slope))
    return scores


def exponential(scores: Array) -> Array:
    """exp(score) of scores, float64 or float32, in their place."""
    call = library().tidemill_exp_f4 if scores.dtype == np.float32 else library().tidemill_exp
    call(address(scores), ctypes.c_int64(scores.size))
    return scores


def logarithm(values: Array) -> Array:
    """log(value) of float32 values, in their place."""
    library().tidemill_log_f4(address(values), ctypes.c_int64(values.size))
    return values


def log1p_exp(scores: Array) -> Array:
    """log(1 + exp(score)) of float64 scores, in their place."""
    library().tidemill_log1p_exp(address(scores), ctypes.c_int64(scores.size))
    return scores


def softmax(scores: Array) -> Array:
    """Shares of each row, (rows, groups), of scores (groups, rows), float64 or float32."""
    groups, rows = scores.shape
    out = np.empty((rows, groups), scores.dtype)
    call = library().tidemill_softmax_f4 if scores.dtype == np.float32 else library().tidemill_softmax
    call(address(scores), ctypes.c_int64(rows), ctypes.c_int32(groups), address(out))
    return out
