"""Imports scikit-learn ahead of time, for a zygote; a missing library is reported when a model is loaded.

Only what all its models need: the rest is named by the model (`sklearn_named`). scikit-learn imports pandas and rich
because they are there: it does without them where it predicts, and only models that take frames need pandas.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

from tidemill.flavors.deferred import defer
from tidemill.registry import hiding

defer()
with hiding("pandas", "rich"):
    for _name in ("joblib", "sklearn.pipeline"):
        with suppress(ModuleNotFoundError):
            import_module(_name)
