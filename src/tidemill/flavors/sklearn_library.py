"""Imports scikit-learn ahead of time, for a zygote; a missing library is reported when a model is loaded."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

for _name in (
    "joblib", "pandas", "pyarrow.pandas_compat", "sklearn.compose", "sklearn.ensemble", "sklearn.impute",
    "sklearn.linear_model", "sklearn.pipeline",
):  # fmt: skip
    with suppress(ModuleNotFoundError):
        import_module(_name)
