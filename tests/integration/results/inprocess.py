"""A job's whole way without worker, store and children: plan, score chunk by chunk, assemble, publish."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidemill.domain.ids import new_id
from tidemill.domain.job import Counts, Job, JobState, Want
from tidemill.domain.plan import PlanSummary
from tidemill.domain.receipt import Receipt, Usage
from tidemill.engine import models, planner
from tidemill.engine.assembly import assemble
from tidemill.engine.careful import run_carefully
from tidemill.engine.chunkout import Meter
from tidemill.engine.chunkscorer import ChunkScorer, ModelKeeper
from tidemill.engine.manifest import build_manifest
from tidemill.ports.executor import ChunkRun
from tidemill.ports.sink import Claim
from tidemill.service import outputs
from tidemill.sinks.local import LocalSink
from tidemill.wire.spec import JobSpec

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run_job(
    words: dict[str, Any], parent: dict[str, Any] | None = None, *, seen: list[Usage] | None = None
) -> dict[str, Any]:
    """Run the spec with these words; returns the published manifest. `seen` gets what each chunk used."""
    spec = JobSpec.model_validate(words)
    assert spec.output is not None
    spec = spec.model_copy(update={"output": outputs.resolve(spec.output)})
    assert spec.output is not None
    job_id = new_id("job")
    options = spec.output.options
    suffix = f".{spec.output.format}" + {"gzip": ".gz", "zstd": ".zst"}.get(str(options.get("compression")), "")
    sink = LocalSink(spec.output.path, mode=spec.output.mode, suffix=suffix, single_file=options["single_file"])
    claim = Claim(job_id=job_id, store="s", host="h", pid=1, worker_lock="", output=spec.output.path, started_at="now")
    sink.prepare(claim, replace=None)
    staging = Path(sink.staging(job_id))
    model = {**models.identify(spec.model, None), "trusted": True}
    request = {"brief": spec.brief().to_json(), "staging": str(staging), "model": model, "parent": parent}
    plan = PlanSummary.from_json(planner.plan(request, lambda seen: None)["plan"])
    receipts = _score(staging, plan, model)
    if seen is not None:
        seen += [receipt.usage for receipt in receipts]
    counts = Counts(
        total=plan.rows,
        predicted=sum(receipt.predicted for receipt in receipts),
        rejected=sum(receipt.rejected for receipt in receipts),
    )
    assert counts.total == counts.predicted + counts.rejected, (counts, receipts)
    job = _job(job_id, spec, model, counts)
    parts = [(receipt.chunk, part) for receipt in receipts for part in receipt.parts]
    if options["single_file"]:
        listing = staging / "parts.jsonl"
        listing.write_text("".join(f'["{part.kind}", "{part.name}"]\n' for _, part in parts))
        answer = assemble(
            {"staging": str(staging), "plan_digest": plan.digest, "parts": str(listing)}, lambda seen: None
        )
        made = Receipt.from_json({**receipts[0].to_json(), "parts": answer["parts"]})
        parts = [(0, part) for part in made.parts]
    manifest = build_manifest(job, plan, model, sink.assemble(job_id, parts), NOW, earlier=None, environment=None)
    sink.publish(job_id, manifest, sink.journal(job_id), lambda: True)
    sink.finish(job_id)
    return manifest


def _score(staging: Path, plan: PlanSummary, model: dict[str, Any]) -> list[Receipt]:
    job = {"staging": str(staging), "plan_digest": plan.digest, "model": model, "threads": 1, "max_rejected": 10**6}
    scorer = ChunkScorer(job, ModelKeeper(), Meter())
    receipts = []
    for number in range(plan.chunks):
        messages: list[dict[str, Any]] = []
        run_carefully(scorer, ChunkRun(chunk=number, attempt="e1-1"), messages.append)
        assert messages[-1]["op"] == "done", messages[-1]
        receipts.append(Receipt.from_json(messages[-1]["receipt"]))
    return receipts


def _job(job_id: str, spec: JobSpec, model: dict[str, Any], counts: Counts) -> Job:
    assert spec.output is not None
    return Job(
        id=job_id, name="job", state=JobState.COMMITTING, want=Want.RUN, spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest(), model_digest=model["digest"], output=spec.output.path, staging="",
        foreground=False, priority=0, epoch=1, crashes=0, worker_id=None, counts=counts, chunks_total=1,
        chunks_done=1, plan=None, error=None, usage=vars(Usage()), created_at=NOW, started_at=NOW, finished_at=NOW,
    )  # fmt: skip


def member(manifest: dict[str, Any], parent: dict[str, Any] | None = None, target: int | None = None) -> dict[str, Any]:
    """A member of a view, as `service.results` asks for it."""
    folder = Path(manifest["output"]).parent

    def files(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
        return [
            {"path": str(folder / entry["name"]), "rows": entry["rows"]}
            for entry in found["files"]
            if entry["kind"] == kind
        ]

    selected = None
    if parent is not None:
        selected = {"paths": [entry["path"] for entry in files(parent, "rejected")], "format": parent["format"]}
    return {
        "files": {kind: files(manifest, kind) for kind in ("predictions", "rejected")},
        "format": manifest["format"],
        "types": {column["name"]: column["type"] for column in manifest["schema"]},
        "target": target,
        "selected": selected,
        "first_rows": [] if parent is None else manifest["selection"]["first_rows"],
    }
