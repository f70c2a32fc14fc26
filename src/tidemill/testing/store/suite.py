"""Opening stores, and bringing jobs to a state: what all suites of a store share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tidemill.domain.job import Job, JobState, Lease, NewJob, Want
from tidemill.ports.store import Store
from tidemill.testing.store.factories import (
    ERROR,
    HOST,
    JOURNAL,
    LONG,
    MANIFEST,
    SHORT,
    new_job,
    new_plan,
    new_receipt,
)


@dataclass(frozen=True, kw_only=True)
class Held:
    """A store with the lease of one of its jobs."""

    store: Store
    lease: Lease
    worker_id: str

    @property
    def job(self) -> Job:
        return self.store.jobs.get(self.lease.job_id)


class StoreSuite:
    """How the suites open stores. Each test opens its own at a fresh `store_url`."""

    opener: ClassVar[str]
    """"module:function", importable in child processes too: (url, *, lease_seconds, heartbeat_seconds) -> Store."""

    @pytest.fixture
    def store_url(self, tmp_path: Path) -> str:
        """Names an empty store."""
        raise NotImplementedError

    @pytest.fixture
    def open_store(self, store_url: str) -> Iterator[Callable[..., Store]]:
        """Opens one more handle on the store, as another process would; all are closed at the end.

        Its leases do not end during a test, unless it says so.
        """
        opened: list[Store] = []

        def opened_store(**times: float) -> Store:
            opened.append(open_by(self.opener, store_url, {**LONG, **times}))
            return opened[-1]

        yield opened_store
        for store in opened:
            store.close()

    @pytest.fixture
    def store(self, open_store: Callable[..., Store]) -> Store:
        """A handle in which the worker `v` lives."""
        store = open_store()
        store.workers.register("v")
        return store

    @pytest.fixture
    def hold(self, open_store: Callable[..., Store]) -> Callable[..., Held]:
        """Brings a new job to a state, held by a worker `w` of a handle of its own."""

        def held(
            state: JobState = JobState.RUNNING, *, chunks: int = 3, job: NewJob | None = None, **times: float
        ) -> Held:
            store = open_store(**times)
            store.workers.register("w")
            _, lease = store.jobs.submit_claimed(job or new_job("job_held"), "w")
            holder = Held(store=store, lease=lease, worker_id="w")
            advance(holder, state, chunks)
            return holder

        return held


def claim_next(store: Store, worker_id: str) -> tuple[Job, Lease] | None:
    """Claim for a host that is empty and on which everything fits."""
    return store.jobs.claim_next(worker_id, free=HOST, host=HOST)


def open_by(opener: str, url: str, times: dict[str, float]) -> Store:
    """Open a store as `StoreSuite.opener` says."""
    module, _, name = opener.partition(":")
    store = getattr(import_module(module), name)(url, **times)
    assert isinstance(store, Store)
    return store


def advance(held: Held, state: JobState, chunks: int) -> None:
    """From planning to `state`, by the calls that a worker and people make."""
    jobs, ledger, lease = held.store.jobs, held.store.ledger, held.lease
    if state is JobState.PLANNING:
        return
    if state is JobState.CANCELLED:
        assert jobs.end_if_current(lease, state)
        return
    if state is JobState.FAILED:
        assert jobs.end_if_current(lease, state, ERROR)
        return
    if state in (JobState.PAUSED, JobState.QUEUED):
        assert jobs.end_if_current(lease, JobState.PAUSED)
        if state is JobState.QUEUED:
            jobs.wish(lease.job_id, Want.RUN)
        return
    assert ledger.record_plan_if_current(lease, new_plan(chunks))
    if state is JobState.RUNNING:
        return
    rejected = 2 if state is JobState.SUCCEEDED_WITH_REJECTIONS else 0
    assert ledger.commit_chunks_if_current(lease, [new_receipt(chunk, rejected=rejected) for chunk in range(chunks)])
    assert ledger.begin_commit_if_current(lease, MANIFEST, JOURNAL)
    if state is not JobState.COMMITTING:
        assert jobs.end_if_current(lease, state)


def write_all(store: Store, lease: Lease, worker_id: str) -> dict[str, Any]:
    """Every fenced write once, with what it returned."""
    return {
        "renew": store.jobs.renew_if_current([lease], worker_id),
        "is_current": store.jobs.is_current(lease),
        "crash": store.jobs.count_crash_if_current(lease),
        "plan": store.ledger.record_plan_if_current(lease, new_plan(7)),
        "commit": store.ledger.commit_chunks_if_current(lease, [new_receipt(0), new_receipt(1)]),
        "nothing": store.ledger.commit_chunks_if_current(lease, []),
        "begin": store.ledger.begin_commit_if_current(lease, {"stale": True}, {}),
        "hand over": store.jobs.hand_over_if_current(lease),
        **{
            state: store.jobs.end_if_current(lease, state, ERROR)
            for state in (JobState.SUCCEEDED, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED)
        },
    }


def everything(store: Store) -> list[Any]:
    """All jobs with what the ledger holds of them."""
    return [
        (job, list(store.ledger.receipts(job.id)), store.ledger.find_manifest(job.id))
        for job in store.jobs.list(limit=1000)
    ]


def claimed_id(claimed: tuple[Job, Lease] | None) -> str | None:
    """The id of the claimed job, if there is one."""
    return None if claimed is None else claimed[0].id


def wait_for_expiry() -> None:
    """Leases end by the database's clock, which only time moves."""
    time.sleep(2 * SHORT["lease_seconds"])
