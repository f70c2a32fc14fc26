"""A service whose webhooks may lead to this machine, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.api.house import House, opened_house
from tests.postgres import given_database, given_postgres_url, postgres, postgres_database, postgres_url
from tidemill.domain.webhook import retry_seconds
from tidemill.service import sender as sending
from tidemill.service.sender import Sender, SenderOptions

__all__ = ["given_database", "given_postgres_url", "postgres", "postgres_database", "postgres_url"]

OPTIONS = SenderOptions(look_seconds=0.05, leave_seconds=1.0)
Sending = Callable[..., Sender]


@contextmanager
def opened(folder: Path, **settings: Any) -> Iterator[House]:
    with opened_house(folder, webhook_hosts=["127.0.0.1"], **settings) as house:
        house.model()
        yield house


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """On SQLite."""
    with opened(tmp_path) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgres"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    """On each of the databases."""
    words = {} if request.param == "sqlite" else {"store": request.getfixturevalue("given_postgres_url")}
    with opened(tmp_path, **words) as made:
        yield made


@pytest.fixture
def sending_from(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sending]:
    """Starts senders; the pauses before their next tries are short."""

    def soon(attempts: int, chance: float) -> float | None:
        return None if retry_seconds(attempts, chance) is None else 0.05

    monkeypatch.setattr(sending, "retry_seconds", soon)
    started: list[Sender] = []

    def start(house: House, told: Callable[[str], None] | None = None, **options: Any) -> Sender:
        started.append(Sender(house.context, replace(OPTIONS, **options), told))
        started[-1].start()
        return started[-1]

    yield start
    for each in started:
        each.stop()
    assert all(each.join(30) for each in started)
