"""A batch through a model that misbehaves: who is blamed, and what of the others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.errors import ModelUnusable, TooManyRejected
from tidemill.domain.receipt import Rejection
from tidemill.domain.signature import ModelInfo
from tidemill.engine.chunkscorer import _Guard
from tidemill.engine.features import Features
from tidemill.engine.predicting import Errors, Outcome, Predictor
from tidemill.ports.flavor import Model, Predicted
from tidemill.sources.csv import CsvSource

SCHEMA = pa.schema([("prediction", pa.float64())])


class Fake(Model):
    """Doubles x, after `check` had its say; remembers the sizes of its calls."""

    def __init__(self, check: Callable[[list[float]], None], row_errors: dict[float, str] | None = None) -> None:
        self.check, self.row_errors = check, row_errors or {}
        self.info = ModelInfo(flavor="fake", inputs=(), outputs=())
        self.calls: list[int] = []

    def predict(self, batch: pa.RecordBatch) -> Predicted:
        x = batch.column("x").to_pylist()
        self.calls.append(len(x))
        self.check(x)
        errors = {k: self.row_errors[value] for k, value in enumerate(x) if value in self.row_errors}
        return Predicted(columns=pa.record_batch({"prediction": [2.0 * value for value in x]}), row_errors=errors)


def features(rows: int) -> pa.RecordBatch:
    return pa.record_batch({"x": [float(k) for k in range(rows)]})


def refuse(bad: set[int]) -> Callable[[list[float]], None]:
    def check(x: list[float]) -> None:
        found = [value for value in x if int(value) in bad]
        if found:
            raise ValueError(f"no {found[0]:.0f}")

    return check


def check_outcome(outcome: Outcome, rows: int, bad: set[int]) -> None:
    good = [k for k in range(rows) if k not in bad]
    assert outcome.good.tolist() == good
    assert outcome.columns["prediction"].to_pylist() == [2.0 * k for k in good]
    assert set(outcome.errors) == bad


@settings(deadline=None)
@given(st.integers(1, 40), st.sets(st.integers(0, 39)))
def test_the_bad_rows_are_found_and_the_others_scored_together(rows: int, bad: set[int]) -> None:
    bad = {k for k in bad if k < rows}
    model = Fake(refuse(bad))
    outcome = Predictor(model, SCHEMA).predict(features(rows))
    check_outcome(outcome, rows, bad)
    assert not outcome.split
    assert all(outcome.errors[k] == ("ValueError", f"no {k}") for k in bad)
    if len(bad) < rows:
        assert model.calls[-1] == rows - len(bad), "the last call holds all good rows: values depend on company"


@settings(deadline=None)
@given(st.integers(1, 40), st.sets(st.integers(0, 39)), st.integers(1, 45))
def test_in_pieces(rows: int, bad: set[int], piece_rows: int) -> None:
    bad = {k for k in bad if k < rows}
    model = Fake(refuse(bad))
    outcome = Predictor(model, SCHEMA).predict(features(rows), piece_rows)
    check_outcome(outcome, rows, bad)
    assert max(model.calls) <= piece_rows
    assert outcome.split == (piece_rows < rows)


def test_rows_that_only_fail_together_are_scored_apart() -> None:
    def check(x: list[float]) -> None:
        if len(x) > 3:
            raise ValueError("too many")

    outcome = Predictor(Fake(check), SCHEMA).predict(features(10))
    check_outcome(outcome, 10, set())
    assert outcome.split


def test_errors_that_the_library_names() -> None:
    outcome = Predictor(Fake(lambda x: None, {3.0: "odd"}), SCHEMA).predict(features(6))
    check_outcome(outcome, 6, {3})
    assert outcome.errors == {3: ("RowError", "odd")}
    both = Predictor(Fake(refuse({5}), {3.0: "odd"}), SCHEMA).predict(features(6))
    check_outcome(both, 6, {3, 5})


@pytest.mark.parametrize("error", [ModelUnusable("gone"), MemoryError("full")])
def test_what_is_not_the_rows_fault_is_raised(error: BaseException) -> None:
    def check(x: list[float]) -> None:
        raise error

    with pytest.raises(type(error)):
        Predictor(Fake(check), SCHEMA).predict(features(4))


def test_a_hopeless_batch_can_be_stopped_and_says_why() -> None:
    heard: list[tuple[int, Errors]] = []

    def on_result(good: int, errors: Errors) -> None:
        heard.append((good, errors))
        if len(heard) == 3:
            raise TooManyRejected("stopped")

    with pytest.raises(TooManyRejected, match="stopped"):
        Predictor(Fake(refuse(set(range(64)))), SCHEMA, on_result).predict(features(64))
    assert heard == [(0, {row: ("ValueError", f"no {row}")}) for row in range(3)]


@pytest.mark.parametrize("piece_rows", [None, 3])
def test_bad_rows_are_heard_of_by_their_places_in_the_batch(piece_rows: int | None) -> None:
    heard: dict[int, str] = {}

    def on_result(good: int, errors: Errors) -> None:
        heard.update({row: text for row, (_, text) in errors.items()})

    model = Fake(refuse({5, 11}), {2.0: "odd", 7.0: "odd"})
    outcome = Predictor(model, SCHEMA, on_result).predict(features(13), piece_rows)
    assert {row: text for row, (_, text) in outcome.errors.items()} == heard
    assert heard == {2: "odd", 7: "odd", 5: "no 5", 11: "no 11"}


@pytest.mark.parametrize("watch_start", [False, True])
def test_who_stops_a_batch_names_file_and_row_of_the_first_bad_row(watch_start: bool) -> None:
    def told(row: int, error: tuple[str, str]) -> Rejection:
        return Rejection(file="/in/a.csv", row=40 + row, stage="predict", error=error[0], message=error[1])

    guard = _Guard(1_500 if watch_start else 2, told, watch_start=watch_start)
    with pytest.raises(TooManyRejected, match=r"/in/a\.csv, row 40: ValueError: no 0"):
        Predictor(Fake(refuse(set(range(2_000)))), SCHEMA, guard).predict(features(2_000))
    assert guard.bad == (1_000 if watch_start else 3)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prediction": [1.0]}, "1 predictions for 3 rows"),
        ({"other": [1.0, 2.0, 3.0]}, "returned columns"),
        ({"prediction": ["a", "b", "c"]}, "a"),
    ],
)
def test_an_answer_that_is_not_what_was_promised(columns: dict[str, list[object]], message: str) -> None:
    class Wrong(Fake):
        def predict(self, batch: pa.RecordBatch) -> Predicted:
            return Predicted(columns=pa.record_batch(columns).slice(0, batch.num_rows))

    outcome = Predictor(Wrong(lambda x: None), SCHEMA).predict(features(3))
    rejected = set(outcome.errors)
    # A single row of one right value is what was promised; everything else is rejected, nothing padded.
    assert rejected == (set() if message.startswith("1 ") else {0, 1, 2})
    if rejected:
        assert message in outcome.errors[0][1]
        assert outcome.columns.num_rows == 0


def test_features_are_cast_row_by_row() -> None:
    data = pa.record_batch({"a": ["1", "x", None, " 4 "], "b": [1, 2, 3, 4]})
    numbers = np.array([10, 11, 12, 13])
    cast, fits, bad = Features(data.schema, (("b", "double"), ("a", "int64")), CsvSource().cast_text).of(data, numbers)
    assert cast.schema == pa.schema([("b", pa.float64()), ("a", pa.int64())])
    assert cast.column("a").to_pylist() == [1, None, None, 4]
    assert fits is not None
    assert fits.tolist() == [True, False, True, True]
    assert [(row.row, row.stage, row.error) for row in bad] == [(11, "convert", "ConversionError")]
    assert "'a'" in bad[0].message and "'x'" in bad[0].message and "int64" in bad[0].message


def test_a_row_with_two_misfits_is_rejected_once() -> None:
    data = pa.record_batch({"a": ["x"], "b": ["y"]})
    _, fits, bad = Features(data.schema, (("a", "int64"), ("b", "int64")), CsvSource().cast_text).of(
        data, np.array([0])
    )
    assert fits is not None and fits.tolist() == [False]
    assert len(bad) == 1


def test_every_call_of_the_model_is_told_of() -> None:
    calls: list[int] = []
    model = Fake(refuse({5}))
    Predictor(model, SCHEMA, after_call=lambda: calls.append(1)).predict(features(8))
    # 8 rows, halves of 4, 2 and 1 around the fifth, and the other seven together.
    assert len(calls) == 1 + 2 * 3 + 1
