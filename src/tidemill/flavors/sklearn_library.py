"""Imports scikit-learn ahead of time, for a zygote; a missing library is reported when a model is loaded.

Only what all its models need: the rest is named by the model (`sklearn_named`). scikit-learn imports pandas because it
is there and does without it; only models that take frames need it.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

from tidemill.flavors.scipy_docs import leave_docstrings
from tidemill.flavors.scipy_stats import defer_stats
from tidemill.registry import hiding

leave_docstrings()
defer_stats()
with hiding("pandas"):
    for _name in ("joblib", "sklearn.pipeline"):
        with suppress(ModuleNotFoundError):
            import_module(_name)
