"""What a loaded model is known by, to use it for another job."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tidemill.domain.plan import PlanSummary

Stamp = tuple[tuple[str, int, int, int, int, int], ...]


def load_options(plan: PlanSummary, threads: int) -> dict[str, Any]:
    """What the flavor is told when it loads the model of a plan."""
    features = [field.name for field in plan.model.inputs]
    return {**plan.predict, "features": features, "threads": threads, "accelerate": plan.kernel is not None}


def model_key(
    model: Mapping[str, Any], plan: PlanSummary, threads: int, gpus: Sequence[str] | None = None
) -> str | None:
    """A digest of all that decides what is loaded and where: the model ("path", "digest", "flavor"), the options
    and the GPUs.

    None for a model that is code ("module:Class"): its class may remember rows, and its neighbours may
    have changed, so it is loaded anew for each job.
    """
    if not os.path.exists(model["path"]):
        return None
    words = [model["path"], model["digest"], model["flavor"], load_options(plan, threads), gpus]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def stamp(path: str) -> Stamp:
    """What changes when a file changes, of a file or of each file in a folder; reads no content."""
    return tuple(_stamps(path))


def _stamps(path: str) -> Iterator[tuple[str, int, int, int, int, int]]:
    names = [os.path.join(folder, name) for folder, _, files in os.walk(path) for name in files]
    for name in sorted(names) or [path]:
        there = os.stat(name)
        yield name, there.st_size, there.st_mtime_ns, there.st_ctime_ns, there.st_dev, there.st_ino
