"""How many scorers a job gets, with how many threads and how much memory, and which of them are alike."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.domain.admission import Needs
from tidemill.domain.plan import PlanSummary
from tidemill.wire.spec import ComputeSpec

LEAST_BYTES = 1 << 30
BYTES_PER_MODEL_BYTE = 8
"""A loaded model may take so many times the memory that its file takes on disk."""
ROWS_PER_SCORER = 65_536
"""A job gets one process for so many rows, or for fewer if its flavor says that they make a chunk."""
PEAKS = 3
"""A probe may take so many times the memory that whole chunks took."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What this host gives to a job."""

    cores: int
    memory_bytes: int
    stall_seconds: float
    preload: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The scorers of a job."""

    scorers: int
    threads: int
    """In each scorer."""
    memory_bytes: int
    """The bound of each scorer."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """What a job finds where it runs."""

    compute: Compute
    jobs_running: int | None
    """How many jobs share the host now, this one among them. None: it has it for itself."""

    def lay_out(self, plan: PlanSummary, asked: ComputeSpec, needs: Needs, model_bytes: int) -> Layout:
        """Libraries that free the GIL: one process with a thread per core. Others: a process per core."""
        scorers, threads = self._processes(plan, asked, self._cores(needs))
        memory = asked.memory_per_scorer
        if memory == "auto":
            side_by_side = self.compute.cores // threads if asked.scorers == "auto" else scorers
            return Layout(
                scorers=scorers, threads=threads, memory_bytes=self._memory(side_by_side, threads, model_bytes)
            )
        return Layout(scorers=scorers, threads=threads, memory_bytes=memory)

    def _processes(self, plan: PlanSummary, asked: ComputeSpec, cores: int) -> tuple[int, int]:
        if asked.scorers != "auto":
            return min(asked.scorers, max(plan.chunks, 1)), 1
        if plan.model.layout == "threads":
            # No more than batches: so small jobs of one model are all alike to a warm scorer.
            return 1, max(1, min(cores, -(-plan.rows // plan.batch_rows)))
        # To start one more has to pay: it takes as long as many models take for so many rows.
        worth = -(-plan.rows // min(ROWS_PER_SCORER, plan.model.rows_per_chunk))
        return max(1, min(cores, plan.chunks, worth)), 1

    def _cores(self, needs: Needs) -> int:
        """This job's share of the host's cores at this moment."""
        cores = self.compute.cores
        if self.jobs_running is None:
            return cores
        return max(min(needs.cpus, cores), cores // max(1, self.jobs_running))

    def _memory(self, side_by_side: int, threads: int, model_bytes: int) -> int:
        """The share of one of so many scorers that the host could run side by side, however few this job has
        chunks for: what fits in a small job fits in a big one, and a row that eats memory has no whole machine
        to fill. Among other jobs it depends on nothing but the model and the threads: scorers of another
        bound could not be kept for the next job."""
        total = self.compute.memory_bytes
        if self.jobs_running is None:
            share = total // (side_by_side + 1)
        else:
            share = total * threads // (self.compute.cores + 1)
        return max(share, min(total // 2, LEAST_BYTES + BYTES_PER_MODEL_BYTE * model_bytes))


def probe_bytes(memory_bytes: int | None, peak_bytes: int) -> int:
    """The small bound for probes of what died of memory, where healthy scorers took up to `peak_bytes`."""
    small = max(LEAST_BYTES, PEAKS * peak_bytes)
    return small if memory_bytes is None else min(small, memory_bytes)
