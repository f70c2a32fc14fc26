"""Ending a worker without losing what is in flight."""

from __future__ import annotations

import threading
import time


class Drain:
    """Told that its worker ends: jobs are handed over, and what is in flight has so long to finish."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._abandoned = threading.Event()
        self._deadline = float("inf")

    def begin(self, seconds: float) -> None:
        """Safe to repeat: the earlier end counts."""
        self._deadline = min(self._deadline, time.monotonic() + seconds)
        self._begun.set()

    def abandon(self) -> None:
        """Let go of everything now; leases run out by themselves."""
        self.begin(0.0)
        self._abandoned.set()

    def wait(self, seconds: float) -> bool:
        """Sleep so long, at most until it begins; whether it has begun."""
        return self._begun.wait(seconds)

    @property
    def abandoned(self) -> bool:
        return self._abandoned.is_set()

    @property
    def begun(self) -> bool:
        return self._begun.is_set()

    @property
    def over(self) -> bool:
        """Whether the time to finish is over."""
        return time.monotonic() >= self._deadline
