"""A job's event stream, taken up again after the last event when the connection breaks."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import httpx2

from tidemill.client.connection import Call, Connection
from tidemill.domain.errors import ServiceUnreachable
from tidemill.domain.job import ENDED, JobState
from tidemill.wire.api import JobEventOut, JobProgressOut

QUIET_SECONDS = 60.0
"""The service says something, if only a comment, more often than that."""
LOST_TRIES = 20
"""How often in a row the service may be away: a minute and a half, as a restart may take."""
LAST = ENDED | {JobState.FAILED}
"""States after which the service ends the stream."""

Told = JobEventOut | JobProgressOut


class EventStream:
    """What a service tells of one job. `last` is the number of the newest event that was seen."""

    def __init__(self, connection: Connection, job_id: str, *, last: int | None = None) -> None:
        self._connection = connection
        self._path = f"/jobs/{quote(job_id, safe='')}/events"
        self.last = last
        self.over = False
        """Whether the service said all that there is to say."""

    def listen(self, quiet_seconds: float = QUIET_SECONDS) -> Iterator[Told]:
        """What comes over one connection, until the service ends it or is quiet for so long.

        Raises ServiceUnreachable when the connection breaks.
        """
        headers = {"Accept": "text/event-stream"}
        if self.last is not None:
            headers["Last-Event-ID"] = str(self.last)
        call = Call(method="GET", path=self._path, headers=headers, read_seconds=quiet_seconds)
        with self._connection.stream(call) as response:
            if response.status_code == httpx2.codes.NO_CONTENT:
                self.over = True
                return
            try:
                for event in httpx2.EventSource(response):
                    told = self._read(event)
                    if told is not None:
                        yield told
            except httpx2.ReadTimeout:
                return

    def _read(self, event: httpx2.ServerSentEvent) -> Told | None:
        if event.id.isdecimal():
            self.last = int(event.id)
        told: Told | None = None
        if event.event == "state":
            told = JobEventOut.model_validate_json(event.data)
        elif event.event == "progress":
            told = JobProgressOut.model_validate_json(event.data)
        if told is not None:
            self.over = JobState(told.state) in LAST
        return told

    def follow(self) -> Iterator[Told]:
        """The same over as many connections as it takes, to the end of the job."""
        lost = 0
        while not self.over:
            try:
                for told in self.listen():
                    lost = 0
                    yield told
            except ServiceUnreachable:
                lost += 1
                if lost >= LOST_TRIES:
                    raise
            if not self.over:
                self._connection.pause(max(lost, 1))
