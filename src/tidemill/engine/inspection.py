"""What a model takes and gives, told by loading it once. Runs in children."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tidemill.domain.errors import SchemaMismatch
from tidemill.domain.signature import ModelInfo
from tidemill.engine import models

Progress = Callable[[dict[str, Any]], None]


def inspect(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """The signature of a model: {"model": what `models.load` takes} -> {"signature": `ModelInfo` as JSON}.

    A model that does not know its own columns loads only once a job names them: its signature has none,
    and a note says so. Raises the flavor's error for one that cannot be loaded at all.
    """
    model = request["model"]
    try:
        loaded = models.load(model, {"threads": 1})
    except SchemaMismatch as exc:
        return {"signature": ModelInfo(flavor=model["flavor"], inputs=(), outputs=(), notes=(str(exc),)).to_json()}
    try:
        return {"signature": loaded.info.to_json()}
    finally:
        loaded.close()
