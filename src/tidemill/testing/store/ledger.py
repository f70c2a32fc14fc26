"""The ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tidemill.domain.errors import CountsDiffer
from tidemill.domain.job import Counts, JobState
from tidemill.domain.plan import PlanSummary
from tidemill.domain.receipt import Receipt, Usage
from tidemill.ports.store import Store
from tidemill.testing.store.children import kill, next_line, running_child
from tidemill.testing.store.factories import JOURNAL, MANIFEST, new_job, new_plan, new_receipt
from tidemill.testing.store.suite import Held, StoreSuite, claim_next, everything, wait_for_expiry


class LedgerSuite(StoreSuite):
    """What has been committed stays, once."""

    def test_the_plan_is_stored_once(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.PLANNING)
        assert held.store.ledger.record_plan_if_current(held.lease, new_plan(4))
        job = store.jobs.get("job_held")
        assert job.plan is not None
        assert PlanSummary.from_json(job.plan) == new_plan(4)
        assert (job.state, job.planned, job.chunks_total, job.counts) == (JobState.RUNNING, True, 4, Counts(total=40))
        assert held.store.ledger.record_plan_if_current(held.lease, new_plan(9)) is False
        assert store.jobs.get("job_held") == job

    def test_commits_move_counts_and_usage(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING, chunks=5)
        first = Usage(model_seconds=1.5, cpu_seconds=2.0, peak_memory_bytes=900, input_bytes=10, output_bytes=1)
        second = Usage(model_seconds=0.5, read_seconds=1.0, peak_memory_bytes=700, input_bytes=5, output_bytes=2)
        receipts = [new_receipt(3, rejected=4, usage=first), new_receipt(0, usage=second)]
        assert held.store.ledger.commit_chunks_if_current(held.lease, receipts)
        assert held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(4, usage=second)])
        job = store.jobs.get("job_held")
        assert job.counts == Counts(total=50, predicted=26, rejected=4)
        assert job.counts.remaining == 20
        assert (job.chunks_done, job.chunks_total) == (3, 5)
        assert Usage(**job.usage) == first + second + second
        assert list(store.ledger.receipts("job_held")) == [receipts[1], receipts[0], new_receipt(4, usage=second)]
        assert list(store.ledger.committed_chunks("job_held")) == [(0, 1), (3, 5)]

    def test_planning_and_putting_together_count_once(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.PLANNING)
        ledger, lease = held.store.ledger, held.lease
        planning = Usage(cpu_seconds=1.5, plan_cpu_seconds=1.5)
        scoring = Usage(cpu_seconds=4.0, model_cpu_seconds=3.0)
        assembling = Usage(cpu_seconds=0.5, assemble_cpu_seconds=0.5)
        for _ in range(2):
            assert ledger.record_plan_if_current(lease, new_plan(1), planning)
        assert ledger.commit_chunks_if_current(lease, [new_receipt(0, usage=scoring)])
        for _ in range(2):
            assert ledger.begin_commit_if_current(lease, MANIFEST, JOURNAL, assembling)
        assert Usage(**store.jobs.get("job_held").usage) == planning + scoring + assembling

    @pytest.mark.parametrize(
        "wrong",
        [
            [new_receipt(1), new_receipt(0)],
            [new_receipt(2), new_receipt(2)],
            [new_receipt(1), new_receipt(3)],
            [new_receipt(1), new_receipt(-1)],
            [new_receipt(1), replace(new_receipt(2), rows=9)],
            [new_receipt(1), new_receipt(2, rows=1000)],
            [new_receipt(1), replace(new_receipt(2), predicted=-5, rejected=15)],
        ],
        ids=[
            "committed already",
            "twice at once",
            "not planned",
            "negative",
            "rows differ",
            "too many rows",
            "minus rows",
        ],
    )
    def test_wrong_commits_move_nothing(self, hold: Callable[..., Held], store: Store, wrong: list[Receipt]) -> None:
        held = hold(JobState.RUNNING, chunks=3)
        held.store.jobs.count_crash_if_current(held.lease)
        assert held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(0)])
        held.store.jobs.count_crash_if_current(held.lease)
        before = everything(store)
        with pytest.raises(CountsDiffer, match="job_held"):
            held.store.ledger.commit_chunks_if_current(held.lease, wrong)
        assert everything(store) == before
        assert held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(1), new_receipt(2)])

    def test_chunks_are_ranges_over_many_pages(self, hold: Callable[..., Held], store: Store) -> None:
        chunks = 12_000
        held = hold(JobState.RUNNING, chunks=chunks)
        gaps = {0, 5, 6, 9_999, 10_000, 10_001, 11_003, chunks - 1}
        done = [chunk for chunk in range(chunks) if chunk not in gaps]
        for start in range(0, len(done), 5_000):
            receipts = [new_receipt(chunk) for chunk in done[start : start + 5_000]]
            assert held.store.ledger.commit_chunks_if_current(held.lease, receipts)
        ranges = list(store.ledger.committed_chunks("job_held"))
        assert ranges == [(1, 5), (7, 9_999), (10_002, 11_003), (11_004, chunks - 1)]
        assert held.job.chunks_done == len(done)
        assert list(store.ledger.committed_chunks("job_none")) == []

    def test_receipts_are_streamed_in_order(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING, chunks=1_201)
        backwards = [new_receipt(chunk, rejected=chunk % 3) for chunk in reversed(range(1_201))]
        assert held.store.ledger.commit_chunks_if_current(held.lease, backwards)
        reading = store.ledger.receipts("job_held")
        first = next(reading)
        # A reader that dawdles must not keep writers waiting.
        assert held.store.jobs.count_crash_if_current(held.lease) == 1
        assert [first, *reading] == backwards[::-1]
        assert list(store.ledger.receipts("job_none")) == []

    def test_only_a_complete_job_begins_to_commit(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING, chunks=2)
        held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(0)])
        with pytest.raises(CountsDiffer):
            held.store.ledger.begin_commit_if_current(held.lease, MANIFEST, JOURNAL)
        assert store.jobs.get("job_held").state is JobState.RUNNING
        assert store.ledger.find_manifest("job_held") is None
        held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(1)])
        assert held.store.ledger.begin_commit_if_current(held.lease, MANIFEST, JOURNAL)
        assert store.jobs.get("job_held").state is JobState.COMMITTING
        assert store.ledger.find_manifest("job_held") == (MANIFEST, JOURNAL)
        assert held.store.ledger.begin_commit_if_current(held.lease, {"other": 1}, {}) is False
        assert held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(1)]) is False
        assert store.ledger.find_manifest("job_held") == (MANIFEST, JOURNAL)
        assert store.ledger.find_manifest("job_none") is None

    def test_an_empty_job_succeeds(self, hold: Callable[..., Held]) -> None:
        held = hold(JobState.RUNNING, chunks=0)
        assert held.store.ledger.begin_commit_if_current(held.lease, MANIFEST, {})
        assert held.store.ledger.find_manifest("job_held") == (MANIFEST, {})
        assert held.store.jobs.end_if_current(held.lease, JobState.SUCCEEDED)
        assert held.job.counts == Counts()

    @pytest.mark.parametrize("commits", [1, 40])
    def test_a_kill_amid_commits_loses_and_doubles_nothing(self, store: Store, store_url: str, commits: int) -> None:
        store.jobs.submit(new_job("job_a"))
        with running_child(self.opener, store_url, "commit_for_ever", "dead") as child:
            acknowledged = [int(next_line(child)) for _ in range(commits)]
            kill(child)
            acknowledged += [int(line) for line in child.stdout or ()]
        wait_for_expiry()
        claimed = claim_next(store, "w")
        assert claimed is not None
        job = claimed[0]
        receipts = list(store.ledger.receipts("job_a"))
        assert job.chunks_done == len(receipts)
        assert job.counts.predicted == sum(receipt.predicted for receipt in receipts)
        assert job.counts.rejected == sum(receipt.rejected for receipt in receipts)
        assert job.usage["input_bytes"] == sum(receipt.usage.input_bytes for receipt in receipts)
        assert list(store.ledger.committed_chunks("job_a")) == [(0, len(receipts))]
        assert [receipt.chunk for receipt in receipts] == list(range(len(receipts)))
        assert max(acknowledged) < len(receipts)
        following = new_receipt(len(receipts), usage=Usage(input_bytes=1))
        assert store.ledger.commit_chunks_if_current(claimed[1], [following])
        assert store.jobs.get("job_a").chunks_done == len(receipts) + 1

    # Repeated by a holder that did not learn what became of it

    def test_a_repeated_plan_is_the_plan(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING, chunks=4)
        before = everything(store)
        assert held.store.ledger.record_plan_if_current(held.lease, new_plan(4))
        assert held.store.ledger.record_plan_if_current(held.lease, new_plan(5)) is False
        assert everything(store) == before

    def test_a_repeated_commit_counts_once(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING, chunks=4)
        receipts = [new_receipt(2, rejected=1), new_receipt(0)]
        assert held.store.ledger.commit_chunks_if_current(held.lease, receipts)
        before = everything(store)
        assert held.store.ledger.commit_chunks_if_current(held.lease, receipts)
        assert held.store.ledger.commit_chunks_if_current(held.lease, receipts[:1])
        assert everything(store) == before

    def test_another_attempt_of_a_committed_chunk_is_refused(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING, chunks=4)
        assert held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(0)])
        before = everything(store)
        with pytest.raises(CountsDiffer, match="job_held"):
            held.store.ledger.commit_chunks_if_current(held.lease, [replace(new_receipt(0), attempt="a2")])
        assert held.store.jobs.hand_over_if_current(held.lease)
        claimed = claim_next(store, "v")
        assert claimed is not None
        with pytest.raises(CountsDiffer, match="job_held"):
            store.ledger.commit_chunks_if_current(claimed[1], [new_receipt(0)])
        assert [receipts for _, receipts, _ in everything(store)] == [receipts for _, receipts, _ in before]

    def test_a_repeated_beginning_is_the_beginning(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.COMMITTING)
        before = everything(store)
        assert held.store.ledger.begin_commit_if_current(held.lease, MANIFEST, JOURNAL)
        assert held.store.ledger.begin_commit_if_current(held.lease, MANIFEST, {}) is False
        assert everything(store) == before
