"""What is over its time goes, in small steps; nothing else does."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.access import AuditEntry, Principal
from tidemill.domain.admission import Needs
from tidemill.domain.errors import NotFound
from tidemill.domain.ids import new_id
from tidemill.domain.job import Job, JobState, Lease, NewJob, Want
from tidemill.domain.model import Environment
from tidemill.durable.locks import FileLock
from tidemill.engine import environment_homes, environments
from tidemill.service import claims, joblog, registration, retention, uploads
from tidemill.service.context import Context
from tidemill.testing.store.factories import JOURNAL, MANIFEST, new_plan, new_receipt, new_version, new_webhook
from tidemill.wire.spec import InputSpec, JobSpec, OutputSpec

NOW = datetime.now(UTC)
ROOMY = Needs(cpus=8)
KINDS = (
    "leftovers", "results", "deleted", "staging", "jobs", "uploads", "stdin", "models", "environments", "logs",
    "deliveries", "firings", "audit",
)  # fmt: skip
KEPT = dict.fromkeys(KINDS, 0)
DAYS = {"result_days": 30.0, "job_days": 180.0, "staging_days": 7.0, "upload_days": 7.0, "log_days": 30.0}


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    with opened(Settings(home=tmp_path / "home", **DAYS), children=False) as made:  # type: ignore[arg-type]
        yield made


def later(days: float) -> datetime:
    return NOW + timedelta(days=days)


def submit(context: Context, *, managed: bool = True, place: Path | None = None, inputs: str = "/in.parquet") -> Job:
    job_id = new_id("job")
    output = (place or context.places.results / job_id) / "predictions"
    spec = JobSpec(model="/m.txt", input=InputSpec(path=[inputs]), output=OutputSpec(path=str(output)))
    spec = spec.model_copy(update={"output": spec.output.model_copy(update={"format": "parquet"})})  # type: ignore[union-attr]
    sink = context.open_sink(spec)
    new = NewJob(
        id=job_id,
        name="kept",
        spec=spec.model_dump(mode="json"),
        spec_digest="5" * 64,
        model_digest="6" * 64,
        output=str(output),
        staging=sink.staging(job_id),
        managed=managed,
    )
    return context.store.jobs.submit(new)[0]


def take(context: Context) -> tuple[Job, Lease]:
    claimed = context.store.jobs.claim_next(context.worker_id, free=ROOMY, host=ROOMY)
    assert claimed is not None
    job, lease = claimed
    sink = context.open_sink(JobSpec.model_validate(job.spec))
    claims.take(context, job, sink, lambda: None)
    joblog.JobLog(context.places.logs, job.id, context.worker_id).say("began")
    return job, lease


def finish(context: Context, lease: Lease) -> Path:
    """The job ends well; gives its data file."""
    store, job = context.store, context.store.jobs.get(lease.job_id)
    assert store.ledger.record_plan_if_current(lease, new_plan(3))
    assert store.ledger.commit_chunks_if_current(lease, [new_receipt(chunk) for chunk in range(3)])
    assert store.ledger.begin_commit_if_current(lease, MANIFEST, JOURNAL)
    assert store.jobs.end_if_current(lease, JobState.SUCCEEDED)
    context.open_sink(JobSpec.model_validate(job.spec)).finish(job.id)
    data = Path(job.output) / "part-00000.parquet"
    data.parent.mkdir()
    data.write_bytes(b"rows")
    return data


def download(context: Context, job: Job) -> Path:
    """A file as `results.export` leaves it, with its lock beside it."""
    folder = context.places.results / job.id / "exports"
    folder.mkdir(parents=True)
    (folder / ".predictions.csv.lock").touch()
    (folder / "predictions-5555.csv").write_text("prediction\n1\n")
    return folder


def age(path: Path, days: float) -> None:
    """As if it had been written so long ago."""
    then = (NOW - timedelta(days=days)).timestamp()
    os.utime(path, (then, then))


def test_a_managed_result_goes_and_its_job_stays(context: Context) -> None:
    job = submit(context)
    data = finish(context, take(context)[1])
    assert retention.sweep(context, later(29.9)) == KEPT
    assert data.exists()
    assert retention.sweep(context, later(30.1))["results"] == 1
    assert not (context.places.results / job.id).exists()
    assert context.store.jobs.get(job.id).state is JobState.SUCCEEDED
    assert retention.sweep(context, later(30.1))["results"] == 0


@pytest.mark.parametrize("left", ["all of it", "the claim", "the lock"])
def test_what_a_worker_left_that_died_right_after_the_end_goes(context: Context, left: str) -> None:
    """The store says succeeded, and some of the claim, the staging and the lock's file is still there."""
    job = submit(context)
    _, lease = take(context)
    store = context.store
    assert store.ledger.record_plan_if_current(lease, new_plan(1))
    assert store.ledger.commit_chunks_if_current(lease, [new_receipt(0)])
    assert store.ledger.begin_commit_if_current(lease, MANIFEST, JOURNAL)
    assert retention.sweep(context, later(0)) == KEPT
    assert Path(job.staging).is_dir()
    assert store.jobs.end_if_current(lease, JobState.SUCCEEDED)
    if left != "all of it":
        shutil.rmtree(Path(job.staging).parent)
    if left == "the lock":
        (Path(job.output).parent / ".predictions.tidemill.claim").unlink()
    assert retention.sweep(context, later(0)) == {**KEPT, "leftovers": 1}
    assert not list(Path(job.output).parent.iterdir())
    assert retention.sweep(context, later(0)) == KEPT


def test_results_at_places_of_their_own_and_strange_folders_stay(context: Context, tmp_path: Path) -> None:
    submit(context, managed=False, place=tmp_path / "mine")
    data = finish(context, take(context)[1])
    strange = context.places.results / "job_0000000000000000" / "notes.txt"
    strange.parent.mkdir(parents=True)
    strange.write_text("of nobody in this store")
    retention.sweep(context, later(3650))
    assert data.exists()
    assert strange.exists()


def test_downloads_of_a_result_elsewhere_go_after_their_time(context: Context, tmp_path: Path) -> None:
    job = submit(context, managed=False, place=tmp_path / "mine")
    data = finish(context, take(context)[1])
    exports = download(context, job)
    age(exports, -20)
    assert retention.sweep(context, later(31)) == {**KEPT, "logs": 1}, "somebody asked for it eleven days ago"
    assert retention.sweep(context, later(51))["results"] == 1
    assert not (context.places.results / job.id).exists()
    assert data.exists()
    assert context.store.jobs.get(job.id).state is JobState.SUCCEEDED


def test_downloads_of_a_result_elsewhere_go_with_their_job(context: Context, tmp_path: Path) -> None:
    job = submit(context, managed=False, place=tmp_path / "mine")
    data = finish(context, take(context)[1])
    age(download(context, job), -170)
    gone = retention.sweep(context, later(181))
    assert (gone["jobs"], gone["results"]) == (1, 0)
    assert not list(context.places.results.iterdir())
    assert data.exists()


def test_a_job_is_forgotten_only_when_nothing_is_left_of_it(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that is killed half-way finds the job again, and with it what it left."""
    job = submit(context)
    finish(context, take(context)[1])
    monkeypatch.setattr(joblog, "remove", lambda context, job_id: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        retention.sweep(context, later(181))
    assert context.store.jobs.get(job.id).state is JobState.SUCCEEDED


def test_deletions_that_broke_off_are_ended(context: Context) -> None:
    """Their process was killed between the rename and the last file."""
    job = submit(context)
    finish(context, take(context)[1])
    os.rename(context.places.results / job.id, context.places.results / f".deleted-{job.id}")
    assert retention.sweep(context, later(0)) == {**KEPT, "deleted": 1}
    assert not list(context.places.results.iterdir())
    assert retention.sweep(context, later(0)) == KEPT


def test_models_that_broke_off_on_their_way_in_go(context: Context) -> None:
    receiving = registration.Receiving(context, "m.txt")
    receiving.write(b"tree")
    (arriving,) = (each for each in (context.places.models / ".incoming").glob("arrival_*") if each.suffix != ".lock")
    broken = arriving.with_name("arrival_0000000000000000")
    shutil.copytree(arriving, broken)
    age(broken, 0)
    assert retention.sweep(context, later(0.03)) == KEPT
    assert retention.sweep(context, later(0.05)) == {**KEPT, "models": 1}
    assert (arriving.exists(), broken.exists()) == (True, False), "what still comes in stays"
    receiving.close()


def environment(context: Context, requirements: str, *, days: float) -> Path:
    """As if it had been made, and used for the last time so many days ago."""
    home = context.places.environments / environment_homes.digest_of(environment_homes.wanted_lines(requirements))
    home.mkdir(parents=True)
    (home / environment_homes.RECORD).write_text("{}")
    age(home / environment_homes.RECORD, days)
    return home


def test_environments_that_nobody_asks_for_go(context: Context) -> None:
    named = Environment(requirements="named==1\n")
    context.store.models.add_version(new_version(environment=named))
    kept = [environment(context, "named==1", days=400), environment(context, "tried==1", days=20)]
    unused = environment(context, "tried==2", days=31)
    torn = kept[1].with_name(f".{'0' * 32}.4711")
    torn.mkdir()
    age(torn, 31)
    held = environment(context, "tried==3", days=31)
    lock = FileLock(held.with_name(f"{held.name}.lock"))
    assert lock.try_lock()
    assert retention.sweep(context, NOW) == {**KEPT, "environments": 2}
    lock.unlock(unlink=True)
    assert {path for path in context.places.environments.iterdir() if path.is_dir()} == {*kept, held}
    assert not unused.with_name(f"{unused.name}.lock").exists()
    assert retention.sweep(context, NOW)["environments"] == 1


def test_an_environment_that_is_asked_for_is_in_use(context: Context) -> None:
    home = environment(context, "tried==1", days=31)
    made = {"python": sys.executable, "lock": "", "digest": "5"}
    (home / environment_homes.RECORD).write_text(json.dumps(made))
    age(home / environment_homes.RECORD, 31)
    assert environments.ensure("tried==1", None, home.parent, lambda report: None) == made
    assert retention.sweep(context, NOW)["environments"] == 0


def test_leftovers_of_old_jobs_are_found_in_time(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sweep looks at the newest jobs and at some older ones, until it has seen them all."""
    monkeypatch.setattr(retention, "LOOKED_AT", 2)
    left = []
    for number in range(7):
        job = submit(context)
        _, lease = take(context)
        assert context.store.jobs.end_if_current(lease, JobState.CANCELLED)
        if number in (0, 3):
            left.append(Path(job.staging))
        else:
            context.open_sink(JobSpec.model_validate(job.spec)).discard(job.id)
    cursor = retention.Cursor()
    gone = [retention.sweep(context, later(0), cursor=cursor)["leftovers"] for _ in range(3)]
    assert gone == [1, 0, 1]
    assert not any(path.exists() for path in left)
    assert cursor.before is None, "the next one begins anew"
    cursor.before = "job_0000000000000000"
    retention.sweep(context, later(0), cursor=cursor)
    assert cursor.before is None


def test_staging_of_a_paused_job_goes_with_the_right_to_resume(context: Context) -> None:
    job = submit(context)
    _, lease = take(context)
    assert context.store.ledger.record_plan_if_current(lease, new_plan(3))
    assert context.store.jobs.end_if_current(lease, JobState.PAUSED)
    assert retention.sweep(context, later(6.9)) == KEPT
    assert Path(job.staging).is_dir()
    assert retention.sweep(context, later(7.1))["staging"] == 1
    assert not Path(job.staging).exists()
    assert context.store.jobs.get(job.id).state is JobState.CANCELLED
    log = joblog.tail(context, Principal(name="local"), job.id).lines
    assert "not resumed within 7 days" in log[-1]
    assert retention.sweep(context, later(7.1)) == KEPT


def test_a_failed_job_keeps_its_error_and_a_resumed_one_its_staging(context: Context) -> None:
    failed, resumed = submit(context), submit(context)
    error = {"code": "too_many_rejected", "message": "no", "remedy": None}
    for _ in range(2):
        assert context.store.jobs.end_if_current(take(context)[1], JobState.FAILED, error)
    context.store.jobs.wish(resumed.id, Want.RUN)
    assert retention.sweep(context, later(8))["staging"] == 1
    ended = context.store.jobs.get(failed.id)
    assert (ended.state, ended.error) == (JobState.CANCELLED, error)
    assert Path(resumed.staging).is_dir()
    assert context.store.jobs.get(resumed.id).state is JobState.QUEUED


def test_old_jobs_are_forgotten_with_all_that_is_left_of_them(context: Context) -> None:
    job = submit(context)
    finish(context, take(context)[1])
    assert retention.sweep(context, later(179))["jobs"] == 0
    assert retention.sweep(context, later(181))["jobs"] == 1
    with pytest.raises(NotFound):
        context.store.jobs.get(job.id)
    assert not joblog.path_of(context, job.id).exists()
    assert not (context.places.results / job.id).exists()


def test_a_managed_result_that_outlives_its_job_goes_with_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, **{**DAYS, "result_days": 400.0})  # type: ignore[arg-type]
    with opened(settings, children=False) as context:
        job = submit(context)
        finish(context, take(context)[1])
        retention.sweep(context, later(181))
        assert not (context.places.results / job.id).exists()


def test_what_runs_or_waits_is_left_alone_for_ever(context: Context) -> None:
    submit(context)
    running, _ = take(context)
    queued = submit(context)
    for path in (Path(running.staging), joblog.path_of(context, running.id)):
        age(path, 0)
    assert retention.sweep(context, later(3650)) == {**KEPT, "logs": 1}
    assert context.store.jobs.get(queued.id).state is JobState.QUEUED
    assert context.store.jobs.get(running.id).state is JobState.PLANNING
    assert Path(running.staging).is_dir()


def test_steps_are_as_small_as_asked(context: Context) -> None:
    for _ in range(3):
        submit(context)
        finish(context, take(context)[1])
    assert [retention.sweep(context, later(31), limit=2)["results"] for _ in range(3)] == [2, 1, 0]
    assert [retention.sweep(context, later(181), limit=2)["jobs"] for _ in range(3)] == [2, 1, 0]


def test_uploads_that_a_job_still_has_to_read_stay(context: Context) -> None:
    who = Principal(name="local")
    sent = []
    for name in ("used.csv", "unused.csv"):
        receiving = uploads.Receiving(context, who, name)
        receiving.write(b"a\n1\n")
        sent.append(receiving.finish())
        receiving.close()
    used = uploads.path_of(context, who, sent[0].id)
    submit(context, inputs=str(used))
    assert retention.sweep(context, later(6.9))["uploads"] == 0
    assert retention.sweep(context, later(7.1))["uploads"] == 1
    assert used.exists()
    with pytest.raises(NotFound):
        uploads.path_of(context, who, sent[1].id)


def test_old_logs_and_audit_entries_go(context: Context) -> None:
    context.places.logs.mkdir(parents=True)
    for name, days in (("job_old.log", 40), ("job_new.log", 20)):
        (context.places.logs / name).write_text("x")
        age(context.places.logs / name, days)
    entry = AuditEntry(tenant="default", actor="ada", action="key.add", subject="key_1", detail={})
    context.store.audit.record(entry)
    gone = retention.sweep(context, NOW)
    assert (gone["logs"], gone["audit"]) == (1, 0)
    assert os.listdir(context.places.logs) == ["job_new.log"]
    assert retention.sweep(context, later(731))["audit"] == 1
    assert not context.store.audit.list()


def test_old_deliveries_go_whatever_became_of_them(context: Context) -> None:
    assert context.store.webhooks.add(new_webhook("whk_1"), most=1)
    context.store.outbox.ping("whk_1")
    assert retention.sweep(context, later(29))["deliveries"] == 0
    assert retention.sweep(context, later(31))["deliveries"] == 1
    assert context.store.outbox.list() == []


def test_one_thing_that_cannot_be_removed_does_not_keep_the_others(context: Context, tmp_path: Path) -> None:
    """A failed job whose output's folder has become a file, and another one."""
    place = tmp_path / "place"
    broken, fine = submit(context, managed=False, place=place), submit(context)
    for _ in range(2):
        assert context.store.jobs.end_if_current(take(context)[1], JobState.FAILED, {"code": "x", "message": "y"})
    os.rename(place, tmp_path / "aside")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.rename(tmp_path / "loop", place)
    retention.sweep(context, later(8))
    assert not Path(fine.staging).exists()
    assert context.store.jobs.get(broken.id).state is JobState.CANCELLED


def test_two_sweeps_at_once_do_no_harm(context: Context) -> None:
    job = submit(context)
    finish(context, take(context)[1])
    other = replace(context, worker_id="worker_other")
    first = retention.sweep(context, later(181))
    second = retention.sweep(other, later(181))
    assert (first["jobs"], second["jobs"]) == (1, 0)
    with pytest.raises(NotFound):
        context.store.jobs.get(job.id)
