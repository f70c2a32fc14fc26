"""A service without workers that has keys, a tenant each, and data roots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.api.house import House, opened_house
from tests.postgres import given_database, given_postgres_url, postgres, postgres_database, postgres_url

__all__ = ["given_database", "given_postgres_url", "postgres", "postgres_database", "postgres_url"]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with opened_house(tmp_path, data_roots=[tmp_path / "data"]) as opened:
        opened.model("churn", alias="champion")
        yield opened
