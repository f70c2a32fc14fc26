"""Leases: the fence, the end, crashes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tidemill.domain.errors import CountsDiffer
from tidemill.domain.job import LEASED, JobState, Want
from tidemill.ports.store import Store
from tidemill.testing.store.factories import ERROR, JOURNAL, MANIFEST, SHORT, new_job, new_receipt
from tidemill.testing.store.suite import (
    Held,
    StoreSuite,
    claim_next,
    claimed_id,
    everything,
    wait_for_expiry,
    write_all,
)


class LeasesSuite(StoreSuite):
    """What every `_if_current` of the queue promises."""

    def test_an_expired_lease_that_nobody_took_is_current(self, hold: Callable[..., Held]) -> None:
        held = hold(JobState.RUNNING, chunks=1, **SHORT)
        wait_for_expiry()
        assert held.store.jobs.is_current(held.lease)
        assert held.store.jobs.renew_if_current([held.lease], "w") == {"job_held": Want.RUN}
        wait_for_expiry()
        assert held.store.jobs.count_crash_if_current(held.lease) == 1
        assert held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(0)])
        assert held.store.ledger.begin_commit_if_current(held.lease, MANIFEST, JOURNAL)
        assert held.store.jobs.end_if_current(held.lease, JobState.SUCCEEDED)

    @pytest.mark.parametrize("state", [JobState.PLANNING, JobState.RUNNING, JobState.COMMITTING])
    @pytest.mark.parametrize("stale", ["epoch", "token", "job", "taken", "ended"])
    def test_a_stale_lease_changes_nothing(
        self, hold: Callable[..., Held], store: Store, state: JobState, stale: str
    ) -> None:
        held = hold(state, **(SHORT if stale == "taken" else {}))
        store.jobs.submit_claimed(new_job("job_other"), "v")
        wrong = held.lease
        if stale == "epoch":
            wrong = replace(wrong, epoch=wrong.epoch + 1)
        elif stale == "token":
            wrong = replace(wrong, token="0" * 32)
        elif stale == "job":
            wrong = replace(wrong, job_id="job_other")
        elif stale == "taken":
            wait_for_expiry()
            assert store.jobs.claim("job_held", "v") is not None
        else:
            held.store.jobs.end_if_current(wrong, JobState.FAILED, ERROR)
        before = everything(store)
        for name, outcome in write_all(held.store, wrong, "w").items():
            assert not outcome, name
            assert outcome in (None, False, {}), name
        assert everything(store) == before

    def test_a_lease_of_another_worker_is_not_renewed(self, hold: Callable[..., Held]) -> None:
        held = hold(JobState.RUNNING)
        assert held.store.jobs.renew_if_current([held.lease], "v") == {}
        assert held.store.jobs.renew_if_current([], "w") == {}

    def test_renewing_tells_those_still_held_apart(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING)
        _, second = held.store.jobs.submit_claimed(new_job("job_second"), "w")
        store.jobs.wish("job_second", Want.CANCEL)
        gone = replace(held.lease, job_id="job_none")
        renewed = held.store.jobs.renew_if_current([gone, second, held.lease], "w")
        assert renewed == {"job_second": Want.CANCEL, "job_held": Want.RUN}

    def test_renewing_extends_a_lease(
        self, hold: Callable[..., Held], open_store: Callable[..., Store], store: Store
    ) -> None:
        held = hold(JobState.RUNNING, **SHORT)
        assert store.jobs.renew_if_current([held.lease], "w") == {"job_held": Want.RUN}
        wait_for_expiry()
        assert claim_next(store, "v") is None

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (JobState.PLANNING, JobState.PAUSED),
            (JobState.PLANNING, JobState.FAILED),
            (JobState.PLANNING, JobState.CANCELLED),
            (JobState.RUNNING, JobState.PAUSED),
            (JobState.RUNNING, JobState.FAILED),
            (JobState.RUNNING, JobState.CANCELLED),
            (JobState.COMMITTING, JobState.SUCCEEDED),
            (JobState.COMMITTING, JobState.FAILED),
        ],
    )
    def test_ending_frees_the_job(self, hold: Callable[..., Held], before: JobState, after: JobState) -> None:
        held = hold(before)
        error = ERROR if after is JobState.FAILED else None
        assert held.store.jobs.end_if_current(held.lease, after, error)
        job = held.job
        assert (job.state, job.error, job.worker_id, job.epoch) == (after, error, None, 1)
        assert (job.finished_at is None) == (after is JobState.PAUSED)
        assert not held.store.jobs.is_current(held.lease)

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (JobState.PLANNING, JobState.SUCCEEDED),
            (JobState.RUNNING, JobState.SUCCEEDED),
            (JobState.RUNNING, JobState.SUCCEEDED_WITH_REJECTIONS),
            (JobState.COMMITTING, JobState.PAUSED),
            (JobState.COMMITTING, JobState.CANCELLED),
        ],
    )
    def test_a_state_that_cannot_follow_is_refused(
        self, hold: Callable[..., Held], before: JobState, after: JobState
    ) -> None:
        held = hold(before)
        job = held.job
        assert held.store.jobs.end_if_current(held.lease, after) is False
        assert held.job == job
        assert held.store.jobs.is_current(held.lease)

    @pytest.mark.parametrize("state", [JobState.QUEUED, JobState.PLANNING, JobState.RUNNING, JobState.COMMITTING])
    def test_no_lease_ends_in_a_state_that_goes_on(self, hold: Callable[..., Held], state: JobState) -> None:
        held = hold(JobState.PLANNING)
        with pytest.raises(ValueError, match=state.value):
            held.store.jobs.end_if_current(held.lease, state)
        assert held.job.state is JobState.PLANNING

    @pytest.mark.parametrize("rejected", [0, 1])
    def test_success_says_whether_rows_were_rejected(self, hold: Callable[..., Held], rejected: int) -> None:
        right, wrong = JobState.SUCCEEDED, JobState.SUCCEEDED_WITH_REJECTIONS
        if rejected:
            right, wrong = wrong, right
        held = hold(JobState.RUNNING, chunks=1)
        held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(0, rejected=rejected)])
        held.store.ledger.begin_commit_if_current(held.lease, MANIFEST, JOURNAL)
        with pytest.raises(CountsDiffer):
            held.store.jobs.end_if_current(held.lease, wrong)
        assert held.job.state is JobState.COMMITTING
        assert held.store.jobs.end_if_current(held.lease, right)
        assert held.job.state is right

    def test_crashes_are_counted_until_a_chunk_is_committed(self, hold: Callable[..., Held]) -> None:
        held = hold(JobState.RUNNING)
        assert [held.store.jobs.count_crash_if_current(held.lease) for _ in range(3)] == [1, 2, 3]
        assert held.job.crashes == 3
        assert held.store.ledger.commit_chunks_if_current(held.lease, [])
        assert held.job.crashes == 3
        assert held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(0)])
        assert held.job.crashes == 0
        assert held.store.jobs.count_crash_if_current(held.lease) == 1

    # Handing over

    @pytest.mark.parametrize("state", [JobState.PLANNING, JobState.RUNNING])
    def test_a_job_that_was_handed_over_is_free_at_once(
        self, hold: Callable[..., Held], store: Store, state: JobState
    ) -> None:
        held = hold(state)
        if state is JobState.RUNNING:
            assert held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(0)])
        held.store.jobs.count_crash_if_current(held.lease)
        before = held.job
        assert held.store.jobs.hand_over_if_current(held.lease)
        assert held.job == replace(before, state=JobState.QUEUED, worker_id=None)
        assert not held.store.jobs.is_current(held.lease)
        assert not any(write_all(held.store, held.lease, "w").values())
        claimed = claim_next(store, "v")
        assert claimed is not None
        assert claimed[0] == replace(before, epoch=2, worker_id="v")

    def test_handing_over_keeps_wishes(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING)
        store.jobs.wish("job_held", Want.CANCEL)
        assert held.store.jobs.hand_over_if_current(held.lease)
        assert (held.job.state, held.job.want) == (JobState.QUEUED, Want.CANCEL)
        assert claimed_id(claim_next(store, "v")) == "job_held"

    @pytest.mark.parametrize("state", sorted(set(JobState) - LEASED) + [JobState.COMMITTING])
    def test_only_planning_and_running_jobs_are_handed_over(self, hold: Callable[..., Held], state: JobState) -> None:
        held = hold(state)
        before = held.job
        assert held.store.jobs.hand_over_if_current(held.lease) is False
        assert held.job == before
