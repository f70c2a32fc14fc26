"""Jobs: run one here, go on with one, list, cancel.

The identity of a foreground job is its absolute output: `run` first looks at what lies there and in
the store, and then starts, goes on, says "up to date", or refuses with the difference.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from tidemill.domain.access import DEFAULT_TENANT
from tidemill.domain.errors import (
    InvalidSpec,
    NotFound,
    NotTrusted,
    OutputBusy,
    OutputExists,
    OutputMismatch,
    OutputUnwritable,
    Refused,
    TidemillError,
)
from tidemill.domain.ids import new_id
from tidemill.domain.input_list import LIST_MARK
from tidemill.domain.job import ENDED, FINISHED, LEASED, Job, JobState, Lease, NewJob, Want
from tidemill.domain.model import Pin, is_mlflow, split_reference
from tidemill.domain.receipt import Usage
from tidemill.engine.manifest import covers, was_asked
from tidemill.ports.observer import Observer
from tidemill.ports.sink import Claim, OutputState, Sink
from tidemill.service import outputs
from tidemill.service.claims import claim_of
from tidemill.service.context import Context
from tidemill.service.stdin import STDIN
from tidemill.wire.spec import InputSpec, JobSpec, OutputSpec

AskTrust = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a person says about this run and not about the job."""

    restart: bool = False
    """Discard an unfinished job at the output, or replace what it finished (with mode overwrite)."""
    allow_upgrade: bool = False
    ask_trust: AskTrust = lambda model: False
    """Called with a model that can run code and is not trusted; True trusts its digest from now on."""
    stop_softly: Callable[[Callable[[], None]], None] = lambda stop: None
    """Given a function that makes the worker pause after what is in flight (for Ctrl-C)."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a run. `manifest` is there if the output is finished."""

    job: Job | None
    manifest: dict[str, Any] | None
    up_to_date: bool = False
    resumed_chunks: int = 0
    seconds: float = 0.0


def resolve(spec: JobSpec) -> JobSpec:
    """The spec with absolute paths, as it is stored. Raises InvalidSpec."""
    paths = [_absolute_input(path) for path in spec.input.path]
    update: dict[str, Any] = {
        "input": spec.input.model_copy(update={"path": paths}),
        "model": _absolute_model(spec.model),
    }
    if spec.output is not None:
        update["output"] = outputs.resolve(spec.output)
        _check_apart(update["output"], paths)
        _check_series_kept(spec.input, update["output"])
    return spec.model_copy(update=update)


def _absolute_input(path: str) -> str:
    if path == STDIN:
        raise InvalidSpec(
            "Standard input is read only by `tidemill run` on this machine.",
            remedy="Write it to a file and name that, or pipe it into: tidemill run MODEL - -o OUT",
        )
    mark = LIST_MARK if path.startswith(LIST_MARK) else ""
    return mark + os.path.abspath(os.path.expanduser(path.removeprefix(mark)))


def check_executor(context: Context, spec: JobSpec) -> None:
    """Refuse an executor that would be silently replaced by another. Raises InvalidSpec."""
    known = context.executor.name
    if spec.compute.executor != known:
        raise InvalidSpec(
            f"compute.executor: there is no executor {spec.compute.executor!r}.",
            remedy=f"Known: {known}. Say that, or leave it out.",
        )


def _absolute_model(model: str) -> str:
    if _is_reference(model) or is_mlflow(model):
        return model
    target, colon, name = model.rpartition(":")
    if colon and name.isidentifier() and not os.path.exists(model):
        return f"{os.path.abspath(target)}:{name}" if target.endswith(".py") else model
    return os.path.abspath(os.path.expanduser(model))


def _is_reference(model: str) -> bool:
    """Whether the registry is meant; a file of such a name goes first."""
    return split_reference(model) is not None and not os.path.exists(model)


def _check_apart(output: OutputSpec, inputs: Sequence[str]) -> None:
    for path in inputs:
        if path == output.path or path.startswith(output.path + os.sep):
            raise InvalidSpec(
                f"The output {output.path} would replace the input {path}.", remedy="Choose another output."
            )
        if os.path.isdir(path) and output.path.startswith(path + os.sep):
            raise InvalidSpec(
                f"The output {output.path} lies inside the input {path}.", remedy="Choose another output."
            )


def _check_series_kept(given: InputSpec, output: OutputSpec) -> None:
    if given.series is not None and output.mode == "overwrite":
        raise InvalidSpec(
            f"A job of the series {given.series.name!r} scores only what is new, and mode overwrite would throw away"
            f" what {output.path} holds of all other files.",
            remedy="Append, or give each job an output of its own; to score everything again, leave the series out.",
        )


def identify(context: Context, spec: JobSpec, ask_trust: AskTrust) -> dict[str, Any]:
    """The spec's model: path, digest, flavor, and that it may be loaded. Raises NotTrusted.

    Of a registered one and of one on an MLflow server, all of its `domain.model.Pin`.
    """
    if _is_reference(spec.model):
        return _registered(context, spec.model, ask_trust)
    if is_mlflow(spec.model):
        model = _part("mlflow").pin(context, spec.model, spec.flavor).to_json()
    else:
        request = {"path": spec.model, "flavor": spec.flavor}
        model = context.executor.call(context.entries.identify, request, preload=context.compute.preload)
        context.executor.preload(tuple(model["preload"]))
    shown = model.get("asked", model["path"])
    trusted = not model["carries_code"] or context.store.trust.is_trusted(model["digest"])
    if not trusted and ask_trust({**model, "path": shown}):
        context.store.trust.trust(model["digest"], shown, context.user)
        trusted = True
    if not trusted:
        raise NotTrusted(
            f"{shown} is a {model['flavor']} model (sha256 {model['digest'][:12]}): loading it runs code"
            " that it carries.",
            remedy="If you know where it comes from, say --trust; this very file is then remembered as trusted.",
        )
    return {**model, "trusted": model["carries_code"]}


def _part(name: str) -> Any:
    # Only some runs name a registered model or a series. The types by which services speak of those take as long to
    # import as all of `domain`.
    return import_module(f"tidemill.service.{name}")


def _registered(context: Context, reference: str, ask_trust: AskTrust) -> dict[str, Any]:
    models, who = _part("models"), _part("keys").person_here(context)
    version = models.get(context, who, reference)
    if version.carries_code and not version.trusted and ask_trust(vars(version)):
        models.trust(context, who, reference)
    pin = models.resolve(context, who, reference)
    return {**pin.to_json(), "trusted": pin.carries_code}


def run(
    context: Context, spec: JobSpec, observers: Sequence[Observer] = (), options: RunOptions | None = None
) -> Outcome:
    """Score here and now, or go on with what was begun at the same output.

    Raises Refused kinds when nothing was started; JobFailed kinds are in the job's `error` instead.
    """
    options = options or RunOptions()
    started = time.monotonic()
    check_executor(context, spec)
    spec = resolve(spec)
    assert spec.output is not None, "a run without output is a preview"
    sink = context.open_sink(spec)
    unchanged = None if options.restart else _unchanged(context, spec, sink)
    if unchanged is not None:
        return unchanged
    model = identify(context, spec, options.ask_trust)
    request = _Request(context, spec, model, sink, options)
    found = request.settle()
    if isinstance(found, Outcome):
        return found
    job, lease = found
    worker = context.worker(observers, allow_upgrade=options.allow_upgrade, identified=model)
    options.stop_softly(worker.stop_softly.set)
    ended = worker.run(job, lease)
    manifest = sink.look().manifest if ended.state in FINISHED else None
    return Outcome(job=ended, manifest=manifest, resumed_chunks=job.chunks_done, seconds=time.monotonic() - started)


def _unchanged(context: Context, spec: JobSpec, sink: Sink) -> Outcome | None:
    """What is finished, if neither the model nor the input of this very spec changed; None if that is not sure.

    Most commands that are given again end here, so nothing is opened: a model that is a file or code here is not
    asked what it is. All others are left to those who do ask.
    """
    assert spec.output is not None
    if _is_reference(spec.model) or is_mlflow(spec.model) or spec.input.series is not None:
        return None
    state = sink.look()
    if state.manifest is None or state.claim is not None or not was_asked(state.manifest, spec.digest()):
        return None
    request = {"model": spec.model, "input": spec.input.model_dump(mode="json")}
    now = context.executor.call(context.tasks.facts, request)
    if not _holds(state.manifest, spec, now["model"], now["snapshot"]):
        return None
    return _up_to_date(sink, spec.output, state.manifest)


def _holds(manifest: Mapping[str, Any], spec: JobSpec, model_digest: str, snapshot_digest: str) -> bool:
    """Whether the output is what this spec gives of this model and input."""
    assert spec.output is not None
    if spec.output.mode == "overwrite" and manifest.get("appended_to"):
        return False  # It holds this job's rows and those of others.
    return covers(manifest, spec.digest(), model_digest, snapshot_digest)


def _up_to_date(sink: Sink, output: OutputSpec, manifest: dict[str, Any]) -> Outcome:
    """Raises OutputExists if not all of it is there."""
    if sink.published(manifest["job_id"]) is None:
        raise OutputExists(
            f"{output.path} was published by {manifest['job_id']}, but files of it are gone or changed.",
            remedy="See which with: tidemill verify; replace it with --mode overwrite --restart.",
        )
    # Whoever published may have died just before its last step, which removes the lock file.
    with suppress(OutputBusy, OutputUnwritable):
        sink.finish(manifest["job_id"])
    return Outcome(job=None, manifest=manifest, up_to_date=True)


class _Request:
    """One run command against what is at its output."""

    def __init__(self, context: Context, spec: JobSpec, model: dict[str, Any], sink: Sink, options: RunOptions) -> None:
        self.context, self.spec, self.model, self.sink, self.options = context, spec, model, sink, options
        self.jobs = context.store.jobs
        assert spec.output is not None
        self.output = spec.output

    def settle(self) -> tuple[Job, Lease] | Outcome:
        """A job to run (new or resumed) with its lease, or what is finished already."""
        state = self.sink.look()
        if state.claim is not None:
            job = self._unfinished(state, state.claim)
            if job is not None:
                return self._resume(job, state.claim)
            state = self.sink.look()
        if self.spec.input.series is not None:
            return self._go_on_with_series(self.spec.input.series.name, state)
        if state.manifest is not None or (state.occupied and state.other_output is None):
            done = self._finished(state)
            if done is not None:
                return done
        return self._start(state.claim)

    def _unfinished(self, state: OutputState, claim: Claim) -> Job | None:
        """The job that claims the output, if it can be gone on with; None once the way is free."""
        if state.claim_live:
            raise OutputBusy(
                f"{self._shared(claim)} is being written by {claim.job_id} (process {claim.pid} on {claim.host},"
                f" since {claim.started_at}).",
                remedy="Wait for it, or end it with: tidemill jobs cancel " + claim.job_id,
            )
        if claim.store != self.context.store.url:
            self._check_ours(claim)
            if not self.options.restart:
                raise OutputMismatch(
                    f"{self.output.path} belongs to the unfinished {claim.job_id} of another store, {claim.store}"
                    f" (process {claim.pid} on {claim.host}, not running).",
                    remedy="Go on with it under that TIDEMILL_HOME, or discard it with --restart.",
                )
            self._clear(claim)
            return None
        return self._own_unfinished(claim)

    def _own_unfinished(self, claim: Claim) -> Job | None:
        try:
            job = self.jobs.get(claim.job_id)
        except NotFound:
            self._clear(claim)  # Killed between the claim and the store: the job never was.
            return None
        if job.state in FINISHED:
            self.sink.finish(job.id)
            return None
        if job.state is JobState.CANCELLED:
            self._clear(claim)
            return None
        self._check_ours(claim)
        superseded = job.plan is None and job.spec != self.spec.model_dump(mode="json")
        if (self.options.restart or superseded) and job.state is not JobState.COMMITTING:
            cancel(self.context, job.id)  # Without a plan nothing was done: the new words replace the old.
            return None
        return job

    def _check_ours(self, claim: Claim) -> None:
        """Outputs that would share a manifest share the claim; this command decides about its own only."""
        if not self._is_ours(claim):
            raise OutputMismatch(
                f"{self._shared(claim)} belongs to the unfinished {claim.job_id}.",
                remedy=f"Choose another name for the output; or go on with that job by: tidemill resume {claim.job_id},"
                f" or drop it by: tidemill jobs cancel {claim.job_id}",
            )

    def _is_ours(self, claim: Claim) -> bool:
        return os.path.basename(claim.output) == os.path.basename(self.output.path)

    def _shared(self, claim: Claim) -> str:
        return (
            self.output.path
            if self._is_ours(claim)
            else f"{self.output.path} would share its manifest with {claim.output}, which"
        )

    def _clear(self, claim: Claim) -> None:
        self.sink.discard(claim.job_id)

    def _resume(self, job: Job, claim: Claim) -> tuple[Job, Lease]:
        self._check_same(job)
        claimed = self.jobs.claim(job.id, self.context.worker_id)
        if claimed is None:
            raise OutputBusy(f"{job.id} is held by another worker, {job.worker_id}.", remedy="Wait for it.")
        job, lease = claimed
        try:
            self.sink.prepare(claim_of(self.context, job.id, self.output.path), replace=claim)
        except TidemillError as exc:
            self.jobs.end_if_current(lease, JobState.FAILED, exc.to_json())
            raise
        # Limits and compute change no row: the new command's count, not those the job began with.
        spec = JobSpec.model_validate(job.spec)
        spec = spec.model_copy(update={"limits": self.spec.limits, "compute": self.spec.compute})
        return replace(job, spec=spec.model_dump(mode="json")), lease

    def _check_same(self, job: Job) -> None:
        differences = []
        if job.model_digest != self.model["digest"]:
            differences.append(
                f"the model is another one (sha256 {self.model['digest'][:12]}, not {job.model_digest[:12]})"
            )
        differences += spec_differences(JobSpec.model_validate(job.spec), self.spec)
        if job.plan is not None and job.state is not JobState.COMMITTING:
            differences += self._input_differences(job)
        if differences:
            raise OutputMismatch(
                f"{self.output.path} belongs to the unfinished {job.id}, and this command differs:"
                f" {'; '.join(differences[:6])}.",
                remedy=f"Go on with the old one by: tidemill resume {job.id}, or discard it with --restart.",
            )

    def _input_differences(self, job: Job) -> list[str]:
        assert job.plan is not None
        if self.spec.input.series is not None:
            # New files are for the next job; this one goes on with those of its plan.
            answer = self.context.executor.call(self.context.tasks.still_planned, {"staging": job.staging})
            return list(answer["changes"])
        answer = self._snapshot(job.staging)
        if answer["digest"] == job.plan["snapshot_digest"]:
            return []
        return answer["changes"] or ["the input's files come in another order"]

    def _snapshot(self, staging: str | None = None) -> dict[str, Any]:
        request = {"input": self.spec.input.model_dump(mode="json"), "staging": staging}
        return self.context.executor.call(self.context.tasks.snapshot, request)

    def _finished(self, state: OutputState) -> Outcome | None:
        """Up to date, or None if the output may be replaced or appended to. Raises OutputExists."""
        path, mode, manifest = self.output.path, self.output.mode, state.manifest
        if manifest is None:
            raise _not_ours(path)
        snapshot = self._snapshot()
        if not self.options.restart and _holds(manifest, self.spec, self.model["digest"], snapshot["digest"]):
            return _up_to_date(self.sink, self.output, manifest)
        if mode != "error":
            return None
        raise OutputExists(
            f"{path} holds the result of {manifest['job_id']}, and this command differs:"
            f" {'; '.join(self._manifest_differences(manifest, snapshot)) or 'it asks to start over'}.",
            remedy="Choose another output, or say --mode overwrite or --mode append.",
        )

    def _go_on_with_series(self, name: str, state: OutputState) -> tuple[Job, Lease]:
        """A job over what is new, if anything is. Raises NothingNew, OutputExists, OutputMismatch."""
        series = _part("series")
        series.find_new(self.context, _part("keys").person_here(self.context), self.spec)
        path, manifest = self.output.path, state.manifest
        if manifest is None and state.occupied and state.other_output is None:
            raise _not_ours(path)
        if manifest is not None and self.output.mode != "append":
            raise OutputExists(
                f"{path} holds the result of {manifest['job_id']}.",
                remedy="Say --mode append to add the predictions of the new files, or choose another output.",
            )
        before = (manifest or {}).get("increment")
        if before and before["series"] == name and not series.is_recorded(self.context, DEFAULT_TENANT, name):
            raise OutputMismatch(
                f"{path} was appended to by jobs of the series {name!r}, but this store has no record of them: every"
                " file would be scored again, and its rows would be there twice.",
                remedy="Set TIDEMILL_HOME to the folder that it was when they ran, or choose another output.",
            )
        return self._start(state.claim)

    def _manifest_differences(self, manifest: Mapping[str, Any], snapshot: Mapping[str, Any]) -> list[str]:
        differences = []
        if manifest["model"]["digest"] != self.model["digest"]:
            differences.append(f"the model is another one (sha256 {self.model['digest'][:12]})")
        differences += spec_differences(JobSpec.model_validate(manifest["spec"]), self.spec)
        before = manifest["snapshot"]
        if before["digest"] != snapshot["digest"]:
            differences.append(
                f"the input changed ({before['files']:,} files, {before['bytes']:,} bytes then;"
                f" {snapshot['files']:,} files, {snapshot['bytes']:,} bytes now)"
            )
        return differences

    def _start(self, seen: Claim | None) -> tuple[Job, Lease]:
        job_id = new_id("job")
        self.sink.prepare(claim_of(self.context, job_id, self.output.path), replace=seen)
        try:
            return self.jobs.submit_claimed(
                NewJob(
                    id=job_id,
                    name=self.spec.name or Path(self.output.path).name,
                    spec=self.spec.model_dump(mode="json"),
                    spec_digest=self.spec.digest(),
                    model_digest=self.model["digest"],
                    output=self.output.path,
                    staging=self.sink.staging(job_id),
                    model=Pin.from_json(_without_trust(self.model)) if "asked" in self.model else None,
                    foreground=True,
                    series=None if self.spec.input.series is None else self.spec.input.series.name,
                ),
                self.context.worker_id,
            )
        except BaseException:
            self.sink.discard(job_id)
            raise


def _not_ours(path: str) -> OutputExists:
    return OutputExists(
        f"{path} is there already and was not published by Tidemill.",
        remedy="Choose another output, or move it away.",
    )


def _without_trust(model: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in model.items() if name != "trusted"}


def spec_differences(before: JobSpec, now: JobSpec) -> list[str]:
    """What differs between two specs of things the result depends on, for people."""
    old, new = before.canonical(), now.canonical()
    return [f"{key} was {old.get(key)!r} and is {new.get(key)!r}" for key in new if old.get(key) != new.get(key)]


def resume(
    context: Context, job_id: str, observers: Sequence[Observer] = (), options: RunOptions | None = None
) -> Outcome:
    """Go on with an unfinished job here. Raises NotFound, OutputBusy, Refused."""
    job = context.store.jobs.get(job_id)
    if job.state in ENDED:
        raise Refused(
            f"{job.id} is {job.state.value.replace('_', ' ')}: there is nothing to go on with.",
            remedy="Start a new job with: tidemill run",
        )
    spec = JobSpec.model_validate(job.spec)
    if job.model is not None:
        # Its alias may point elsewhere by now.
        spec = spec.model_copy(update={"model": job.model.reference})
    return run(context, spec, observers, options)


def cancel(context: Context, job_id: str) -> Job:
    """Ask for the end of a job and of everything it left. A live holder ends it at its next heartbeat."""
    jobs = context.store.jobs
    job = jobs.wish(jobs.get(job_id).id, Want.CANCEL)
    if job.state in LEASED and job.state is not JobState.COMMITTING:
        claimed = jobs.claim(job.id, context.worker_id)
        if claimed is None:
            return job
        jobs.end_if_current(claimed[1], JobState.CANCELLED)
        job = jobs.get(job.id)
    if job.state is JobState.CANCELLED:
        context.open_sink(JobSpec.model_validate(job.spec)).discard(job.id)
    return job


def preview(context: Context, spec: JobSpec, options: RunOptions | None = None) -> dict[str, Any]:
    """What a run would do: schema match, first predictions, an estimate. Writes nothing."""
    check_executor(context, spec)
    spec = resolve(spec)
    model = identify(context, spec, (options or RunOptions()).ask_trust)
    with tempfile.TemporaryDirectory(prefix="tidemill-") as spool:
        request = {"brief": spec.brief().to_json(), "model": model, "spool": spool}
        answer = context.executor.call(
            context.tasks.preview, request, preload=(*context.compute.preload, *model["preload"])
        )
    return {**answer, "digest": model["digest"], "path": model["path"]}


def cost(context: Context, job: Job) -> dict[str, Any] | None:
    """What a job has cost so far: {"amount", "currency"}; None without a rate card."""
    if context.rates is None:
        return None
    amount = context.rates.cost(Usage(**job.usage))
    return {"amount": round(amount, 6), "currency": context.rates.currency}


def rejections(context: Context, job: Job, most: int = 20) -> list[dict[str, Any]]:
    """The first rejected rows of a job: file, row, stage, error, message."""
    found: list[dict[str, Any]] = []
    for receipt in context.store.ledger.receipts(job.id):
        found += [vars(row) for row in receipt.rejections]
        if len(found) >= most:
            break
    return found[:most]
