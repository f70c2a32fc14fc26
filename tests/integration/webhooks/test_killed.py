"""At least once, whenever the sender dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.api.house import House
from tests.integration.webhooks.conftest import Sending, opened
from tests.integration.webhooks.receivers import receiving, silent
from tests.integration.webhooks.test_sending import add, settled
from tidemill.domain.webhook import DeliveryState

PROGRAM = Path(__file__).with_name("killed.py")


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_killed_between_the_answer_and_writing_it_down(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, sending_from: Sending
) -> None:
    store = None if kind == "sqlite" else request.getfixturevalue("given_postgres_url")
    with opened(tmp_path, **({} if store is None else {"store": store})) as house, receiving() as receiver:
        hook = add(house, receiver.url)
        house.finish(house.submit())
        killed = subprocess.run(
            [sys.executable, PROGRAM, tmp_path / "home", store or "-"], env=dict(os.environ), timeout=60
        )
        assert killed.returncode == -signal.SIGKILL
        assert len(receiver.requests) == 1
        sending_from(house)
        (done,) = settled(house, hook)
        first, second = receiver.requests
    assert first.id == second.id == done.id
    assert first.body == second.body
    assert first.verified(hook.secret) == second.verified(hook.secret)
    assert (done.state, done.attempts) == (DeliveryState.DELIVERED, 2)


def test_a_sender_that_is_stopped_leaves_its_attempts_to_the_next(house: House, sending_from: Sending) -> None:
    """It waits a moment for answers, then lets go."""
    with receiving(silent) as receiver:
        hook = add(house, receiver.url)
        house.finish(house.submit())
        sender = sending_from(house, lease_seconds=0.5, leave_seconds=0.1, attempt_seconds=60.0)
        receiver.wait()
        sender.stop()
        assert sender.join(30)
        port = receiver.port
    with receiving(port=port) as receiver:
        sending_from(house)
        (done,) = settled(house, hook)
        assert receiver.ids == [done.id]
    assert (done.state, done.attempts) == (DeliveryState.DELIVERED, 2)
