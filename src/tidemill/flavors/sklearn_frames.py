"""Imports ahead of time, for a zygote, what scikit-learn uses when it is given frames of pandas."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

with suppress(ImportError):
    _pandas = import_module("pandas")
    # It imports its part for a library when it sees the first frame of it, which would be in each child.
    import_module("narwhals.stable.v2").from_native(_pandas.DataFrame())
