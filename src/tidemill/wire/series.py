"""Request and response types of series, as those of `wire.api`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from tidemill.wire.api import Request, Response, Text


class SeriesOut(Response):
    name: str
    jobs: int
    """How many jobs of it have succeeded."""
    files: int
    """How many different files they scored and nobody forgot."""
    holder: str | None
    """The job of it that is on its way, or failed and was not followed by another."""
    recorded_at: datetime | None
    """When the last one succeeded."""


class SeriesPage(Response):
    items: list[SeriesOut]
    next: str | None
    """`after` of the next page; None on the last."""


class ScoredFile(Response):
    """A file with the content that was scored. One that changed and was scored again comes once for each."""

    path: str
    size_bytes: int
    modified_at: datetime


class ScoredFilePage(Response):
    items: list[ScoredFile]
    next: str | None
    """`after` of the next page; None on the last."""


class ForgetFiles(Request):
    """Files that shall count as never scored."""

    path: Annotated[Text, Field(min_length=1, max_length=4096, pattern="^/")]
    """That file, or everything in that folder; "/" is all."""


class Forgotten(Response):
    entries: int
    """One for each file and content."""
