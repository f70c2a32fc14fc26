"""Models that crash, hang, eat memory, raise, or answer nonsense on some rows: all others are scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.acceptance.models.wild import BAD
from tests.acceptance.terminal import Said, Terminal

Inputs = tuple[Path, Path]
TWO_MINUTES = 120.0
STALLS = {"Hangs": "3"}
PATIENT = "60"
"""Where nothing hangs, slow machines must not look as if."""


def score(terminal: Terminal, model: str, inputs: Inputs, *words: str, **environment: str) -> Said:
    environment = environment or {"TIDEMILL_STALL_SECONDS": STALLS.get(model, PATIENT)}
    command = (f"wild:{model}", *inputs, "-o", "out", "--keep", "n", *words)
    return terminal.run(*command, seconds=TWO_MINUTES, **environment)


def check(terminal: Terminal, inputs: Inputs, bad: list[int], error: str, message: str) -> None:
    """Every row but the bad ones has 2 x + 1, in input order; those are rejected with their key and why."""
    found = pq.read_table(terminal.work / "out")
    good = np.setdiff1d(np.arange(100_000), bad)
    assert found["n"].to_numpy().tolist() == good.tolist()
    assert found["prediction"].to_numpy().tolist() == (good + 1.0).tolist()
    rejected = pq.read_table(terminal.work / "out.rejected").to_pylist()
    assert [row["n"] for row in rejected] == bad
    assert [(row["_file"], row["_row"]) for row in rejected] == [_key(inputs, n) for n in bad]
    assert {row["_stage"] for row in rejected} == {"predict"}
    assert {row["_error"] for row in rejected} == {error}
    assert all(message.format(n=row["n"]) in row["_message"] for row in rejected), rejected[0]
    assert [row["x"] for row in rejected] == [n * 0.5 for n in bad]


def _key(inputs: Inputs, n: int) -> tuple[str, int]:
    return (str(inputs[0]), n) if n < 60_000 else (str(inputs[1]), n - 60_000)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("Segfaults", "ScorerCrashed", "segmentation fault"),
        ("Hangs", "ScorerHung", "no progress for 3 s"),
        ("Exits", "ScorerCrashed", "this row alone"),
        ("Quits", "ScorerCrashed", "this row alone"),
        ("Ruins", "ScorerCrashed", "this row alone: the GPU failed"),
        ("WrongLength", "ValueError", "predict returned 0 values of 'prediction' for 1 rows"),
        ("GivesNone", "TypeError", "predict returned None"),
        ("OtherType", "TypeError", "predict returned 'prediction' as string; expected double"),
        ("Mixed", "TypeError", "predict returned"),
    ],
)
def test_one_bad_row(terminal: Terminal, many: Inputs, model: str, error: str, message: str) -> None:
    said = score(terminal, model, many).done(3)
    check(terminal, many, [BAD], error, message)
    assert "100,000 = 99,999 predicted + 1 rejected" in said.err
    assert f"{many[1]}, row 17,777 (predict)" in said.err
    terminal.nothing_left("out", "out.rejected", "out.manifest.json")


def test_a_row_that_eats_memory(terminal: Terminal, many: Inputs) -> None:
    # Filling a gigabyte takes some machines as long as a hang.
    score(terminal, "Eats", many, "--memory-per-scorer", "500MB").done(3)
    check(terminal, many, [BAD], "ScorerOutOfMemory", "memory")


@pytest.mark.parametrize("model, errors", [("Hangs", {"ScorerHung"}), ("Eats", {"ScorerOutOfMemory", "ScorerHung"})])
def test_at_default_settings(terminal: Terminal, many: Inputs, model: str, errors: set[str]) -> None:
    """However much memory the machine has: filling it takes so long that it can look like a hang."""
    score(terminal, model, many, TIDEMILL_STALL_SECONDS="30").done(3)
    (row,) = pq.read_table(terminal.work / "out.rejected").to_pylist()
    assert row["_error"] in errors
    check(terminal, many, [BAD], row["_error"], "this row alone")


def test_a_model_that_raises_on_one_row_in_a_hundred(terminal: Terminal, many: Inputs) -> None:
    said = score(terminal, "Raises", many).done(3)
    check(terminal, many, [*range(7, 100_000, 100)], "ValueError", "row {n} has no soul")
    assert "100,000 = 99,000 predicted + 1,000 rejected" in said.err


def test_finding_bad_rows_slowly_is_no_hang(terminal: Terminal) -> None:
    """Longer than a scorer may be silent, but each call is answered."""
    terminal.work.mkdir(exist_ok=True)
    n = np.arange(256)
    pq.write_table(pa.table({"n": n, "x": n * 0.5}), terminal.work / "few.parquet")
    words = ("wild:RaisesSlowly", "few.parquet", "-o", "out", "--keep", "n", "--scorers", "1")
    said = terminal.run(*words, "--batch-rows", "256", seconds=TWO_MINUTES, TIDEMILL_STALL_SECONDS="2").done(3)
    assert "256 = 251 predicted + 5 rejected" in said.err
    assert {row["_error"] for row in pq.read_table(terminal.work / "out.rejected").to_pylist()} == {"ValueError"}


@pytest.mark.parametrize(
    ("model", "why"), [("Always", "the model is out of order"), ("AlwaysNone", "predict returned None")]
)
def test_a_model_that_always_fails_stops_the_job_at_once(
    terminal: Terminal, many: Inputs, model: str, why: str
) -> None:
    # A second scorer would pass the limit in another chunk at the same moment.
    said = score(terminal, model, many, "--scorers", "1")
    said.stopped(1, "all of the first 1,000 rows were rejected", why)
    assert not (terminal.work / "out").exists()
    assert not (terminal.work / "out.manifest.json").exists()
    job = terminal.say("jobs", "list", "--json").done()
    assert '"failed"' in job.out


def test_more_rejected_rows_than_allowed_end_the_job(terminal: Terminal, many: Inputs) -> None:
    said = score(terminal, "Raises", many, "--max-rejected", "300")
    said.stopped(1, "300", "--max-rejected", "has no soul")
    assert not (terminal.work / "out").exists()
    again = score(terminal, "Raises", many, "--max-rejected", "none").done(3)
    assert "100,000 = 99,000 predicted + 1,000 rejected" in again.err
    check(terminal, many, [*range(7, 100_000, 100)], "ValueError", "row {n} has no soul")


def test_exit_codes_for_rejected_rows(terminal: Terminal, many: Inputs) -> None:
    assert score(terminal, "WrongLength", many).code == 3
    assert score(terminal, "WrongLength", many).code == 0, "up to date"
    allowed = score(terminal, "WrongLength", many, "--allow-rejected")
    assert allowed.code == 0
    assert "up to date" in allowed.err


def test_no_rejected_row_is_allowed_when_none_is(terminal: Terminal, many: Inputs) -> None:
    score(terminal, "WrongLength", many, "--max-rejected", "0").stopped(1, "rejected", "predict returned 0 values")
    assert not (terminal.work / "out").exists()


def test_a_model_that_cannot_be_made(terminal: Terminal, many: Inputs) -> None:
    score(terminal, "Unmakeable", many).stopped(1, "wild:Unmakeable", "no licence")
    terminal.nothing_left()
