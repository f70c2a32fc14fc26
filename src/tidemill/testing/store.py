"""The contract of a metadata store. Subclass `StoreContract`, say how to open a store, and run pytest.

class TestMyStore(StoreContract):
    opener = "my_package.store:open_store"

    @pytest.fixture
    def store_url(self, tmp_path):
        return f"mine://{tmp_path}"
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import IO, Any, ClassVar

import pytest

from tidemill.domain.errors import CountsDiffer, InputChanged, NotFound, Refused
from tidemill.domain.job import ENDED, Counts, Job, JobState, Lease, NewJob, Want
from tidemill.domain.plan import PlanSummary
from tidemill.domain.receipt import Part, Receipt, Rejection, Usage
from tidemill.domain.signature import Field, ModelInfo
from tidemill.durable.locks import is_locked
from tidemill.ports.store import Store

ROWS = 10
"""Rows of each chunk that `new_plan` plans."""

SHORT = {"lease_seconds": 0.05, "heartbeat_seconds": 0.01}
MANIFEST: dict[str, Any] = {"files": [{"name": "part-00000.parquet", "rows": 10}], "counts": {"total": 10}}
JOURNAL: dict[str, Any] = {"output": "/data/scores", "inode": 7}
ERROR = InputChanged("a.parquet changed.", remedy="Run it again.").to_json()


def new_job(job_id: str, **changes: Any) -> NewJob:
    """A job to submit."""
    job = NewJob(
        id=job_id,
        name="nightly",
        spec={"model": "m.txt", "input": {"path": ["in.parquet"]}, "labels": {"team": "growth"}, "keep": None},
        spec_digest="5" * 64,
        model_digest="6" * 64,
        output=f"/data/{job_id}",
        staging=f"/data/.{job_id}.tidemill/{job_id}",
    )
    return replace(job, **changes)


def new_plan(chunks: int) -> PlanSummary:
    """A plan of so many chunks of `ROWS` rows."""
    model = ModelInfo(flavor="lightgbm", inputs=(Field(name="x"),), outputs=(Field(name="prediction", type="double"),))
    return PlanSummary(
        digest="7" * 64,
        snapshot_digest="8" * 64,
        files=1,
        chunks=chunks,
        rows=chunks * ROWS,
        input_bytes=123,
        source="parquet",
        columns=("id", "x"),
        kept=("id",),
        model=model,
        batch_rows=65_536,
        output_schema=(("id", "int64"), ("prediction", "double")),
    )


def new_receipt(chunk: int, *, rejected: int = 0, rows: int = ROWS, usage: Usage | None = None) -> Receipt:
    """The receipt of a chunk of `new_plan`."""
    name = f"parts/{chunk:07d}.a1.predictions.parquet"
    part = Part(kind="predictions", name=name, rows=rows - rejected, size_bytes=99, sha256="9" * 64)
    rejections = tuple(
        Rejection(file="in.parquet", row=row, stage="predict", error="ValueError", message="no")
        for row in range(rejected)
    )
    return Receipt(
        chunk=chunk,
        attempt="a1",
        rows=rows,
        predicted=rows - rejected,
        rejected=rejected,
        parts=(part,),
        usage=usage or Usage(),
        rejections=rejections,
        split_batches=(3,) if rejected else (),
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


class StoreContract:
    """What every store promises. Each test opens its own store at a fresh `store_url`."""

    opener: ClassVar[str]
    """"module:function", importable in child processes too: (url, *, lease_seconds, heartbeat_seconds) -> Store."""

    @pytest.fixture
    def store_url(self, tmp_path: Path) -> str:
        """Names an empty store."""
        raise NotImplementedError

    @pytest.fixture
    def open_store(self, store_url: str) -> Iterator[Callable[..., Store]]:
        """Opens one more handle on the store, as another process would; all are closed at the end."""
        opened: list[Store] = []

        def opened_store(**times: float) -> Store:
            opened.append(_open(self.opener, store_url, times))
            return opened[-1]

        yield opened_store
        for store in opened:
            store.close()

    @pytest.fixture
    def store(self, open_store: Callable[..., Store]) -> Store:
        """A handle with leases that do not end during a test, in which the worker `v` lives."""
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
            _advance(holder, state, chunks)
            return holder

        return held

    # Submitting and reading

    def test_submit_stores_everything_that_was_given(self, store: Store, open_store: Callable[..., Store]) -> None:
        new = new_job("job_000001", priority=7, foreground=True)
        submitted = store.jobs.submit(new)
        read = open_store().jobs.get("job_000001")
        assert read == submitted
        assert {name: getattr(read, name) for name in new.__dataclass_fields__} == {
            name: getattr(new, name) for name in new.__dataclass_fields__
        }
        assert (read.state, read.want, read.epoch, read.crashes) == (JobState.QUEUED, Want.RUN, 0, 0)
        assert (read.worker_id, read.plan, read.error, read.started_at, read.finished_at) == (None,) * 5
        assert (read.counts, read.chunks_total, read.chunks_done) == (Counts(), 0, 0)
        assert Usage(**read.usage) == Usage()
        assert read.labels == {"team": "growth"}
        assert not read.planned

    def test_times_are_aware_utc(self, store: Store) -> None:
        created = store.jobs.submit(new_job("job_000001")).created_at
        assert created.utcoffset() is not None
        assert not created.utcoffset()
        assert abs(created.timestamp() - time.time()) < 3600

    def test_submit_refuses_an_id_that_is_there(self, store: Store) -> None:
        first = store.jobs.submit(new_job("job_000001"))
        with pytest.raises(Refused, match="job_000001"):
            store.jobs.submit(new_job("job_000001", name="other"))
        with pytest.raises(Refused, match="job_000001"):
            store.jobs.submit_claimed(new_job("job_000001", name="other"), "w")
        assert store.jobs.get("job_000001") == first

    def test_submit_claimed_is_held_at_once(self, store: Store, open_store: Callable[..., Store]) -> None:
        store.workers.register("w")
        job, lease = store.jobs.submit_claimed(new_job("job_000001"), "w")
        assert (job.state, job.epoch, job.worker_id) == (JobState.PLANNING, 1, "w")
        assert job.started_at is not None
        assert (lease.job_id, lease.epoch) == ("job_000001", 1)
        assert store.jobs.is_current(lease)
        other = open_store()
        assert other.jobs.claim_next("v") is None
        assert other.jobs.claim("job_000001", "v") is None

    def test_get_takes_unique_abbreviations(self, store: Store) -> None:
        for job_id in ("job_abcdef01", "job_abcdxx02", "job_a%_def03"):
            store.jobs.submit(new_job(job_id))
        assert store.jobs.get("job_abcde").id == "job_abcdef01"
        assert store.jobs.get("cdxx02").id == "job_abcdxx02"
        assert store.jobs.get("job_a%_").id == "job_a%_def03"
        for unknown in ("f01", "job_ab", "job_zz", "_bcdef01", "JOB_ABCDE", "%%%%%%%%", "", "xxxxxxjob_abcdef01"):
            with pytest.raises(NotFound):
                store.jobs.get(unknown)

    def test_an_exact_id_wins_over_longer_ones(self, store: Store) -> None:
        store.jobs.submit(new_job("job_abc"))
        store.jobs.submit(new_job("job_abcd"))
        assert store.jobs.get("job_abc").id == "job_abc"

    def test_find_by_output_gives_the_newest(self, store: Store) -> None:
        for number in (3, 1, 2):
            store.jobs.submit(new_job(f"job_00000{number}", output="/data/a" if number != 2 else "/data/b"))
        found = store.jobs.find_by_output("/data/a")
        assert found is not None
        assert found.id == "job_000001"
        assert store.jobs.find_by_output("/data/") is None

    def test_list_pages_newest_first(self, store: Store) -> None:
        ids = [f"job_00000{number}" for number in (5, 3, 4, 1, 2)]
        for job_id in ids:
            store.jobs.submit(new_job(job_id))
        first = store.jobs.list(limit=2)
        second = store.jobs.list(limit=2, before=first[-1].id)
        third = store.jobs.list(limit=2, before=second[-1].id)
        assert [job.id for job in [*first, *second, *third]] == ids[::-1]
        assert store.jobs.list(before=ids[0]) == []
        with pytest.raises(NotFound):
            store.jobs.list(before="job_none")

    def test_list_filters_by_state(self, store: Store) -> None:
        for number in range(3):
            store.jobs.submit(new_job(f"job_00000{number}"))
        store.jobs.wish("job_000001", Want.PAUSE)
        store.jobs.wish("job_000002", Want.CANCEL)
        assert [job.id for job in store.jobs.list(states=[JobState.PAUSED, JobState.CANCELLED])] == [
            "job_000002",
            "job_000001",
        ]
        assert [job.id for job in store.jobs.list(states=[JobState.QUEUED])] == ["job_000000"]

    def test_set_labels_replaces_them(self, store: Store) -> None:
        store.jobs.submit(new_job("job_000001"))
        store.jobs.set_labels("job_000001", {"run": "2"})
        assert store.jobs.get("job_000001").labels == {"run": "2"}
        assert store.jobs.get("job_000001").spec["labels"] == {"team": "growth"}
        with pytest.raises(NotFound):
            store.jobs.set_labels("job_none", {})

    # Claiming

    def test_claim_next_takes_by_priority_then_age(self, store: Store) -> None:
        for job_id, priority in (("job_b", 0), ("job_a", 0), ("job_low", -1), ("job_high", 5)):
            store.jobs.submit(new_job(job_id, priority=priority))
        store.workers.register("w")
        assert [_claimed_id(store.jobs.claim_next("w")) for _ in range(4)] == ["job_high", "job_b", "job_a", "job_low"]
        assert store.jobs.claim_next("w") is None

    def test_claim_next_takes_expired_leases_first(self, open_store: Callable[..., Store]) -> None:
        short, store = open_store(**SHORT), open_store()
        short.workers.register("w")
        store.workers.register("v")
        short.jobs.submit(new_job("job_old"))
        assert _claimed_id(short.jobs.claim_next("w")) == "job_old"
        store.jobs.submit(new_job("job_urgent", priority=9))
        _wait_for_expiry()
        assert [_claimed_id(store.jobs.claim_next("v")) for _ in range(2)] == ["job_old", "job_urgent"]

    def test_a_claim_raises_the_epoch_and_makes_a_token(self, open_store: Callable[..., Store]) -> None:
        store = open_store(**SHORT)
        store.workers.register("w")
        store.jobs.submit(new_job("job_a"))
        leases = []
        for epoch in (1, 2, 3):
            claimed = store.jobs.claim_next("w")
            assert claimed is not None
            job, lease = claimed
            assert (job.epoch, lease.epoch, job.worker_id) == (epoch, epoch, "w")
            assert (job.crashes, job.state) == (0, JobState.PLANNING)
            leases.append(lease)
            _wait_for_expiry()
        assert len({lease.token for lease in leases}) == 3
        assert [store.jobs.is_current(lease) for lease in leases] == [False, False, True]

    def test_a_live_lease_is_not_taken(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING)
        assert store.jobs.claim_next("v") is None
        assert store.jobs.claim(held.lease.job_id, "v") is None
        assert held.store.jobs.is_current(held.lease)

    def test_started_at_is_the_first_claim(self, open_store: Callable[..., Store]) -> None:
        store = open_store(**SHORT)
        store.jobs.submit(new_job("job_a"))
        first = store.jobs.claim_next("w")
        _wait_for_expiry()
        second = store.jobs.claim_next("w")
        assert first is not None
        assert second is not None
        assert first[0].started_at is not None
        assert second[0].started_at == first[0].started_at

    def test_claim_next_leaves_foreground_jobs_alone(self, hold: Callable[..., Held], store: Store) -> None:
        store.jobs.submit(new_job("job_queued", foreground=True))
        hold(JobState.PLANNING, job=new_job("job_leased", foreground=True), **SHORT)
        _wait_for_expiry()
        assert store.jobs.claim_next("v") is None
        store.jobs.submit(new_job("job_background"))
        assert _claimed_id(store.jobs.claim_next("v")) == "job_background"
        assert store.jobs.claim_next("v") is None
        assert _claimed_id(store.jobs.claim("job_queued", "v")) == "job_queued"
        assert _claimed_id(store.jobs.claim("job_leased", "v")) == "job_leased"

    @pytest.mark.parametrize("state", [JobState.PLANNING, JobState.RUNNING, JobState.COMMITTING])
    @pytest.mark.parametrize("by_id", [False, True])
    def test_a_claim_goes_on_from_the_state_reached(
        self, hold: Callable[..., Held], store: Store, state: JobState, by_id: bool
    ) -> None:
        held = hold(state, **SHORT)
        before = held.job
        _wait_for_expiry()
        claimed = store.jobs.claim("job_held", "v") if by_id else store.jobs.claim_next("v")
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
        _wait_for_expiry()
        claimed = store.jobs.claim_next("v")
        assert claimed is not None
        assert claimed[0] == replace(before, epoch=2, worker_id="v")

    def test_a_claim_by_id_forgets_crashes(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING, **SHORT)
        held.store.jobs.count_crash_if_current(held.lease)
        _wait_for_expiry()
        claimed = store.jobs.claim("job_held", "v")
        assert claimed is not None
        assert (claimed[0].crashes, claimed[0].state) == (0, JobState.RUNNING)

    @pytest.mark.parametrize("state", sorted(ENDED))
    def test_ended_jobs_are_not_claimed(self, hold: Callable[..., Held], store: Store, state: JobState) -> None:
        held = hold(state)
        before = held.job
        assert store.jobs.claim("job_held", "v") is None
        assert store.jobs.claim_next("v") is None
        assert held.job == before

    def test_claim_and_wish_of_an_unknown_job(self, store: Store) -> None:
        with pytest.raises(NotFound, match="job_none"):
            store.jobs.claim("job_none", "w")
        with pytest.raises(NotFound, match="job_none"):
            store.jobs.wish("job_none", Want.CANCEL)

    def test_two_processes_claim_each_job_once(self, store: Store, store_url: str) -> None:
        ids = [f"job_{number:06d}" for number in range(200)]
        for job_id in ids:
            store.jobs.submit(new_job(job_id))
        with (
            _child(self.opener, store_url, "claim_all", "a") as a,
            _child(self.opener, store_url, "claim_all", "b") as b,
        ):
            assert _line(a) == _line(b) == "ready"
            for child in (a, b):
                _say(child, "go")
            claimed = [line.split() for child in (a, b) for line in _lines_until(child, "done")]
        assert sorted(job_id for job_id, _ in claimed) == ids
        assert {epoch for _, epoch in claimed} == {"1"}
        assert all(job.state is JobState.PLANNING and job.epoch == 1 for job in store.jobs.list(limit=300))

    def test_several_processes_open_a_new_store_at_once(self, store_url: str) -> None:
        children = [_child(self.opener, store_url, "open_and_submit", name) for name in "abcd"]
        with children[0] as a, children[1] as b, children[2] as c, children[3] as d:
            everyone = (a, b, c, d)
            assert [_line(child) for child in everyone] == ["ready"] * 4
            for child in everyone:
                _say(child, "go")
            assert [_line(child) for child in everyone] == ["job_of_a", "job_of_b", "job_of_c", "job_of_d"]

    def test_one_handle_serves_many_threads(self, store: Store) -> None:
        store.workers.register("w")

        def submit_and_claim(number: int) -> list[str | None]:
            for part in range(10):
                store.jobs.submit(new_job(f"job_{number}_{part}"))
            return [_claimed_id(store.jobs.claim_next("w")) for _ in range(10)]

        with ThreadPoolExecutor(8) as pool:
            claimed = [job_id for ids in pool.map(submit_and_claim, range(8)) for job_id in ids]
        assert sorted(filter(None, claimed)) == sorted(f"job_{a}_{b}" for a in range(8) for b in range(10))

    # Workers

    def test_a_registered_worker_is_alive_for_everybody(self, store: Store, open_store: Callable[..., Store]) -> None:
        other = open_store()
        assert not other.workers.is_alive("w")
        path = store.workers.register("w")
        assert os.path.isabs(path)
        assert is_locked(path)
        assert store.workers.register("w") == path
        assert store.workers.is_alive("w")
        assert other.workers.is_alive("w")
        assert not other.workers.is_alive("u")

    def test_two_processes_cannot_be_one_worker(self, store: Store, open_store: Callable[..., Store]) -> None:
        store.workers.register("w")
        with pytest.raises(Refused):
            open_store().workers.register("w")
        assert store.workers.is_alive("w")

    def test_odd_worker_names_are_refused(self, store: Store) -> None:
        for name in ("", "../w", "a/b", "a\0b", "x" * 300):
            with pytest.raises(ValueError, match="worker"):
                store.workers.register(name)
            assert not store.workers.is_alive(name)

    def test_a_closed_store_has_no_live_workers(self, store: Store, open_store: Callable[..., Store]) -> None:
        other = open_store()
        other.workers.register("w")
        assert store.workers.is_alive("w")
        other.close()
        assert not store.workers.is_alive("w")

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

    def test_a_killed_workers_jobs_are_free_at_once(self, store: Store, store_url: str) -> None:
        """Its lease of 30 seconds runs on; its lock does not."""
        store.jobs.submit(new_job("job_a"))
        with _child(self.opener, store_url, "claim_and_hang", "dead") as child:
            assert _line(child) == "job_a"
            assert store.jobs.claim_next("w") is None
            assert store.jobs.claim("job_a", "w") is None
            _kill(child)
        assert not store.workers.is_alive("dead")
        claimed = store.jobs.claim_next("w")
        assert claimed is not None
        assert (claimed[0].id, claimed[0].epoch, claimed[0].worker_id) == ("job_a", 2, "w")

    def test_a_killed_workers_foreground_job_is_free_by_id(self, store: Store, store_url: str) -> None:
        store.jobs.submit(new_job("job_a", foreground=True))
        with _child(self.opener, store_url, "claim_and_hang", "dead", "job_a") as child:
            assert _line(child) == "job_a"
            _kill(child)
        assert store.jobs.claim_next("w") is None
        assert _claimed_id(store.jobs.claim("job_a", "w")) == "job_a"

    # The fence

    def test_an_expired_lease_that_nobody_took_is_current(self, hold: Callable[..., Held]) -> None:
        held = hold(JobState.RUNNING, chunks=1, **SHORT)
        _wait_for_expiry()
        assert held.store.jobs.is_current(held.lease)
        assert held.store.jobs.renew_if_current([held.lease], "w") == {"job_held": Want.RUN}
        _wait_for_expiry()
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
            _wait_for_expiry()
            assert store.jobs.claim("job_held", "v") is not None
        else:
            held.store.jobs.end_if_current(wrong, JobState.FAILED, ERROR)
        before = _everything(store)
        for name, outcome in _write_all(held.store, wrong, "w").items():
            assert not outcome, name
            assert outcome in (None, False, {}), name
        assert _everything(store) == before

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
        _wait_for_expiry()
        assert store.jobs.claim_next("v") is None

    # Ending and crashes

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

    # Wishes

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
        claimed = store.jobs.claim_next("v")
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
        _wait_for_expiry()
        before = held.job
        assert store.jobs.wish("job_held", want) == before
        assert held.store.jobs.end_if_current(held.lease, JobState.SUCCEEDED)

    @pytest.mark.parametrize(("want", "after"), [(Want.PAUSE, JobState.PAUSED), (Want.CANCEL, JobState.CANCELLED)])
    @pytest.mark.parametrize("state", [JobState.PLANNING, JobState.RUNNING])
    def test_a_job_whose_lease_is_over_changes_at_once(
        self, hold: Callable[..., Held], store: Store, state: JobState, want: Want, after: JobState
    ) -> None:
        held = hold(state, **SHORT)
        _wait_for_expiry()
        job = store.jobs.wish("job_held", want)
        assert (job.state, job.want, job.worker_id) == (after, want, None)
        before = _everything(store)
        assert not any(_write_all(held.store, held.lease, "w").values())
        assert _everything(store) == before

    def test_to_run_a_job_whose_lease_is_over_leaves_it_to_the_next_claim(
        self, hold: Callable[..., Held], store: Store, open_store: Callable[..., Store]
    ) -> None:
        held = hold(JobState.RUNNING)
        store.jobs.wish("job_held", Want.PAUSE)
        assert open_store(**SHORT).jobs.renew_if_current([held.lease], "w")
        _wait_for_expiry()
        job = store.jobs.wish("job_held", Want.RUN)
        assert (job.state, job.want, job.worker_id) == (JobState.RUNNING, Want.RUN, "w")
        assert _claimed_id(store.jobs.claim_next("v")) == "job_held"

    def test_a_wish_to_go_on_that_the_holder_had_not_heard_is_not_lost(
        self, hold: Callable[..., Held], store: Store
    ) -> None:
        held = hold(JobState.RUNNING)
        store.jobs.wish("job_held", Want.PAUSE)
        assert held.store.jobs.renew_if_current([held.lease], "w") == {"job_held": Want.PAUSE}
        store.jobs.wish("job_held", Want.RUN)
        assert held.store.jobs.end_if_current(held.lease, JobState.PAUSED)
        assert (held.job.state, held.job.want) == (JobState.QUEUED, Want.RUN)
        assert _claimed_id(store.jobs.claim_next("v")) == "job_held"

    def test_a_claim_tells_wishes_too(self, hold: Callable[..., Held], store: Store) -> None:
        held = hold(JobState.RUNNING)
        store.jobs.wish("job_held", Want.PAUSE)
        held.store.close()
        claimed = store.jobs.claim_next("v")
        assert claimed is not None
        assert claimed[0].want is Want.PAUSE
        store.jobs.wish("job_held", Want.RUN)
        assert store.jobs.end_if_current(claimed[1], JobState.PAUSED)
        assert store.jobs.get("job_held").state is JobState.QUEUED

    def test_a_holder_may_pause_on_its_own(self, hold: Callable[..., Held]) -> None:
        held = hold(JobState.RUNNING)
        assert held.store.jobs.end_if_current(held.lease, JobState.PAUSED)
        assert held.job.state is JobState.PAUSED

    # The ledger

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
        before = _everything(store)
        with pytest.raises(CountsDiffer, match="job_held"):
            held.store.ledger.commit_chunks_if_current(held.lease, wrong)
        assert _everything(store) == before
        assert held.store.ledger.commit_chunks_if_current(held.lease, [new_receipt(1), new_receipt(2)])

    def test_chunks_are_ranges_over_many_pages(self, hold: Callable[..., Held], store: Store) -> None:
        chunks = 25_000
        held = hold(JobState.RUNNING, chunks=chunks)
        gaps = {0, 5, 6, 9_999, 10_000, 10_001, 19_999, 20_003, chunks - 1}
        done = [chunk for chunk in range(chunks) if chunk not in gaps]
        for start in range(0, len(done), 5_000):
            receipts = [new_receipt(chunk) for chunk in done[start : start + 5_000]]
            assert held.store.ledger.commit_chunks_if_current(held.lease, receipts)
        ranges = list(store.ledger.committed_chunks("job_held"))
        assert ranges == [(1, 5), (7, 9_999), (10_002, 19_999), (20_000, 20_003), (20_004, chunks - 1)]
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

    @pytest.mark.parametrize("commits", [1, 40, 90])
    def test_a_kill_amid_commits_loses_and_doubles_nothing(self, store: Store, store_url: str, commits: int) -> None:
        store.jobs.submit(new_job("job_a"))
        with _child(self.opener, store_url, "commit_for_ever", "dead") as child:
            acknowledged = [int(_line(child)) for _ in range(commits)]
            _kill(child)
            acknowledged += [int(line) for line in child.stdout or ()]
        job = store.jobs.get("job_a")
        receipts = list(store.ledger.receipts("job_a"))
        assert job.chunks_done == len(receipts)
        assert job.counts.predicted == sum(receipt.predicted for receipt in receipts)
        assert job.counts.rejected == sum(receipt.rejected for receipt in receipts)
        assert job.usage["input_bytes"] == sum(receipt.usage.input_bytes for receipt in receipts)
        assert list(store.ledger.committed_chunks("job_a")) == [(0, len(receipts))]
        assert [receipt.chunk for receipt in receipts] == list(range(len(receipts)))
        assert max(acknowledged) < len(receipts)
        claimed = store.jobs.claim_next("w")
        assert claimed is not None
        following = new_receipt(len(receipts), usage=Usage(input_bytes=1))
        assert store.ledger.commit_chunks_if_current(claimed[1], [following])
        assert store.jobs.get("job_a").chunks_done == len(receipts) + 1

    # Trust

    def test_trust_is_remembered_by_digest(self, store: Store, open_store: Callable[..., Store]) -> None:
        assert not store.trust.is_trusted("a" * 64)
        store.trust.trust("a" * 64, "model.pkl", "ada")
        assert open_store().trust.is_trusted("a" * 64)
        assert not store.trust.is_trusted("b" * 64)
        store.trust.trust("a" * 64, "other.pkl", "bob")
        assert store.trust.is_trusted("a" * 64)

    # The handle

    def test_times_of_a_lease_are_settable(self, open_store: Callable[..., Store]) -> None:
        store = open_store(lease_seconds=2.5, heartbeat_seconds=0.5)
        assert (store.lease_seconds, store.heartbeat_seconds) == (2.5, 0.5)
        with pytest.raises(ValueError, match="heartbeat"):
            open_store(lease_seconds=1.0, heartbeat_seconds=1.0)

    def test_the_url_opens_the_same_store(self, store: Store) -> None:
        store.jobs.submit(new_job("job_a"))
        again = _open(self.opener, store.url, {})
        try:
            assert again.url == store.url
            assert again.jobs.get("job_a").id == "job_a"
        finally:
            again.close()


def _open(opener: str, url: str, times: dict[str, float]) -> Store:
    module, _, name = opener.partition(":")
    store = getattr(import_module(module), name)(url, **times)
    assert isinstance(store, Store)
    return store


def _advance(held: Held, state: JobState, chunks: int) -> None:
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


def _write_all(store: Store, lease: Lease, worker_id: str) -> dict[str, Any]:
    """Every fenced write once, with what it returned."""
    return {
        "renew": store.jobs.renew_if_current([lease], worker_id),
        "is_current": store.jobs.is_current(lease),
        "crash": store.jobs.count_crash_if_current(lease),
        "plan": store.ledger.record_plan_if_current(lease, new_plan(7)),
        "commit": store.ledger.commit_chunks_if_current(lease, [new_receipt(0), new_receipt(1)]),
        "nothing": store.ledger.commit_chunks_if_current(lease, []),
        "begin": store.ledger.begin_commit_if_current(lease, {"stale": True}, {}),
        **{
            state: store.jobs.end_if_current(lease, state, ERROR)
            for state in (JobState.SUCCEEDED, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED)
        },
    }


def _everything(store: Store) -> list[Any]:
    return [
        (job, list(store.ledger.receipts(job.id)), store.ledger.find_manifest(job.id))
        for job in store.jobs.list(limit=1000)
    ]


def _claimed_id(claimed: tuple[Job, Lease] | None) -> str | None:
    return None if claimed is None else claimed[0].id


def _wait_for_expiry() -> None:
    """Leases end by the database's clock, which only time moves."""
    time.sleep(2 * SHORT["lease_seconds"])


# Children: `_CHILDREN` maps names to programs that run in a process of their own.


@contextmanager
def _child(opener: str, url: str, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    code = "import sys; from tidemill.testing.store import run_child; run_child(*sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, opener, url, program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _line(child: subprocess.Popen[str]) -> str:
    return _stream(child.stdout).readline().strip()


def _lines_until(child: subprocess.Popen[str], end: str) -> list[str]:
    lines = []
    while (line := _line(child)) != end:
        assert line, "the child died"
        lines.append(line)
    return lines


def _say(child: subprocess.Popen[str], word: str) -> None:
    stdin = _stream(child.stdin)
    stdin.write(f"{word}\n")
    stdin.flush()


def _kill(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.wait()


def _tell(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def run_child(opener: str, url: str, program: str, *arguments: str) -> None:
    """What the suite's child processes run."""
    _CHILDREN[program](opener, url, arguments)


def _claim_all(opener: str, url: str, arguments: Sequence[str]) -> None:
    store = _open(opener, url, {})
    store.workers.register(arguments[0])
    _tell("ready")
    sys.stdin.readline()
    while (claimed := store.jobs.claim_next(arguments[0])) is not None:
        _tell(f"{claimed[0].id} {claimed[1].epoch}")
    _tell("done")
    # The jobs stay held until the other child has looked, too.
    sys.stdin.readline()


def _open_and_submit(opener: str, url: str, arguments: Sequence[str]) -> None:
    _tell("ready")
    sys.stdin.readline()
    store = _open(opener, url, {})
    _tell(store.jobs.submit(new_job(f"job_of_{arguments[0]}")).id)
    store.close()


def _claim_and_hang(opener: str, url: str, arguments: Sequence[str]) -> None:
    store = _open(opener, url, {})
    worker_id, *wanted = arguments
    store.workers.register(worker_id)
    claimed = store.jobs.claim(wanted[0], worker_id) if wanted else store.jobs.claim_next(worker_id)
    _tell(_claimed_id(claimed))
    sys.stdin.readline()


def _commit_for_ever(opener: str, url: str, arguments: Sequence[str]) -> None:
    store = _open(opener, url, {})
    store.workers.register(arguments[0])
    claimed = store.jobs.claim_next(arguments[0])
    assert claimed is not None
    store.ledger.record_plan_if_current(claimed[1], new_plan(1_000_000))
    chunk = 0
    while True:
        receipts = [
            new_receipt(number, rejected=number % 4, usage=Usage(input_bytes=number))
            for number in (chunk, chunk + 1, chunk + 2)
        ]
        assert store.ledger.commit_chunks_if_current(claimed[1], receipts)
        chunk += 3
        _tell(chunk - 1)


_CHILDREN: dict[str, Callable[[str, str, Sequence[str]], None]] = {
    "claim_all": _claim_all,
    "open_and_submit": _open_and_submit,
    "claim_and_hang": _claim_and_hang,
    "commit_for_ever": _commit_for_ever,
}
