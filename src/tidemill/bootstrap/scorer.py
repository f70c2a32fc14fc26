"""Entry point of a scorer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tidemill.engine import scorer


class Channel(Protocol):
    """The worker's end, as the executor hands it to a child."""

    def send(self, message: dict[str, Any]) -> None: ...

    def receive(self) -> dict[str, Any] | None: ...


def main(channel: Channel, job: Mapping[str, Any]) -> None:
    """Serve runs until the worker says stop or is gone."""
    scorer.serve(channel.receive, channel.send, job)
