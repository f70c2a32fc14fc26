"""What earlier jobs of this process found out of models, so that later ones need not."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from tidemill.domain.plan import PlanSummary
from tidemill.engine.layout import Shown
from tidemill.engine.modelkey import model_key
from tidemill.wire.spec import JobSpec

MOST = 64

V = TypeVar("V")


class Recent(Generic[V]):
    """The values that were used last, at most `MOST`, by all that decides them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: OrderedDict[str, V] = OrderedDict()

    def get(self, key: str | None) -> V | None:
        """What is remembered of it, if anything."""
        with self._lock:
            if key is None or key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def put(self, key: str | None, value: V) -> None:
        """Remember it; without a key nothing is."""
        if key is None:
            return
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            if len(self._values) > MOST:
                self._values.popitem(last=False)


@dataclass(frozen=True, kw_only=True)
class Recall:
    """What a process remembers; its workers share it."""

    infos: Recent[dict[str, Any]] = field(default_factory=Recent)
    """`ModelInfo`s as JSON, what models take and give, by `info_key`: small jobs need not load a model only to be
    planned."""
    shown: Recent[Shown] = field(default_factory=Recent)
    """What chunks of a single scorer showed, by `shown_key`: the next such job has its scorers from the start."""


def info_key(model: Mapping[str, Any], environment: Mapping[str, Any] | None, spec: JobSpec) -> str | None:
    """All that decides what a planner finds out about a model. None for code ("module:Class"): what it imports
    may have changed."""
    if not os.path.exists(model["path"]):
        return None
    return _digest(
        {
            "model": model,
            "environment": environment,
            "predict": spec.predict.model_dump(mode="json"),
            "features": spec.features,
        }
    )


def shown_key(
    model: Mapping[str, Any], plan: PlanSummary, python: str | None, gpus: tuple[str, ...] | None
) -> str | None:
    """All that decides what a row costs on this host: the model as it is loaded, what runs it, how rows are read and
    written. None for code, as nothing loaded of it is kept, and for chosen rows: reading those costs what lies between.
    """
    loaded = model_key(model, plan, 1, gpus)
    if loaded is None or plan.selection is not None:
        return None
    return _digest(
        {
            "loaded": loaded,
            "python": python,
            "libraries": plan.libraries,
            "kernel": None if plan.kernel is None else plan.kernel["name"],
            "batch_rows": plan.batch_rows,
            "source": [plan.source, plan.source_options, plan.types],
            "schemas": plan.schemas,
            "output": [plan.output_format, plan.output_options],
        }
    )


def _digest(words: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()
