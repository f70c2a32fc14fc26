"""Accepting jobs: what a person asked for becomes a stored job that any worker can run.

Nothing slow happens here: the model is pinned, the input and the output are looked at, and the rest is
the worker's. With a registered model no child is started.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tidemill.domain.access import Action, Principal, is_from_elsewhere
from tidemill.domain.admission import Needs
from tidemill.domain.errors import (
    InvalidSpec,
    NotAllowed,
    NotFound,
    NotTrusted,
    OutputBusy,
    OutputExists,
    Refused,
    StoreUnusable,
    WrongState,
)
from tidemill.domain.ids import new_id
from tidemill.domain.input_list import LIST_MARK
from tidemill.domain.job import ENDED, Idempotency, Job, JobState, NewJob
from tidemill.domain.model import Pin, is_mlflow, split_reference
from tidemill.service import claims, control, jobs, mlflow, models, places, series, uploads
from tidemill.service.context import Context
from tidemill.service.secrets import refuse_credentials
from tidemill.service.stdin import STDIN
from tidemill.wire.spec import JobSpec, OutputSpec, invalid_words

UPLOAD = "upload:"
PREDICTIONS = "predictions"
IDENTIFY_SECONDS = 60.0

_CODE = re.compile(r".+:[^\W\d]\w*")


def submit(context: Context, who: Principal, spec: JobSpec, *, idempotency_key: str | None = None) -> tuple[Job, bool]:
    """Store the job; (job, whether it is new). Durable when it returns.

    The same key gives the same job, whatever has become of its input, model or output since. Raises
    KeyReused for a key that came with another spec; NotFound, NotAllowed, NotTrusted, InvalidSpec,
    OutputExists, OutputBusy.
    """
    return _submit(context, _Request(context=context, who=who, spec=spec), idempotency_key)


def new_job(context: Context, who: Principal, spec: JobSpec) -> NewJob:
    """What `submit` would store, for whoever stores it together with something else. Raises as `submit` does."""
    return _new_job(_Request(context=context, who=who, spec=spec))


def new_job_of_found(context: Context, who: Principal, spec: JobSpec) -> NewJob:
    """The same for whoever has looked and found something new for the job's series."""
    return _new_job(_Request(context=context, who=who, spec=spec, looked=True))


def check(context: Context, who: Principal, spec: JobSpec) -> None:
    """Refuse what would be refused whenever it is submitted: rights, the model, places. What comes and goes, as
    the input and what lies at the output, is not looked at. Raises as `submit` does."""
    request = _Request(context=context, who=who, spec=spec)
    _check_words(request)
    _pin(context, who, spec)
    for path in spec.input.path:
        _check_input_place(request, path)
    if spec.output is not None:
        places.check(context, who, spec.output.path, "output")
        jobs.check_executor(context, jobs.resolve(spec))


def retry(
    context: Context,
    who: Principal,
    job_id: str,
    *,
    output: OutputSpec | None = None,
    idempotency_key: str | None = None,
) -> tuple[Job, bool]:
    """A job over the rows that a finished one rejected, with the same model; (job, whether it is new).

    Raises WrongState, and as `submit` does.
    """
    parent = control.get(context, who, job_id)
    if parent.state is not JobState.SUCCEEDED_WITH_REJECTIONS:
        raise WrongState(
            f"{parent.id} is {words(parent.state)}: there are no rejected rows of a finished result to score again.",
            remedy="Retry a job that finished with rejected rows; go on with a failed one by resume.",
        )
    spec = JobSpec.model_validate(parent.spec)
    derived = spec.model_copy(
        update={
            "input": spec.input.model_copy(update={"rejected_of": parent.id}),
            "output": output,
            "priority": spec.priority if who.may(Action.PRIORITISE) else min(spec.priority, 0),
        }
    )
    request = _Request(context=context, who=who, spec=derived, parent=parent, pin=parent.model)
    return _submit(context, request, idempotency_key)


def clone(
    context: Context,
    who: Principal,
    job_id: str,
    changes: Mapping[str, Any],
    *,
    idempotency_key: str | None = None,
) -> tuple[Job, bool]:
    """A job by the words of another, with changes merged into them; null removes a word.

    (job, whether it is new). The model is looked up anew by the words that asked for it, and without a change of
    the output the copy's result is managed. Raises as `submit` does.
    """
    parent = control.get(context, who, job_id)
    spec = {**asked_spec(context, parent), "output": None}
    if not who.may(Action.PRIORITISE):
        spec["priority"] = min(int(spec["priority"]), 0)
    try:
        merged = JobSpec.model_validate(merge(spec, changes))
    except ValidationError as exc:
        raise invalid_words(exc) from exc
    return _submit(context, _Request(context=context, who=who, spec=merged, parent=parent), idempotency_key)


def asked_spec(context: Context, job: Job) -> dict[str, Any]:
    """The job's spec in the words of whoever submitted it, as far as they are kept: the model as it was
    asked for, uploads by their ids, and no output if the service chose it."""
    spec = dict(job.spec)
    spec["input"] = {**spec["input"], "path": [_asked_path(context, job, path) for path in spec["input"]["path"]]}
    if job.model is not None:
        spec["model"] = job.model.asked
    if job.managed:
        spec["output"] = None
    return spec


def _asked_path(context: Context, job: Job, path: str) -> str:
    folder = os.path.join(os.path.abspath(context.places.uploads), job.tenant)
    return UPLOAD + Path(path).parent.name if Path(path).is_relative_to(folder) else path


def merge(words_: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON merge patch (RFC 7396): objects are merged, other values replace, null removes."""
    merged = dict(words_)
    for name, value in changes.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            before = merged.get(name)
            merged[name] = merge(before if isinstance(before, Mapping) else {}, value)
        else:
            merged[name] = value
    return merged


def words(state: JobState) -> str:
    """A state for people."""
    return state.value.replace("_", " ")


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What somebody asked for, and what is known about it before."""

    context: Context
    who: Principal
    spec: JobSpec
    parent: Job | None = None
    pin: Pin | None = None
    """The model, when it is not to be looked up."""
    looked: bool = False
    """Whether it was looked already for something new."""

    @property
    def trusted_paths(self) -> Collection[str]:
        """Inputs that the parent was allowed to read."""
        return self.parent.spec["input"]["path"] if self.parent is not None else ()


def _submit(context: Context, request: _Request, idempotency_key: str | None = None) -> tuple[Job, bool]:
    promise = _promise(request, idempotency_key)
    try:
        job = _new_job(request)
    except StoreUnusable:
        raise
    except Refused as refusal:
        if promise is None:
            raise
        return _earlier(request, promise, refusal), False
    return context.store.jobs.submit(job, promise)


def _promise(request: _Request, key: str | None) -> Idempotency | None:
    if key is None:
        return None
    words_ = request.spec.model_dump(mode="json")
    if request.parent is not None:
        words_["parent"] = request.parent.id  # A copy is another job than one that is submitted in the same words.
    said = json.dumps(words_, sort_keys=True)
    return Idempotency(key=key, request_digest=hashlib.sha256(said.encode()).hexdigest())


def _earlier(request: _Request, promise: Idempotency, refusal: Refused) -> Job:
    """The job that this key made before; without one, the refusal. The store alone can tell, by trying."""
    context, who, spec = request.context, request.who, request.spec
    attempt = NewJob(
        id=new_id("job"),
        name="",
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest(),
        model_digest="",
        output="",
        staging="",
        tenant=who.tenant,
        owner=who.owner,
    )
    with context.store.transaction():
        job, is_new = context.store.jobs.submit(attempt, promise)
        if is_new:
            raise refusal  # Which undoes the attempt.
    return job


def _new_job(request: _Request) -> NewJob:
    context, who, asked = request.context, request.who, request.spec
    assert who.is_here or is_from_elsewhere(who.owner), "a worker must see that this job's places have bounds"
    _check_words(request)
    pin = request.pin or _pin(context, who, asked)
    job_id = new_id("job")
    managed = asked.output is None
    output = asked.output or OutputSpec(path=str(context.places.results.absolute() / job_id / PREDICTIONS))
    inputs = [_input_path(request, path) for path in asked.input.path]
    if not managed:
        places.check(context, who, output.path, "output")
    spec = jobs.resolve(
        asked.model_copy(update={"input": asked.input.model_copy(update={"path": inputs}), "output": output})
    )
    spec = spec.model_copy(update={"model": pin.path if pin.name is None else pin.asked})
    jobs.check_executor(context, spec)
    sink = context.open_sink(spec)
    assert spec.output is not None
    if not managed:
        _check_free(context, who, spec.output)
    holds = spec.input.series.name if spec.input.series is not None and spec.input.rejected_of is None else None
    if holds is not None and not request.looked:
        series.find_new(context, who, spec)
    return NewJob(
        id=job_id,
        name=asked.name or _name(pin, spec.output, managed=managed),
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest(),
        model_digest=pin.digest,
        output=spec.output.path,
        staging=sink.staging(job_id),
        priority=spec.priority,
        tenant=who.tenant,
        owner=who.owner,
        model=pin,
        needs=_needs(context, spec),
        parent_id=request.parent.id if request.parent is not None else None,
        managed=managed,
        series=holds,
    )


def _check_words(request: _Request) -> None:
    who, priority = request.who, request.spec.priority
    if priority > 0 and not who.may(Action.PRIORITISE):
        raise NotAllowed(
            f"A key with the role {who.role} may not put a job before others (priority {priority}).",
            remedy="Leave the priority at 0 or below, or ask an administrator.",
        )
    refuse_credentials(request.spec.model_dump(mode="json"))


def _name(pin: Pin, output: OutputSpec, *, managed: bool) -> str:
    return (pin.name or Path(pin.path).name) if managed else Path(output.path).name


def _needs(context: Context, spec: JobSpec) -> Needs:
    compute = spec.compute
    scorers = 1 if compute.scorers == "auto" else compute.scorers
    memory = 0 if compute.memory_per_scorer == "auto" else int(compute.memory_per_scorer) * scorers
    return Needs(cpus=scorers, memory_bytes=memory, gpus=compute.gpus)


def _pin(context: Context, who: Principal, spec: JobSpec) -> Pin:
    if split_reference(spec.model) is not None:
        return models.resolve(context, who, spec.model)
    if is_mlflow(spec.model):
        places.check_scheme(context, who, spec.model)
        mlflow.check_may(who, spec.model)
        pin = mlflow.pin(context, spec.model, spec.flavor)
    else:
        pin = _pin_of_path(context, who, spec)
    if pin.carries_code and not context.store.trust.is_trusted(pin.digest):
        raise NotTrusted(
            f"{spec.model} is a {pin.flavor} model (sha256 {pin.digest[:12]}): loading it runs code that it carries.",
            remedy="Register it with `tidemill models add`; if its origin can be trusted, an administrator says"
            " `tidemill models trust`.",
        )
    return pin


def _pin_of_path(context: Context, who: Principal, spec: JobSpec) -> Pin:
    _check_model_place(context, who, spec.model)
    facts = _IDENTIFIED.identify(context, spec.model, spec.flavor)
    return Pin(
        asked=spec.model,
        path=facts["path"],
        digest=facts["digest"],
        flavor=facts["flavor"],
        carries_code=facts["carries_code"],
        preload=tuple(facts["preload"]),
        size_bytes=facts["size_bytes"],
    )


def _check_model_place(context: Context, who: Principal, model: str) -> None:
    """A file that may be read, or code that the person at this machine may name."""
    if _CODE.fullmatch(model) and (not who.is_here or not os.path.exists(model)):
        if not who.is_here:
            raise NotAllowed(
                f"{model} names code on the service's machine, which only the person there may run.",
                remedy="Save the model to a file and register it with: tidemill models add",
            )
        return
    if not os.path.isabs(model):
        raise NotFound(
            f"There is no model {model!r}: it is no absolute path on the service's machine, and no NAME@ALIAS"
            " or NAME@VERSION of a registered model.",
            remedy="See the registered ones with: tidemill models list",
        )
    places.check(context, who, os.path.abspath(model), "model")
    places.check_there(model, "model")
    places.check_model_folder(context, who, model)


class _Identified:
    """What models are, remembered by what their files look like; a digest is checked at every load."""

    _MOST = 256

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._facts: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()

    def identify(self, context: Context, model: str, flavor: str | None) -> dict[str, Any]:
        """The answer of `engine.models.identify`, in a child if need be."""
        key = self._key(model, flavor)
        with self._lock:
            known = self._facts.get(key) if key else None
        if known is not None:
            return known
        path = model if _CODE.fullmatch(model) and not os.path.exists(model) else os.path.abspath(model)
        facts = context.executor.call(
            context.entries.identify,
            {"path": path, "flavor": flavor},
            timeout_seconds=IDENTIFY_SECONDS,
        )
        if key is not None and key == self._key(model, flavor):
            with self._lock:
                self._facts[key] = facts
                if len(self._facts) > self._MOST:
                    self._facts.popitem(last=False)
        return facts

    @staticmethod
    def _key(model: str, flavor: str | None) -> tuple[Any, ...] | None:
        """Only of a file: of a folder or of code it would take as long as to look."""
        if not os.path.isfile(model):
            return None
        seen = os.stat(model)
        return (
            os.path.abspath(model), flavor, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, seen.st_dev
        )  # fmt: skip


_IDENTIFIED = _Identified()


def _input_path(request: _Request, path: str) -> str:
    """The absolute path of one input. Raises NotFound, NotAllowed."""
    _check_input_place(request, path)
    if path.startswith(UPLOAD):
        return str(uploads.path_of(request.context, request.who, path.removeprefix(UPLOAD)))
    places.check_there(places.fixed_part(path), "input")
    return path


def _check_input_place(request: _Request, path: str) -> None:
    if path == STDIN or path.startswith(LIST_MARK):
        raise InvalidSpec(
            f"The input {path!r} is for `tidemill run`: a service reads neither standard input nor lists of paths.",
            remedy="Name the files themselves, folders or patterns.",
        )
    if path.startswith(UPLOAD):
        if request.spec.input.series is not None:
            raise InvalidSpec(
                f"{path} cannot be an input of a series: an upload is one file, and no new ones come to it.",
                remedy="Leave the series out, or name a folder or pattern of the service's machine.",
            )
    elif path not in request.trusted_paths:
        places.check(request.context, request.who, path, "input")


def _check_free(context: Context, who: Principal, output: OutputSpec) -> None:
    """Refuse an output that is certain to fail later. Who writes it still takes it under its lock."""
    before = context.store.jobs.find_by_output(output.path)
    if before is not None and before.state not in ENDED:
        name = before.id if before.tenant == who.tenant else "another job"
        raise OutputBusy(
            f"{output.path} belongs to {name}, which is {words(before.state)}.",
            remedy="Choose another output, wait for that job, or cancel it.",
        )
    place = JobSpec.model_validate({"model": "-", "input": {"path": ["-"]}}).model_copy(update={"output": output})
    state = context.open_sink(place).look()
    # A job that has ended is about to give it up: whoever writes next makes sure of that.
    given_up = before is not None and state.claim is not None and state.claim.job_id == before.id
    if state.claim is not None and not given_up and (state.claim_live or state.claim.store != context.store.url):
        raise OutputBusy(
            f"{output.path} is held by process {state.claim.pid} on {state.claim.host}.",
            remedy="Choose another output, or wait for that process.",
        )
    claims.check_alone(state, output.path)
    if output.mode == "error" and (state.occupied or state.manifest is not None):
        raise OutputExists(
            f"{output.path} is there already.",
            remedy="Choose another output, or say mode: overwrite or append.",
        )
