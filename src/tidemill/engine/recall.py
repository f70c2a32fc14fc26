"""What models of earlier jobs take and give, so that small jobs need not load a model only to be planned."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from tidemill.wire.spec import JobSpec

MOST = 64


class Recall:
    """The newest `ModelInfo`s, as JSON, by all that decides them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._infos: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def get(self, key: str | None) -> dict[str, Any] | None:
        """What was found out about that model, if anything."""
        with self._lock:
            info = None if key is None else self._infos.get(key)
            if key is not None and info is not None:
                self._infos.move_to_end(key)
            return info

    def put(self, key: str | None, info: dict[str, Any]) -> None:
        """Remember it; without a key nothing is."""
        if key is None:
            return
        with self._lock:
            self._infos[key] = info
            self._infos.move_to_end(key)
            if len(self._infos) > MOST:
                self._infos.popitem(last=False)


def info_key(model: Mapping[str, Any], environment: Mapping[str, Any] | None, spec: JobSpec) -> str | None:
    """All that decides what a planner finds out about a model. None for code ("module:Class"): what it imports
    may have changed."""
    if not os.path.exists(model["path"]):
        return None
    loaded = {
        "model": model,
        "environment": environment,
        "predict": spec.predict.model_dump(mode="json"),
        "features": spec.features,
    }
    return hashlib.sha256(json.dumps(loaded, sort_keys=True).encode()).hexdigest()
