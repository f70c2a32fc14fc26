"""What work costs, by a rate card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tidemill.domain.receipt import Usage


@dataclass(frozen=True, kw_only=True)
class RateCard:
    """Prices of a site, in one currency."""

    currency: str = "USD"
    per_cpu_hour: float = 0.0
    per_gb_read: float = 0.0
    """Per 10^9 bytes of input."""
    per_gb_written: float = 0.0
    per_job: float = 0.0

    def cost(self, usage: Usage, jobs: int = 1) -> float:
        """The price of so many jobs that used this together: a sum of quantity times price."""
        return (
            jobs * self.per_job
            + usage.cpu_seconds / 3600 * self.per_cpu_hour
            + usage.input_bytes / 1e9 * self.per_gb_read
            + usage.output_bytes / 1e9 * self.per_gb_written
        )


UsageBy = Literal["model", "key"]


@dataclass(frozen=True, kw_only=True)
class UsageSum:
    """What several jobs have used together; memory is the highest peak of one."""

    of: str
    """What they have in common: a registered model's name or the digest of another one, or who owns them."""
    jobs: int
    chunks: int
    predicted: int
    rejected: int
    usage: Usage
