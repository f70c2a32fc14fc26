"""What is remembered of models, and when it is another one."""

from __future__ import annotations

from tidemill.engine.recall import MOST, Recall, info_key
from tidemill.wire.spec import InputSpec, JobSpec, PredictSpec

MODEL = {"path": __file__, "digest": "d", "flavor": "lightgbm", "trusted": False}
SPEC = JobSpec(model="/m", input=InputSpec(path=["/in.parquet"]))


def test_keeps_the_newest() -> None:
    recall = Recall()
    for number in range(MOST):
        recall.put(str(number), {"n": number})
    assert recall.get("0") == {"n": 0}
    recall.put("one more", {"n": -1})
    assert recall.get("1") is None
    assert recall.get("0") == {"n": 0}
    assert recall.get("unknown") is None


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


def test_without_a_key_nothing_is_remembered() -> None:
    recall = Recall()
    recall.put(None, {"n": 1})
    assert recall.get(None) is None
