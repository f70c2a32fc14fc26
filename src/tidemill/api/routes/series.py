"""Series: what their jobs have scored, and forgetting it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from tidemill.api.access import door, needs
from tidemill.api.dependencies import Here, Limit, Who
from tidemill.api.errors import problems
from tidemill.domain.access import Action
from tidemill.service import series
from tidemill.wire.api import NAME, Text
from tidemill.wire.series import ForgetFiles, Forgotten, ScoredFilePage, SeriesOut, SeriesPage

router = door("/series", "series")

Which = Annotated[str, Path(alias="series", pattern=NAME, description="A series' name.")]


@router.get("")
@needs(Action.SEE)
def list_series(
    context: Here,
    who: Who,
    limit: Limit = 100,
    after: Annotated[str | None, Query(pattern=NAME, description="`next` of the page before.")] = None,
) -> SeriesPage:
    """Series of the caller's tenant, by name."""
    return series.list_series(context, who, limit=limit, after=after)


@router.get("/{series}", responses=problems(404))
@needs(Action.SEE)
def get_series(context: Here, who: Who, name: Which) -> SeriesOut:
    """How much one series has scored."""
    return series.describe(series.get(context, who, name))


@router.get("/{series}/files", responses=problems(404))
@needs(Action.SEE)
def list_scored_files(
    context: Here,
    who: Who,
    name: Which,
    path: Annotated[Text, Query(max_length=4096, description="Only that file, or those in that folder.")] = "/",
    limit: Limit = 100,
    after: Annotated[Text | None, Query(max_length=4096, description="`next` of the page before.")] = None,
) -> ScoredFilePage:
    """Files that jobs of the series have scored, by path."""
    return series.list_files(context, who, name, below=path, limit=limit, after=after)


@router.post("/{series}/forget", responses=problems(404))
@needs(Action.RUN_JOBS)
def forget_scored_files(context: Here, who: Who, name: Which, wanted: ForgetFiles) -> Forgotten:
    """Let files count as never scored: the next job of the series scores them again. Safe to repeat."""
    return Forgotten(entries=series.forget(context, who, name, below=wanted.path))
