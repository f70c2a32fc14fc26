"""When two predictions are the same, and what follows from trials."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tidemill.domain.signature import ModelInfo
from tidemill.domain.trials import TRIALS, Answer, Difference, Findings, Sample, Trial
from tidemill.engine.trials import distance, same

NAN = math.nan


@pytest.mark.parametrize(
    "a, b, equal",
    [
        (1.0, 1.0, True),
        (NAN, NAN, True),
        (NAN, None, False),
        (0.0, -0.0, False),
        (1.0, math.nextafter(1.0, 2.0), False),
        (1, 1.0, False),
        (True, 1, False),
        ("a", "a", True),
        (None, None, True),
        ([1.0, NAN], [1.0, NAN], True),
        ([1.0], [1.0, 2.0], False),
        ({"a": 0.0}, {"a": -0.0}, False),
        ({"a": 0.0}, {"b": 0.0}, False),
    ],
)
def test_same(a: Any, b: Any, equal: bool) -> None:
    assert same(a, b) is equal
    assert same(b, a) is equal


@pytest.mark.parametrize(
    "a, b, gap",
    [
        (1.0, 3.5, 2.5),
        (3, 1, 2.0),
        (NAN, 1.0, None),
        (True, False, None),
        ("a", "b", None),
        ([1.0, 5.0], [2.0, 9.0], 4.0),
        ([], [1.0], None),
        (None, 1.0, None),
        (math.inf, 1.0, math.inf),
    ],
)
def test_distance(a: Any, b: Any, gap: float | None) -> None:
    assert distance(a, b) == gap


def findings(*, layout: Any = "threads", batch_invariant: bool = True, **answers: Answer) -> Findings:
    """What came of trials that gave the same, but for those."""
    trials = []
    for name in TRIALS:
        answer: Answer = answers.get(name, "reference" if name == "forwards" else "same")
        difference = Difference(file="/a", row=3, column="p", expected=1.0, found=2.0, rows=2, largest=1.0)
        trials.append(
            Trial(
                name=name,
                answer=answer,
                difference=difference if answer == "differs" else None,
                problem="it broke" if answer in ("failed", "lost") else None,
            )
        )
    info = ModelInfo(flavor="x", inputs=(), outputs=(), layout=layout, batch_invariant=batch_invariant)
    return Findings(model="m", digest="d", info=info, sample=Sample(files=1, files_read=1, rows=9, rejected=0),
                    trials=trials)  # fmt: skip


@pytest.mark.parametrize("name", ["twice", "fresh"])
def test_of_one_that_is_not_deterministic_nothing_else_is_told(name: str) -> None:
    found = findings(**{name: "differs", "ones": "differs", "threads": "differs"})
    assert (found.deterministic, found.order_free, found.batch_invariant, found.thread_safe) == (
        False,
        None,
        None,
        None,
    )
    assert len(found.defects) == 1 and "not deterministic" in found.defects[0]


@pytest.mark.parametrize("name", ["reversed", "ones", "sevens"])
def test_a_claim_of_batches_is_broken_by_each_of_them(name: str) -> None:
    assert "claims to be batch-invariant" in findings(**{name: "differs"}).defects[0]
    assert findings(**{name: "differs"}, batch_invariant=False).ok


@pytest.mark.parametrize("answer", ["differs", "failed", "lost"])
def test_a_claim_of_threads(answer: Answer) -> None:
    assert not findings(threads=answer).ok
    assert findings(threads=answer).thread_safe is False
    assert findings(threads=answer, layout="processes").ok


@pytest.mark.parametrize("name", [name for name in TRIALS if name != "threads"])
@pytest.mark.parametrize("answer", ["failed", "lost"])
def test_a_trial_that_breaks_is_a_defect_whatever_was_claimed(name: str, answer: Answer) -> None:
    found = findings(**{name: answer}, layout="processes", batch_invariant=False)
    assert found.defects == [f"It breaks {TRIALS[name]}."]
    assert bool(found.advice) is (name != "forwards")


def test_a_property_of_a_broken_trial_is_not_told() -> None:
    assert findings(fresh="lost").deterministic is None
    assert findings(ones="failed").batch_invariant is None
    assert findings(ones="failed", sevens="differs").batch_invariant is False


def test_a_difference_is_told_in_words() -> None:
    (trial,) = [trial for trial in findings(ones="differs").trials if trial.answer == "differs"]
    assert trial.why == "/a, row 3, column 'p': 2.0, not 1.0 (2 rows differ, differences up to 1)"
    assert Trial.from_json(json.loads(json.dumps(trial.to_json()))) == trial
