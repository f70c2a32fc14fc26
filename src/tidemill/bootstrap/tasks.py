"""Entry points of children that answer one question. Each takes (request, progress), returns JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tidemill.engine import assembly, models, planner, preview, verification

Progress = Callable[[dict[str, Any]], None]


def identify(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Which model is this: {"path", "flavor"} -> what `models.identify` returns."""
    return models.identify(request["path"], request.get("flavor"))


def versions(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Installed versions: {name: version as planned} -> {name: version now}."""
    return models.versions(request)


snapshot = planner.snapshot
plan = planner.plan
assemble = assembly.assemble
show = preview.preview
head = preview.head
compare = verification.compare
verify = verification.verify
