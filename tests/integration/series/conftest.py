"""A lake for each test, and a store of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.series.lake import Lake
from tests.postgres import postgres, postgres_database, postgres_url

__all__ = ["postgres", "postgres_database", "postgres_url"]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(folder=tmp_path)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> str | None:
    """The URL of an empty store; None: the one in the home."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
