"""Workers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from tidemill.domain.admission import Needs
from tidemill.domain.errors import Refused
from tidemill.durable.locks import is_locked
from tidemill.ports.store import Store, WorkerFacts
from tidemill.testing.store.children import kill, next_line, running_child
from tidemill.testing.store.factories import SHORT, new_job
from tidemill.testing.store.suite import StoreSuite, claim_next, claimed_id, wait_for_expiry

FACTS = WorkerFacts(
    id="w",
    host="mill-1",
    pid=4711,
    version="9.9",
    capacity=Needs(cpus=8, memory_bytes=2**34, gpus=1),
    free=Needs(cpus=3, memory_bytes=2**33),
)


class WorkersSuite(StoreSuite):
    """What `register` and the announcements promise."""

    def test_a_registered_worker_is_alive_for_everybody(self, store: Store, open_store: Callable[..., Store]) -> None:
        other = open_store()
        path = store.workers.register("w")
        assert os.path.isabs(path)
        assert is_locked(path)
        assert store.workers.register("w") == path
        assert store.workers.is_alive("w")
        assert other.workers.is_alive("w")

    def test_two_processes_cannot_be_one_worker(self, store: Store, open_store: Callable[..., Store]) -> None:
        store.workers.register("w")
        with pytest.raises(Refused):
            open_store().workers.register("w")
        assert store.workers.is_alive("w")

    def test_odd_worker_names_are_refused(self, store: Store) -> None:
        for name in ("", "../w", "a/b", "a\0b", "x" * 300):
            with pytest.raises(ValueError, match="worker"):
                store.workers.register(name)

    def test_registering_races_with_those_who_look(self, store: Store, open_store: Callable[..., Store]) -> None:
        other = open_store()
        stop = threading.Event()

        def look() -> None:
            while not stop.is_set():
                other.workers.is_alive("w0")
                other.workers.is_alive("w1")

        looking = threading.Thread(target=look)
        looking.start()
        try:
            for name in ("w0", "w1"):
                store.workers.register(name)
                other.workers.register(f"other-{name}")
        finally:
            stop.set()
            looking.join()
        assert other.workers.is_alive("w0")
        assert other.workers.is_alive("w1")

    # Announcements

    def test_announced_workers_are_listed(self, store: Store, open_store: Callable[..., Store]) -> None:
        store.workers.register("w")
        assert store.workers.list_live() == []
        store.workers.announce(FACTS)
        store.workers.announce(replace(FACTS, id="v", draining=True))
        found = open_store().workers.list_live()
        assert [worker.facts for worker in found] == [replace(FACTS, id="v", draining=True), FACTS]
        assert all(worker.started_at == worker.seen_at for worker in found)

    def test_announcing_again_says_what_is_now(self, store: Store) -> None:
        store.workers.register("w")
        store.workers.announce(FACTS)
        (first,) = store.workers.list_live()
        wait_for_expiry()
        store.workers.announce(replace(FACTS, free=Needs(cpus=1), draining=True))
        (second,) = store.workers.list_live()
        assert second.facts == replace(FACTS, free=Needs(cpus=1), draining=True)
        assert second.started_at == first.started_at
        assert second.seen_at > first.seen_at

    def test_one_that_is_silent_for_a_lease_is_not_live(self, open_store: Callable[..., Store]) -> None:
        store = open_store(**SHORT)
        store.workers.register("w")
        store.workers.announce(FACTS)
        wait_for_expiry()
        assert store.workers.list_live() == []
        store.workers.announce(FACTS)
        assert [worker.facts for worker in open_store().workers.list_live()] == [FACTS]

    def test_a_withdrawn_worker_is_not_listed(self, store: Store) -> None:
        store.workers.register("w")
        store.workers.announce(FACTS)
        for _ in range(2):
            store.workers.withdraw("w")
            assert store.workers.list_live() == []
        store.workers.announce(FACTS)
        assert [worker.facts for worker in store.workers.list_live()] == [FACTS]


class LockedWorkersSuite(StoreSuite):
    """What a store promises whose workers are all on this machine: it sees at once that one is dead."""

    def test_only_registered_workers_are_alive(self, store: Store, open_store: Callable[..., Store]) -> None:
        other = open_store()
        for name in ("w", "", "../w", "a/b", "a\0b", "x" * 300):
            assert not other.workers.is_alive(name)
        store.workers.register("w")
        assert other.workers.is_alive("w")
        assert not other.workers.is_alive("u")

    def test_a_closed_store_has_no_live_workers(self, store: Store, open_store: Callable[..., Store]) -> None:
        other = open_store()
        other.workers.register("w")
        assert store.workers.is_alive("w")
        other.close()
        assert not store.workers.is_alive("w")

    def test_a_dead_worker_is_not_listed(self, store: Store, open_store: Callable[..., Store]) -> None:
        other = open_store()
        other.workers.register("w")
        other.workers.announce(FACTS)
        assert [worker.facts.id for worker in store.workers.list_live()] == ["w"]
        other.close()
        assert store.workers.list_live() == []

    def test_a_killed_workers_jobs_are_free_at_once(self, store: Store, store_url: str) -> None:
        """Its lease of 30 seconds runs on; its lock does not."""
        store.jobs.submit(new_job("job_a"))
        with running_child(self.opener, store_url, "claim_and_hang", "dead") as child:
            assert next_line(child) == "job_a"
            assert claim_next(store, "w") is None
            assert store.jobs.claim("job_a", "w") is None
            kill(child)
        assert not store.workers.is_alive("dead")
        claimed = claim_next(store, "w")
        assert claimed is not None
        assert (claimed[0].id, claimed[0].epoch, claimed[0].worker_id) == ("job_a", 2, "w")

    def test_a_killed_workers_foreground_job_is_free_by_id(self, store: Store, store_url: str) -> None:
        store.jobs.submit(new_job("job_a", foreground=True))
        with running_child(self.opener, store_url, "claim_and_hang", "dead", "job_a") as child:
            assert next_line(child) == "job_a"
            kill(child)
        assert claim_next(store, "w") is None
        assert claimed_id(store.jobs.claim("job_a", "w")) == "job_a"
