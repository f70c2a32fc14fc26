"""Models that lie are found out, and models that do not are left in peace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.checks.conftest import LIARS, ROWS, Check
from tidemill.domain.errors import InvalidSpec, NotFound, SchemaMismatch
from tidemill.domain.trials import TRIALS, Findings


def answers(found: Findings) -> dict[str, str]:
    """How the trials came out, of those that are not the same."""
    return {trial.name: trial.answer for trial in found.trials if trial.answer not in ("same", "reference")}


def told(found: Findings) -> tuple[bool | None, ...]:
    return found.deterministic, found.order_free, found.batch_invariant, found.thread_safe


@pytest.mark.parametrize("name", ["Honest", "Modest"])
def test_one_that_keeps_its_claims(check: Check, name: str) -> None:
    found = check(name)
    assert [trial.name for trial in found.trials] == list(TRIALS)
    assert answers(found) == {}
    assert told(found) == (True, True, True, True)
    assert (found.ok, found.sample.rows, found.sample.rejected) == (True, ROWS, 0)
    shared = "they share the model" in found.advice[0]
    assert shared is (name == "Honest")
    assert ("threads_safe = True saves memory" in found.advice[0]) is (name == "Modest")


def test_the_mean_of_the_batch(check: Check) -> None:
    found = check("Centred")
    assert {"ones", "sevens"} <= set(answers(found)) <= {"ones", "sevens", "reversed"}
    assert (found.deterministic, found.batch_invariant, found.thread_safe) == (True, False, True)
    (defect,) = found.defects
    assert defect == "It claims to be batch-invariant, but in batches of 1 rows get other predictions."
    ones = found.trial("ones")
    assert ones and ones.difference
    assert (ones.difference.row, ones.difference.column, ones.difference.found) == (0, "prediction", 0.0)
    assert ones.difference.file.endswith("numbers.parquet")
    assert ones.difference.expected == pytest.approx(-999 * 8 / 7 / 2, rel=0.1)
    assert ones.difference.largest == pytest.approx(999 * 8 / 7 / 2, rel=0.1)
    assert "same --batch-rows" in " ".join(found.advice)


def test_the_same_without_the_claim_is_no_defect(check: Check) -> None:
    found = check("OpenlyCentred")
    assert found.batch_invariant is False
    assert found.ok
    assert "same --batch-rows" in " ".join(found.advice)


def test_state_between_calls(check: Check) -> None:
    found = check("Counting")
    assert told(found) == (False, None, None, None)
    assert found.defects == ["It is not deterministic: twice in one process the same rows get other predictions."]
    twice = found.trial("twice")
    assert twice and twice.difference
    assert (twice.difference.found - twice.difference.expected, twice.difference.rows) == (1.0, ROWS)
    assert "repeats" in found.advice[0]


def test_what_only_another_interpreter_shows(check: Check) -> None:
    found = check("Hashed")
    assert answers(found) == {"fresh": "differs"}
    assert found.deterministic is False and not found.ok


def test_the_order_of_rows(check: Check) -> None:
    found = check("Running")
    assert told(found) == (True, False, False, True)
    assert "batch-invariant" in found.defects[0]
    assert found.advice[-1].startswith("order: predictions change by up to")


def test_threads_that_clash(check: Check) -> None:
    found = check("Shared")
    assert answers(found) == {"threads": "differs"}
    assert found.thread_safe is False
    assert found.defects == [
        "It claims that threads may share it, but from 4 threads at once rows get other predictions."
    ]
    assert "--scorers N" in found.advice[0]
    openly = check("OpenlyShared")
    assert openly.thread_safe is False and openly.ok
    assert "and must" in openly.advice[0]


def test_values_that_are_no_numbers(check: Check) -> None:
    difference = check("Labelled").trials[4].difference
    assert difference
    assert (difference.column, difference.expected, difference.found) == ("label", "together", "alone")
    assert (difference.rows, difference.largest) == (ROWS, None)


def test_the_last_bit_counts(check: Check) -> None:
    found = check("Pedantic")
    assert answers(found) == {"sevens": "differs"}
    sevens = found.trial("sevens")
    assert sevens and sevens.difference and sevens.difference.largest
    assert 0 < sevens.difference.largest < 1e-12
    assert sevens.difference.rows == ROWS // 7 * 7


def test_one_row_alone_is_too_few_for_it(check: Check) -> None:
    found = check("Sociable")
    assert answers(found) == {"ones": "failed"}
    assert found.defects == ["It breaks in batches of 1."]
    ones = found.trial("ones")
    assert ones and ones.problem == "ValueError: one row has no spread"


def test_a_crash_and_a_hang_end_only_their_trial(check: Check) -> None:
    dying, hanging = check("Dying"), check("Hanging")
    assert (answers(dying), answers(hanging)) == ({"ones": "lost"}, {"sevens": "lost"})
    assert len(dying.trials) == len(hanging.trials) == len(TRIALS)
    assert "SIGSEGV" in (dying.trials[4].problem or "")
    assert "hung and was killed" in (hanging.trials[5].problem or "")
    assert dying.defects == ["It breaks in batches of 1."]


def test_one_that_cannot_predict_at_all(check: Check) -> None:
    found = check("Dead")
    assert [trial.name for trial in found.trials] == ["forwards"]
    assert found.defects == ["It breaks forwards, all rows in one batch."]
    assert found.advice == [] and not found.ok
    json.dumps(found.to_json())


def test_rows_that_a_job_would_reject_are_left_out(check: Check, tmp_path: Path) -> None:
    path = tmp_path / "thirteen.csv"
    path.write_text("x\n" + "".join(f"{'many' if k == 5 else k}\n" for k in range(30)))
    found = check("Picky", path)
    assert found.ok
    assert (found.sample.rows, found.sample.rejected) == (28, 2)
    assert [(each["row"], each["stage"]) for each in found.sample.rejections] == [(5, "read"), (13, "predict")]
    assert "13 is bad luck" in found.sample.rejections[1]["message"]


def test_rows_are_spread_over_files(check: Check, tmp_path: Path) -> None:
    for number in range(40):
        pq.write_table(pa.table({"x": [float(number)] * 50}), tmp_path / f"{number:02}.parquet")
    found = check("Centred", tmp_path)
    assert (found.sample.files, found.sample.rows) == (40, ROWS)
    assert 4 <= found.sample.files_read <= 8
    ones = found.trial("ones")
    assert ones and ones.difference
    assert ones.difference.file == str(tmp_path / "00.parquet")
    assert -25 <= ones.difference.expected <= -15


def test_one_that_takes_every_column(check: Check, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2, 3], "b": ["x", None, "z"]}), tmp_path / "a.parquet")
    assert check("Everything", tmp_path).ok


@pytest.mark.parametrize(
    "table, error, words",
    [
        ({"y": [1.0, 2.0]}, SchemaMismatch, "needs column 'x'"),
        ({"x": [1.0]}, InvalidSpec, "this input gave 1"),
        ({"x": pa.array([], pa.float64())}, InvalidSpec, "this input gave 0"),
    ],
)
def test_an_input_that_does_not_do(check: Check, tmp_path: Path, table: Any, error: Any, words: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(error, match=words):
        check("Honest", tmp_path)


def test_a_model_that_is_not_there(check: Check) -> None:
    with pytest.raises(NotFound):
        check("Honest", Path("/nowhere"))
    assert LIARS.exists()
