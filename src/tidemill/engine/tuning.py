"""The scorers of a job, by what it shows itself and by what a job like it showed before (docs/adr/0033)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tidemill.domain.admission import Needs
from tidemill.domain.plan import PlanSummary
from tidemill.engine.layout import Host, Layout, Shown
from tidemill.engine.recall import Recent
from tidemill.wire.spec import ComputeSpec

LEAST_ROWS = 16_384
"""Of fewer rows nothing is remembered: what happens once in a job, as opening a file, would outweigh them."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How one job is laid out where it runs."""

    host: Host
    plan: PlanSummary
    asked: ComputeSpec
    needs: Needs
    recent: Recent[Shown]
    key: str | None
    """Under which this job's measurements are remembered. None: they are not."""

    def lay_out(self, model_bytes: int) -> Layout:
        """What the job begins with, by its class of model."""
        return self.host.lay_out(self.plan, self.asked, self.needs, model_bytes)

    def more(self, shown: Shown) -> Layout | None:
        """The scorers to add, or None. As long as the job has shown nothing, what another one showed counts.

        Only measurements are remembered. What follows from them is decided anew for the rows of this job and for its
        share of the host.
        """
        known = self.recent.get(self.key)
        if shown.rows > 0:
            shown = self._remembered(shown, known)
        elif known is not None:
            shown = replace(known, rows_left=shown.rows_left)
        return self.host.more(self.plan, self.asked, self.needs, shown)

    def _remembered(self, shown: Shown, known: Shown | None) -> Shown:
        if known is not None:
            # A warm scorer does not show what it takes to start one.
            shown = replace(shown, start_seconds=max(shown.start_seconds, known.start_seconds))
        if shown.rows >= LEAST_ROWS:
            self.recent.put(self.key, shown)
        return shown
