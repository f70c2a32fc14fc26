"""Small wrong changes of the service's code, and for each the test that must go red."""

from __future__ import annotations

from tests.mutations.mutations import CRASH, Edit, Mutation

POSTGRES = "tests/contract/test_store_postgres.py"


def _one(file: str, old: str, new: str) -> tuple[Edit, ...]:
    return (Edit(file=file, old=old, new=new),)


SERVICE_MUTATIONS = (
    Mutation(
        name="limit_of_a_key_ignored",
        edits=_one("domain/admission.py", "load.running_of_owner.get(group.owner, 0) >= most", "False"),
        test="tests/unit/test_admission.py::test_limited_ones_are_passed_over",
        because="assert 1 == 2",
    ),
    Mutation(
        name="first_come_first_served",
        edits=_one(
            "domain/admission.py",
            "            load.running_of_owner.get(group.owner, 0),\n            load.served_ms.get(group.owner, 0),\n",
            "",
        ),
        test="tests/unit/test_admission.py::test_order_is_priority_then_share_then_turn_then_age",
        because=r"assert \[5, 1, 2, 3",
    ),
    Mutation(
        name="another_tenants_job_shown",
        edits=_one("service/control.py", "if job is None or job.tenant != who.tenant:", "if job is None:"),
        test="tests/unit/test_control.py::test_jobs_of_other_tenants_are_not_there[get]",
        because="DID NOT RAISE .*NotFound",
    ),
    Mutation(
        name="idempotency_key_ignored",
        edits=_one("stores/sql/queue.py", "            if idempotency is not None:\n", "            if False:\n"),
        test="tests/integration/api/test_jobs.py::test_one_key_makes_one_job",
        because=r"assert 'job_\w+' == 'job_",
    ),
    Mutation(
        name="lost_answer_means_not_committed",
        edits=_one("stores/sql/database.py", "        if fate is Fate.COMMITTED:\n", "        if False:\n"),
        test=f"{POSTGRES}::test_a_commit_whose_answer_got_lost_was_made[ANSWER_LOST-commit]",
        because="StoreUnavailable",
    ),
    Mutation(
        name="lost_answer_means_committed",
        edits=_one("stores/sql/database.py", "        if fate is Fate.COMMITTED:\n", "        if True:\n"),
        test=f"{POSTGRES}::test_a_commit_that_got_lost_changed_nothing[REQUEST_LOST-commit]",
        because="DID NOT RAISE .*StoreUnavailable",
    ),
    Mutation(
        name="staging_of_a_live_job_swept",
        edits=_one(
            "service/retention.py",
            "_listed(context, tuple(ENDED), before)",
            "_listed(context, tuple(JobState), before)",
        ),
        test="tests/acceptance/test_retention.py::test_what_runs_or_waits_is_left_alone_for_ever",
        because="'leftovers': 1",
    ),
    Mutation(
        name="digest_not_checked_at_load",
        edits=_one("engine/models.py", 'if found != model["digest"]:', "if False:"),
        test="tests/integration/test_warm_scorers.py::test_model_that_changed_meanwhile_is_refused",
        because=r"assert \[3\.0\] == \[2\.0\]",
    ),
    Mutation(
        name="viewer_may_cancel",
        edits=_one(
            "api/routes/jobs.py",
            '"/{job_id}/cancel", responses=problems(404, 409))\n@needs(Action.RUN_JOBS)',
            '"/{job_id}/cancel", responses=problems(404, 409))\n@needs(Action.SEE)',
        ),
        test="tests/integration/api/test_doors.py::test_a_viewer_only_looks_and_an_operator_manages_nothing[viewer]",
        because="POST /api/v1/jobs/{job_id}/cancel",
    ),
    Mutation(
        name="trust_not_demanded_of_a_job",
        edits=_one("service/submission.py", "if pin.carries_code and not context", "if False and not context"),
        test="tests/unit/test_submission.py::test_a_model_that_carries_code_needs_trust",
        because="DID NOT RAISE .*NotTrusted",
    ),
    Mutation(
        name="service_store_not_synchronous",
        edits=_one("stores/sql/sqlite.py", "synchronous = FULL", "synchronous = OFF"),
        test=f"{CRASH}/test_power_service.py::test_power_cuts_after_answers",
        because="acknowledged, and lost",
    ),
)
