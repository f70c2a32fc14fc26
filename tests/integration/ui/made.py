"""Jobs in any state, as workers would bring them there."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tidemill.domain.job import JobState, Lease, NewJob, Want
from tidemill.domain.model import Pin
from tidemill.service.context import Context
from tidemill.testing.store.factories import ERROR, JOURNAL, MANIFEST, new_job, new_plan, new_receipt

HERE = "http://127.0.0.1:8642"
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
EVIL = "<script>alert(1)</script>"


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """Makes jobs in any state, as workers would."""

    context: Context

    def add(self, number: int, state: JobState, *, tenant: str = "default", name: str = "nightly") -> str:
        job = self._new(number, tenant, name)
        store = self.context.store
        if state in (JobState.QUEUED, JobState.PAUSED, JobState.CANCELLED):
            store.jobs.submit(job)
            if state is not JobState.QUEUED:
                store.jobs.wish(job.id, Want.PAUSE if state is JobState.PAUSED else Want.CANCEL)
            return job.id
        _, lease = store.jobs.submit_claimed(job, self.context.worker_id)
        self._advance(lease, state)
        return job.id

    def _new(self, number: int, tenant: str, name: str) -> NewJob:
        job_id = f"job_{number:016d}"
        pin = Pin(
            asked="churn@champion", path="/models/churn/3", digest="6" * 64, flavor="lightgbm", carries_code=False,
            name="churn", version=3,
        )  # fmt: skip
        output = str(self.context.places.results / job_id / "predictions")
        spec = {
            "name": name,
            "model": "churn@champion",
            "input": {"path": ["/data/in.parquet"]},
            "keep": ["id"],
            "output": {"path": output},
        }
        return replace(
            new_job(job_id), name=name, spec=spec, tenant=tenant, owner="alice", model=pin,
            output=output, managed=True,
        )  # fmt: skip

    def _advance(self, lease: Lease, state: JobState) -> None:
        store = self.context.store
        if state is JobState.PLANNING:
            return
        assert store.ledger.record_plan_if_current(lease, new_plan(3))
        rejected = 2 if state is JobState.SUCCEEDED_WITH_REJECTIONS else 0
        assert store.ledger.commit_chunks_if_current(lease, [new_receipt(0, rejected=rejected)])
        if state is JobState.RUNNING:
            return
        if state is JobState.FAILED:
            assert store.jobs.end_if_current(lease, state, ERROR)
            return
        assert store.ledger.commit_chunks_if_current(lease, [new_receipt(1), new_receipt(2)])
        assert store.ledger.begin_commit_if_current(lease, MANIFEST, JOURNAL)
        if state is not JobState.COMMITTING:
            assert store.jobs.end_if_current(lease, state)
