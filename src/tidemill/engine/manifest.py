"""What a finished output says of itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tidemill.domain.plan import PlanSummary
from tidemill.ports.sink import StagedFile

if TYPE_CHECKING:
    from tidemill.domain.job import Job

FORMAT = 1


def build_manifest(
    job: Job,
    plan: PlanSummary,
    model: Mapping[str, Any],
    files: Sequence[StagedFile],
    at: datetime,
    *,
    earlier: Mapping[str, Any] | None,
    environment: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The manifest of a job whose parts are all staged. `earlier` is the manifest it appends to;
    `environment` ({"python", "digest", "lock"}) the model's own, if it has one."""
    counts = job.counts
    return {
        "manifest_format": FORMAT,
        "job_id": job.id,
        "name": job.name,
        "committed_at": at.isoformat(timespec="seconds"),
        "output": job.output,
        "format": plan.output_format,
        "mode": job.spec["output"]["mode"],
        "counts": asdict(counts),
        "schema": [{"name": name, "type": kind} for name, kind in plan.output_schema],
        "model": {
            "path": model["path"],
            "digest": job.model_digest,
            "flavor": plan.model.flavor,
            "task": plan.model.task,
            "positive_class": plan.model.positive_class,
            "classes": plan.model.classes,
            "inputs": [field.to_json() for field in plan.model.inputs],
            "outputs": [field.to_json() for field in plan.model.outputs],
        },
        "snapshot": {"digest": plan.snapshot_digest, "files": plan.files, "rows": plan.rows, "bytes": plan.input_bytes},
        "selection": None if plan.selection is None else plan.selection.to_json(),
        "increment": None if plan.increment is None else plan.increment.to_json(),
        "spec": job.spec,
        "spec_digest": job.spec_digest,
        "libraries": dict(plan.libraries),
        "acceleration": plan.acceleration or None,
        "environment": None if environment is None else dict(environment),
        "usage": job.usage,
        "appended_to": _history(earlier),
        "files": [asdict(file) for file in files],
    }


def _history(earlier: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if earlier is None:
        return []
    own = {key: earlier[key] for key in ("job_id", "committed_at", "counts", "spec_digest")}
    own["model"] = earlier["model"]["digest"]
    own["snapshot"] = earlier["snapshot"]["digest"]
    return [*earlier.get("appended_to", []), own]


def covers(manifest: Mapping[str, Any], spec_digest: str, model_digest: str, snapshot_digest: str) -> bool:
    """Whether an output holds exactly what this spec, model and snapshot give, appended or not."""
    return (spec_digest, model_digest, snapshot_digest) in _runs(manifest)


def was_asked(manifest: Mapping[str, Any], spec_digest: str) -> bool:
    """Whether an output holds what this spec gave, of whatever model and snapshot."""
    return any(spec_digest == digest for digest, _, _ in _runs(manifest))


def _runs(manifest: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Digests of spec, model and snapshot of each job whose rows are in the output."""
    return [
        (manifest["spec_digest"], manifest["model"]["digest"], manifest["snapshot"]["digest"]),
        *((run["spec_digest"], run["model"], run["snapshot"]) for run in manifest.get("appended_to", [])),
    ]


def own_entries(manifest: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """Files ("predictions" or "rejected") of the job that made the manifest, in order, each with its absolute
    "path": of an output that was appended to, the last ones."""
    parent = os.path.dirname(manifest["output"])
    entries = [entry for entry in manifest["files"] if entry["kind"] == kind]
    if manifest.get("appended_to"):
        rows, first = int(manifest["counts"]["predicted" if kind == "predictions" else "rejected"]), len(entries)
        while rows > 0 and first > 0:
            first -= 1
            rows -= entries[first]["rows"]
        entries = entries[first:]
    return [{**entry, "path": os.path.join(parent, entry["name"])} for entry in entries]


def own_files(manifest: Mapping[str, Any], kind: str) -> list[str]:
    """The paths of `own_entries`."""
    return [entry["path"] for entry in own_entries(manifest, kind)]
