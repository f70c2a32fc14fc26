"""The table of states: consistent in itself, drawn in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tidemill.domain.job import ENDED, FINISHED, LEASED, TRANSITIONS, JobState, can_follow

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "states.md"
ARROW = re.compile(r"^\s+(\[\*\]|\w+) --> (\[\*\]|\w+)$", re.MULTILINE)


def test_the_diagram_draws_the_table() -> None:
    drawn = ARROW.findall(PAGE.read_text())
    assert len(drawn) == len(set(drawn))
    starts = {after for before, after in drawn if before == "[*]"}
    ends = {before for before, after in drawn if after == "[*]"}
    between = {(before, after) for before, after in drawn if "[*]" not in (before, after)}
    assert between == {(before.value, after.value) for before in TRANSITIONS for after in TRANSITIONS[before]}
    assert starts == {"queued"}
    assert ends == {state.value for state in ENDED}


def test_the_page_explains_every_state() -> None:
    explained = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert explained == [state.value for state in JobState]


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert all(before not in following for before, following in TRANSITIONS.items())


def test_what_ended_goes_nowhere_and_all_else_somewhere() -> None:
    assert {state for state, following in TRANSITIONS.items() if not following} == ENDED


def test_only_committing_finishes() -> None:
    for state in FINISHED:
        assert {before for before in JobState if can_follow(before, state)} == {JobState.COMMITTING}


def test_committing_cannot_be_stopped_by_wishes() -> None:
    assert not can_follow(JobState.COMMITTING, JobState.PAUSED)
    assert not can_follow(JobState.COMMITTING, JobState.CANCELLED)


@pytest.mark.parametrize("state", sorted(set(JobState) - ENDED))
def test_every_job_can_still_succeed_and_be_stopped(state: JobState) -> None:
    reached = {state}
    while grown := {after for before in reached for after in TRANSITIONS[before]} - reached:
        reached |= grown
    assert reached >= FINISHED
    assert JobState.CANCELLED in reached
    assert reached >= LEASED
