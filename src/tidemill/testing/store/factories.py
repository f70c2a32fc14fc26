"""Jobs, plans and receipts to fill a store with."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tidemill.domain.access import ApiKey, Role
from tidemill.domain.admission import Needs
from tidemill.domain.errors import InputChanged
from tidemill.domain.job import NewJob
from tidemill.domain.model import ModelVersion, Pin
from tidemill.domain.plan import PlanSummary
from tidemill.domain.receipt import Part, Receipt, Rejection, Usage
from tidemill.domain.schedule import Firing, FiringState, Origin, Schedule
from tidemill.domain.signature import Field, ModelInfo
from tidemill.domain.trigger import Cron
from tidemill.domain.webhook import Webhook

ROWS = 10
"""Rows of each chunk that `new_plan` plans."""

SHORT = {"lease_seconds": 0.05, "heartbeat_seconds": 0.01}
"""Times of leases that end while a test waits."""
LONG = {"lease_seconds": 60.0, "heartbeat_seconds": 1.0}
"""Times of leases that do not."""
HOST = Needs(cpus=64, memory_bytes=2**40, gpus=8)
"""A host on which every job of these tests fits."""
KEY_ID = "0123456789abcdef"
"""Of the signing key of webhooks."""
MANIFEST: dict[str, Any] = {"files": [{"name": "part-00000.parquet", "rows": 10}], "counts": {"total": 10}}
JOURNAL: dict[str, Any] = {"output": "/data/scores", "inode": 7}
ERROR = InputChanged("a.parquet changed.", remedy="Run it again.").to_json()


def new_job(job_id: str, **changes: Any) -> NewJob:
    """A job to submit."""
    job = NewJob(
        id=job_id,
        name="nightly",
        spec={"model": "m.txt", "input": {"path": ["in.parquet"]}, "labels": {"team": "growth"}, "keep": None},
        spec_digest="5" * 64,
        model_digest="6" * 64,
        output=f"/data/{job_id}",
        staging=f"/data/.{job_id}.tidemill/{job_id}",
    )
    return replace(job, **changes)


def new_plan(chunks: int) -> PlanSummary:
    """A plan of so many chunks of `ROWS` rows."""
    model = ModelInfo(flavor="lightgbm", inputs=(Field(name="x"),), outputs=(Field(name="prediction", type="double"),))
    return PlanSummary(
        digest="7" * 64,
        snapshot_digest="8" * 64,
        files=1,
        chunks=chunks,
        rows=chunks * ROWS,
        input_bytes=123,
        source="parquet",
        columns=("id", "x"),
        kept=("id",),
        model=model,
        batch_rows=65_536,
        output_schema=(("id", "int64"), ("prediction", "double")),
    )


def new_receipt(chunk: int, *, rejected: int = 0, rows: int = ROWS, usage: Usage | None = None) -> Receipt:
    """The receipt of a chunk of `new_plan`."""
    name = f"parts/{chunk:07d}.a1.predictions.parquet"
    part = Part(kind="predictions", name=name, rows=rows - rejected, size_bytes=99, sha256="9" * 64)
    rejections = tuple(
        Rejection(file="in.parquet", row=row, stage="predict", error="ValueError", message="no")
        for row in range(rejected)
    )
    return Receipt(
        chunk=chunk,
        attempt="a1",
        rows=rows,
        predicted=rows - rejected,
        rejected=rejected,
        parts=(part,),
        usage=usage or Usage(),
        rejections=rejections,
        split_batches=(3,) if rejected else (),
    )


def new_pin(name: str | None = "churn", version: int | None = 3) -> Pin:
    """A pinned model, registered or not."""
    return Pin(
        asked=f"{name}@champion" if name else "/models/m.txt",
        path="/models/m.txt",
        digest="6" * 64,
        flavor="lightgbm",
        carries_code=False,
        preload=("lightgbm",),
        size_bytes=99,
        name=name,
        version=version if name else None,
    )


def new_version(name: str = "churn", **changes: Any) -> ModelVersion:
    """A version to add; the store gives the number."""
    version = ModelVersion(
        tenant="default",
        name=name,
        version=0,
        digest="6" * 64,
        flavor="lightgbm",
        carries_code=False,
        preload=("lightgbm", "numpy"),
        path=f"/models/{name}/m.txt",
        size_bytes=123,
        origin="https://models.example/m.txt",
        signature={"flavor": "lightgbm", "inputs": []},
        description="of May",
        created_at=datetime(2026, 5, 4, 3, 2, 1, 987_000, UTC),
        created_by="ada",
    )
    return replace(version, **changes)


def new_key(key_id: str, **changes: Any) -> ApiKey:
    """A key to add."""
    key = ApiKey(
        id=key_id,
        name="nightly",
        tenant="default",
        role=Role.OPERATOR,
        owner="growth team",
        created_at=datetime(2026, 5, 4, 3, 2, 1, 987_000, UTC),
    )
    return replace(key, **changes)


def new_webhook(webhook_id: str, **changes: Any) -> Webhook:
    """A webhook to add."""
    hook = Webhook(
        id=webhook_id,
        tenant="default",
        url="https://receiver.example/hook",
        key_id=KEY_ID,
        created_at=datetime(2026, 5, 4, 3, 2, 1, 987_000, UTC),
        created_by="ada",
    )
    return replace(hook, **changes)


def new_schedule(name: str = "nightly", **changes: Any) -> Schedule:
    """A schedule to add."""
    schedule = Schedule(
        id=f"sched_{name}",
        name=name,
        spec={"model": "m.txt", "input": {"path": ["in/{{ due | date }}"]}},
        trigger=Cron(expression="0 2 * * *", zone="Europe/Berlin"),
        key_id="key_1",
        created_by="ada",
        created_at=datetime(2026, 5, 4, 3, 2, 1, 987_000, UTC),
        next_due=datetime(2026, 5, 5, tzinfo=UTC),
        checked_at=datetime(2026, 5, 4, 3, 2, 1, 987_000, UTC),
    )
    return replace(schedule, **changes)


def new_firing(due: datetime, state: FiringState = FiringState.WAITING, **changes: Any) -> Firing:
    """A firing of `new_schedule`."""
    firing = Firing(
        schedule_id="sched_nightly",
        due=due,
        state=state,
        origin=Origin.DUE,
        fired_at=datetime(2026, 5, 5, 0, 0, 0, 123_000, UTC),
    )
    return replace(firing, **changes)
