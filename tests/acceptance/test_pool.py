"""Jobs run side by side in one process, handed over, taken over, and each on its own."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest

import tidemill
from tests import checker
from tests.acceptance.workshop import CHUNKS, PATIENCE_SECONDS, WHO, Workshop, until
from tidemill.bootstrap.preloads import PRELOAD
from tidemill.domain.admission import Needs
from tidemill.domain.errors import StoreUnavailable
from tidemill.domain.job import Job, JobState, Lease, NewJob, Want
from tidemill.engine.recall import Recall, Recent
from tidemill.engine.worker import DEATHS_SECONDS, MAX_DEATHS
from tidemill.executors.local import LocalExecutor
from tidemill.ports.observer import Observer
from tidemill.service import control, joblog, submission, work
from tidemill.service.context import Context
from tidemill.wire.spec import InputSpec, JobSpec, OutputSpec

DEMO = Path(tidemill.__file__).parent / "cli" / "demo_data"
REJECTED = JobState.SUCCEEDED_WITH_REJECTIONS


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    """One zygote for all tests of this file."""
    made = LocalExecutor(preload=PRELOAD)
    yield made
    made.close()


@pytest.fixture
def shop(tmp_path: Path, executor: LocalExecutor) -> Iterator[Workshop]:
    made = Workshop(folder=tmp_path, executor=executor)
    yield made
    made.close()


class Crowd(Observer):
    """Counts how many jobs are being run at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.most = 0
        self.together: list[set[str]] = []
        self._names: set[str] = set()

    def job_started(self, job: Job, resumed_chunks: int) -> None:
        with self._lock:
            self._names.add(job.name)
            self.together.append(set(self._names))
            self.most = max(self.most, len(self._names))

    def job_ended(self, job: Job) -> None:
        with self._lock:
            self._names.discard(job.name)


def test_several_jobs_at_once_but_no_more_than_allowed(shop: Workshop) -> None:
    crowd, gate = Crowd(), shop.folder / "gate"
    jobs = [shop.submit(f"job{n}", nap=0.05, gate=str(gate)) for n in range(5)]
    shop.pool(observers=[crowd])
    until(lambda: crowd.most == 2)
    gate.touch()
    for job in shop.ended(*jobs):
        assert job.state is REJECTED, job.error
        shop.check(job)
    assert crowd.most == 2


def test_a_job_that_needs_the_whole_host_runs_alone(shop: Workshop) -> None:
    crowd = Crowd()
    jobs = [shop.submit("small", nap=0.1), shop.submit("big", needs=Needs(cpus=2)), shop.submit("other")]
    shop.pool(observers=[crowd])
    assert [job.state for job in shop.ended(*jobs)] == [REJECTED] * 3
    assert {"big"} in crowd.together
    assert not any(len(names) > 1 for names in crowd.together if "big" in names)


def test_each_job_sees_its_own_gpus(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once share none; one that asked for none sees none, and where none are given out all are seen."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c")
    gate = shop.folder / "gate"
    asked = {"one": 1, "two": 2, "none": 0}
    seen = {name: shop.folder / f"{name}.gpus" for name in (*asked, "unmanaged")}

    def submit(name: str, count: int) -> Job:
        return shop.submit(name, needs=Needs(cpus=1, gpus=count), gate=str(gate), gpus=str(seen[name]))

    jobs = [submit(name, count) for name, count in asked.items()]
    first = shop.pool(gpus=3, jobs_at_once=3)
    until(lambda: all(seen[name].exists() and seen[name].read_text().count("\n") >= 2 for name in asked))
    gate.touch()
    assert [job.state for job in shop.ended(*jobs)] == [REJECTED] * 3
    # The first line is the planner's, which loads the model to describe it and is kept from nothing.
    scorers = {name: set(seen[name].read_text().splitlines()[1:]) for name in asked}
    assert all(len(lines) == 1 for lines in scorers.values())
    of = {name: lines.pop() for name, lines in scorers.items()}
    assert of["none"] == ""
    assert sorted([of["one"], *of["two"].split(",")]) == ["GPU-a", "GPU-b", "GPU-c"]

    first.drain()
    assert first.join(PATIENCE_SECONDS)
    shop.pool(shop.open())
    [ended] = shop.ended(submit("unmanaged", 0))
    assert ended.state is REJECTED, ended.error
    assert set(seen["unmanaged"].read_text().splitlines()) == {"all"}


def test_a_draining_pool_hands_over_and_nothing_is_scored_twice(shop: Workshop) -> None:
    gate = shop.folder / "gate"
    job = shop.submit("handed", log=shop.log_path("handed"), gate=str(gate))
    first = shop.pool()
    until(lambda: shop.works_on("handed"))
    first.drain()
    first.drain()
    gate.touch()
    assert first.join(PATIENCE_SECONDS)
    handed = shop.get(job)
    assert (handed.state, handed.crashes, handed.worker_id) == (JobState.QUEUED, 0, None)
    assert 0 < handed.chunks_done < CHUNKS
    done = {chunk for first, stop in shop.context.store.ledger.committed_chunks(job.id) for chunk in range(first, stop)}
    before = len(shop.chunks_called("handed"))

    shop.pool(shop.open())
    [ended] = shop.ended(job)
    assert ended.state is REJECTED, ended.error
    assert ended.epoch == 2
    assert not done & set(shop.chunks_called("handed")[before:])
    shop.check(ended)
    log = "\n".join(joblog.tail(shop.context, WHO, job.id).lines)
    assert "handed over" in log
    assert "(epoch 2): " in log
    assert shop.context.store.workers.list_live()


def test_chunks_that_take_too_long_are_dropped_by_a_draining_pool(shop: Workshop) -> None:
    gate = shop.folder / "never"
    job = shop.submit("stuck", log=shop.log_path("stuck"), gate=str(gate))
    pool = shop.pool(drain_seconds=0.3)
    until(lambda: shop.works_on("stuck"))
    pool.drain()
    assert pool.join(PATIENCE_SECONDS)
    assert (shop.get(job).state, shop.get(job).crashes) == (JobState.QUEUED, 0)


def test_a_stopped_pool_leaves_its_job_to_be_taken_over(shop: Workshop) -> None:
    gate = shop.folder / "gate"
    job = shop.submit("taken", log=shop.log_path("taken"), gate=str(gate))
    mine = shop.open(lease_seconds=1.0, heartbeat_seconds=0.2)
    first = shop.pool(mine)
    until(lambda: shop.works_on("taken"))
    first.stop()
    assert first.join(PATIENCE_SECONDS)
    left = shop.get(job)
    assert left.state is JobState.RUNNING
    gate.touch()
    shop.pool(shop.open())
    [ended] = shop.ended(job)
    assert (ended.state, ended.epoch) == (REJECTED, left.epoch + 1)
    shop.check(ended)


def test_a_job_that_loses_its_lease_leaves_the_others_alone(shop: Workshop) -> None:
    gate = shop.folder / "gate"
    lost = shop.submit("lost", log=shop.log_path("lost"), gate=str(gate))
    kept = shop.submit("kept", log=shop.log_path("kept"), gate=str(gate))
    shop.context = shop.open(heartbeat_seconds=0.2)
    pool = shop.pool()
    for name in ("lost", "kept"):
        until(lambda name=name: shop.works_on(name))
    thief = shop.open().worker_id
    _steal(shop, lost, thief)
    until(lambda: pool.running == [kept.id])
    gate.touch()
    [ended] = shop.ended(kept)
    assert ended.state is REJECTED
    shop.check(ended)
    stolen = shop.get(lost)
    assert (stolen.state, stolen.worker_id) == (JobState.RUNNING, thief)


def _steal(shop: Workshop, job: Job, thief: str) -> None:
    """Take the job as another machine's worker would after the lease's end."""
    with sqlite3.connect(shop.folder / "home" / "tidemill.db") as db:
        db.execute(
            "UPDATE jobs SET epoch = epoch + 1, token = 'stolen', worker_id = ?,"
            " lease_until_ms = lease_until_ms + 600000 WHERE id = ?",
            (thief, job.id),
        )


def test_a_poison_row_of_one_job_does_not_stall_the_others(shop: Workshop) -> None:
    """While the row that kills its scorers is looked for, the others end."""
    poison = shop.submit("poison", die=[0, 333])
    good = [shop.submit(f"good{n}") for n in range(2)]
    shop.pool()
    for job in shop.ended(*good):
        assert job.state is REJECTED, job.error
        shop.check(job)
    [ended] = shop.ended(poison)
    assert ended.state is REJECTED, ended.error
    rejected = checker.read_data(checker.rejected_place(Path(poison.output)))
    assert (str(shop.inputs[0]), 333) in set(
        zip(rejected["_file"].to_pylist(), rejected["_row"].to_pylist(), strict=True)
    )
    assert "a scorer was lost" in "\n".join(joblog.tail(shop.context, WHO, poison.id).lines)


def test_an_output_that_another_job_holds(shop: Workshop) -> None:
    """The second fails naming the first, harms nothing of it, and can be resumed when it is over."""
    gate = shop.folder / "gate"
    first = shop.submit("same", log=shop.log_path("same"), gate=str(gate))
    pool = shop.pool()
    until(lambda: shop.works_on("same"))
    second = shop.context.store.jobs.submit(_like(shop, first, mode="overwrite"))[0]
    [failed] = shop.ended(second)
    assert failed.error is not None
    assert failed.error["code"] == "output_busy"
    assert first.id in failed.error["message"]
    gate.touch()
    assert shop.ended(first)[0].state is REJECTED
    shop.check(first)
    control.resume(shop.context, WHO, second.id)
    assert shop.ended(second)[0].state is REJECTED
    checker.check(shop.inputs, Path(second.output))
    assert checker.read_manifest(Path(second.output))["job_id"] == second.id
    assert not pool.running


def test_an_output_that_is_there_already(shop: Workshop) -> None:
    output = shop.output("there")
    output.mkdir(parents=True)
    (output / "mine.parquet").write_bytes(b"somebody's")
    job = shop.context.store.jobs.submit(_like(shop, shop.submit("template"), name="there"))[0]
    shop.pool()
    [ended] = shop.ended(job)
    assert ended.error is not None
    assert ended.error["code"] == "output_exists"
    assert (output / "mine.parquet").read_bytes() == b"somebody's"


def _like(shop: Workshop, job: Job, *, mode: str = "error", name: str | None = None) -> NewJob:
    """A job that nobody checked when it was submitted."""
    output = str(shop.output(name or job.name))
    spec = {**job.spec, "output": {**job.spec["output"], "path": output, "mode": mode}}
    assert job.model is not None
    return NewJob(
        id=f"job_{name or job.name}2",
        name=name or job.name,
        spec=spec,
        spec_digest=job.spec_digest,
        model_digest=job.model_digest,
        output=output,
        staging=str(Path(output).parent / ".scores.tidemill" / f"job_{name or job.name}2"),
        model=job.model,
    )


def test_pause_resume_and_cancel_reach_a_job_of_a_pool(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = shop.folder / "gate"
    jobs = [shop.submit(name, log=shop.log_path(name), gate=str(gate)) for name in ("paused", "cancelled")]
    shop.context = shop.open(heartbeat_seconds=0.1)
    heard: list[dict[str, Want]] = []
    monkeypatch.setattr(
        shop.context.store.jobs, "renew_if_current", _heard(shop.context.store.jobs.renew_if_current, heard)
    )
    shop.pool()
    for job in jobs:
        until(lambda job=job: shop.works_on(job.name))
    control.cancel(shop.context, WHO, jobs[1].id)
    control.pause(shop.context, WHO, jobs[0].id)
    assert shop.ended(jobs[1])[0].state is JobState.CANCELLED
    # At the second answer the first has been taken in.
    until(lambda: heard.count({jobs[0].id: Want.PAUSE}) > 1)
    gate.touch()
    assert shop.ended(jobs[0])[0].state is JobState.PAUSED
    control.resume(shop.context, WHO, jobs[0].id)
    [ended] = shop.ended(jobs[0])
    assert (ended.state, ended.want) == (REJECTED, Want.RUN)
    shop.check(ended)
    assert not list(Path(jobs[1].output).parent.iterdir())


def _heard(renew: Callable[..., dict[str, Want]], heard: list[dict[str, Want]]) -> Callable[..., dict[str, Want]]:
    def noting(*words: Any) -> dict[str, Want]:
        heard.append(renew(*words))
        return heard[-1]

    return noting


@pytest.mark.parametrize("counted", [MAX_DEATHS - 1, 0], ids=["no progress", "progress"])
@pytest.mark.parametrize("ago", [DEATHS_SECONDS + 1, DEATHS_SECONDS - 60], ids=["long", "short"])
def test_a_job_that_workers_keep_dying_with_is_given_up(shop: Workshop, counted: int, ago: float) -> None:
    """Deaths are counted at each takeover; a committed chunk forgives them, so a job that gets on ends."""
    job = shop.submit("fatal")
    for death in range(MAX_DEATHS):
        _, lease = _take(shop.context, f"dead{death}")
        if death < counted:
            shop.context.store.jobs.count_crash_if_current(lease)
    Path(job.staging).mkdir(parents=True)
    (Path(job.staging) / "first-death").write_text(str(time.time() - ago))
    shop.pool()
    [ended] = shop.ended(job)
    assert ended.epoch == MAX_DEATHS + 1
    if counted and ago > DEATHS_SECONDS:
        assert ended.state is JobState.FAILED
        assert ended.error is not None
        assert ended.error["code"] == "too_many_crashes"
        assert f"{MAX_DEATHS} workers died" in ended.error["message"]
    else:
        assert ended.state is REJECTED, ended.error
        assert ended.crashes == 0


def _take(context: Context, worker_id: str) -> tuple[Job, Lease]:
    """A claim by a worker that is dead: nobody holds its lock."""
    roomy = Needs(cpus=64)
    claimed = context.store.jobs.claim_next(worker_id, free=roomy, host=roomy)
    assert claimed is not None
    return claimed


WRITES = (
    ("ledger", "record_plan_if_current"),
    ("ledger", "commit_chunks_if_current"),
    ("ledger", "begin_commit_if_current"),
    ("jobs", "end_if_current"),
)


@pytest.mark.parametrize("done", [True, False], ids=["answer lost", "not done"])
def test_a_store_that_stutters_at_every_write(shop: Workshop, done: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the write was done before the answer was lost, or not: once in the end."""
    stumbled = []
    for part, name in WRITES:
        place = getattr(shop.context.store, part)
        monkeypatch.setattr(place, name, _stumbling(getattr(place, name), done, stumbled, name))
    job = shop.submit("stutter")
    shop.pool()
    [ended] = shop.ended(job)
    assert ended.state is REJECTED, ended.error
    assert (ended.epoch, ended.chunks_done) == (1, CHUNKS)
    assert sorted(stumbled) == sorted(name for _, name in WRITES)
    shop.check(ended)


def _stumbling(write: Callable[..., Any], done: bool, stumbled: list[str], name: str) -> Callable[..., Any]:
    def once(*words: Any) -> Any:
        if name in stumbled:
            return write(*words)
        stumbled.append(name)
        if done:
            write(*words)
        raise StoreUnavailable("the answer is lost")

    return once


def test_a_store_that_is_away_for_longer_than_a_lease(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is let go; afterwards somebody takes it again, and each row is there once."""
    gate = shop.folder / "gate"
    job = shop.submit("away", log=shop.log_path("away"), gate=str(gate))
    shop.context = shop.open(lease_seconds=2.0, heartbeat_seconds=0.2)
    away = threading.Event()
    for part, names in (
        ("ledger", [name for _, name in WRITES[:3]]),
        ("jobs", ["end_if_current", "renew_if_current", "claim_next", "get"]),
        ("workers", ["announce"]),
    ):
        place = getattr(shop.context.store, part)
        for name in names:
            monkeypatch.setattr(place, name, _while_here(getattr(place, name), away))
    pool = shop.pool()
    until(lambda: shop.works_on("away"))
    held = shop.get(job)
    away.set()
    until(lambda: not pool.running)
    gate.touch()
    away.clear()
    [ended] = shop.ended(job)
    assert ended.state is REJECTED, ended.error
    assert ended.epoch > held.epoch
    shop.check(ended)


def _while_here(ask: Callable[..., Any], away: threading.Event) -> Callable[..., Any]:
    def maybe(*words: Any, **more: Any) -> Any:
        if away.is_set():
            raise StoreUnavailable("nobody is there")
        return ask(*words, **more)

    return maybe


def test_a_pool_outlives_errors_of_its_own(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [True]

    def claim(*words: Any, **more: Any) -> Any:
        if broken.pop() if broken else False:
            raise ZeroDivisionError("a defect")
        return original(*words, **more)

    original = shop.context.store.jobs.claim_next
    monkeypatch.setattr(shop.context.store.jobs, "claim_next", claim)
    job = shop.submit("after")
    shop.pool()
    assert shop.ended(job)[0].state is REJECTED


def test_a_registered_model_is_not_looked_at_again(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job with a pin needs no child to identify it, and its manifest names the pinned digest."""
    job = shop.submit("pinned")
    context = replace(shop.context, entries=replace(shop.context.entries, identify="no_such:entry"))
    shop.pool(context)
    [ended] = shop.ended(job)
    assert ended.state is REJECTED, ended.error
    manifest = checker.read_manifest(Path(job.output))
    assert manifest["model"]["digest"] == job.model_digest
    assert manifest["environment"] is None


class Asked(Recent[dict[str, Any]]):
    """Notes whether what was asked for was remembered."""

    found: ClassVar[list[bool]] = []

    def get(self, key: str | None) -> dict[str, Any] | None:
        info = super().get(key)
        self.found.append(info is not None)
        return info


def test_a_model_is_loaded_for_planning_once(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next job's planner knows what the first one's found out, and both results are the same."""
    monkeypatch.setattr(work, "Recall", lambda: Recall(infos=Asked()))
    flights = pq.read_table(DEMO / "flights.parquet").slice(0, 500)
    pq.write_table(flights, shop.folder / "flights.parquet")
    shop.pool()
    files = []
    for name in ("first", "second"):
        spec = JobSpec(
            model=str(DEMO / "model.txt"),
            input=InputSpec(path=[str(shop.folder / "flights.parquet")]),
            output=OutputSpec(path=str(shop.output(name))),
        )
        [ended] = shop.ended(submission.submit(shop.context, WHO, spec)[0])
        assert ended.state is JobState.SUCCEEDED, ended.error
        files.append(digests(shop.output(name)))
    assert Asked.found == [False, True]
    assert files[0] == files[1]
    first, second = (checker.read_manifest(shop.output(name)) for name in ("first", "second"))
    assert (first["model"], first["libraries"]) == (second["model"], second["libraries"])


def digests(output: Path) -> list[str]:
    return [checker.digest(output.parent / name) for name in checker.data_files(output)]


def test_sweeping_leaves_alone_what_a_successor_may_have_written(shop: Workshop) -> None:
    """A worker that has lost its job and does not know it keeps parts of its own epoch and of later ones."""
    gate = shop.folder / "gate"
    job = shop.submit("swept", log=shop.log_path("swept"), gate=str(gate))
    first = shop.pool(drain_seconds=0.1)
    until(lambda: shop.works_on("swept"))
    first.drain()
    assert first.join(PATIENCE_SECONDS)
    parts = Path(job.staging) / "parts"
    successors, dead = parts / "0000003.e9-1.predictions.parquet", parts / "0000003.e1-77.predictions.parquet"
    for path in (successors, dead):
        path.write_bytes(b"x")
    before = len(shop.chunks_called("swept"))
    shop.pool(shop.open())
    until(lambda: len(shop.chunks_called("swept")) > before)
    assert (successors.exists(), dead.exists()) == (True, False)
    gate.touch()
    assert shop.ended(job)[0].state is REJECTED
    shop.check(job)
