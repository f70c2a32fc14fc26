"""Claiming jobs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tidemill.domain.errors import NotFound
from tidemill.domain.job import ENDED, JobState, Want
from tidemill.ports.store import Store
from tidemill.testing.store.children import lines_until, next_line, running_child, say
from tidemill.testing.store.factories import ERROR, SHORT, new_job, new_receipt
from tidemill.testing.store.suite import Held, StoreSuite, claim_next, claimed_id, wait_for_expiry


class ClaimingSuite(StoreSuite):
    """What `claim` and `claim_next` promise."""

    def test_claim_next_takes_by_priority_then_age(self, store: Store) -> None:
        for job_id, priority in (("job_b", 0), ("job_a", 0), ("job_low", -1), ("job_high", 5)):
            store.jobs.submit(new_job(job_id, priority=priority))
        store.workers.register("w")
        assert [claimed_id(claim_next(store, "w")) for _ in range(4)] == ["job_high", "job_b", "job_a", "job_low"]
        assert claim_next(store, "w") is None

    def test_claim_next_takes_expired_leases_first(self, open_store: Callable[..., Store]) -> None:
        short, store = open_store(**SHORT), open_store()
        short.workers.register("w")
        store.workers.register("v")
        short.jobs.submit(new_job("job_old"))
        assert claimed_id(claim_next(short, "w")) == "job_old"
        store.jobs.submit(new_job("job_urgent", priority=9))
        wait_for_expiry()
        assert [claimed_id(claim_next(store, "v")) for _ in range(2)] == ["job_old", "job_urgent"]

    def test_a_claim_raises_the_epoch_and_makes_a_token(self, open_store: Callable[..., Store]) -> None:
        store = open_store(**SHORT)
        store.workers.register("w")
        store.jobs.submit(new_job("job_a"))
        leases = []
        for epoch in (1, 2, 3):
            claimed = claim_next(store, "w")
            assert claimed is not None
            job, lease = claimed
            assert (job.epoch, lease.epoch, job.worker_id) == (epoch, epoch, "w")
            assert (job.crashes, job.state) == (0, JobState.PLANNING)
            leases.append(lease)
            wait_for_expiry()
        assert len({lease.token for lease in leases}) == 3
        assert [store.jobs.is_current(lease) for lease in leases] == [False, False, True]

    def test_a_live_lease_is_not_taken(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING)
        assert claim_next(store, "v") is None
        assert store.jobs.claim(held.lease.job_id, "v") is None
        assert held.store.jobs.is_current(held.lease)

    def test_started_at_is_the_first_claim(self, open_store: Callable[..., Store]) -> None:
        store = open_store(**SHORT)
        store.jobs.submit(new_job("job_a"))
        first = claim_next(store, "w")
        wait_for_expiry()
        second = claim_next(store, "w")
        assert first is not None
        assert second is not None
        assert first[0].started_at is not None
        assert second[0].started_at == first[0].started_at

    def test_claim_next_leaves_foreground_jobs_alone(self, hold: Callable[..., Held], store: Store) -> None:
        store.jobs.submit(new_job("job_queued", foreground=True))
        hold(JobState.PLANNING, job=new_job("job_leased", foreground=True), **SHORT)
        wait_for_expiry()
        assert claim_next(store, "v") is None
        store.jobs.submit(new_job("job_background"))
        assert claimed_id(claim_next(store, "v")) == "job_background"
        assert claim_next(store, "v") is None
        assert claimed_id(store.jobs.claim("job_queued", "v")) == "job_queued"
        assert claimed_id(store.jobs.claim("job_leased", "v")) == "job_leased"

    @pytest.mark.parametrize("state", [JobState.PLANNING, JobState.RUNNING, JobState.COMMITTING])
    @pytest.mark.parametrize("by_id", [False, True])
    def test_a_claim_goes_on_from_the_state_reached(
        self, hold: Callable[..., Held], store: Store, state: JobState, by_id: bool
    ) -> None:
        held = hold(state, **SHORT)
        before = held.job
        wait_for_expiry()
        claimed = store.jobs.claim("job_held", "v") if by_id else claim_next(store, "v")
        assert claimed is not None
        assert claimed[0] == replace(before, epoch=2, worker_id="v")
        assert claimed[0].state is state

    @pytest.mark.parametrize("state", [JobState.PLANNING, JobState.RUNNING, JobState.COMMITTING])
    def test_a_failed_job_is_claimed_where_it_was(
        self, hold: Callable[..., Held], store: Store, state: JobState
    ) -> None:
        held = hold(state)
        held.store.jobs.count_crash_if_current(held.lease)
        assert held.store.jobs.end_if_current(held.lease, JobState.FAILED, ERROR)
        claimed = store.jobs.claim("job_held", "v")
        assert claimed is not None
        job, lease = claimed
        assert (job.state, job.epoch, job.crashes, job.error, job.finished_at) == (state, 2, 0, None, None)
        assert store.jobs.is_current(lease)

    def test_claim_takes_paused_and_queued_jobs_and_wants_them_to_run(
        self, hold: Callable[..., Held], store: Store
    ) -> None:
        held = hold(JobState.RUNNING)
        held.store.jobs.wish("job_held", Want.PAUSE)
        assert held.store.jobs.renew_if_current([held.lease], "w") == {"job_held": Want.PAUSE}
        assert held.store.jobs.end_if_current(held.lease, JobState.PAUSED)
        store.jobs.submit(new_job("job_queued"))
        for job_id, state in (("job_held", JobState.RUNNING), ("job_queued", JobState.PLANNING)):
            claimed = store.jobs.claim(job_id, "v")
            assert claimed is not None
            assert (claimed[0].state, claimed[0].want) == (state, Want.RUN)

    def test_a_takeover_keeps_wishes_crashes_and_counts(
        self, hold: Callable[..., Held], store: Store, open_store: Callable[..., Store]
    ) -> None:
        held = hold(JobState.RUNNING)
        held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(1)])
        held.store.jobs.count_crash_if_current(held.lease)
        store.jobs.wish("job_held", Want.PAUSE)
        before = held.job
        assert (before.want, before.crashes, before.chunks_done) == (Want.PAUSE, 1, 1)
        assert open_store(**SHORT).jobs.renew_if_current([held.lease], "w")
        wait_for_expiry()
        claimed = claim_next(store, "v")
        assert claimed is not None
        assert claimed[0] == replace(before, epoch=2, worker_id="v")

    def test_a_claim_by_id_forgets_crashes(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING, **SHORT)
        held.store.jobs.count_crash_if_current(held.lease)
        wait_for_expiry()
        claimed = store.jobs.claim("job_held", "v")
        assert claimed is not None
        assert (claimed[0].crashes, claimed[0].state) == (0, JobState.RUNNING)

    @pytest.mark.parametrize("state", sorted(ENDED))
    def test_ended_jobs_are_not_claimed(self, hold: Callable[..., Held], store: Store, state: JobState) -> None:
        held = hold(state)
        before = held.job
        assert store.jobs.claim("job_held", "v") is None
        assert claim_next(store, "v") is None
        assert held.job == before

    def test_claim_and_wish_of_an_unknown_job(self, store: Store) -> None:
        with pytest.raises(NotFound, match="job_none"):
            store.jobs.claim("job_none", "w")
        with pytest.raises(NotFound, match="job_none"):
            store.jobs.wish("job_none", Want.CANCEL)

    def test_two_processes_claim_each_job_once(self, store: Store, store_url: str) -> None:
        ids = [f"job_{number:06d}" for number in range(60)]
        for job_id in ids:
            store.jobs.submit(new_job(job_id))
        with (
            running_child(self.opener, store_url, "claim_all", "a") as a,
            running_child(self.opener, store_url, "claim_all", "b") as b,
        ):
            assert next_line(a) == next_line(b) == "ready"
            for child in (a, b):
                say(child, "go")
            claimed = [line.split() for child in (a, b) for line in lines_until(child, "done")]
        assert sorted(job_id for job_id, _ in claimed) == ids
        assert {epoch for _, epoch in claimed} == {"1"}
        assert all(job.state is JobState.PLANNING and job.epoch == 1 for job in store.jobs.list(limit=100))

    def test_several_processes_open_a_new_store_at_once(self, store_url: str) -> None:
        children = [running_child(self.opener, store_url, "open_and_submit", name) for name in "abcd"]
        with children[0] as a, children[1] as b, children[2] as c, children[3] as d:
            everyone = (a, b, c, d)
            assert [next_line(child) for child in everyone] == ["ready"] * 4
            for child in everyone:
                say(child, "go")
            assert [next_line(child) for child in everyone] == ["job_of_a", "job_of_b", "job_of_c", "job_of_d"]

    def test_one_handle_serves_many_threads(self, store: Store) -> None:
        store.workers.register("w")

        def submit_and_claim(number: int) -> list[str | None]:
            for part in range(10):
                store.jobs.submit(new_job(f"job_{number}_{part}"))
            return [claimed_id(claim_next(store, "w")) for _ in range(10)]

        with ThreadPoolExecutor(8) as pool:
            claimed = [job_id for ids in pool.map(submit_and_claim, range(8)) for job_id in ids]
        assert sorted(filter(None, claimed)) == sorted(f"job_{a}_{b}" for a in range(8) for b in range(10))
