"""Fixtures of the crash suite, and the judgement of its records when it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.rig import record, tree
from tests.crash.rig.job import CrashJob, new_job, write_inputs


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A suite whose kills missed proves nothing: it fails. (`judge.py` does this after a run of all tests.)"""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        return
    faults = record.report()
    if faults and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Five files of about 5,000 rows, 25 chunks; some rows are refused by the model."""
    return tuple(write_inputs(tmp_path_factory.mktemp("input")))


@pytest.fixture
def job(tmp_path: Path, inputs: tuple[Path, ...]) -> Iterator[CrashJob]:
    """A fresh job; none of its processes outlives the test."""
    made = new_job(tmp_path, inputs)
    yield made
    tree.end_all(made.mark)
