"""The handle, and trust."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tidemill.domain.errors import Refused
from tidemill.domain.job import JobState, Want
from tidemill.ports.store import Store, Watch
from tidemill.testing.store.factories import new_job, new_receipt
from tidemill.testing.store.suite import Held, StoreSuite, open_by


class HandleSuite(StoreSuite):
    """What a store itself promises."""

    def test_trust_is_remembered_by_digest(self, store: Store, open_store: Callable[..., Store]) -> None:
        assert not store.trust.is_trusted("a" * 64)
        store.trust.trust("a" * 64, "model.pkl", "ada")
        assert open_store().trust.is_trusted("a" * 64)
        assert not store.trust.is_trusted("b" * 64)
        store.trust.trust("a" * 64, "other.pkl", "bob")
        assert store.trust.is_trusted("a" * 64)

    def test_times_of_a_lease_are_settable(self, open_store: Callable[..., Store]) -> None:
        store = open_store(lease_seconds=2.5, heartbeat_seconds=0.5)
        assert (store.lease_seconds, store.heartbeat_seconds) == (2.5, 0.5)
        with pytest.raises(ValueError, match="heartbeat"):
            open_store(lease_seconds=1.0, heartbeat_seconds=1.0)

    def test_the_url_opens_the_same_store(self, store: Store) -> None:
        store.jobs.submit(new_job("job_a"))
        again = open_by(self.opener, store.url, {})
        try:
            assert again.url == store.url
            assert again.jobs.get("job_a").id == "job_a"
        finally:
            again.close()

    def test_check_says_what_is_there(self, store: Store) -> None:
        store.jobs.submit(new_job("job_a"))
        found = store.check()
        assert found["url"] == store.url
        assert found["schema"] == found["newest_schema"] >= 1

    # Transactions

    def test_a_transaction_is_durable_as_a_whole(self, store: Store, open_store: Callable[..., Store]) -> None:
        other = open_store()
        with store.transaction():
            store.jobs.submit(new_job("job_a"))
            store.trust.trust("a" * 64, "m", "ada")
            assert store.jobs.get("job_a").state is JobState.QUEUED
            assert store.trust.is_trusted("a" * 64)
            assert other.jobs.list() == []
            assert not other.trust.is_trusted("a" * 64)
        assert [job.id for job in other.jobs.list()] == ["job_a"]
        assert other.trust.is_trusted("a" * 64)

    def test_a_transaction_that_raises_leaves_nothing(self, store: Store, open_store: Callable[..., Store]) -> None:
        with pytest.raises(Refused, match="on purpose"):
            with store.transaction():
                store.jobs.submit(new_job("job_a"))
                store.trust.trust("a" * 64, "m", "ada")
                raise Refused("on purpose")
        assert open_store().jobs.list() == []
        assert not store.trust.is_trusted("a" * 64)
        store.jobs.submit(new_job("job_a"))

    def test_a_part_that_fails_leaves_the_rest(self, store: Store) -> None:
        with store.transaction():
            store.jobs.submit(new_job("job_a"))
            with pytest.raises(Refused):
                store.jobs.submit(new_job("job_a"))
            with pytest.raises(Refused):
                with store.transaction():
                    store.jobs.submit(new_job("job_b"))
                    raise Refused("on purpose")
            with store.transaction():
                store.jobs.submit(new_job("job_c"))
        assert [job.id for job in store.jobs.list()] == ["job_c", "job_a"]

    def test_other_threads_stand_outside(self, store: Store) -> None:
        seen: list[int] = []
        with store.transaction():
            store.jobs.submit(new_job("job_a"))
            thread = threading.Thread(target=lambda: seen.append(len(store.jobs.list())))
            thread.start()
            thread.join()
        assert seen == [0]

    def test_fenced_writes_join(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING)
        with pytest.raises(Refused):
            with held.store.transaction():
                assert held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(0)])
                assert held.job.chunks_done == 1
                assert list(held.store.ledger.committed_chunks("job_held")) == [(0, 1)]
                raise Refused("on purpose")
        assert held.job.chunks_done == 0
        assert list(store.ledger.receipts("job_held")) == []

    # Waking up

    def test_a_write_wakes_at_once(self, store: Store) -> None:
        watch = _quiet(store.watch())
        store.jobs.submit(new_job("job_a"))
        assert watch.wait(0)
        watch.close()

    def test_a_write_of_another_handle_wakes(self, store: Store, open_store: Callable[..., Store]) -> None:
        other = open_store()
        watch = _quiet(store.watch())
        for wake in (
            lambda: other.jobs.submit(new_job("job_a")),
            lambda: other.jobs.wish("job_a", Want.PAUSE),
            lambda: other.jobs.wish("job_a", Want.RUN),
            lambda: other.jobs.set_labels("job_a", {"a": "b"}),
        ):
            _quiet(watch)
            wake()
            assert watch.wait(20)
        watch.close()

    def test_progress_wakes(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING)
        watch = _quiet(store.watch())
        assert held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(0)])
        assert watch.wait(20)
        watch.close()

    def test_what_was_written_between_two_calls_is_not_missed(self, store: Store) -> None:
        watch = _quiet(store.watch())
        store.jobs.submit(new_job("job_a"))
        time.sleep(0.3)
        assert watch.wait(0)
        watch.close()

    def test_a_sleeper_is_woken(self, store: Store) -> None:
        watch = _quiet(store.watch())
        answers: list[bool] = []
        sleeper = threading.Thread(target=lambda: answers.append(watch.wait(60)))
        sleeper.start()
        store.jobs.submit(new_job("job_a"))
        sleeper.join(30)
        assert answers == [True]
        watch.close()

    @pytest.mark.parametrize("by", ["watch", "store"])
    def test_closing_wakes_who_waits(self, open_store: Callable[..., Store], by: str) -> None:
        store = open_store()
        watch = _quiet(store.watch())
        answers: list[bool] = []
        sleeper = threading.Thread(target=lambda: answers.append(watch.wait(60)))
        sleeper.start()
        (watch if by == "watch" else store).close()
        sleeper.join(30)
        assert answers == [False]
        assert not watch.wait(0)
        watch.close()

    def test_watches_are_apart(self, store: Store) -> None:
        first, second = _quiet(store.watch()), _quiet(store.watch())
        store.jobs.submit(new_job("job_a"))
        assert first.wait(0)
        first.close()
        assert second.wait(0)
        store.jobs.submit(new_job("job_b"))
        assert second.wait(0)
        second.close()


def _quiet(watch: Watch) -> Watch:
    """Wait until what was written before has been heard."""
    while watch.wait(0.6):
        pass
    return watch
