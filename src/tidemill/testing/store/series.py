"""What a series has scored."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tidemill.domain.errors import NotFound, SeriesBusy
from tidemill.domain.job import Idempotency, JobState, Lease, Want
from tidemill.domain.plan import InputFile
from tidemill.ports.store import Store
from tidemill.testing.store.factories import ERROR, new_job
from tidemill.testing.store.suite import Held, StoreSuite, advance


def file(path: str, size: int = 10, mtime: int = 1) -> InputFile:
    return InputFile(path=path, size_bytes=size, mtime_ns=mtime)


A, B, C = file("/in/a"), file("/in/b"), file("/in/c")


class SeriesSuite(StoreSuite):
    """The record of scored files."""

    @pytest.fixture
    def plan(self, store: Store) -> Callable[..., Held]:
        """Makes a job that holds a series and said what it will score."""

        def planned(job_id: str, *files: InputFile, name: str = "churn", tenant: str = "default") -> Held:
            _, lease = store.jobs.submit_claimed(new_job(job_id, tenant=tenant), "v")
            assert store.series.hold_if_current(lease, name) is not None
            if files:
                assert store.series.add_if_current(lease, name, files)
            return Held(store=store, lease=lease, worker_id="v")

        return planned

    def test_files_count_once_their_job_has_succeeded(self, store: Store, plan: Callable[..., Held]) -> None:
        first = plan("job_a", A, B)
        assert list(store.series.files("default", "churn")) == []
        assert store.series.is_held("job_a", "churn")
        advance(first, JobState.COMMITTING, 3)
        assert list(store.series.files("default", "churn")) == []
        assert store.jobs.end_if_current(first.lease, JobState.SUCCEEDED)
        assert list(store.series.files("default", "churn")) == [A, B]
        assert not store.series.is_held("job_a", "churn")
        found = store.series.get("default", "churn")
        assert (found.jobs, found.files, found.holder) == (1, 2, None)
        assert found.recorded_at is not None

    def test_rejected_rows_are_scored_rows(self, store: Store, plan: Callable[..., Held]) -> None:
        advance(plan("job_a", A), JobState.SUCCEEDED_WITH_REJECTIONS, 3)
        assert list(store.series.files("default", "churn")) == [A]

    @pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
    def test_what_a_job_did_not_finish_never_counts(
        self, store: Store, plan: Callable[..., Held], state: JobState
    ) -> None:
        advance(plan("job_a", A, B), state, 3)
        second = plan("job_b", A, C)
        assert not store.series.is_held("job_a", "churn")
        advance(second, JobState.SUCCEEDED, 3)
        assert list(store.series.files("default", "churn")) == [A, C]
        assert store.series.get("default", "churn").jobs == 1

    @pytest.mark.parametrize("state", [JobState.PLANNING, JobState.RUNNING, JobState.COMMITTING, JobState.PAUSED])
    def test_one_job_at_a_time_holds_a_series(self, store: Store, plan: Callable[..., Held], state: JobState) -> None:
        advance(plan("job_a", A), state, 3)
        with pytest.raises(SeriesBusy, match=f"job_a of the series 'churn' is {state}.*jobs cancel job_a"):
            plan("job_b", A)
        assert plan("job_c", A, name="other").job.id == "job_c"
        assert plan("job_d", A, tenant="acme").job.id == "job_d"

    def test_a_job_holds_its_series_from_its_submission(self, store: Store) -> None:
        store.jobs.submit(new_job("job_a", series="churn"), Idempotency(key="k", request_digest="d"))
        assert store.series.is_held("job_a", "churn")
        again, is_new = store.jobs.submit(new_job("job_b", series="churn"), Idempotency(key="k", request_digest="d"))
        assert (again.id, is_new) == ("job_a", False)
        with pytest.raises(SeriesBusy, match="job_a of the series 'churn' is queued"):
            store.jobs.submit(new_job("job_c", series="churn"))
        with pytest.raises(SeriesBusy, match="job_a"):
            store.jobs.submit_claimed(new_job("job_d", series="churn"), "v")
        assert [each.id for each in store.jobs.list()] == ["job_a"]
        store.jobs.wish("job_a", Want.CANCEL)
        assert store.jobs.submit(new_job("job_e", series="churn"))[1]

    def test_of_many_at_once_one_gets_the_series(self, store: Store, open_store: Callable[..., Store]) -> None:
        stores = [open_store() for _ in range(4)]
        ready = threading.Barrier(len(stores))

        def submit(number: int) -> str:
            ready.wait()
            try:
                return stores[number].jobs.submit(new_job(f"job_{number}", series="churn"))[0].id
            except SeriesBusy:
                return ""

        with ThreadPoolExecutor(len(stores)) as pool:
            stored = [job_id for job_id in pool.map(submit, range(len(stores))) if job_id]
        assert [job.id for job in store.jobs.list()] == stored
        assert len(stored) == 1

    def test_a_forgotten_job_gives_way(self, store: Store, plan: Callable[..., Held]) -> None:
        advance(plan("job_a", A), JobState.FAILED, 3)
        assert store.history.forget_if_ended("job_a")
        assert plan("job_b", B).job.id == "job_b"

    def test_a_job_that_gave_way_records_nothing(self, store: Store, plan: Callable[..., Held]) -> None:
        first = plan("job_a", A)
        advance(first, JobState.RUNNING, 3)
        assert store.jobs.end_if_current(first.lease, JobState.FAILED, ERROR)
        plan("job_b", A)
        claimed = store.jobs.claim("job_a", "v")
        assert claimed is not None
        assert not store.series.is_held("job_a", "churn")
        assert not store.series.add_if_current(claimed[1], "churn", [B])
        with pytest.raises(SeriesBusy):
            store.series.hold_if_current(claimed[1], "churn")
        assert store.series.get("default", "churn").holder == "job_b"

    def test_planning_anew_says_anew_what_will_be_scored(self, store: Store, plan: Callable[..., Held]) -> None:
        held = plan("job_a", A, B)
        assert store.series.hold_if_current(held.lease, "churn") == 1
        assert store.series.add_if_current(held.lease, "churn", [C])
        assert store.series.add_if_current(held.lease, "churn", [C, B])
        advance(held, JobState.SUCCEEDED, 3)
        assert list(store.series.files("default", "churn")) == [B, C]

    def test_a_stale_holder_changes_nothing(self, store: Store, plan: Callable[..., Held]) -> None:
        held = plan("job_a", A)
        stale = Lease(job_id="job_a", epoch=held.lease.epoch, token="other")
        assert store.series.hold_if_current(stale, "churn") is None
        assert not store.series.add_if_current(stale, "churn", [B])
        assert not store.jobs.end_if_current(stale, JobState.SUCCEEDED)
        advance(held, JobState.SUCCEEDED, 3)
        assert list(store.series.files("default", "churn")) == [A]

    def test_a_changed_file_comes_with_each_content(self, store: Store, plan: Callable[..., Held]) -> None:
        advance(plan("job_a", A, B), JobState.SUCCEEDED, 3)
        changed = file("/in/a", size=11, mtime=2)
        advance(plan("job_b", changed), JobState.SUCCEEDED, 3)
        assert list(store.series.files("default", "churn")) == [A, changed, B]
        assert list(store.series.files("default", "churn", number=2)) == [changed]
        found = store.series.get("default", "churn")
        assert (found.jobs, found.files) == (2, 2)

    def test_files_come_by_the_bytes_of_their_paths(self, store: Store, plan: Callable[..., Held]) -> None:
        paths = ["/in/Z", "/in/a", "/in/a.b", "/in/a/1", "/in/a0", "/in/ä", "/in/_", "/in/\U0001f30a"]
        advance(plan("job_a", *map(file, paths)), JobState.SUCCEEDED, 3)
        found = [each.path for each in store.series.files("default", "churn")]
        assert found == sorted(paths, key=str.encode)
        below = [each.path for each in store.series.files("default", "churn", below="/in/a")]
        assert below == ["/in/a", "/in/a/1"]
        after = [each.path for each in store.series.files("default", "churn", after="/in/a/1")]
        assert after == [path for path in found if path.encode() > b"/in/a/1"]

    def test_more_files_than_a_page(self, store: Store, plan: Callable[..., Held]) -> None:
        held = plan("job_a")
        many = [file(f"/in/{number:06d}") for number in range(10_050)]
        for start in range(0, len(many), 3_000):
            assert store.series.add_if_current(held.lease, "churn", many[start : start + 3_000])
        advance(held, JobState.SUCCEEDED, 3)
        assert list(store.series.files("default", "churn")) == many

    def test_forgotten_files_are_new(self, store: Store, plan: Callable[..., Held]) -> None:
        advance(plan("job_a", file("/in/x/1"), file("/in/x/2"), file("/in/x-1"), A), JobState.SUCCEEDED, 3)
        assert store.series.forget("default", "churn", below="/in/a") == 1
        assert store.series.forget("default", "churn", below="/in/none") == 0
        assert store.series.forget("default", "churn", below="/in/x/", limit=1) == 1
        assert [each.path for each in store.series.files("default", "churn")] == ["/in/x-1", "/in/x/2"]
        running = plan("job_b", B)
        assert store.series.forget("default", "churn", below="/") == 2
        advance(running, JobState.SUCCEEDED, 3)
        assert list(store.series.files("default", "churn")) == [B]
        with pytest.raises(NotFound, match="no series 'nothing'"):
            store.series.forget("default", "nothing", below="/")

    def test_a_list_pages_by_name(self, store: Store, plan: Callable[..., Held]) -> None:
        for number, name in enumerate(["b", "a", "Z"]):
            plan(f"job_{number}", name=name)
        plan("job_9", name="theirs", tenant="acme")
        assert [each.name for each in store.series.list("default")] == ["Z", "a", "b"]
        assert [each.name for each in store.series.list("default", limit=1, after="Z")] == ["a"]
        with pytest.raises(NotFound):
            store.series.get("default", "theirs")
        assert list(store.series.files("default", "theirs")) == []
