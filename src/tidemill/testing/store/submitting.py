"""Submitting jobs and reading them."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tidemill.domain.admission import Needs
from tidemill.domain.errors import InvalidSpec, KeyReused, NotFound, Refused
from tidemill.domain.job import Counts, Idempotency, JobFilter, JobState, Want
from tidemill.domain.receipt import Usage
from tidemill.ports.store import Store
from tidemill.testing.store.children import SUBMITTED_WITH_KEYS, lines_until, next_line, running_child, say
from tidemill.testing.store.factories import new_job, new_pin
from tidemill.testing.store.suite import StoreSuite, claim_next


class SubmittingSuite(StoreSuite):
    """What `submit`, `get` and `list` promise."""

    def test_submit_stores_everything_that_was_given(self, store: Store, open_store: Callable[..., Store]) -> None:
        new = new_job(
            "job_000001",
            priority=7,
            foreground=True,
            tenant="acme",
            owner="key_1",
            model=new_pin(),
            needs=Needs(cpus=3, memory_bytes=2**33, gpus=1),
            parent_id="job_000000",
            managed=True,
        )
        submitted, is_new = store.jobs.submit(new)
        assert is_new
        read = open_store().jobs.get("job_000001")
        assert read == submitted
        # Who holds a series is asked of the series.
        names = new.__dataclass_fields__.keys() - {"series"}
        assert {name: getattr(read, name) for name in names} == {name: getattr(new, name) for name in names}
        assert (read.state, read.want, read.epoch, read.crashes) == (JobState.QUEUED, Want.RUN, 0, 0)
        assert (read.worker_id, read.plan, read.error, read.started_at, read.finished_at) == (None,) * 5
        assert (read.counts, read.chunks_total, read.chunks_done) == (Counts(), 0, 0)
        assert Usage(**read.usage) == Usage()
        assert read.labels == {"team": "growth"}
        assert not read.planned

    def test_times_are_aware_utc(self, store: Store) -> None:
        created = store.jobs.submit(new_job("job_000001"))[0].created_at
        assert created.utcoffset() is not None
        assert not created.utcoffset()
        assert abs(created.timestamp() - time.time()) < 3600

    def test_submit_refuses_an_id_that_is_there(self, store: Store) -> None:
        first, _ = store.jobs.submit(new_job("job_000001"))
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
        assert claim_next(other, "v") is None
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

    def test_model_digests_in_use(self, store: Store) -> None:
        assert store.jobs.model_digests_in_use([]) == set()
        for number in range(3):
            store.jobs.submit(new_job(f"job_00000{number}", model_digest=f"{number % 2}" * 64))
        many = [f"{number:064x}" for number in range(1200)]
        assert store.jobs.model_digests_in_use(["0" * 64, "2" * 64, "1" * 64, *many]) == {"0" * 64, "1" * 64}

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
        assert [job.id for job in store.jobs.list(JobFilter(states=(JobState.PAUSED, JobState.CANCELLED)))] == [
            "job_000002",
            "job_000001",
        ]
        assert [job.id for job in store.jobs.list(JobFilter(states=(JobState.QUEUED,)))] == ["job_000000"]

    def test_set_labels_replaces_them(self, store: Store) -> None:
        store.jobs.submit(new_job("job_000001"))
        store.jobs.set_labels("job_000001", {"run": "2"})
        assert store.jobs.get("job_000001").labels == {"run": "2"}
        assert store.jobs.get("job_000001").spec["labels"] == {"team": "growth"}
        with pytest.raises(NotFound):
            store.jobs.set_labels("job_none", {})

    def test_a_job_of_before_needs_one_core_of_anybody(self, store: Store) -> None:
        job, _ = store.jobs.submit(new_job("job_000001"))
        assert (job.tenant, job.owner, job.model, job.parent_id, job.managed) == ("default", "", None, None, False)
        assert job.needs == Needs(cpus=1, memory_bytes=0, gpus=0)

    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            (JobFilter(), "dcba"),
            (JobFilter(tenant="acme"), "dc"),
            (JobFilter(tenant="default"), "ba"),
            (JobFilter(name="other"), "db"),
            (JobFilter(owner="key_1"), "ca"),
            (JobFilter(model="churn"), "cb"),
            (JobFilter(model="chur"), ""),
            (JobFilter(tenant="acme", model="churn"), "c"),
            (JobFilter(parent_id="job_00000a"), "b"),
            (JobFilter(labels=(("team", "growth"),)), "cba"),
            (JobFilter(labels=(("team", "growth"), ("run", "2"))), "b"),
            (JobFilter(labels=(("growth", "team"),)), ""),
            (JobFilter(labels=(("a.b\"]['$", "%_"),)), "d"),
            (JobFilter(states=(JobState.QUEUED,), owner="key_1", tenant="acme"), "c"),
            (JobFilter(states=(JobState.FAILED,)), ""),
        ],
        ids=str,
    )
    def test_list_filters(self, store: Store, wanted: JobFilter, found: str) -> None:
        pin, odd = new_pin(), {"a.b\"]['$": "%_"}
        spec = new_job("job_000000").spec
        store.jobs.submit(new_job("job_00000a", owner="key_1"))
        labels = {"team": "growth", "run": "2"}
        more = {**spec, "labels": labels}
        store.jobs.submit(new_job("job_00000b", name="other", model=pin, spec=more, parent_id="job_00000a"))
        store.jobs.submit(new_job("job_00000c", tenant="acme", owner="key_1", model=pin))
        unnamed = new_pin(name=None)
        store.jobs.submit(new_job("job_00000d", tenant="acme", name="other", spec={"labels": odd}, model=unnamed))
        assert "".join(job.id[-1] for job in store.jobs.list(wanted)) == found
        after = store.jobs.list(wanted, limit=1)
        if len(found) > 1:
            assert [job.id[-1] for job in store.jobs.list(wanted, before=after[0].id)] == list(found[1:])

    @pytest.mark.parametrize("label", ["a\0b", "\ud800"])
    def test_labels_that_no_search_could_read_are_refused(self, store: Store, label: str) -> None:
        with pytest.raises(InvalidSpec):
            store.jobs.submit(new_job("job_000001", spec={"labels": {"team": label}}))
        with pytest.raises(InvalidSpec):
            store.jobs.submit(new_job("job_000001", spec={"labels": {label: "x"}}))
        assert store.jobs.list(JobFilter(labels=(("team", "growth"),))) == []

    @pytest.mark.parametrize("name", ["\ud800", "x\udcff"])
    def test_text_that_is_no_unicode_is_refused(self, store: Store, name: str) -> None:
        with pytest.raises(InvalidSpec):
            store.jobs.submit(new_job("job_000001", name=name))
        with pytest.raises(InvalidSpec):
            store.jobs.list(JobFilter(name=name))
        assert store.jobs.list() == []

    def test_numbers_beyond_64_bits_are_refused(self, store: Store) -> None:
        with pytest.raises(InvalidSpec):
            store.jobs.submit(new_job("job_000001", priority=2**63))
        assert store.jobs.submit(new_job("job_000001", priority=2**63 - 1))[0].priority == 2**63 - 1

    def test_odd_text_in_documents_is_kept(self, store: Store) -> None:
        spec = {"model": "a\0b\ud800\u2028 \N{PILE OF POO}", "z": 1, "a": [1.5, None, {"b": 2**60}]}
        store.jobs.submit(new_job("job_000001", spec=spec))
        kept = store.jobs.get("job_000001").spec
        assert kept == spec
        assert list(kept) == ["model", "z", "a"]

    # Idempotency

    def test_the_same_request_gives_the_same_job(self, store: Store, open_store: Callable[..., Store]) -> None:
        promise = Idempotency(key="k1", request_digest="a" * 64)
        first, is_new = store.jobs.submit(new_job("job_000001"), promise)
        assert is_new
        store.jobs.wish("job_000001", Want.CANCEL)
        again, is_new = open_store().jobs.submit(new_job("job_000002", name="other"), promise)
        assert not is_new
        assert again == store.jobs.get("job_000001")
        assert (again.id, again.name) == ("job_000001", first.name)
        assert [job.id for job in store.jobs.list()] == ["job_000001"]

    def test_a_key_with_another_request_is_refused(self, store: Store) -> None:
        store.jobs.submit(new_job("job_000001"), Idempotency(key="k1", request_digest="a" * 64))
        with pytest.raises(KeyReused, match="job_000001"):
            store.jobs.submit(new_job("job_000002"), Idempotency(key="k1", request_digest="b" * 64))
        assert [job.id for job in store.jobs.list()] == ["job_000001"]

    def test_keys_of_tenants_are_apart(self, store: Store) -> None:
        promise = Idempotency(key="k1", request_digest="a" * 64)
        for tenant in ("acme", "other"):
            job, is_new = store.jobs.submit(new_job(f"job_{tenant}", tenant=tenant), promise)
            assert (job.id, is_new) == (f"job_{tenant}", True)

    def test_a_refused_job_takes_no_key(self, store: Store) -> None:
        promise = Idempotency(key="k1", request_digest="a" * 64)
        store.jobs.submit(new_job("job_000001"))
        with pytest.raises(Refused, match="job_000001"):
            store.jobs.submit(new_job("job_000001"), promise)
        assert store.jobs.submit(new_job("job_000002"), promise)[1]

    def test_threads_with_one_key_get_one_job(self, store: Store) -> None:
        promise = Idempotency(key="k1", request_digest="a" * 64)

        def submit(number: int) -> tuple[str, bool]:
            job, is_new = store.jobs.submit(new_job(f"job_{number:06d}"), promise)
            return job.id, is_new

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(submit, range(24)))
        assert len({job_id for job_id, _ in answers}) == 1
        assert sum(is_new for _, is_new in answers) == 1
        assert [job.id for job in store.jobs.list()] == [answers[0][0]]

    def test_processes_with_one_key_get_one_job(self, store: Store, store_url: str) -> None:
        children = [running_child(self.opener, store_url, "submit_with_keys", f"p{number}") for number in range(3)]
        with children[0] as a, children[1] as b, children[2] as c:
            everyone = (a, b, c)
            assert [next_line(each) for each in everyone] == ["ready"] * 3
            for each in everyone:
                say(each, "go")
            answers = [lines_until(each, "done") for each in everyone]
        assert answers[0] == answers[1] == answers[2]
        assert len(set(answers[0])) == len(answers[0]) == SUBMITTED_WITH_KEYS
        assert sorted(job.id for job in store.jobs.list(limit=1000)) == sorted(answers[0])
