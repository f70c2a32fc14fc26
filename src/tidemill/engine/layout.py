"""How many scorers a job gets, with how many threads and how much memory, and which of them are alike.

A job begins with what its class of model wants. Where its first chunks show that this leaves cores idle, or a job like
it showed so before, it gets more (docs/adr/0033).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tidemill.domain.admission import Needs
from tidemill.domain.plan import PlanSummary
from tidemill.domain.receipt import NO_USAGE, Usage
from tidemill.wire.spec import ComputeSpec

LEAST_BYTES = 1 << 30
BYTES_PER_MODEL_BYTE = 8
"""A loaded model may take so many times the memory that its file takes on disk."""
ROWS_PER_SCORER = 65_536
"""A job gets one process for so many rows, or for fewer if its flavor says that they make a chunk."""
PEAKS = 3
"""A probe may take so many times the memory that whole chunks took."""
ROOM = 2
"""More scorers are started only where each may take so many times the memory that the first one took."""
WORTH = 3
"""And only where they save so many times what it takes to start one."""
BUSY = 0.7
"""The share of its time that a reader or a writer is at work, at most: it also waits for the disk, and for the
interpreter's lock."""
FORK_SECONDS = 0.1
"""What starting takes beside what the scorer itself counts: the fork, and hearing of it."""


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
class Shown:
    """What chunks of a single scorer showed, and how many rows are left to profit by it."""

    rows_left: int
    rows: int = 0
    used: Usage = NO_USAGE
    """For these rows, and for its start."""
    start_seconds: float = 0.0
    """CPU time that the start took; next to none of a warm scorer."""

    def after(self, rows: int, used: Usage, rows_left: int) -> Shown:
        """What is shown when one more chunk is done."""
        start = self.start_seconds if self.rows else max(0.0, used.cpu_seconds - sum(_stages(used)))
        return Shown(rows_left=rows_left, rows=self.rows + rows, used=self.used + used, start_seconds=start)


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

    def more(self, plan: PlanSummary, asked: ComputeSpec, needs: Needs, shown: Shown) -> Layout | None:
        """The scorers to add to the one that a job began with, or None.

        In a scorer one thread reads and one writes, however many predict. Where a row takes longer to be read than
        all cores together take for the whole of it, so many scorers are needed that their readers keep up. Stages
        are weighed by their CPU time, which other programs on the host do not change; the model by the clock, so that
        one that waits (for a lock, say) is not helped by what would not help it. On a GPU each would load it anew.
        """
        if (
            plan.model.layout != "threads"
            or plan.model.on_gpu
            or (asked.scorers, asked.memory_per_scorer) != ("auto", "auto")
        ):
            return None
        used, cores, rows = shown.used, self._cores(needs), max(shown.rows, 1)
        every, model = sum(_stages(used)) / rows, used.model_seconds / rows
        if every <= 0:
            return None
        narrow = max(used.read_cpu_seconds, used.write_cpu_seconds) / rows / BUSY
        start = shown.start_seconds + FORK_SECONDS
        chunks_left = shown.rows_left * plan.chunks // max(plan.rows, 1)
        for scorers in range(min(cores, chunks_left, math.ceil(cores * narrow / every)), 1, -1):
            threads = -(-cores // scorers)
            memory = self._memory(scorers, threads, 0)
            if memory < ROOM * used.peak_memory_bytes:
                continue
            alone, together = (max(narrow / number, model / cores, every / cores) for number in (1, scorers))
            if shown.rows_left * (alone - together) < WORTH * start:
                return None
            return Layout(scorers=scorers - 1, threads=threads, memory_bytes=memory)
        return None

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


def _stages(used: Usage) -> tuple[float, float, float]:
    """CPU seconds of reading, the model, writing."""
    return used.read_cpu_seconds, used.model_cpu_seconds, used.write_cpu_seconds


def probe_bytes(memory_bytes: int | None, peak_bytes: int) -> int:
    """The small bound for probes of what died of memory, where healthy scorers took up to `peak_bytes`."""
    small = max(LEAST_BYTES, PEAKS * peak_bytes)
    return small if memory_bytes is None else min(small, memory_bytes)
