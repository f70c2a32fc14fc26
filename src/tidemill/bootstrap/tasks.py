"""Entry points of children that answer one question. Each takes (request, progress), returns JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tidemill.engine import (
    acceleration,
    assembly,
    environments,
    inputpreview,
    inspection,
    models,
    planner,
    preview,
    results,
    sampling,
    trials,
    verification,
)
from tidemill.flavors import mlflow_registry

Progress = Callable[[dict[str, Any]], None]


def identify(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Which model is this: {"path", "flavor"} -> what `models.identify` returns."""
    return models.identify(request["path"], request.get("flavor"))


def versions(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Installed versions: {name: version as planned} -> {name: version now}."""
    return models.versions(request)


def environment(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """A model's own Python: {"requirements", "python", "folder"} -> what `environments.ensure` returns."""
    return dict(environments.ensure(request["requirements"], request["python"], Path(request["folder"]), progress))


def fetch_mlflow(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """A model of an MLflow server: {"uri", "folder", "credentials"} -> what `mlflow_registry.download` returns."""
    os.environ.update(request["credentials"])
    return dict(mlflow_registry.download(request["uri"], request["folder"]))


def read_result(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """A question about a finished result: see `results.read`."""
    return results.read(request, progress)


snapshot = planner.snapshot
still_planned = planner.still_planned
plan = planner.plan
accelerate = acceleration.check
assemble = assembly.assemble
show = preview.preview
head = preview.head
look = inputpreview.look
compare = verification.compare
inspect = inspection.inspect
sample = sampling.sample
trial = trials.trial
verify = verification.verify
