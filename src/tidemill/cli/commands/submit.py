"""`tidemill submit`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.backend import chosen
from tidemill.cli.commands.jobs import print_ended
from tidemill.cli.options import Server
from tidemill.cli.progress import ProgressView
from tidemill.cli.submitting import print_submitted
from tidemill.cli.words import takes_spec
from tidemill.wire.spec import JobSpec


@takes_spec
def submit(
    spec: JobSpec,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it ends, and show how far it is.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key with the same job makes one job, however often it is sent.")
    ] = None,
    allow_rejected: Annotated[
        bool, typer.Option("--allow-rejected", help="Exit with 0 even if rows were rejected (with --wait).")
    ] = False,
    server: Server = None,
    json: Annotated[bool, typer.Option("--json", help="Print the job as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Queue a job for a worker and print its id.

    Without [b]-o[/] the result is kept for a while: see `tidemill results`. A service is sent local input;
    a path of its own disk is written server:/path.

      tidemill submit churn@champion customers.parquet --server http://mill:8642
      tidemill submit job.yaml --wait
    """
    with chosen(server) as backend, ProgressView(quiet=quiet or json) as view:
        status = backend.jobs_submit(spec, idempotency_key=idempotency_key, moved=view.sent)
        if not (wait and json):
            print_submitted(backend, status, as_json=json)
        if not wait:
            return
        ended = backend.jobs_wait(status.id, tell=view.status)
        code = print_ended(backend, ended, as_json=json, allow_rejected=allow_rejected)
    raise typer.Exit(code)
