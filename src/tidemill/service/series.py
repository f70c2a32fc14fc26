"""Series: what their jobs have scored, and what there is to score."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from tidemill.domain import series
from tidemill.domain.access import Principal
from tidemill.domain.errors import NotFound
from tidemill.domain.plan import Increment, InputFile
from tidemill.engine.increment import nothing_new, unscored, write_record
from tidemill.service import audit, places
from tidemill.service.context import Context
from tidemill.wire.series import ScoredFile, ScoredFilePage, SeriesOut, SeriesPage
from tidemill.wire.spec import JobSpec

FILES_PER_STEP = 10_000


@dataclass(frozen=True, kw_only=True)
class Found:
    """Files that a job of a series would score now."""

    files: int
    bytes: int
    increment: Increment
    key: str
    """Of these very files, with these contents, after so many jobs of the series."""


def find_new(context: Context, who: Principal, spec: JobSpec) -> Found:
    """What a job of theirs by this spec, which names a series, would score now. Lists the input, in a child.

    Raises NothingNew; SeriesBusy while another job of the series has not ended; NotAllowed for files that lie where
    they may not read; NotFound, InputUnreadable, AlreadyScored as planning the job would.
    """
    assert spec.input.series is not None, "only a job of a series scores what is new"
    jobs = _jobs_before(context, who.tenant, spec.input.series.name)
    with tempfile.TemporaryDirectory(prefix="tidemill-") as folder:
        record = Path(folder) / "record.db"
        write_record(record, context.store.series.files(who.tenant, spec.input.series.name))
        request = {
            "input": spec.input.model_dump(mode="json"),
            "unscored": unscored(spec, record, 1),
            "confines": None if who.is_here else places.confines_of_keys(context).to_json(),
        }
        answer = context.executor.call(context.tasks.snapshot, request)
    increment = Increment.from_json(answer["increment"])
    if not answer["files"]:
        raise nothing_new(increment)
    return Found(files=answer["files"], bytes=answer["bytes"], increment=increment, key=f"{jobs}:{answer['digest']}")


def is_recorded(context: Context, tenant: str, name: str) -> bool:
    """Whether this store knows of a job of the series that succeeded."""
    try:
        return context.store.series.get(tenant, name).jobs > 0
    except NotFound:
        return False


def _jobs_before(context: Context, tenant: str, name: str) -> int:
    """How many jobs of the series have succeeded. Raises SeriesBusy while one is on its way."""
    try:
        found = context.store.series.get(tenant, name)
    except NotFound:
        return 0
    if found.holder is not None:
        with suppress(NotFound):  # One that was forgotten gives way.
            series.check_over(name, found.holder, context.store.jobs.get(found.holder).state)
    return found.jobs


def get(context: Context, who: Principal, name: str) -> series.Series:
    """Raises NotFound."""
    return context.store.series.get(who.tenant, name)


def list_series(context: Context, who: Principal, *, limit: int = 100, after: str | None = None) -> SeriesPage:
    """Those of the caller's tenant, by name; `next` is the `after` of the next page."""
    found = context.store.series.list(who.tenant, limit=limit + 1, after=after)
    following = found[limit - 1].name if len(found) > limit else None
    return SeriesPage(items=[describe(each) for each in found[:limit]], next=following)


def list_files(
    context: Context, who: Principal, name: str, *, below: str = "/", limit: int = 100, after: str | None = None
) -> ScoredFilePage:
    """Files that were scored, by path: that one, or those in that folder. Raises NotFound.

    A page may be longer than `limit`: all contents of one file are on one page.
    """
    get(context, who, name)
    files = context.store.series.files(who.tenant, name, below=os.path.normpath(below), after=after or "")
    found = list(islice(files, limit))
    for file in files:
        if file.path != found[-1].path:
            return ScoredFilePage(items=[_scored(each) for each in found], next=found[-1].path)
        found.append(file)
    return ScoredFilePage(items=[_scored(each) for each in found], next=None)


def forget(context: Context, who: Principal, name: str, *, below: str) -> int:
    """Let files count as never scored: that one, or those in that folder ("/": all); how many entries it was.

    The next job of the series scores them again, if they are still there. Raises NotFound.
    """
    store, gone, below = context.store, 0, os.path.normpath(below)
    with store.transaction():
        audit.record(context, who, "series.forget", get(context, who, name).name, path=below)
    while True:
        some = store.series.forget(who.tenant, name, below=below, limit=FILES_PER_STEP)
        gone += some
        if some < FILES_PER_STEP:
            return gone


def describe(found: series.Series) -> SeriesOut:
    """A series as the doors show it."""
    return SeriesOut(
        name=found.name, jobs=found.jobs, files=found.files, holder=found.holder, recorded_at=found.recorded_at
    )


def _scored(file: InputFile) -> ScoredFile:
    modified_at = datetime.fromtimestamp(file.mtime_ns / 1e9, UTC)
    return ScoredFile(path=file.path, size_bytes=file.size_bytes, modified_at=modified_at)
