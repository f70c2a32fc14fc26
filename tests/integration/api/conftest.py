"""A service without workers for each test of the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.integration.api.house import House, client_of, opened_house
from tests.postgres import given_database, given_postgres_url, postgres, postgres_database, postgres_url

__all__ = ["given_database", "given_postgres_url", "postgres", "postgres_database", "postgres_url"]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with opened_house(tmp_path, data_roots=[tmp_path / "data"]) as opened:
        opened.model(alias="champion")
        yield opened


@pytest.fixture
def client(house: House) -> Iterator[TestClient]:
    """On this machine, without a key."""
    with client_of(house) as opened:
        yield opened
