"""Fixtures of the crash suite, and the judgement of its records when it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.rig import record, tree
from tests.crash.rig.job import SUCCESS, CrashJob, new_job, once, write_inputs
from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings


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


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store. To make one costs about as much as to run a job, so most jobs begin with a copy of it."""
    home = tmp_path_factory.mktemp("store")
    with opened(Settings(home=home), children=False):
        pass
    return home / "tidemill.db"


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory, store: Path) -> CrashJob:
    """A finished job of another input, whose output others overwrite or extend."""
    folder = tmp_path_factory.mktemp("older")
    job = new_job(folder, write_inputs(folder / "in", rows=(1500, 800), first=70), store=store, sleep=0.0)
    ran = once(job)
    assert ran.code in SUCCESS, ran
    return job


@pytest.fixture
def job(tmp_path: Path, store: Path, inputs: tuple[Path, ...]) -> Iterator[CrashJob]:
    """A fresh job; none of its processes outlives the test."""
    made = new_job(tmp_path, inputs, store=store)
    yield made
    tree.end_all(made.mark)
