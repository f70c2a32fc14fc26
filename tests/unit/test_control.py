"""Cancel, pause, resume: when they may be, and for whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.api.house import House, opened_house
from tidemill.domain.access import Principal, Role
from tidemill.domain.errors import NotFound, WrongState
from tidemill.domain.job import Job, JobFilter, JobState, NewJob, Want
from tidemill.service import audit, control
from tidemill.service.context import Context


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with opened_house(tmp_path, data_roots=[tmp_path]) as opened:
        opened.model()
        yield opened


def bring(house: House, state: JobState) -> Job:
    """A job in that state."""
    job, store = house.submit(), house.context.store
    if state is JobState.QUEUED:
        return job
    if state in (JobState.SUCCEEDED, JobState.SUCCEEDED_WITH_REJECTIONS):
        return house.finish(job, rejected=3 if state is JobState.SUCCEEDED_WITH_REJECTIONS else 0)
    if state is JobState.FAILED:
        return house.fail(job)
    if state in (JobState.PAUSED, JobState.CANCELLED):
        return store.jobs.wish(job.id, Want.PAUSE if state is JobState.PAUSED else Want.CANCEL)
    if state is JobState.PLANNING:
        house.claim(job)
    else:
        lease = house.run(job)
        if state is JobState.COMMITTING:
            assert store.ledger.begin_commit_if_current(lease, {"files": []}, {})
    return house.again(job)


S = JobState
Verb = Callable[[Context, Principal, str], Job]
ENDS_AS: dict[Verb, dict[JobState, tuple[JobState, Want]]] = {
    control.cancel: {
        S.QUEUED: (S.CANCELLED, Want.CANCEL), S.PLANNING: (S.PLANNING, Want.CANCEL),
        S.RUNNING: (S.RUNNING, Want.CANCEL), S.PAUSED: (S.CANCELLED, Want.CANCEL),
        S.FAILED: (S.CANCELLED, Want.CANCEL), S.CANCELLED: (S.CANCELLED, Want.CANCEL),
    },
    control.pause: {
        S.QUEUED: (S.PAUSED, Want.PAUSE), S.PLANNING: (S.PLANNING, Want.PAUSE), S.RUNNING: (S.RUNNING, Want.PAUSE),
        S.PAUSED: (S.PAUSED, Want.PAUSE),
    },
    control.resume: {
        S.QUEUED: (S.QUEUED, Want.RUN), S.PLANNING: (S.PLANNING, Want.RUN), S.RUNNING: (S.RUNNING, Want.RUN),
        S.PAUSED: (S.QUEUED, Want.RUN), S.FAILED: (S.QUEUED, Want.RUN),
    },
}  # fmt: skip


@pytest.mark.parametrize("verb", ENDS_AS, ids=lambda verb: verb.__name__)
def test_a_wish_in_every_state(house: House, verb: Verb) -> None:
    for state in JobState:
        job = bring(house, state)
        assert job.state is state
        expected = ENDS_AS[verb].get(state)
        if expected is None:
            with pytest.raises(WrongState, match=f"{job.id} is {state.value.replace('_', ' ')} and cannot be"):
                verb(house.context, house.here, job.id)
            assert house.again(job) == job
        else:
            for _ in range(2):
                told = verb(house.context, house.here, job.id)
                assert (told.state, told.want) == expected
            assert house.again(job) == told


def test_a_pause_is_taken_back_by_a_resume(house: House) -> None:
    job = bring(house, S.RUNNING)
    assert control.pause(house.context, house.here, job.id).want is Want.PAUSE
    assert control.resume(house.context, house.here, job.id).want is Want.RUN


def test_a_cancelled_job_leaves_no_staging(house: House) -> None:
    job = bring(house, S.PAUSED)
    staging = Path(job.staging)
    staging.mkdir(parents=True)
    (staging / "part").write_text("x")
    control.cancel(house.context, house.here, job.id)
    assert not staging.exists()


def test_who_cancelled_is_in_the_audit_log_once(house: House) -> None:
    operator, _ = house.key()
    job = house.submit(name="nightly")
    control.cancel(house.context, operator, job.id)
    control.cancel(house.context, operator, job.id)
    with pytest.raises(WrongState):
        control.cancel(house.context, operator, house.finish(house.submit()).id)
    told = [entry for entry in audit.list(house.context, operator) if entry.action == "job.cancel"]
    assert [(entry.subject, entry.actor, entry.detail["state"]) for entry in told] == [
        (job.id, "default-operator", "queued")
    ]


def test_a_command_lines_job_is_not_taken_by_the_service(house: House) -> None:
    new = NewJob(
        id="job_foreground", name="mine", spec=house.submit().spec, spec_digest="1", model_digest="2",
        output=str(house.folder / "o"), staging=str(house.folder / "s"), foreground=True,
    )  # fmt: skip
    job, lease = house.context.store.jobs.submit_claimed(new, house.context.worker_id)
    assert house.context.store.jobs.end_if_current(lease, S.PAUSED)
    with pytest.raises(WrongState, match="belongs to that command line"):
        control.resume(house.context, house.here, job.id)
    assert house.again(job).state is S.PAUSED


@pytest.mark.parametrize("verb", [control.get, *ENDS_AS], ids=lambda verb: verb.__name__)
def test_jobs_of_other_tenants_are_not_there(house: House, verb: Verb) -> None:
    stranger = Principal(name="x", tenant="red", role=Role.ADMIN, id="key_x")
    job = house.submit()
    for job_id in (job.id, job.id[-8:], "job_none"):
        with pytest.raises(NotFound, match=f"There is no job {job_id}"):
            verb(house.context, stranger, job_id)
    assert house.again(job) == job


def test_a_list_holds_the_callers_tenant_only(house: House) -> None:
    house.model("churn", "red")
    red, _ = house.key(Role.ADMIN, "red")
    mine = [house.submit(name=f"n{number}").id for number in range(3)]
    theirs = house.submit(red).id
    assert [job.id for job in control.list(house.context, house.here)] == mine[::-1]
    assert [job.id for job in control.list(house.context, red)] == [theirs]
    wanted = JobFilter(tenant="red")
    assert [job.id for job in control.list(house.context, house.here, wanted, limit=2)] == mine[:0:-1]
    assert [job.id for job in control.list(house.context, house.here, before=mine[1])] == [mine[0]]
    assert [job.id for job in control.list(house.context, house.here, JobFilter(name="n1"))] == [mine[1]]
    with pytest.raises(NotFound):
        control.list(house.context, house.here, before=theirs)
