"""Imports MLflow, without its telemetry and its progress bars; for a zygote, ahead of time."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

# A missing library is reported when a model is loaded.
with suppress(ModuleNotFoundError):
    import_module("mlflow.pyfunc")
