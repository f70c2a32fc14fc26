"""Series: what their jobs have scored, and what there is to score."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tidemill.domain import series
from tidemill.domain.access import Principal
from tidemill.domain.errors import NotFound
from tidemill.domain.plan import InputFile
from tidemill.domain.series import Increment
from tidemill.engine.increment import nothing_new, unscored, write_record
from tidemill.service import audit
from tidemill.service.context import Context
from tidemill.wire.spec import JobSpec

Many = list[series.Series]
FILES_PER_STEP = 10_000


@dataclass(frozen=True, kw_only=True)
class Found:
    """Files that a job of a series would score now."""

    files: int
    bytes: int
    increment: Increment
    key: str
    """Of these very files, with these contents, after so many jobs of the series."""


def find_new(context: Context, tenant: str, spec: JobSpec) -> Found:
    """What a job by this spec, which names a series, would score now. Lists the input, in a child.

    Raises NothingNew; SeriesBusy while another job of the series has not ended; NotFound, InputUnreadable,
    AlreadyScored as planning the job would.
    """
    assert spec.input.series is not None, "only a job of a series scores what is new"
    jobs = _jobs_before(context, tenant, spec.input.series.name)
    with tempfile.TemporaryDirectory(prefix="tidemill-") as folder:
        record = Path(folder) / "record.db"
        write_record(record, context.store.series.files(tenant, spec.input.series.name))
        request = {"input": spec.input.model_dump(mode="json"), "unscored": unscored(spec, record, 1)}
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


def list(context: Context, who: Principal, *, limit: int = 100, after: str | None = None) -> Many:
    """Those of the caller's tenant, by name."""
    return context.store.series.list(who.tenant, limit=limit, after=after)


def files(context: Context, who: Principal, name: str, *, below: str = "") -> Iterator[InputFile]:
    """Files that were scored, by path, streamed; with `below` that file or those in that folder. Raises NotFound."""
    get(context, who, name)
    return context.store.series.files(who.tenant, name, below=below)


def forget(context: Context, who: Principal, name: str, *, below: str = "") -> int:
    """Let files count as never scored: that one, those in that folder, or all; how many entries it was.

    The next job of the series scores them again, if they are still there. Raises NotFound.
    """
    store, gone = context.store, 0
    below = os.path.normpath(below) if below else ""
    with store.transaction():
        audit.record(context, who, "series.forget", get(context, who, name).name, below=below)
    while True:
        some = store.series.forget(who.tenant, name, below=below, limit=FILES_PER_STEP)
        gone += some
        if some < FILES_PER_STEP:
            return gone
