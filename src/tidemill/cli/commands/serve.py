"""`tidemill serve`: the API, the pages and a worker in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from fastapi import FastAPI

from tidemill.api.app import create_app
from tidemill.bootstrap import server
from tidemill.bootstrap.wiring import opened
from tidemill.bootstrap.worker import start_pool
from tidemill.cli.output import print_line
from tidemill.config import Settings
from tidemill.service.context import Context
from tidemill.service.scheduler import Scheduler
from tidemill.service.sender import Sender
from tidemill.service.work import Pool
from tidemill.telemetry import logs
from tidemill.telemetry.metrics import Metrics

LEAVE_SECONDS = 5.0
"""How long the sender of webhooks may take to end."""
HAND_OVER_SECONDS = 5.0
"""After chunks in flight had their time, so long may handing over the jobs take."""


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; others than loopback need API keys.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = None,
    jobs: Annotated[bool, typer.Option("--jobs/--no-jobs", help="Run jobs here, or leave them to workers.")] = True,
    schedules: Annotated[
        bool, typer.Option("--schedules/--no-schedules", help="Fire schedules; any number of servers may.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Log JSON, one object a line.")] = False,
) -> None:
    """Serve the REST API and the web pages, and run jobs, until Ctrl-C or SIGTERM.

    tidemill serve --port 8642
    """
    logs.configure(as_json=json)
    given: dict[str, Any] = {"host": host, "port": port}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    with opened(settings, warm=jobs) as context:
        server.check_reach(context, settings.host)
        _serve(context, settings, with_jobs=jobs, scheduler=Scheduler(context) if schedules else None)


def _serve(context: Context, settings: Settings, *, with_jobs: bool, scheduler: Scheduler | None) -> None:
    metrics = Metrics()
    app = create_app(context, max_body_bytes=settings.max_body_bytes, metrics=metrics)
    pools: list[Pool] = []
    sender = Sender(context, told=metrics.attempted)

    def ready(url: str) -> None:
        sender.start()
        if with_jobs:
            pools.append(start_pool(context, settings, [metrics]))
        if scheduler is not None:
            scheduler.start()
        print_line(f"Tidemill serves {url}")

    try:
        server.serve(
            app,
            server.Serving(
                host=settings.host,
                port=settings.port,
                grace_seconds=settings.drain_seconds,
                ready=ready,
                leaving=_leaving(app, pools, sender, settings.drain_seconds),
            ),
        )
    finally:
        if scheduler is not None:
            scheduler.stop(HAND_OVER_SECONDS)
        for pool in pools:
            pool.stop()
            pool.join(HAND_OVER_SECONDS)
        sender.stop()
        sender.join(LEAVE_SECONDS)


def _leaving(app: FastAPI, pools: list[Pool], sender: Sender, drain_seconds: float) -> Callable[[], None]:
    def leave() -> None:
        app.state.draining = True
        for pool in pools:
            pool.drain()
        for pool in pools:
            pool.join(drain_seconds + HAND_OVER_SECONDS)
        # Last, so that it tells of jobs that ended while the pool did.
        sender.stop()
        # Streams end before requests are waited for; until here they tell how the jobs are handed over.
        app.state.pulse.close()

    return leave
