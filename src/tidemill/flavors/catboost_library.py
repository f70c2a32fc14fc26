"""Imports CatBoost ahead of time, for a zygote; a missing library is reported when a model is loaded."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

with suppress(ModuleNotFoundError):
    import_module("catboost")
