"""Imports scikit-learn ahead of time, for a zygote; a missing library is reported when a model is loaded."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

for _name in ("joblib", "pandas", "sklearn.compose", "sklearn.ensemble", "sklearn.linear_model", "sklearn.pipeline"):
    with suppress(ModuleNotFoundError):
        import_module(_name)
