"""From probabilities to columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tidemill.domain.errors import InvalidSpec, ModelUnusable
from tidemill.flavors.decision import ClassRule, LabelsRule, ValueRule, positive_probabilities
from tidemill.flavors.options import PredictOptions

P = np.array([[0.9, 0.1], [0.5, 0.5], [0.4, 0.6], [0.6, 0.4]])


def columns(rule: ClassRule, probabilities: np.ndarray[Any, Any]) -> dict[str, list[Any]]:
    return rule.columns(rule.decide(probabilities), probabilities).to_pydict()


def test_binary_gives_label_and_probability_of_the_second_class() -> None:
    rule = ClassRule.of(np.array(["no", "yes"]), PredictOptions())
    assert columns(rule, P) == {"prediction": ["no", "no", "yes", "no"], "probability": [0.1, 0.5, 0.6, 0.4]}
    assert (rule.task, rule.positive, rule.labels) == ("binary", "yes", ("no", "yes"))
    assert rule.notes == ("probability is of class 'yes'",)


@pytest.mark.parametrize(
    "threshold, wanted",
    [(0.5, [0, 1, 1, 0]), (0.4, [0, 1, 1, 1]), (0.0, [1, 1, 1, 1]), (1.0, [0, 0, 0, 0]), (None, [0, 0, 1, 0])],
)
def test_threshold_takes_the_positive_class_at_or_above_it(threshold: float | None, wanted: list[int]) -> None:
    rule = ClassRule.of(2, PredictOptions(threshold=threshold))
    assert columns(rule, P)["prediction"] == wanted


def test_every_probability_on_request() -> None:
    rule = ClassRule.of([3, 7], PredictOptions(probabilities=True))
    assert columns(rule, P) == {
        "prediction": [3, 3, 7, 3],
        "probability": [0.1, 0.5, 0.6, 0.4],
        "probability_3": [0.9, 0.5, 0.4, 0.6],
        "probability_7": [0.1, 0.5, 0.6, 0.4],
    }


def test_many_classes_give_the_likeliest_and_the_first_of_equals() -> None:
    rule = ClassRule.of(["a", "b", "c"], PredictOptions())
    probabilities = np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4], [0.1, 0.2, 0.7]])
    assert columns(rule, probabilities) == {"prediction": ["b", "a", "c"]}
    assert (rule.task, rule.positive, rule.notes) == ("multiclass", None, ())
    assert columns(ClassRule.of(["a", "b", "c"], PredictOptions(probabilities=True)), probabilities)[
        "probability_c"
    ] == [0.3, 0.4, 0.7]


@pytest.mark.parametrize(
    "labels, kind, names",
    [
        (np.array([False, True]), pa.bool_(), ["probability_False", "probability_True"]),
        (np.array([0, 1], np.int8), pa.int64(), ["probability_0", "probability_1"]),
        (np.array([0.0, 1.5]), pa.float64(), ["probability_0.0", "probability_1.5"]),
        (np.array(["a", "é"], object), pa.string(), ["probability_a", "probability_é"]),
    ],
)
def test_labels_keep_their_type(labels: Any, kind: pa.DataType, names: list[str]) -> None:
    rule = ClassRule.of(labels, PredictOptions(probabilities=True))
    found = rule.columns(rule.decide(P), P)
    assert found.schema.field("prediction").type == kind
    assert found.column("prediction").to_pylist() == [labels.tolist()[i] for i in (0, 0, 1, 0)]
    assert found.schema.names[2:] == names
    assert [(each.name, each.type) for each in rule.outputs] == [(f.name, str(f.type)) for f in found.schema]


def test_unknown_names_are_numbers_and_are_told() -> None:
    assert ClassRule.of(2, PredictOptions()).notes == ("class names unknown: 0 and 1", "probability is of class 1")
    assert ClassRule.of(4, PredictOptions()).notes == ("class names unknown: 0 to 3",)


def test_names_can_be_given_only_where_they_are_unknown() -> None:
    rule = ClassRule.of(2, PredictOptions(classes=("no", "yes")))
    assert (rule.labels, rule.positive) == (("no", "yes"), "yes")
    with pytest.raises(InvalidSpec, match="2 classes"):
        ClassRule.of(3, PredictOptions(classes=("no", "yes")))
    with pytest.raises(InvalidSpec, match="knows its classes"):
        ClassRule.of(["a", "b"], PredictOptions(classes=("no", "yes")))


def test_float32_stays_float32() -> None:
    rule = ClassRule.of(2, PredictOptions(), probability_type="float")
    found = rule.columns(rule.decide(P.astype("f4")), P.astype("f4"))
    assert found.schema.field("probability").type == pa.float32()


@pytest.mark.parametrize("options", [PredictOptions(threshold=0.5), PredictOptions(probabilities=True)])
def test_labels_alone_cannot_give_probabilities(options: PredictOptions) -> None:
    with pytest.raises(InvalidSpec, match="no probabilities"):
        ClassRule.of(2, options, probability_type=None)
    rule = ClassRule.of(["a", "b"], PredictOptions(), probability_type=None)
    assert rule.columns(np.array([1, 0]), None).to_pydict() == {"prediction": ["b", "a"]}


def test_threshold_needs_two_classes() -> None:
    with pytest.raises(InvalidSpec, match="the model has 3"):
        ClassRule.of(3, PredictOptions(threshold=0.5))


@pytest.mark.parametrize("labels", [[None, 1], ["1", 1], [b"a", b"b"]])
def test_labels_that_cannot_be_written_are_refused(labels: list[Any]) -> None:
    with pytest.raises(ModelUnusable):
        ClassRule.of(labels, PredictOptions())


def test_probabilities_of_another_shape_are_refused() -> None:
    rule = ClassRule.of(2, PredictOptions())
    for wrong in (P[:2], P[:, :1], None):
        with pytest.raises(ValueError, match=r"not of shape \(4, 2\)"):
            rule.columns(np.zeros(4, np.int64), wrong)


def test_values_have_one_column_or_keep_their_order() -> None:
    one = ValueRule.of(1, PredictOptions())
    assert one.columns(np.array([1.5, 2.5]), 2).to_pydict() == {"prediction": [1.5, 2.5]}
    assert one.columns(np.array([[1.5], [2.5]]), 2).to_pydict() == {"prediction": [1.5, 2.5]}
    two = ValueRule.of(2, PredictOptions())
    assert two.columns(np.array([[1.0, 2.0]]), 1).to_pydict() == {"prediction_0": [1.0], "prediction_1": [2.0]}
    for wrong in (np.zeros(3), np.zeros((2, 3))):
        with pytest.raises(ValueError, match="values of shape"):
            two.columns(wrong, 2)


@pytest.mark.parametrize(
    "options, word",
    [
        (PredictOptions(threshold=0.5), "threshold"),
        (PredictOptions(probabilities=True), "probabilities"),
        (PredictOptions(classes=("a", "b")), "classes"),
    ],
)
def test_values_have_no_classes(options: PredictOptions, word: str) -> None:
    with pytest.raises(InvalidSpec, match=f"A regressor has no {word}"):
        ValueRule.of(1, options, what="A regressor")


def test_both_columns_of_a_positive_probability() -> None:
    assert positive_probabilities(np.array([0.25, 1.0])).tolist() == [[0.75, 0.25], [0.0, 1.0]]


@pytest.mark.parametrize(
    "words, problem",
    [
        ({"threshold": 1.5}, "not a probability"),
        ({"threshold": "x"}, "not a probability"),
        ({"features": ["a", "a"]}, "different"),
        ({"features": "a,,b"}, "non-empty"),
    ],
)
def test_wrong_options_are_refused(words: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidSpec, match=problem):
        PredictOptions.of(words)


def test_options_may_be_nested_and_unknown_ones_are_told() -> None:
    options = PredictOptions.of({"threshold": 0.3, "options": {"features": "a, b", "own": 1}, "threads": 2})
    assert options == PredictOptions(threshold=0.3, features=("a", "b"), threads=2, extra={"own": 1})
    with pytest.raises(InvalidSpec, match="no option called own"):
        options.refuse_extra("lightgbm")


def test_several_questions_have_a_decision_and_a_probability_each() -> None:
    rule = LabelsRule.of(2, PredictOptions())
    assert rule.columns(P).to_pydict() == {
        "prediction_0": [1, 0, 0, 1],
        "probability_0": [0.9, 0.5, 0.4, 0.6],
        "prediction_1": [0, 0, 1, 0],
        "probability_1": [0.1, 0.5, 0.6, 0.4],
    }
    assert [(each.name, each.type) for each in rule.outputs][:2] == [
        ("prediction_0", "int64"),
        ("probability_0", "double"),
    ]
    named = LabelsRule.of(2, PredictOptions(classes=("hot", "cold"), threshold=0.5))
    assert named.columns(P).column("prediction_hot").to_pylist() == [1, 1, 0, 1]
    with pytest.raises(InvalidSpec, match="names 1 classes but the model has 2"):
        LabelsRule.of(2, PredictOptions(classes=("hot",)))
    with pytest.raises(ValueError, match="not 2 a row"):
        rule.columns(P[:, :1])
