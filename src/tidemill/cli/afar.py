"""`tidemill run --server`: a service scores, and the result is published here as if it had been scored here.

Whoever looks at the output sees what a local run would have left: data, rejected rows and manifest, all
or nothing, by the same sink.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.markup import escape

from tidemill.bootstrap.wiring import open_sink
from tidemill.cli.backend import Backend
from tidemill.cli.output import people
from tidemill.cli.progress import ProgressView
from tidemill.cli.summary import Ending
from tidemill.domain.errors import InvalidSpec, OutputBusy, OutputExists, TidemillError
from tidemill.domain.job import FINISHED, JobState
from tidemill.domain.receipt import Part, PartKind
from tidemill.durable.locks import FileLock
from tidemill.ports.sink import Claim, Sink, StagedFile
from tidemill.service import claims, outputs
from tidemill.wire.api import RESULT_SUFFIXES, JobStatus, ResultInfo
from tidemill.wire.spec import JobSpec, OutputSpec


def run(backend: Backend, spec: JobSpec, view: ProgressView) -> Ending:
    """Send the input, wait, fetch the result to the spec's output. Raises Refused kinds before anything is sent."""
    started = time.monotonic()
    output = _checked(spec)
    sink = open_sink(spec.model_copy(update={"output": output}))
    _check_free(sink, output, str(backend.where))
    status = backend.jobs_submit(spec.model_copy(update={"output": None}), moved=view.sent)
    view.submitted(status.id)
    with _told_how_to_go_on(backend, status.id):
        status = backend.jobs_wait(status.id, tell=view.status)
        manifest: Mapping[str, Any] | None = None
        if JobState(status.state) in FINISHED:
            manifest = _Delivery(backend, status, sink, output).fetch(view)
    return _ending(backend, status, manifest, time.monotonic() - started)


def _checked(spec: JobSpec) -> OutputSpec:
    """The output with everything that its name says made explicit."""
    if spec.output is None:
        raise InvalidSpec(
            "A preview is made on this machine, not by a service.",
            remedy="Say where the result goes with -o, or preview here with --server local.",
        )
    if spec.input.series is not None:
        raise InvalidSpec(
            "A job of a series scores files where they are, and a service is sent copies of those of this machine.",
            remedy="Submit it with paths of the service's machine: tidemill submit; or work here with --server local.",
        )
    output = outputs.resolve(spec.output)
    if output.mode == "append":
        raise InvalidSpec(
            "What a service scored is not appended to an output of this machine.",
            remedy="Choose another output, or --mode overwrite.",
        )
    if output.format not in RESULT_SUFFIXES:
        raise InvalidSpec(
            f"A service does not hand out results as {output.format}.",
            remedy=f"Choose one of: {', '.join(RESULT_SUFFIXES)}.",
        )
    others = {name: value for name, value in output.options.items() if name != "single_file"}
    if others:
        raise InvalidSpec(
            f"The result of a service comes without {', '.join(others)}.",
            remedy="Choose a plain .parquet, .csv, .jsonl or .arrow output, or a folder.",
        )
    return output


def _check_free(sink: Sink, output: OutputSpec, where: str) -> None:
    state = sink.look()
    claims.check_alone(state, output.path)
    if output.mode == "error" and (state.occupied or state.manifest is not None):
        raise OutputExists(f"{output.path} is there already.", remedy="Choose another output, or say --mode overwrite.")
    if state.occupied and state.manifest is None:
        raise OutputExists(
            f"{output.path} is there already and was not published by Tidemill.",
            remedy="Choose another output, or move it away.",
        )
    if state.claim is not None and (state.claim_live or state.claim.store != where):
        raise OutputBusy(
            f"{output.path} is held by {state.claim.job_id} (process {state.claim.pid} on {state.claim.host}).",
            remedy="Wait for it, go on with it or cancel it; or choose another output.",
        )


class _Delivery:
    """A finished result on its way from the service to the output."""

    def __init__(self, backend: Backend, status: JobStatus, sink: Sink, output: OutputSpec) -> None:
        self._backend, self._status, self._sink, self._output = backend, status, sink, output
        self._single = bool(output.options.get("single_file"))
        self._suffix = f".{output.format}"

    def fetch(self, view: ProgressView) -> dict[str, Any]:
        """Download, check and publish; the manifest of what lies here now."""
        job_id = self._status.id
        with tempfile.TemporaryDirectory(prefix="tidemill-") as folder, FileLock(os.path.join(folder, "lock")) as lock:
            lock.try_lock()
            self._sink.prepare(self._claim(lock.path), replace=self._sink.look().claim)
            try:
                info = self._backend.results_info(job_id)
                files = self._sink.assemble(job_id, [(0, part) for part in self._parts(info, view)])
                manifest = self._manifest(info, files)
                self._sink.publish(job_id, manifest, self._sink.journal(job_id), lambda: True)
            except BaseException:
                self._sink.discard(job_id)
                raise
            self._sink.finish(job_id)
        return manifest

    def _claim(self, lock: str) -> Claim:
        return Claim(
            job_id=self._status.id,
            store=str(self._backend.where),
            host=socket.gethostname(),
            pid=os.getpid(),
            worker_lock=lock,
            output=self._output.path,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _parts(self, info: ResultInfo, view: ProgressView) -> Iterator[Part]:
        counts = info.manifest["counts"]
        yield self._part("predictions", counts["predicted"], view)
        if counts["rejected"]:
            yield self._part("rejected", counts["rejected"], view)

    def _part(self, kind: PartKind, rows: int, view: ProgressView) -> Part:
        base = "data" if kind == "predictions" else kind
        name = f"out/{base}{self._suffix}" if self._single else f"parts/{kind}{self._suffix}"
        path = Path(self._sink.staging(self._status.id)) / name
        self._backend.results_download(
            self._status.id, path, form=self._output.format, rejected=kind == "rejected", moved=view.fetched
        )
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Part(kind=kind, name=name, rows=rows, size_bytes=path.stat().st_size, sha256=sha256)

    def _manifest(self, info: ResultInfo, files: Sequence[StagedFile]) -> dict[str, Any]:
        """The service's own, but of the files that lie here."""
        output = self._output.model_dump(mode="json")
        return {
            **info.manifest,
            "output": self._output.path,
            "format": self._output.format,
            "mode": self._output.mode,
            "spec": {**info.manifest["spec"], "output": output},
            "service": self._backend.where,
            "appended_to": [],
            "files": [vars(file) for file in files],
        }


@contextmanager
def _told_how_to_go_on(backend: Backend, job_id: str) -> Iterator[None]:
    """The job does not end because this command does: say so, whatever went wrong here."""
    try:
        yield
    except (TidemillError, KeyboardInterrupt):
        there = f"{job_id} --server {backend.where}"
        people.print(f"[bold]{job_id}[/] stays with the service:", highlight=False)
        people.print(f"  tidemill jobs show {escape(there)}")
        people.print(f"  tidemill results download {escape(there)} -o FILE")
        people.print(f"  tidemill jobs cancel {escape(there)}")
        raise


def _ending(backend: Backend, status: JobStatus, manifest: Mapping[str, Any] | None, seconds: float) -> Ending:
    state = JobState(status.state)
    can_go_on = state in (JobState.PAUSED, JobState.FAILED)
    return Ending(
        job_id=status.id,
        state=state,
        job=status.model_dump(mode="json"),
        manifest=manifest,
        counts=status.counts.model_dump(),
        error=status.error.model_dump() if status.error else None,
        rejections=[row.model_dump() for row in status.rejections],
        seconds=seconds,
        cost=status.usage.cost.model_dump() if status.usage.cost else None,
        go_on=f"[bold]tidemill jobs resume {status.id} --server {backend.where}[/]" if can_go_on else None,
    )
