"""A job's events as they happen."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import Header
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tidemill.api.access import door, needs
from tidemill.api.dependencies import Here, JobId, Who
from tidemill.api.errors import problems
from tidemill.api.pulse import Listener, Pulse
from tidemill.domain.access import Action, Principal
from tidemill.domain.errors import NotFound, StoreUnavailable
from tidemill.domain.job import ENDED, JobEvent, JobState
from tidemill.service import control, status
from tidemill.service.context import Context
from tidemill.wire.api import JobEventOut, JobProgressOut

router = door("/jobs", "jobs")

MAX_STREAM_SECONDS = 900.0
"""Then the client comes again by itself, and its key is checked again."""

LAST = ENDED | {JobState.FAILED}
"""Nothing comes after these unless somebody asks for it."""

_KEEPALIVE_SECONDS = 15.0
_LOOK_SECONDS = 1.0
_RETRY_MS = 2000
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events `state` (with an id; the data is a JobEventOut) and `progress` (a"
            " JobProgressOut). The stream ends after a final state.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        204: {"description": "The last event that there will be was seen already: do not come again."},
        **problems(404),
    },
)
@needs(Action.SEE)
async def stream_job_events(
    request: Request,
    context: Here,
    who: Who,
    job_id: JobId,
    last_event_id: Annotated[
        str | None, Header(pattern=r"^[0-9]{1,18}$", description="The number of the last event that was seen.")
    ] = None,
) -> Response:
    """Changes of a job's state and its progress, as Server-Sent Events."""
    pulse: Pulse = request.app.state.pulse
    after = int(last_event_id or 0)
    look = await run_sync(_look, context, who, job_id, after)
    if after and look.ended and not look.events:
        return Response(status_code=204)
    pulse.check_room()
    return StreamingResponse(
        _Stream(context, who, look.job_id, after, pulse).pieces(), media_type="text/event-stream", headers=_HEADERS
    )


class _Look(BaseModel):
    """What there is to tell."""

    job_id: str
    ended: bool
    events: Sequence[JobEvent]
    progress: JobProgressOut


def _look(context: Context, who: Principal, job_id: str, after: int) -> _Look:
    # The job first: an event that comes in between belongs to the next look, and none is missed.
    job = control.get(context, who, job_id)
    history = context.store.history.events(job.id, limit=status.MOST_EVENTS)
    rate = status.rows_per_second(job.counts, history, datetime.now(UTC))
    return _Look(
        job_id=job.id,
        ended=job.state in LAST,
        events=[event for event in history if event.number > after],
        progress=status.progress(job, rate),
    )


class _Stream:
    """One client's stream. It holds a thread only while it asks the store."""

    def __init__(self, context: Context, who: Principal, job_id: str, after: int, pulse: Pulse) -> None:
        self._context, self._who, self._job_id, self._after, self._pulse = context, who, job_id, after, pulse
        self._told: JobProgressOut | None = None
        self._stop = time.monotonic() + MAX_STREAM_SECONDS
        self._spoke = time.monotonic()

    async def pieces(self) -> AsyncIterator[bytes]:
        with self._pulse.listen() as news:
            yield f"retry: {_RETRY_MS}\n\n".encode()
            while True:
                piece, ended = await self._news()
                if piece:
                    self._spoke = time.monotonic()
                    yield piece
                if ended or not await self._pause(news):
                    return
                if time.monotonic() - self._spoke > _KEEPALIVE_SECONDS:
                    self._spoke = time.monotonic()
                    yield b": still here\n\n"

    async def _pause(self, news: Listener) -> bool:
        """Until something may have happened; False if the stream is over."""
        return await news.wait(_LOOK_SECONDS) and time.monotonic() < self._stop

    async def _news(self) -> tuple[bytes, bool]:
        try:
            look = await run_sync(_look, self._context, self._who, self._job_id, self._after)
        except StoreUnavailable:
            return b": the job store does not answer\n\n", False
        except NotFound:
            return b"", True  # Its retention is over.
        pieces = [_event("state", _out(event), event.number) for event in look.events]
        if look.events:
            self._after = look.events[-1].number
        if look.progress != self._told:
            pieces.append(_event("progress", look.progress))
            self._told = look.progress
        return b"".join(pieces), look.ended


def _out(event: JobEvent) -> JobEventOut:
    return JobEventOut(number=event.number, job_id=event.job_id, at=event.at, state=event.state.value)


def _event(name: str, data: BaseModel, number: int | None = None) -> bytes:
    head = f"event: {name}\n" if number is None else f"id: {number}\nevent: {name}\n"
    return f"{head}data: {data.model_dump_json()}\n\n".encode()
