"""What work costs, by a rate card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RateCard:
    """Prices of a site, in one currency."""

    currency: str = "USD"
    per_cpu_hour: float = 0.0
    per_gb_read: float = 0.0
    """Per 10^9 bytes of input."""
    per_gb_written: float = 0.0
    per_job: float = 0.0

    def cost(self, usage: Mapping[str, float]) -> float:
        """The price of a job with this `domain.receipt.Usage` as JSON: a sum of quantity times price."""
        return (
            self.per_job
            + usage["cpu_seconds"] / 3600 * self.per_cpu_hour
            + usage["input_bytes"] / 1e9 * self.per_gb_read
            + usage["output_bytes"] / 1e9 * self.per_gb_written
        )
