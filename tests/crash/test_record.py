"""The judgement of the suite's own records: what proves too little is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.crash.rig import record
from tests.crash.rig.record import SUITES, Kill, describe, faults


def _kills(suite: str, count: int, *, hits: int) -> Iterator[Kill]:
    for seed in range(count):
        yield Kill(suite=suite, case="", seed=seed, point="", target="worker", state="running", hit=seed < hits)


def _kill(**found: int) -> Kill:
    return Kill(suite="power", case="", seed=0, point="", target="worker", state="running", hit=True, **found)


def test_a_suite_that_mostly_missed_proves_too_little() -> None:
    assert faults([*_kills("power", 10, hits=8), *_kills("freeze", 10, hits=7)]) == [
        "freeze: only 7 of 10 kills hit a running job"
    ]


def test_kills_of_jobs_that_were_to_be_over_are_not_counted() -> None:
    over = Kill(suite="power", case="", seed=9, point="ended", target="everything", state="succeeded", hit=None)
    kills = [*_kills("power", 10, hits=8), *[over] * 5]
    assert faults(kills) == []
    assert describe(kills) == "15 kills, 8 hit a running job: 8 running"


def test_a_fault_that_was_not_injected_is_one_too_many() -> None:
    assert faults(list(_kills("fault", 10, hits=9))) == ["only 9 of 10 faults were injected"]


def test_instants_must_meet_every_phase_and_a_recovery() -> None:
    assert faults(list(_kills("instants", 40, hits=40))) == [
        "no kill hit a job that was planning",
        "no kill hit a job that was committing",
        "no kill hit a recovery",
    ]


def test_what_was_not_measured_proves_nothing_either_way() -> None:
    assert faults([_kill(chunks_total=5, chunks_done=3)]) == []


def test_work_done_twice_is_said() -> None:
    everything, one = faults([_kill(chunks_total=5, chunks_done=3, scored_after=5, scored_again=1)])
    assert everything.startswith("everything was scored again")
    assert one.startswith("1 committed chunks were scored again")


def test_a_suite_that_left_few_records_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = [kill for suite in SUITES[1:] for kill in _kills(suite, 20 if suite != "power" else 19, hits=20)]
    (tmp_path / "crash.json").write_text(json.dumps([asdict(kill) for kill in kills]))
    monkeypatch.setattr(record, "BUILD", tmp_path)
    assert record.scarce() == ["instants: 0", "power: 19"]
