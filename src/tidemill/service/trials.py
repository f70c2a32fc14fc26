"""Checking a model on its input: trials in children, held against what the model claims."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from tidemill.domain.errors import (
    ChildDied,
    InputUnreadable,
    InvalidSpec,
    ModelUnusable,
    NotFound,
    Stopped,
    TidemillError,
)
from tidemill.domain.model import Environment, split_reference
from tidemill.domain.signature import ModelInfo
from tidemill.domain.trials import REFERENCE, TRIALS, Findings, Sample, Trial
from tidemill.ports.executor import Executor
from tidemill.service import jobs, keys, models
from tidemill.service.context import Context
from tidemill.wire.spec import JobSpec

FEWEST_ROWS = 2
MOST_REASONS = 3

Tell = Callable[[str], None]


def check(
    context: Context, spec: JobSpec, *, rows: int, ask_trust: jobs.AskTrust, tell: Tell = lambda label: None
) -> Findings:
    """Predict at most so many rows of the input in all the ways that a job might, and compare. Writes nothing.

    Of the spec count model, input, features, schema and predict. `tell` hears what is done next. Raises what a job
    with these words would before its first row, and InvalidSpec if too few rows could be predicted; whatever the
    model does after that, it is in the findings.
    """
    spec = jobs.resolve(_registered(context, spec)).model_copy(update={"keep": "none", "id": [], "output": None})
    model = jobs.identify(context, spec, ask_trust)
    environment = model.get("environment")
    python = models.interpreter(context, None if environment is None else Environment(**environment))
    with tempfile.TemporaryDirectory(prefix="tidemill-") as folder:
        bench = _Bench(context, spec, model, python, folder)
        tell("reading the sample")
        drawn = bench.sample(rows)
        info = ModelInfo.from_json(drawn["info"])
        sample = Sample(**{name: drawn[name] for name in ("files", "files_read", "rows", "rejected", "rejections")})
        _check_enough(sample)
        trials = []
        for name, label in TRIALS.items():
            tell(label)
            trial, told = bench.trial(name, drawn["info"])
            trials.append(trial)
            if name == REFERENCE:
                sample = _without(sample, told)
                if trial.broke:
                    break
                _check_enough(sample)
    return Findings(
        model=model.get("asked", spec.model), digest=model["digest"], info=info, sample=sample, trials=tuple(trials)
    )


def _registered(context: Context, spec: JobSpec) -> JobSpec:
    """A bare name means the newest version, as in the other commands about models, unless a file is called so."""
    if split_reference(spec.model) is not None or os.path.exists(spec.model):
        return spec
    reference = f"{spec.model}@{models.LATEST}"
    if split_reference(reference) is None:
        return spec
    try:
        models.get(context, keys.person_here(context), reference)
    except NotFound:
        return spec
    return spec.model_copy(update={"model": reference})


def _check_enough(sample: Sample) -> None:
    if sample.rows >= FEWEST_ROWS:
        return
    why = f" The first of {sample.rejected:,} rejected rows: {_reason(sample.rejections[0])}" if sample.rejected else ""
    raise InvalidSpec(
        f"A check needs {FEWEST_ROWS} rows or more that can be predicted; this input gave {sample.rows}.{why}",
        remedy="Give an input that fits the model; the same words after `tidemill run` show a preview.",
    )


def _reason(rejection: Mapping[str, Any]) -> str:
    return f"{rejection['file']}, row {rejection['row']:,} ({rejection['stage']}): {rejection['message']}."


def _without(sample: Sample, told: Mapping[str, Any]) -> Sample:
    """The sample without the rows that the model rejected."""
    return replace(
        sample,
        rows=told.get("rows", sample.rows),
        rejected=sample.rejected + told.get("rejected", 0),
        rejections=(*sample.rejections, *told.get("rejections", ()))[:MOST_REASONS],
    )


class _Bench:
    """Children that sample and try one model."""

    def __init__(
        self, context: Context, spec: JobSpec, model: Mapping[str, Any], python: str | None, folder: str
    ) -> None:
        self.context, self.spec, self.model, self.python, self.folder = context, spec, model, python, folder

    def sample(self, rows: int) -> dict[str, Any]:
        """What `engine.sampling.sample` returns."""
        request = {
            "brief": self.spec.brief().to_json(),
            "model": dict(self.model),
            "rows": rows,
            "folder": self.folder,
        }
        told: list[Mapping[str, Any]] = []
        try:
            return self._call(self.context.executor, self.context.tasks.sample, request, on_progress=told.append)
        except ChildDied as exc:
            if told:
                raise InputUnreadable(
                    f"Reading {', '.join(self.spec.input.path)} ended the process that read it. {exc.message}",
                    remedy="Find the file at fault by checking them one by one, and write it again.",
                ) from exc
            raise ModelUnusable(
                f"{self.spec.model} cannot be loaded. {exc.message}",
                remedy=exc.remedy or "Save the model again; it may be damaged.",
            ) from exc

    def trial(self, name: str, info: Mapping[str, Any]) -> tuple[Trial, dict[str, Any]]:
        """How the trial came out, and what else its child told."""
        request = {
            "name": name,
            "model": dict(self.model),
            "info": dict(info),
            "predict": self.spec.predict.model_dump(),
            "folder": self.folder,
        }
        watch = _Watch(self.context.compute.stall_seconds)
        try:
            with self._executor(name) as executor:
                told = self._call(
                    executor, self.context.tasks.trial, request, on_progress=watch.hear, should_stop=watch.is_over
                )
        except Stopped:
            return Trial(name=name, answer="lost", problem=watch.problem), {}
        except ChildDied as exc:
            cause = exc.message.partition(" was lost: ")[2] or exc.message
            return Trial(name=name, answer="lost", problem=f"its process was {cause}"), {}
        except TidemillError as exc:
            return Trial(name=name, answer="failed", problem=str(exc)), {}
        return Trial.from_json(told["trial"]), told

    @contextmanager
    def _executor(self, name: str) -> Iterator[Executor]:
        """Children are forked from one process, and share what that drew by chance: Python's order of hashes, the
        state of random numbers. Only another interpreter has others."""
        if name != "fresh":
            yield self.context.executor
            return
        with closing(self.context.fresh_executor()) as executor:
            yield executor

    def _call(self, executor: Executor, entry: str, request: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        preload = tuple(self.model["preload"])
        if executor is self.context.executor:
            preload = (*self.context.compute.preload, *preload)
        return executor.call(
            entry,
            request,
            preload=preload,
            python=self.python,
            memory_bytes=self.context.compute.memory_bytes,
            **options,
        )


class _Watch:
    """When a child has hung: loading may take minutes, a call only so long as in a job."""

    def __init__(self, stall_seconds: float) -> None:
        self._stall_seconds, self._limit = stall_seconds, models.LOAD_SECONDS
        self._heard_at = time.monotonic()

    def hear(self, told: Mapping[str, Any]) -> None:
        self._heard_at, self._limit = time.monotonic(), self._stall_seconds

    def is_over(self) -> bool:
        return time.monotonic() - self._heard_at > self._limit

    @property
    def problem(self) -> str:
        return (
            f"it hung and was killed: nothing came for {self._limit:g} s"
            " (a model that is only slow needs fewer --rows, or a larger TIDEMILL_STALL_SECONDS)"
        )
