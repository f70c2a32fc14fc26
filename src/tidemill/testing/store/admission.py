"""Which job is next, and why the others wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tidemill.domain.admission import Needs, Reason
from tidemill.domain.job import Job, JobFilter, JobState, Lease
from tidemill.ports.store import Store
from tidemill.testing.store.children import lines_until, next_line, running_child, say
from tidemill.testing.store.factories import HOST, SHORT, new_job, new_key, new_pin, new_version
from tidemill.testing.store.suite import Held, StoreSuite, claim_next, claimed_id, wait_for_expiry
from tidemill.testing.store.workers import FACTS

SMALL = Needs(cpus=4, memory_bytes=2**34)


class AdmissionSuite(StoreSuite):
    """What `claim_next` chooses, and what `waiting` says of those it did not."""

    def test_owners_take_turns(self, store: Store) -> None:
        for number in range(4):
            store.jobs.submit(new_job(f"job_a{number}", owner="key_a"))
        for owner in "bc":
            store.jobs.submit(new_job(f"job_{owner}0", owner=f"key_{owner}"))
        claimed = [claimed_id(claim_next(store, "v")) for _ in range(6)]
        assert claimed == ["job_a0", "job_b0", "job_c0", "job_a1", "job_a2", "job_a3"]

    def test_who_was_served_longest_ago_is_next(self, store: Store) -> None:
        for owner in "aab":
            number = len(store.jobs.list(JobFilter(owner=owner)))
            store.jobs.submit(new_job(f"job_{owner}{number}", owner=owner))
        assert claimed_id(_claimed_and_ended(store)) == "job_a0"
        wait_for_expiry()
        assert claimed_id(_claimed_and_ended(store)) == "job_b0"
        assert claimed_id(_claimed_and_ended(store)) == "job_a1"

    def test_a_keys_limit_is_kept(self, store: Store) -> None:
        store.keys.add(new_key("key_1", max_running=2), "a" * 64)
        for number in range(4):
            store.jobs.submit(new_job(f"job_a{number}", owner="key_1"))
        first = claim_next(store, "v")
        assert first is not None
        assert claimed_id(claim_next(store, "v")) == "job_a1"
        assert claim_next(store, "v") is None
        store.jobs.submit(new_job("job_b0", owner="key_2"))
        assert claimed_id(claim_next(store, "v")) == "job_b0"
        assert store.jobs.end_if_current(first[1], JobState.CANCELLED)
        assert claimed_id(claim_next(store, "v")) == "job_a2"
        assert claim_next(store, "v") is None

    def test_a_models_limit_is_kept(self, store: Store) -> None:
        for tenant in ("default", "acme"):
            store.models.add_version(new_version("churn", tenant=tenant))
        store.models.limit_running("default", "churn", 1)
        for number, version in enumerate((1, 2)):
            store.jobs.submit(new_job(f"job_a{number}", model=new_pin(version=version)))
        store.jobs.submit(new_job("job_acme", tenant="acme", model=new_pin()))
        store.jobs.submit(new_job("job_path", model=new_pin(name=None)))
        claimed = [claimed_id(claim_next(store, "v")) for _ in range(4)]
        assert claimed == ["job_a0", "job_acme", "job_path", None]
        store.models.limit_running("default", "churn", None)
        assert claimed_id(claim_next(store, "v")) == "job_a1"

    def test_a_limit_of_none_at_once_stops_a_model(self, store: Store) -> None:
        store.models.add_version(new_version("churn"))
        store.models.limit_running("default", "churn", 0)
        store.jobs.submit(new_job("job_a", model=new_pin()))
        assert claim_next(store, "v") is None

    def test_processes_never_pass_a_keys_limit(self, store: Store, store_url: str) -> None:
        store.keys.add(new_key("key_1", max_running=3), "a" * 64)
        store.jobs.submit_claimed(new_job("job_held", owner="key_1"), "v")
        ids = [f"job_{number:06d}" for number in range(24)]
        for job_id in ids:
            store.jobs.submit(new_job(job_id, owner="key_1"))
        names = ("p", "q", "r")
        children = [running_child(self.opener, store_url, "claim_within_limits", name) for name in names]
        with children[0] as a, children[1] as b, children[2] as c:
            everyone = (a, b, c)
            assert [next_line(child) for child in everyone] == ["ready"] * 3
            for child in everyone:
                say(child, "go")
            seen = [line.split() for child in everyone for line in lines_until(child, "done")]
        assert {int(running) for running, _ in seen} <= {2, 3}
        assert sorted(job_id for _, job_id in seen) == ids
        assert {job.epoch for job in store.jobs.list(limit=100)} == {1}

    def test_a_job_that_never_fits_this_host_is_left_to_others(self, store: Store) -> None:
        store.jobs.submit(new_job("job_gpu", needs=Needs(gpus=1), priority=5))
        store.jobs.submit(new_job("job_b"))
        claimed = store.jobs.claim_next("v", free=SMALL, host=SMALL)
        assert claimed_id(claimed) == "job_b"
        assert store.jobs.claim_next("v", free=SMALL, host=SMALL) is None
        assert claimed_id(claim_next(store, "v")) == "job_gpu"

    @pytest.mark.parametrize("taken", [Needs(cpus=1), Needs(cpus=0, memory_bytes=2**33 + 1)])
    def test_a_big_job_is_not_overtaken_for_ever(self, store: Store, taken: Needs) -> None:
        store.jobs.submit(new_job("job_big", needs=Needs(cpus=4, memory_bytes=2**33)))
        store.jobs.submit(new_job("job_small"))
        assert store.jobs.claim_next("v", free=SMALL.minus(taken), host=SMALL) is None
        assert claimed_id(store.jobs.claim_next("v", free=SMALL, host=SMALL)) == "job_big"

    def test_a_job_that_is_taken_over_must_fit_too(self, hold: Callable[..., Held], store: Store) -> None:
        hold(JobState.RUNNING, job=new_job("job_held", needs=Needs(cpus=4)), **SHORT)
        store.jobs.submit(new_job("job_b", priority=9))
        wait_for_expiry()
        free = replace(SMALL, cpus=3)
        assert store.jobs.claim_next("v", free=free, host=SMALL) is None
        assert claimed_id(store.jobs.claim_next("v", free=free, host=free)) == "job_b"
        assert claimed_id(store.jobs.claim_next("v", free=SMALL, host=SMALL)) == "job_held"

    # Why the others wait

    def test_nobody_waits_who_does_not_stand_in_line(self, hold: Callable[..., Held], store: Store) -> None:
        hold(JobState.RUNNING)
        store.jobs.submit(new_job("job_foreground", foreground=True))
        assert store.history.waiting(["job_held", "job_foreground", "job_none"]) == {}
        assert store.history.waiting([]) == {}

    def test_without_a_worker_all_wait_for_one(self, store: Store) -> None:
        store.jobs.submit(new_job("job_a"))
        waiting = store.history.waiting(["job_a"])["job_a"]
        assert (waiting.place, waiting.reason) == (1, Reason.NO_WORKER)
        assert "tidemill worker" in waiting.detail

    def test_places_are_those_in_which_jobs_are_claimed(self, store: Store) -> None:
        _announce(store, HOST, HOST)
        for number, (owner, priority) in enumerate([("a", 0), ("a", 0), ("a", 0), ("b", 0), ("c", 2), ("a", 2)]):
            store.jobs.submit(new_job(f"job_{number}", owner=owner, priority=priority))
        ids = [f"job_{number}" for number in range(6)]
        waiting = store.history.waiting(ids)
        by_place = sorted(ids, key=lambda job_id: waiting[job_id].place)
        assert [waiting[job_id].place for job_id in by_place] == [1, 2, 3, 4, 5, 6]
        assert by_place[:2] == ["job_4", "job_5"]
        assert waiting["job_4"].reason is Reason.NEXT
        assert {waiting[job_id].reason for job_id in by_place[1:]} == {Reason.BEHIND}
        assert waiting["job_5"].detail.startswith("1 job starts")
        for job_id in by_place[:2]:
            assert claimed_id(_claimed_and_ended(store)) == job_id
        waiting = store.history.waiting(ids)
        while waiting:
            (first,) = [job_id for job_id, each in waiting.items() if each.place == 1]
            assert claimed_id(claim_next(store, "v")) == first
            waiting = store.history.waiting(ids)

    def test_one_key_does_not_wait_behind_anothers_backlog(self, store: Store) -> None:
        _announce(store, HOST, HOST)
        for number in range(50):
            store.jobs.submit(new_job(f"job_a{number:02d}", owner="a"))
        store.jobs.submit(new_job("job_b", owner="b"))
        waiting = store.history.waiting(["job_b", "job_a01", "job_a49"])
        assert {job_id: each.place for job_id, each in waiting.items()} == {"job_b": 2, "job_a01": 3, "job_a49": 51}

    def test_limits_are_the_reason_and_keep_nobody_else(self, store: Store) -> None:
        _announce(store, HOST, HOST)
        store.keys.add(new_key("key_1", max_running=1), "a" * 64)
        store.models.add_version(new_version("churn"))
        store.models.limit_running("default", "churn", 1)
        for number in range(3):
            store.jobs.submit(new_job(f"job_k{number}", owner="key_1", priority=1))
            store.jobs.submit(new_job(f"job_m{number}", owner="key_2", priority=1, model=new_pin()))
        store.jobs.submit(new_job("job_free", owner="key_2"))
        assert sorted(filter(None, (claimed_id(claim_next(store, "v")) for _ in range(2)))) == ["job_k0", "job_m0"]
        waiting = store.history.waiting(["job_k1", "job_m2", "job_free"])
        assert waiting["job_k1"].reason is Reason.KEY_LIMIT
        assert waiting["job_k1"].detail == "1 of at most 1 jobs of its key run."
        assert waiting["job_m2"].reason is Reason.MODEL_LIMIT
        assert waiting["job_m2"].detail == "1 of at most 1 jobs of its model run."
        assert (waiting["job_free"].place, waiting["job_free"].reason) == (1, Reason.NEXT)

    def test_size_is_a_reason(self, store: Store) -> None:
        _announce(store, SMALL.minus(Needs(cpus=2)), SMALL)
        store.jobs.submit(new_job("job_gpu", needs=Needs(gpus=2), priority=1))
        store.jobs.submit(new_job("job_big", needs=Needs(cpus=4, memory_bytes=2**30)))
        store.jobs.submit(new_job("job_b"))
        waiting = store.history.waiting(["job_gpu", "job_big", "job_b"])
        assert waiting["job_gpu"].reason is Reason.TOO_BIG
        assert "2 GPUs" in waiting["job_gpu"].detail
        assert "4 CPUs, 16.0 GiB" in waiting["job_gpu"].detail
        assert (waiting["job_big"].place, waiting["job_big"].reason) == (1, Reason.HOST_BUSY)
        assert "4 CPUs, 1.0 GiB" in waiting["job_big"].detail
        assert "2 CPUs, 16.0 GiB" in waiting["job_big"].detail
        assert (waiting["job_b"].place, waiting["job_b"].reason) == (2, Reason.BEHIND)

    def test_a_worker_that_drains_takes_nothing(self, store: Store) -> None:
        store.workers.register("w")
        store.workers.announce(replace(FACTS, draining=True))
        store.jobs.submit(new_job("job_a"))
        assert store.history.waiting(["job_a"])["job_a"].reason is Reason.NO_WORKER


def _announce(store: Store, free: Needs, host: Needs) -> None:
    store.workers.register("w")
    store.workers.announce(replace(FACTS, free=free, capacity=host))


def _claimed_and_ended(store: Store) -> tuple[Job, Lease]:
    claimed = claim_next(store, "v")
    assert claimed is not None
    assert store.jobs.end_if_current(claimed[1], JobState.CANCELLED)
    return claimed
