"""`tidemill worker`."""

from __future__ import annotations

import json as json_library
from typing import Annotated

import typer

from tidemill.bootstrap.worker import run_worker
from tidemill.cli.output import print_line
from tidemill.config import Settings
from tidemill.service.context import Context
from tidemill.service.work import Pool
from tidemill.telemetry import logs


def worker(
    jobs: Annotated[int | None, typer.Option(min=1, help="So many jobs at once; by default one for each core.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Log JSON, one object a line.")] = False,
) -> None:
    """Run the jobs of a store: one more worker beside `tidemill serve`, here or, on Postgres, elsewhere.

    SIGTERM or Ctrl-C hands over what runs to other workers; a second one ends at once.

      TIDEMILL_STORE=postgresql://tidemill@db/tidemill tidemill worker --jobs 4
    """
    logs.configure(as_json=json)
    settings = Settings() if jobs is None else Settings(jobs_at_once=jobs)

    def ready(context: Context, pool: Pool) -> None:
        facts = {"worker": context.worker_id, "store": context.store.url, "jobs_at_once": pool.options.jobs_at_once}
        if json:
            print_line(json_library.dumps(facts))
        else:
            print_line(f"{facts['worker']} takes jobs of {facts['store']}, {facts['jobs_at_once']} at once")

    run_worker(settings, ready)
