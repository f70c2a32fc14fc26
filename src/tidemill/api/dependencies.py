"""What endpoints are given."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query
from starlette.requests import Request

from tidemill.domain.access import Principal
from tidemill.service.context import Context

PREFIX = "/api/v1"


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


async def _who(request: Request) -> Principal:
    who: Principal = request.state.who
    return who


Here = Annotated[Context, Depends(_context)]
"""The wired service."""

Who = Annotated[Principal, Depends(_who)]
"""Who asks; its role has been checked."""

JobId = Annotated[str, Path(pattern=r"^[0-9a-z_]{6,40}$", description="A job's id, or enough of its end to be unique.")]

Limit = Annotated[int, Query(ge=1, le=500, description="How many at most.")]
