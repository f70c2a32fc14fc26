"""One file of many parts, for outputs that are a single file. Runs in children."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tidemill import registry
from tidemill.domain.receipt import Part, PartKind
from tidemill.engine import planfile
from tidemill.engine.fence import fenced


def assemble(request: Mapping[str, Any], progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Make `out/data<suffix>` and, if there are rejected rows, `out/rejected<suffix>` in staging.

    request: {"staging", "epoch", "plan_digest", "parts" (a file of [kind, name] lines)}. Started over after
    a crash: it only reads committed parts. Returns {"parts": [Part as JSON], "cpu_seconds"}. Raises LeaseLost if
    a later epoch was here already.
    """
    started = time.process_time()
    staging = Path(request["staging"])
    with fenced(staging, request.get("epoch", 0)):
        made = _assemble(staging, request, progress)
    return {"parts": [asdict(part) for part in made], "cpu_seconds": time.process_time() - started}


def _assemble(staging: Path, request: Mapping[str, Any], progress: Callable[[dict[str, Any]], None]) -> list[Part]:
    plan = planfile.read_summary(staging, request["plan_digest"])
    encoder = registry.encoders.get(plan.output_format)(plan.output_options)
    parts: dict[PartKind, list[Path]] = {"predictions": [], "rejected": []}
    with open(request["parts"]) as file:
        for line in file:
            kind, name = json.loads(line)
            parts[kind].append(staging / name)
    made = []
    for kind, stem in (("predictions", "data"), ("rejected", "rejected")):
        if parts[kind]:  # type: ignore[index]
            name = f"out/{stem}{encoder.file_suffix}"
            written = encoder.assemble(parts[kind], staging / name, plan.metadata)  # type: ignore[index]
            made.append(Part(kind=kind, name=name, **asdict(written)))  # type: ignore[arg-type]
            progress({"assembled": kind})
    return made
