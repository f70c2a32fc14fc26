"""Taking an output: one job at a time writes it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime

from tidemill.domain.errors import LeaseLost, NotFound, OutputBusy, OutputExists
from tidemill.domain.job import ENDED, FINISHED, Job, JobState
from tidemill.ports.sink import Claim, OutputState, Sink
from tidemill.service.context import Context

PATIENCE_SECONDS = 600.0
"""So long a job waits for a former holder of its own that is frozen in the middle of publishing."""
PAUSE_SECONDS = 0.1


def claim_of(context: Context, job_id: str, output: str) -> Claim:
    """The claim of this process for a job's output."""
    return Claim(
        job_id=job_id,
        store=context.store.url,
        host=context.host,
        pid=os.getpid(),
        worker_lock=context.worker_lock,
        output=output,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def check_alone(state: OutputState, output: str) -> None:
    """Refuse early what the sink refuses when it is prepared. Raises OutputExists."""
    if state.other_output is not None:
        raise OutputExists(
            f"{output} would share its manifest with {state.other_output}, which is there already.",
            remedy="Choose another name for the output.",
        )


def take(context: Context, job: Job, sink: Sink, check: Callable[[], None]) -> None:
    """Make a job's output this process's, also after a former holder of the same job.

    `check` asks the store and raises LeaseLost when the job is not this process's any more. It is called
    between looking and taking, so that whoever lost the job takes nothing from its successor, and once more
    afterwards. Raises OutputBusy naming the holder, OutputExists, OutputUnwritable.
    """
    stop = time.monotonic() + PATIENCE_SECONDS
    while True:
        state = sink.look()
        if job.state is JobState.COMMITTING and sink.published(job.id) is not None:
            return
        if state.claim is not None and state.claim.job_id != job.id:
            _make_way(context, sink, state, state.claim)
            state = sink.look()
        check()
        try:
            sink.prepare(claim_of(context, job.id, job.output), replace=state.claim)
            break
        except OutputBusy:
            holder = sink.look().claim
            own = holder is not None and holder.job_id == job.id
            if not own or time.monotonic() > stop:
                raise
            time.sleep(PAUSE_SECONDS)
    try:
        check()
    except LeaseLost:
        # Frozen just before it took the output of a job that its successor has ended meanwhile.
        if context.store.jobs.get(job.id).state in ENDED:
            sink.finish(job.id)
        raise


def _make_way(context: Context, sink: Sink, state: OutputState, claim: Claim) -> None:
    """Clear what a job that is over forgot to clear. Raises OutputBusy for any other."""
    if claim.store == context.store.url:
        try:
            holder = context.store.jobs.get(claim.job_id)
        except NotFound:
            if not state.claim_live:
                sink.discard(claim.job_id)
                return
        else:
            if holder.state in FINISHED:
                sink.finish(holder.id)
                return
            if holder.state is JobState.CANCELLED:
                sink.discard(holder.id)
                return
    raise OutputBusy(
        f"{claim.output} is held by the unfinished {claim.job_id} (process {claim.pid} on {claim.host}, since"
        f" {claim.started_at}{'' if claim.store == context.store.url else f', of the store {claim.store}'}).",
        remedy=f"Wait for that job, cancel it with `tidemill jobs cancel {claim.job_id}`, or choose another output;"
        " then resume this one.",
    )
