"""What is said when a job was queued."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidemill.cli.backend import Backend
from tidemill.cli.output import escape, people, print_json, print_line
from tidemill.cli.progress import waiting_text
from tidemill.domain.admission import Reason

if TYPE_CHECKING:
    from tidemill.wire.api import JobStatus


def print_submitted(backend: Backend, status: JobStatus, *, as_json: bool = False) -> None:
    """The job's id on stdout, and for people where it stands and how to go on."""
    if as_json:
        print_json(status.model_dump(mode="json"))
        return
    print_line(status.id)
    people.print(f"{status.state.replace('_', ' ')}: {escape(_standing(backend, status))}")
    if backend.where is not None:
        people.print(f"  {escape(location(backend.where, status))}", markup=True)
    people.print(f"[dim]follow it:[/] tidemill jobs wait {status.id}{_server(backend)}")
    if status.output is None:
        people.print(f"[dim]then:[/]      tidemill results download {status.id} -o scores.parquet{_server(backend)}")


def location(url: str, status: JobStatus) -> str:
    """The job's address on its service."""
    return f"{url}{status.links['self']}" if "self" in status.links else url


def _standing(backend: Backend, status: JobStatus) -> str:
    if status.queue is None:
        return "it was submitted before" if status.state != "queued" else "it waits for a worker"
    if status.queue.reason == Reason.NO_WORKER:
        if backend.where is None:
            return "no worker is alive: start one with `tidemill serve` or `tidemill worker`"
        return "the service has no worker alive; its operator starts one with `tidemill worker`"
    return waiting_text(status.queue)


def _server(backend: Backend) -> str:
    return f" --server {backend.where}" if backend.where is not None else ""
