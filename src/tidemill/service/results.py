"""Results of finished jobs: what is there, a few rows, rows by value, everything as one file.

The result of a job that was retried is the union of its own with those of its retries, in input order;
nothing that is published is edited for it. `union=False` asks for its own alone. What a retry's rows
stand for follows from the rejected files of the job it retried and from `selection` in its own manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from tidemill.domain.access import Principal
from tidemill.domain.errors import InvalidSpec, NotFound, OutputBusy, WrongState
from tidemill.domain.job import FINISHED, Job, JobFilter
from tidemill.durable.files import fsync_folder, make_folder, remove_file, remove_tree, translated
from tidemill.durable.locks import FileLock
from tidemill.engine.manifest import own_entries, own_files
from tidemill.service import audit, control
from tidemill.service.context import Context
from tidemill.wire.api import RESULT_SUFFIXES, ResultFormat, ResultInfo, Rows
from tidemill.wire.spec import JobSpec

Kind = Literal["predictions", "rejected"]

FORMS: tuple[ResultFormat, ...] = get_args(ResultFormat)
KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_ROWS = 1_000
LOOK_UP_ROWS = 100
READ_SECONDS = 30.0
READ_MEMORY_BYTES = 2 << 30
EXPORT_WAIT_SECONDS = 3600.0

_EXPORTS = "exports"
_DELETED = ".deleted-"
_POLL_SECONDS = 0.05
_PAGE = 200


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file to be sent. Its bytes never change under this ETag."""

    path: Path
    name: str
    """What to call it where it arrives."""
    form: ResultFormat
    etag: str
    sha256: str | None
    """Hex, where it is known."""


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A finished job whose published files are all there."""

    job: Job
    manifest: dict[str, Any]

    def files(self, kind: Kind) -> list[dict[str, Any]]:
        """Entries of its manifest, each with its absolute path."""
        return own_entries(self.manifest, kind)

    @property
    def form(self) -> str:
        return str(self.manifest["format"])

    @property
    def retried(self) -> str | None:
        """The job whose rejected rows it scored."""
        return JobSpec.model_validate(self.job.spec).input.rejected_of

    @property
    def digest(self) -> str:
        """Changes whenever a byte of what it published would."""
        said = json.dumps([self.job.id, self.manifest["files"]], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class _View:
    """A result and the retries that fill its gaps, in the order in which they finished."""

    members: tuple[_Member, ...]
    left_out: Mapping[str, str]
    """Retries that it does not show, and why."""
    selected_from: _Member | None = None
    """Of a view whose first job is a retry itself: the job it retried."""

    @property
    def own(self) -> _Member:
        return self.members[0]

    @property
    def is_union(self) -> bool:
        return len(self.members) > 1

    def request(self) -> dict[str, Any]:
        """The view as children know it; see `engine.results`."""
        by_id = {member.job.id: number for number, member in enumerate(self.members)}
        return {"members": [self._member(member, by_id) for member in self.members]}

    def _member(self, member: _Member, by_id: Mapping[str, int]) -> dict[str, Any]:
        selection = member.manifest.get("selection")
        target = by_id.get(member.retried or "")
        source = self.selected_from if target is None else self.members[target]
        selected = None
        if self.is_union and selection is not None and source is not None:
            selected = {"paths": own_files(source.manifest, "rejected"), "format": source.form}
        return {
            "files": {
                kind: [{"path": entry["path"], "rows": entry["rows"]} for entry in member.files(kind)] for kind in KINDS
            },
            "format": member.form,
            "types": {column["name"]: column["type"] for column in member.manifest["schema"]},
            "target": target,
            "selected": selected,
            "first_rows": selection["first_rows"] if selected and selection else [],
        }


def info(context: Context, who: Principal, job_id: str, *, union: bool = True) -> ResultInfo:
    """What the result of a job is, and where to fetch it.

    Of a union the manifest is the job's own, but its counts are those of the union and "retries" says
    what each retry added. Raises NotFound (also for a result whose time is over), WrongState.
    """
    view = _view(context, who, job_id, union=union)
    manifest = dict(view.own.manifest)
    if view.is_union or view.left_out:
        manifest["retries"] = [
            *({"job_id": member.job.id, "shown": True} for member in view.members[1:]),
            *({"job_id": retry, "shown": False, "why": why} for retry, why in view.left_out.items()),
        ]
    if view.is_union:
        found = _ask(context, view, "counts")
        manifest["counts"] = {"total": manifest["counts"]["total"], **found}
    job = view.own.job
    kept = timedelta(days=context.policy.result_days)
    return ResultInfo(
        manifest=manifest,
        downloads=_addresses(job, "download", union=union),
        rejected_downloads=_addresses(job, "rejected", union=union) if manifest["counts"]["rejected"] else {},
        expires_at=job.finished_at + kept if job.managed and job.finished_at else None,
    )


def _addresses(job: Job, what: str, *, union: bool) -> dict[str, str]:
    own = "" if union else "&union=false"
    return {form: f"/api/v1/jobs/{job.id}/result/{what}?format={form}{own}" for form in FORMS}


def head(
    context: Context, who: Principal, job_id: str, rows: int, *, rejected: bool = False, union: bool = True
) -> Rows:
    """The first predictions, or rejected rows, at most 1,000. Raises NotFound, WrongState."""
    view = _view(context, who, job_id, union=union)
    kind: Kind = "rejected" if rejected else "predictions"
    return Rows.model_validate(_ask(context, view, "head", kind=kind, rows=min(rows, MAX_ROWS)))


def look_up(context: Context, who: Principal, job_id: str, where: Mapping[str, str], *, union: bool = True) -> Rows:
    """At most 100 predicted rows in which columns have these values, in input order.

    Statistics of the Parquet files say where not to look, so it is quick for ids that are sorted as the
    input was. Raises NotFound for an unknown column, InvalidSpec for no or a bad value, and for results
    that are not Parquet.
    """
    if not where:
        raise InvalidSpec("Nothing to look for.", remedy="Name a column and a value: ?customer_id=4711")
    view = _view(context, who, job_id, union=union)
    if any(member.form != "parquet" for member in view.members):
        raise InvalidSpec(
            f"The result of {view.own.job.id} is {view.own.form}: rows can be looked up in Parquet only.",
            remedy="Run the job with a Parquet output, or none; or download the result.",
        )
    return Rows.model_validate(_ask(context, view, "look_up", where=dict(where), rows=LOOK_UP_ROWS))


def export(
    context: Context, who: Principal, job_id: str, form: ResultFormat | None = None, kind: Kind = "predictions",
    *, union: bool = True,
) -> Download:  # fmt: skip
    """All predictions or rejected rows as one file of that format; by default that of the output.

    One published file of that format is it; else it is made once, in a child, and kept beside the managed
    results until it is out of date. Raises NotFound, WrongState, UnsupportedType, OutputUnwritable.
    """
    view = _view(context, who, job_id, union=union)
    wanted: ResultFormat = form or view.own.form  # type: ignore[assignment]
    files = view.own.files(kind)
    if not view.is_union and not files:
        raise NotFound(f"{view.own.job.id} has no {kind}.", remedy="See the counts in its manifest.")
    if not view.is_union and len(files) == 1 and view.own.form == wanted and not _is_compressed(view.own):
        digest = files[0]["sha256"]
        path, sha256 = Path(files[0]["path"]), digest
    else:
        digest = _export_digest(view, kind, wanted)
        path, sha256 = _made(context, view, kind, wanted, digest), None
    name = f"{view.own.job.id}{'.rejected' if kind == 'rejected' else ''}{RESULT_SUFFIXES[wanted]}"
    return Download(path=path, name=name, form=wanted, etag=f'"{digest}"', sha256=sha256)


def delete(context: Context, who: Principal, job_id: str) -> None:
    """Delete a result that the service keeps. Raises NotFound, WrongState for one with a place of its own."""
    job = _finished(context, who, job_id)
    if not job.managed:
        raise WrongState(
            f"The result of {job.id} lies at {job.output}, where its submitter wanted it.",
            remedy="Remove it there; the service deletes only results that it keeps itself.",
        )
    with context.store.transaction():
        audit.record(context, who, "result.delete", job.id, name=job.name)
    remove(context, job)


def remove(context: Context, job: Job) -> None:
    """Delete what the service keeps of a job's result: a managed result, and files made for downloads.

    Out of sight by one rename. Safe to repeat; nothing happens to a result with a place of its own.
    """
    folder = _folder(context, job)
    doomed = folder if job.managed else folder / _EXPORTS
    aside = folder.parent / f"{_DELETED}{job.id}"
    with translated(folder):
        remove_tree(aside)
        if doomed.is_dir():
            os.rename(doomed, aside)
            fsync_folder(folder.parent)
            remove_tree(aside)
        if not job.managed:
            remove_tree(folder)


def exported_at(context: Context, job: Job) -> datetime | None:
    """When the files made for downloads last changed; None if there are none."""
    try:
        return datetime.fromtimestamp(os.stat(_folder(context, job) / _EXPORTS).st_mtime, UTC)
    except FileNotFoundError:
        return None


def sweep_deleted(context: Context, limit: int) -> int:
    """End the deletions that broke off half-way; how many, at most `limit`."""
    folder = context.places.results.absolute()
    try:
        left = sorted(name for name in os.listdir(folder) if name.startswith(_DELETED))
    except FileNotFoundError:
        return 0
    for name in left[:limit]:
        with translated(folder / name):
            remove_tree(folder / name)
    return len(left[:limit])


def _folder(context: Context, job: Job) -> Path:
    return context.places.results.absolute() / job.id


def _finished(context: Context, who: Principal, job_id: str) -> Job:
    job = control.get(context, who, job_id)
    if job.state not in FINISHED:
        raise WrongState(
            f"{job.id} is {job.state.value.replace('_', ' ')} and has no result.",
            remedy=f"Wait until it has succeeded: GET /api/v1/jobs/{job.id}",
        )
    return job


def _member(context: Context, job: Job) -> _Member:
    """Raises NotFound if the result is not there any more."""
    stored = context.store.ledger.find_manifest(job.id)
    sink = context.open_sink(JobSpec.model_validate(job.spec))
    there = sink.look().manifest
    ids = [] if there is None else [there["job_id"], *(run["job_id"] for run in there.get("appended_to", []))]
    if stored is None or job.id not in ids:
        raise _gone(context, job)
    member = _Member(job=job, manifest=stored[0])
    for kind in KINDS:
        for entry in member.files(kind):
            if not _is_there(entry):
                raise _gone(context, job)
    return member


def _is_there(entry: Mapping[str, Any]) -> bool:
    try:
        return bool(os.stat(entry["path"]).st_size == entry["size_bytes"])
    except OSError:
        return False


def _gone(context: Context, job: Job) -> NotFound:
    if job.managed:
        kept = timedelta(days=context.policy.result_days)
        over = job.finished_at is not None and datetime.now(UTC) > job.finished_at + kept
        why = "its time is over" if over else "it was deleted"
        return NotFound(
            f"The result of {job.id} is not kept any more: {why} (results are kept for"
            f" {context.policy.result_days:g} days).",
            remedy=f"Run it again: POST /api/v1/jobs/{job.id}/clone",
        )
    return NotFound(
        f"The result of {job.id} is not at {job.output} any more: it was moved, replaced or removed.",
        remedy="Look for it where it was moved to, or run the job again.",
    )


def _view(context: Context, who: Principal, job_id: str, *, union: bool) -> _View:
    own = _member(context, _finished(context, who, job_id))
    if not union or not own.manifest["counts"]["rejected"]:
        return _View(members=(own,), left_out={})
    found, left_out = _retries(context, own)
    view = _View(members=(own, *found), left_out=left_out)
    if not found or own.retried is None:
        return view
    try:
        return replace(view, selected_from=_member(context, control.get(context, who, own.retried)))
    except NotFound:
        why = f"the rejected rows of {own.retried}, which tell the order, are not kept any more"
        return _View(members=(own,), left_out={**left_out, **{member.job.id: why for member in found}})


def _retries(context: Context, own: _Member) -> tuple[list[_Member], dict[str, str]]:
    """Finished retries of the job, of its retries, and so on, as they finished; and those that do not fit."""
    found: list[_Member] = []
    left_out: dict[str, str] = {}
    asked = [own]
    while asked:
        parent = asked.pop()
        for job in _children(context, parent.job):
            try:
                member = _member(context, job)
            except NotFound:
                left_out[job.id] = "its result is not kept any more"
                continue
            if member.manifest["schema"] != own.manifest["schema"]:
                left_out[job.id] = "its columns are others"
                continue
            found.append(member)
            asked.append(member)
    found.sort(key=lambda member: (member.job.finished_at or member.job.created_at, member.job.id))
    return found, left_out


def _children(context: Context, parent: Job) -> list[Job]:
    wanted = JobFilter(tenant=parent.tenant, parent_id=parent.id, states=tuple(FINISHED))
    found: list[Job] = []
    before: str | None = None
    while True:
        page = context.store.jobs.list(wanted, limit=_PAGE, before=before)
        found += [job for job in page if JobSpec.model_validate(job.spec).input.rejected_of == parent.id]
        if len(page) < _PAGE:
            return found
        before = page[-1].id


def _ask(context: Context, view: _View, ask: str, **words: Any) -> dict[str, Any]:
    return context.executor.call(
        context.tasks.read_result,
        {**view.request(), "ask": ask, **words},
        preload=context.compute.preload,
        timeout_seconds=READ_SECONDS,
        memory_bytes=READ_MEMORY_BYTES,
    )


def _is_compressed(member: _Member) -> bool:
    """Whether the published text is compressed from outside."""
    output = JobSpec.model_validate(member.job.spec).output
    compression = output.options.get("compression") if output is not None else None
    return member.form in ("csv", "jsonl") and compression not in (None, "none")


def _export_digest(view: _View, kind: Kind, form: ResultFormat) -> str:
    said = json.dumps([kind, form, [member.digest for member in view.members]])
    return hashlib.sha256(said.encode()).hexdigest()


def _made(context: Context, view: _View, kind: Kind, form: ResultFormat, digest: str) -> Path:
    """The export with that digest: there already, being made by somebody who is waited for, or made now."""
    folder = _folder(context, view.own.job) / _EXPORTS
    target = folder / f"{kind}-{digest[:32]}{RESULT_SUFFIXES[form]}"
    with translated(target):
        make_folder(folder)
        lock = FileLock(folder / f".{kind}{RESULT_SUFFIXES[form]}.lock")
        deadline = time.monotonic() + EXPORT_WAIT_SECONDS
        while not target.exists():
            if not lock.try_lock():
                if time.monotonic() > deadline:
                    raise OutputBusy(f"{target.name} is still being made.", remedy="Ask for it again later.")
                time.sleep(_POLL_SECONDS)
                continue
            with lock:
                if not target.exists():
                    _make(context, view, kind, form, target)
                    _forget_older(target)
    return target


def _make(context: Context, view: _View, kind: Kind, form: ResultFormat, target: Path) -> None:
    request = {
        **view.request(),
        "ask": "export",
        "kind": kind,
        "format": form,
        "target": str(target),
        "recode": _is_compressed(view.own),
    }
    context.executor.call(context.tasks.read_result, request, preload=context.compute.preload)


def _forget_older(target: Path) -> None:
    """Exports that this one replaces: retries have added rows since."""
    kind = target.name.partition("-")[0]
    for name in os.listdir(target.parent):
        if name.startswith(f"{kind}-") and name.endswith(target.suffix) and name != target.name:
            remove_file(target.parent / name)
