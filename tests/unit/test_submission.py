"""What becomes of a request for a job: the model pinned, the places checked, one job for one key."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.api.house import House, opened_house
from tidemill.domain.access import Principal, Role
from tidemill.domain.admission import Needs
from tidemill.domain.errors import (
    InvalidSpec,
    KeyReused,
    NotAllowed,
    NotFound,
    NotTrusted,
    OutputBusy,
    OutputExists,
    WrongState,
)
from tidemill.domain.job import Job, JobState
from tidemill.ports.executor import Executor
from tidemill.service import submission, uploads
from tidemill.service.context import Context
from tidemill.wire.spec import JobSpec, OutputSpec


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with opened_house(tmp_path, data_roots=[tmp_path / "data"]) as opened:
        opened.model("churn", alias="champion")
        yield opened


@pytest.fixture
def operator(house: House) -> Principal:
    return house.key()[0]


class Asked:
    """Stands for the executor: counts what children were asked, and answers for them."""

    name = "local"

    def __init__(self, *, carries_code: bool = False) -> None:
        self.requests: list[Mapping[str, Any]] = []
        self.carries_code = carries_code

    def call(self, entry: str, request: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        self.requests.append(request)
        return {
            "path": request["path"], "digest": "d" * 64, "flavor": "lightgbm", "carries_code": self.carries_code,
            "preload": ["lightgbm"], "size_bytes": 5,
        }  # fmt: skip


def asking(context: Context, asked: Asked) -> Context:
    executor: Executor = asked  # type: ignore[assignment]  # Only `call` and `name` are used.
    return replace(context, executor=executor)


def all_jobs(house: House) -> list[str]:
    return [job.id for job in house.context.store.jobs.list()]


# -- what is stored


def test_a_job_without_output_gets_a_managed_one(house: House, operator: Principal) -> None:
    job = house.submit(operator, model="churn@champion", name="nightly", labels={"team": "growth"}, priority=-3)
    assert (job.state, job.name, job.priority, job.tenant, job.owner) == (
        JobState.QUEUED, "nightly", -3, "default", operator.id,
    )  # fmt: skip
    assert job.managed
    assert job.output == str(house.context.places.results / job.id / "predictions")
    assert job.staging.startswith(str(house.context.places.results / job.id))
    assert job.labels == {"team": "growth"}
    assert job.spec["output"]["format"] == "parquet"
    assert not job.foreground


def test_the_pin_stays_where_the_alias_was(house: House) -> None:
    before = house.submit(model="churn@champion")
    second = house.model("churn", alias="champion")
    after = house.submit(model="churn@champion")
    pins = [job.model for job in (before, after)]
    assert [(pin.name, pin.version, pin.asked, pin.digest) for pin in pins if pin] == [
        ("churn", 1, "churn@champion", f"{1:064x}"),
        ("churn", 2, "churn@champion", second.digest),
    ]
    assert before.model_digest == f"{1:064x}"


def test_needs_are_what_the_spec_names(house: House) -> None:
    assert house.submit().needs == Needs(cpus=1)
    job = house.submit(compute={"scorers": 3, "memory_per_scorer": "1GB", "gpus": 2})
    assert job.needs == Needs(cpus=3, memory_bytes=3_000_000_000, gpus=2)


def test_a_named_output_is_kept_as_the_job_says(house: House) -> None:
    target = house.folder / "data" / "scores.parquet"
    job = house.submit(output={"path": str(target)})
    assert (job.output, job.managed, job.name) == (str(target), False, "scores.parquet")


def test_no_child_is_started_for_a_registered_model(house: House) -> None:
    asked = Asked()
    submission.submit(asking(house.context, asked), house.here, house.spec())
    assert asked.requests == []


def test_a_file_is_identified_once_until_it_changes(house: House) -> None:
    model = house.folder / "data" / "m.txt"
    model.write_text("tree")
    asked = Asked()
    context = asking(house.context, asked)
    for _ in range(3):
        job, _ = submission.submit(context, house.here, house.spec(str(model)))
    assert [request["path"] for request in asked.requests] == [str(model)]
    assert job.model is not None
    assert (job.model.path, job.model.digest, job.model.name) == (str(model), "d" * 64, None)
    assert job.spec["model"] == str(model)
    submission.submit(context, house.here, house.spec(str(model), flavor="lightgbm"))
    model.write_text("free")
    os.utime(model, ns=(1, 1))
    submission.submit(context, house.here, house.spec(str(model)))
    assert len(asked.requests) == 3


def test_a_model_that_carries_code_needs_trust(house: House) -> None:
    model = house.folder / "data" / "m.pkl"
    model.write_text("pickle")
    context = asking(house.context, Asked(carries_code=True))
    with pytest.raises(NotTrusted, match="loading it runs code"):
        submission.submit(context, house.here, house.spec(str(model)))
    house.context.store.trust.trust("d" * 64, "m", "me")
    job, _ = submission.submit(context, house.here, house.spec(str(model)))
    assert job.model is not None
    assert job.model.carries_code


def test_an_executor_that_is_not_there_is_refused(house: House) -> None:
    with pytest.raises(InvalidSpec, match="no executor 'ray'"):
        house.submit(compute={"executor": "ray"})
    assert all_jobs(house) == []


def test_going_before_others_needs_an_administrator(house: House, operator: Principal) -> None:
    with pytest.raises(NotAllowed, match="priority 1"):
        house.submit(operator, priority=1)
    admin, _ = house.key(Role.ADMIN)
    assert house.submit(admin, priority=1).priority == 1


def test_another_tenants_model_is_not_there(house: House) -> None:
    stranger, _ = house.key(Role.ADMIN, "red")
    with pytest.raises(NotFound):
        house.submit(stranger)


# -- places


def test_inputs_are_absolute(house: House) -> None:
    for place in ("relative.parquet", "~/x.parquet", "", "./data/in.parquet", "s3://lake/x"):
        with pytest.raises(NotFound, match="no absolute path"):
            house.submit(input={"path": [place]})


def test_an_input_that_is_not_there_is_refused(house: House) -> None:
    for missing in ("gone.parquet", "gone/*.parquet"):
        with pytest.raises(NotFound, match=r"There is no input .*gone"):
            house.submit(input={"path": [str(house.folder / "data" / missing)]})
    assert house.submit(input={"path": [str(house.folder / "data" / "*.parquet")]}).state is JobState.QUEUED


def test_an_upload_is_its_file(house: House, operator: Principal) -> None:
    with pytest.raises(NotFound):
        house.submit(operator, input={"path": ["upload:upload_0000000000000000"]})
    receiving = uploads.Receiving(house.context, operator, "in.csv")
    receiving.write(b"x\n1\n")
    sent = receiving.finish()
    receiving.close()
    job = house.submit(operator, input={"path": [sent.input]})
    (path,) = job.spec["input"]["path"]
    assert Path(path).read_bytes() == b"x\n1\n"
    assert submission.asked_spec(house.context, job)["input"]["path"] == [sent.input]
    clone = submission.clone(house.context, operator, job.id, {"name": "again"})[0]
    assert clone.spec["input"]["path"] == [path]
    stranger, _ = house.key(Role.ADMIN, "red")
    house.model("churn", "red")
    with pytest.raises(NotFound):
        house.submit(stranger, input={"path": [sent.input]})
    with pytest.raises(NotAllowed):
        house.submit(stranger, input={"path": [path]})


@pytest.fixture
def escapes(house: House) -> dict[str, str]:
    """Ways out of the data root, by name."""
    outside = house.folder / "outside"
    outside.mkdir()
    (outside / "secret.parquet").write_bytes(b"PAR1")
    root = house.folder / "data"
    (root / "link").symlink_to(outside)
    (root / "file.parquet").symlink_to(outside / "secret.parquet")
    (root / "dangling").symlink_to(outside / "later")
    return {
        "plain": str(outside / "secret.parquet"),
        "dots": f"{root}/../outside/secret.parquet",
        "folder link": str(root / "link" / "secret.parquet"),
        "file link": str(root / "file.parquet"),
        "pattern": f"{outside}/*.parquet",
        "pattern through a link": f"{root}/link/*.parquet",
        "sibling with the root's name": f"{root}-2/x.parquet",
        "everything": "/**",
    }


def test_a_key_reads_nothing_outside_the_data_roots(house: House, operator: Principal, escapes: dict[str, str]) -> None:
    for way in escapes.values():
        with pytest.raises(NotAllowed, match="cannot name the input"):
            house.submit(operator, input={"path": [way]})
    assert house.submit(operator).spec["input"]["path"] == [str(house.input)]


def test_a_key_loads_no_model_from_outside(house: House, operator: Principal, escapes: dict[str, str]) -> None:
    asked = Asked()
    for way in ("plain", "dots", "folder link", "file link"):
        with pytest.raises(NotAllowed, match="cannot name the model") as refused:
            submission.submit(asking(house.context, asked), operator, house.spec(escapes[way]))
        assert "tidemill models add" in str(refused.value.remedy)
    assert asked.requests == []


def test_a_key_writes_nothing_outside(house: House, operator: Principal, escapes: dict[str, str]) -> None:
    root = house.folder / "data"
    for place in (str(house.folder / "out"), f"{root}/link/out", f"{root}/dangling/out", f"{root}/../out"):
        with pytest.raises(NotAllowed, match="cannot name the output") as refused:
            house.submit(operator, output={"path": place})
        assert "Leave the output out" in str(refused.value.remedy)
    with pytest.raises(InvalidSpec, match="no absolute path"):
        house.submit(operator, output={"path": "out"})
    assert house.submit(operator, output={"path": str(root / "out")}).output == str(root / "out")
    assert house.submit(output={"path": str(house.folder / "out")}).output == str(house.folder / "out")


def test_without_data_roots_a_key_names_no_place_at_all(tmp_path: Path) -> None:
    with opened_house(tmp_path) as house:
        house.model()
        operator, _ = house.key()
        with pytest.raises(NotAllowed):
            house.submit(operator)
        with pytest.raises(NotAllowed):
            house.submit(operator, input={"path": [str(house.context.places.uploads / "default" / "x")]})
        assert house.submit().state is JobState.QUEUED


def test_code_may_be_named_only_by_the_person_at_the_machine(house: House, operator: Principal) -> None:
    root = house.folder / "data"
    (root / "m.py:Model").write_text("not code, but named like it")
    asked = Asked()
    context = asking(house.context, asked)
    named = ["os:system", "tidemill.flavors:Model", f"{root}/m.py:Model", f"{root}/n.py:Model"]
    for model in named:
        with pytest.raises(NotAllowed, match="names code"):
            submission.submit(context, operator, house.spec(model))
    assert asked.requests == []
    for model in named:
        submission.submit(context, house.here, house.spec(model))
    assert [request["path"] for request in asked.requests] == named


def test_an_output_that_is_taken_is_refused_at_once(house: House) -> None:
    target = house.folder / "data" / "scores"
    first = house.submit(output={"path": str(target)})
    with pytest.raises(OutputBusy, match=first.id):
        house.submit(output={"path": str(target)})
    stranger, _ = house.key(Role.ADMIN, "red")
    house.model("churn", "red")
    with pytest.raises(OutputBusy, match="another job") as refused:
        house.submit(stranger, output={"path": str(target)})
    assert first.id not in str(refused.value)


def test_an_output_that_is_there_is_refused_unless_it_may_be_replaced(house: House) -> None:
    target = house.folder / "data" / "scores"
    target.mkdir()
    (target / "theirs.csv").write_text("a\n")
    with pytest.raises(OutputExists):
        house.submit(output={"path": str(target)})
    assert house.submit(output={"path": str(target), "mode": "overwrite"}).state is JobState.QUEUED


def test_an_output_inside_its_input_is_refused(house: House) -> None:
    with pytest.raises(InvalidSpec, match="lies inside the input"):
        house.submit(input={"path": [str(house.folder / "data")]}, output={"path": str(house.folder / "data" / "o")})


# -- one job for one key


def test_the_same_key_gives_the_same_job(house: House, operator: Principal) -> None:
    spec = house.spec(name="once")
    first, is_new = submission.submit(house.context, operator, spec, idempotency_key="k1")
    again, is_new_again = submission.submit(house.context, operator, spec, idempotency_key="k1")
    assert (first.id, is_new, is_new_again) == (again.id, True, False)
    assert len(all_jobs(house)) == 1


def test_the_same_key_with_other_words_is_refused(house: House, operator: Principal) -> None:
    submission.submit(house.context, operator, house.spec(name="once"), idempotency_key="k1")
    with pytest.raises(KeyReused):
        submission.submit(house.context, operator, house.spec(name="twice"), idempotency_key="k1")
    assert len(all_jobs(house)) == 1


def test_the_same_key_finds_its_job_when_it_could_not_be_submitted_any_more(house: House) -> None:
    """Its output is there by now, its input gone: the client that lost the answer still gets its job."""
    target = house.folder / "data" / "scores"
    spec = house.spec(output={"path": str(target)})
    first, _ = submission.submit(house.context, house.here, spec, idempotency_key="k1")
    again, is_new = submission.submit(house.context, house.here, spec, idempotency_key="k1")
    assert (again.id, is_new) == (first.id, False)
    house.input.unlink()
    again, is_new = submission.submit(house.context, house.here, spec, idempotency_key="k1")
    assert (again.id, is_new) == (first.id, False)
    with pytest.raises(NotFound):
        submission.submit(house.context, house.here, spec, idempotency_key="k2")
    with pytest.raises(KeyReused):
        submission.submit(house.context, house.here, house.spec(name="x"), idempotency_key="k1")
    assert all_jobs(house) == [first.id]
    house.input.write_bytes(b"PAR1")
    other, is_new = submission.submit(house.context, house.here, house.spec(), idempotency_key="k2")
    assert is_new
    assert other.id != first.id


def test_keys_of_two_tenants_do_not_meet(house: House) -> None:
    house.model("churn", "red")
    jobs = [
        submission.submit(house.context, house.key(Role.ADMIN, tenant)[0], house.spec(), idempotency_key="k")[0]
        for tenant in ("default", "red")
    ]
    assert jobs[0].id != jobs[1].id


# -- again


@pytest.fixture
def parent(house: House, operator: Principal) -> Job:
    job = house.submit(operator, model="churn@champion", name="nightly", labels={"a": "1", "b": "2"}, keep=["id"])
    return house.finish(job, rejected=3)


def test_a_retry_scores_what_its_parent_rejected(house: House, operator: Principal, parent: Job) -> None:
    house.model("churn", alias="champion")
    job = submission.retry(house.context, operator, parent.id)[0]
    assert job.spec["input"] == {**parent.spec["input"], "rejected_of": parent.id}
    assert (job.parent_id, job.model, job.managed, job.name) == (parent.id, parent.model, True, "nightly")
    assert job.output != parent.output
    assert job.spec_digest != parent.spec_digest


def test_only_a_finished_job_with_rejected_rows_is_retried(house: House, operator: Principal) -> None:
    fine = house.finish(house.submit(operator))
    for job in (fine, house.submit(operator), house.fail(house.submit(operator))):
        with pytest.raises(WrongState, match="no rejected rows"):
            submission.retry(house.context, operator, job.id)


def test_a_clone_has_the_words_of_its_parent_but_for_the_changes(
    house: House, operator: Principal, parent: Job
) -> None:
    changes = {"name": None, "labels": {"b": None, "c": "3"}, "predict": {"probabilities": True}, "keep": "all"}
    job = submission.clone(house.context, operator, parent.id, changes)[0]
    assert job.labels == {"a": "1", "c": "3"}
    assert (job.spec["keep"], job.spec["predict"]["probabilities"], job.name) == ("all", True, "churn")
    assert job.spec["input"] == parent.spec["input"]
    assert (job.parent_id, job.managed) == (parent.id, True)
    assert job.output != parent.output


def test_a_clone_takes_the_model_that_its_alias_names_now(house: House, operator: Principal, parent: Job) -> None:
    house.model("churn", alias="champion")
    pins = [
        submission.clone(house.context, operator, parent.id, changes)[0].model for changes in ({}, {"model": "churn@1"})
    ]
    assert [pin.version for pin in pins if pin] == [2, 1]


def test_a_clone_that_makes_no_sense_is_refused(house: House, operator: Principal, parent: Job) -> None:
    with pytest.raises(InvalidSpec, match="colour"):
        submission.clone(house.context, operator, parent.id, {"colour": "red"})
    with pytest.raises(InvalidSpec, match=r"model: Field required"):
        submission.clone(house.context, operator, parent.id, {"model": None})


def test_a_clone_reads_what_its_parent_read_and_nothing_else(house: House, operator: Principal) -> None:
    outside = house.folder / "outside.parquet"
    outside.write_bytes(b"PAR1")
    parent = house.submit(input={"path": [str(outside)]})
    assert submission.clone(house.context, operator, parent.id, {})[0].spec["input"]["path"] == [str(outside)]
    with pytest.raises(NotAllowed):
        submission.clone(house.context, operator, parent.id, {"input": {"path": [str(outside.parent / "x")]}})


def test_an_operators_copy_of_an_urgent_job_waits_like_others(house: House, operator: Principal) -> None:
    urgent = house.finish(house.submit(priority=9), rejected=1)
    assert submission.clone(house.context, operator, urgent.id, {})[0].priority == 0
    assert submission.retry(house.context, operator, urgent.id)[0].priority == 0
    assert submission.clone(house.context, house.here, urgent.id, {})[0].priority == 9


def test_the_same_key_gives_the_same_copy(house: House, operator: Principal, parent: Job) -> None:
    """Also where the alias names another model by now; another request under the key is refused."""
    again = {"context": house.context, "who": operator, "job_id": parent.id}
    first, is_new = submission.retry(**again, idempotency_key="r")
    assert (submission.retry(**again, idempotency_key="r"), is_new) == ((first, False), True)
    copy, is_new = submission.clone(**again, changes={"name": "x"}, idempotency_key="c")
    house.model("churn", alias="champion")
    assert (submission.clone(**again, changes={"name": "x"}, idempotency_key="c"), is_new) == ((copy, False), True)
    with pytest.raises(KeyReused):
        submission.clone(**again, changes={"name": "y"}, idempotency_key="c")
    with pytest.raises(KeyReused):
        submission.retry(**again, output=OutputSpec(path=str(house.folder / "data" / "out")), idempotency_key="r")
    words = JobSpec.model_validate(submission.asked_spec(house.context, copy))
    with pytest.raises(KeyReused):
        submission.submit(house.context, operator, words, idempotency_key="c")
    assert all_jobs(house) == [copy.id, first.id, parent.id]


def test_jobs_of_other_tenants_are_not_copied(house: House, parent: Job) -> None:
    stranger, _ = house.key(Role.ADMIN, "red")
    for copy in (submission.retry, lambda *args: submission.clone(*args, {})):
        with pytest.raises(NotFound):
            copy(house.context, stranger, parent.id)


def test_merging_is_a_json_merge_patch() -> None:
    before = {"a": 1, "b": {"c": 2, "d": 3}, "e": [1]}
    assert submission.merge(before, {"b": {"c": None, "x": {"y": 1}}, "e": [2], "a": None}) == {
        "b": {"d": 3, "x": {"y": 1}}, "e": [2],
    }  # fmt: skip
    assert before == {"a": 1, "b": {"c": 2, "d": 3}, "e": [1]}
