"""Children of one process for all tests that run here: to start that process takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

from tidemill.bootstrap.preloads import JOB_PRELOAD
from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.executors.local import LocalExecutor
from tidemill.service.context import Context


@cache
def executor() -> LocalExecutor:
    """It lives as long as this process."""
    return LocalExecutor(preload=JOB_PRELOAD, eager=False)


@contextmanager
def opened_here(settings: Settings | None = None, **_: object) -> Iterator[Context]:
    """As `tidemill.bootstrap.wiring.opened`; its children end with the block, what they are forked from stays."""
    with opened(settings, children=False) as context:
        session = executor().session(context.worker_id)
        try:
            yield replace(context, executor=session)
        finally:
            session.close()
