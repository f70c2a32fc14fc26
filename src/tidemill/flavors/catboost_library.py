"""Imports CatBoost ahead of time, for a zygote; a missing library is reported when a model is loaded.

That is 0.7 s of CPU and 150 MB, most of it pandas. Its wheel has no C interface to do without, and frames are
what it takes categories from.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

with suppress(ModuleNotFoundError):
    import_module("catboost")
