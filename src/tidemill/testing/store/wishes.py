"""What people wish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tidemill.domain.job import ENDED, JobState, Want
from tidemill.ports.store import Store
from tidemill.testing.store.factories import ERROR, SHORT, new_receipt
from tidemill.testing.store.suite import (
    Held,
    StoreSuite,
    claim_next,
    claimed_id,
    everything,
    wait_for_expiry,
    write_all,
)


class WishesSuite(StoreSuite):
    """What `wish` promises."""

    @pytest.mark.parametrize(
        ("before", "want", "after"),
        [
            (JobState.QUEUED, Want.RUN, JobState.QUEUED),
            (JobState.QUEUED, Want.PAUSE, JobState.PAUSED),
            (JobState.QUEUED, Want.CANCEL, JobState.CANCELLED),
            (JobState.PAUSED, Want.RUN, JobState.QUEUED),
            (JobState.PAUSED, Want.PAUSE, JobState.PAUSED),
            (JobState.PAUSED, Want.CANCEL, JobState.CANCELLED),
            (JobState.FAILED, Want.RUN, JobState.QUEUED),
            (JobState.FAILED, Want.PAUSE, JobState.FAILED),
            (JobState.FAILED, Want.CANCEL, JobState.CANCELLED),
            *((ended, want, ended) for ended in sorted(ENDED) for want in Want),
        ],
    )
    def test_unleased_jobs_change_at_once(
        self, hold: Callable[..., Held], store: Store, before: JobState, want: Want, after: JobState
    ) -> None:
        hold(before)
        old = store.jobs.get("job_held")
        assert old.state is before
        job = store.jobs.wish("job_held", want)
        assert job == store.jobs.get("job_held")
        assert job.state is after
        if before is after:
            assert replace(job, want=old.want) == old
        else:
            assert job.want is want
            assert (job.finished_at is not None) == (after is JobState.CANCELLED)

    def test_a_failed_job_is_queued_anew(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING)
        held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(0)])
        held.store.jobs.count_crash_if_current(held.lease)
        held.store.jobs.end_if_current(held.lease, JobState.FAILED, ERROR)
        job = store.jobs.wish("job_held", Want.RUN)
        assert (job.state, job.crashes, job.error, job.finished_at) == (JobState.QUEUED, 0, None, None)
        claimed = claim_next(store, "v")
        assert claimed is not None
        assert (claimed[0].state, claimed[0].chunks_done, claimed[0].epoch) == (JobState.RUNNING, 1, 2)

    @pytest.mark.parametrize("state", [JobState.PLANNING, JobState.RUNNING])
    @pytest.mark.parametrize("want", list(Want))
    def test_a_holder_hears_wishes_when_it_renews(
        self, hold: Callable[..., Held], store: Store, state: JobState, want: Want
    ) -> None:
        held = hold(state)
        job = store.jobs.wish("job_held", want)
        assert (job.state, job.want, job.worker_id) == (state, want, "w")
        assert held.store.jobs.is_current(held.lease)
        assert held.store.jobs.renew_if_current([held.lease], "w") == {"job_held": want}
        assert store.jobs.wish("job_held", Want.RUN).want is Want.RUN
        assert held.store.jobs.renew_if_current([held.lease], "w") == {"job_held": Want.RUN}

    @pytest.mark.parametrize("want", list(Want))
    @pytest.mark.parametrize("times", [{}, SHORT])
    def test_wishes_are_ignored_while_committing(
        self, hold: Callable[..., Held], store: Store, want: Want, times: dict[str, float]
    ) -> None:
        held = hold(JobState.COMMITTING, **times)
        wait_for_expiry()
        before = held.job
        assert store.jobs.wish("job_held", want) == before
        assert held.store.jobs.end_if_current(held.lease, JobState.SUCCEEDED)

    @pytest.mark.parametrize(("want", "after"), [(Want.PAUSE, JobState.PAUSED), (Want.CANCEL, JobState.CANCELLED)])
    @pytest.mark.parametrize("state", [JobState.PLANNING, JobState.RUNNING])
    def test_a_job_whose_lease_is_over_changes_at_once(
        self, hold: Callable[..., Held], store: Store, state: JobState, want: Want, after: JobState
    ) -> None:
        held = hold(state, **SHORT)
        wait_for_expiry()
        job = store.jobs.wish("job_held", want)
        assert (job.state, job.want, job.worker_id) == (after, want, None)
        before = everything(store)
        assert not any(write_all(held.store, held.lease, "w").values())
        assert everything(store) == before

    def test_to_run_a_job_whose_lease_is_over_leaves_it_to_the_next_claim(
        self, hold: Callable[..., Held], store: Store, open_store: Callable[..., Store]
    ) -> None:
        held = hold(JobState.RUNNING)
        store.jobs.wish("job_held", Want.PAUSE)
        assert open_store(**SHORT).jobs.renew_if_current([held.lease], "w")
        wait_for_expiry()
        job = store.jobs.wish("job_held", Want.RUN)
        assert (job.state, job.want, job.worker_id) == (JobState.RUNNING, Want.RUN, "w")
        assert claimed_id(claim_next(store, "v")) == "job_held"

    def test_a_wish_to_go_on_that_the_holder_had_not_heard_is_not_lost(
        self, hold: Callable[..., Held], store: Store
    ) -> None:
        held = hold(JobState.RUNNING)
        store.jobs.wish("job_held", Want.PAUSE)
        assert held.store.jobs.renew_if_current([held.lease], "w") == {"job_held": Want.PAUSE}
        store.jobs.wish("job_held", Want.RUN)
        assert held.store.jobs.end_if_current(held.lease, JobState.PAUSED)
        assert (held.job.state, held.job.want) == (JobState.QUEUED, Want.RUN)
        assert claimed_id(claim_next(store, "v")) == "job_held"

    def test_a_claim_tells_wishes_too(
        self, hold: Callable[..., Held], store: Store, open_store: Callable[..., Store]
    ) -> None:
        held = hold(JobState.RUNNING)
        store.jobs.wish("job_held", Want.PAUSE)
        assert open_store(**SHORT).jobs.renew_if_current([held.lease], "w")
        wait_for_expiry()
        claimed = claim_next(store, "v")
        assert claimed is not None
        assert claimed[0].want is Want.PAUSE
        store.jobs.wish("job_held", Want.RUN)
        assert store.jobs.end_if_current(claimed[1], JobState.PAUSED)
        assert store.jobs.get("job_held").state is JobState.QUEUED

    def test_a_holder_may_pause_on_its_own(self, hold: Callable[..., Held]) -> None:
        held = hold(JobState.RUNNING)
        assert held.store.jobs.end_if_current(held.lease, JobState.PAUSED)
        assert held.job.state is JobState.PAUSED
