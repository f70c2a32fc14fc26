"""`tidemill worker`: a pool of jobs, until somebody ends it; and the same pool beside a server."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings, usable_memory_bytes
from tidemill.domain.admission import Needs
from tidemill.ports.observer import Observer
from tidemill.service.context import Context
from tidemill.service.work import Pool, PoolOptions

LOOK_SECONDS = 1.0
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


def pool_options(settings: Settings) -> PoolOptions:
    """What this machine gives, by the settings. Whoever asks for more jobs than cores gets them."""
    at_once = settings.jobs_at_once or settings.cores
    gpus = _gpus(settings.gpus)
    return PoolOptions(
        jobs_at_once=at_once,
        host=Needs(
            cpus=max(settings.cores, at_once),
            memory_bytes=usable_memory_bytes(settings.memory_share),
            gpus=len(gpus or ()),
        ),
        gpus=gpus,
        drain_seconds=settings.drain_seconds,
    )


def _gpus(most: int) -> tuple[str, ...] | None:
    """Names of the GPUs that jobs may have: of those that whoever started this process lets it see. None: all."""
    if most == 0:
        return None
    seen = os.environ.get(VISIBLE_GPUS)
    names = [str(number) for number in range(most)] if seen is None else [name for name in seen.split(",") if name]
    return tuple(names[:most])


def start_pool(context: Context, settings: Settings, observers: Sequence[Observer] = ()) -> Pool:
    """A pool that takes jobs from now on. End it with `drain` and `join`, or `stop`, before the context."""
    pool = Pool(context, pool_options(settings), observers)
    pool.start()
    return pool


def run_worker(settings: Settings, ready: Callable[[Context, Pool], None], observers: Sequence[Observer] = ()) -> None:
    """Take jobs until SIGTERM or Ctrl-C, then hand over what runs; a second one ends at once.

    For the main thread. `ready` is called once jobs are taken. Raises StoreUnusable.
    """
    with opened(settings, warm=True) as context:
        pool = start_pool(context, settings, observers)
        with _ended_by_signals(pool):
            ready(context, pool)
            while not pool.join(LOOK_SECONDS):
                pass


@contextmanager
def _ended_by_signals(pool: Pool) -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        if pool.draining:
            pool.stop()
        else:
            pool.drain()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
