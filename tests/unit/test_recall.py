"""What is remembered of models, and when it is another one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tidemill.domain.plan import Selection
from tidemill.engine.recall import MOST, Recent, info_key, shown_key
from tidemill.testing.store.factories import new_plan
from tidemill.wire.spec import InputSpec, JobSpec, PredictSpec

MODEL = {"path": __file__, "digest": "d", "flavor": "lightgbm", "trusted": False}
SPEC = JobSpec(model="/m", input=InputSpec(path=["/in.parquet"]))


def test_keeps_those_that_were_used_last() -> None:
    recent = Recent[int]()
    for number in range(MOST):
        recent.put(str(number), number)
    assert recent.get("0") == 0
    recent.put("one more", -1)
    assert recent.get("1") is None
    assert recent.get("0") == 0
    assert recent.get("unknown") is None
    recent.put("0", 7)
    assert recent.get("0") == 7


def test_without_a_key_nothing_is_remembered() -> None:
    recent = Recent[int]()
    recent.put(None, 1)
    assert recent.get(None) is None


def test_the_key_is_all_that_decides_and_nothing_else() -> None:
    key = info_key(MODEL, None, SPEC)
    assert info_key(MODEL, None, SPEC.model_copy(update={"name": "x", "input": InputSpec(path=["/other"])})) == key
    others = [
        info_key({**MODEL, "digest": "e"}, None, SPEC),
        info_key({**MODEL, "trusted": True}, None, SPEC),
        info_key(MODEL, {"digest": "env"}, SPEC),
        info_key(MODEL, None, SPEC.model_copy(update={"features": ["a"]})),
        info_key(MODEL, None, SPEC.model_copy(update={"predict": PredictSpec(probabilities=True)})),
    ]
    assert len({key, *others}) == 6
    assert info_key({**MODEL, "path": "module:Class"}, None, SPEC) is None


def test_all_that_decides_what_a_row_costs_is_in_the_key() -> None:
    plan = replace(new_plan(3), schemas={"read": "id, x", "predictions": "id, prediction"})
    key = shown_key(MODEL, plan, None, None)
    kernel = {"name": "trees", "checked_rows": 7}
    changes: list[dict[str, Any]] = [
        {"predict": {"probabilities": True}},
        {"acceleration": {"kernel": kernel}},
        {"acceleration": {"kernel": {**kernel, "name": "linear"}}},
        {"libraries": (("lightgbm", "5"),)},
        {"batch_rows": 1_024},
        {"source": "csv"},
        {"source_options": {"delimiter": ";"}},
        {"types": {"x": "float"}},
        {"schemas": {"read": "id, x, y", "predictions": "id, prediction"}},
        {"schemas": {"read": "id, x", "predictions": "id, x, prediction"}},
        {"output_format": "csv"},
        {"output_options": {"compression": "zstd"}},
    ]
    others = [
        shown_key({**MODEL, "digest": "e"}, plan, None, None),
        shown_key(MODEL, plan, "/env/bin/python", None),
        shown_key(MODEL, plan, None, ("0",)),
        *(shown_key(MODEL, replace(plan, **change), None, None) for change in changes),
    ]
    assert None not in others
    assert len({key, *others}) == 1 + len(others)


def test_what_belongs_to_the_job_is_not_in_the_key() -> None:
    kernel = {"name": "trees", "checked_rows": 7, "largest_difference": 0.0}
    plan = replace(new_plan(3), acceleration={"kernel": kernel})
    other = replace(
        plan,
        digest="q",
        snapshot_digest="t",
        rows=9,
        chunks=2,
        input_bytes=7,
        metadata={"snapshot": "t"},
        acceleration={"kernel": {**kernel, "checked_rows": 9, "largest_difference": 1e-7}},
    )
    assert shown_key(MODEL, plan, None, None) == shown_key({**MODEL, "trusted": True}, other, None, None)


def test_nothing_shown_is_remembered_of_code_and_of_chosen_rows() -> None:
    selection = Selection(parent_id="j", snapshot_rows=9, first_rows=(0,))
    assert shown_key({**MODEL, "path": "module:Class"}, new_plan(3), None, None) is None
    assert shown_key(MODEL, replace(new_plan(3), selection=selection), None, None) is None
