"""Settings to a wired context: the only place that picks members."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tidemill.config import Settings, usable_memory_bytes
from tidemill.domain.ids import new_id
from tidemill.engine.worker import Compute, Entries
from tidemill.executors.local import LocalExecutor
from tidemill.ports.sink import Sink
from tidemill.service.context import Context, TaskEntries
from tidemill.sinks.local import LocalSink
from tidemill.stores.sql.store import open_store
from tidemill.wire.spec import JobSpec

TASKS = "tidemill.bootstrap.tasks"

PRELOAD = (
    "numpy",
    "pyarrow",
    "pyarrow.compute",
    "pyarrow.parquet",
    TASKS,
    "tidemill.bootstrap.scorer",
)

SUFFIXES = {"parquet": ".parquet", "csv": ".csv", "jsonl": ".jsonl", "arrow": ".arrow"}
COMPRESSION_SUFFIXES = {"gzip": ".gz", "zstd": ".zst"}


def open_sink(spec: JobSpec) -> Sink:
    """The sink for a resolved spec's output."""
    assert spec.output is not None
    options = spec.output.options
    suffix = SUFFIXES.get(spec.output.format, ".parquet")
    if spec.output.format in ("csv", "jsonl"):
        suffix += COMPRESSION_SUFFIXES.get(str(options.get("compression")), "")
    return LocalSink(
        spec.output.path, mode=spec.output.mode, suffix=suffix, single_file=bool(options.get("single_file"))
    )


@contextmanager
def opened(settings: Settings | None = None, *, children: bool = True) -> Iterator[Context]:
    """A context on this machine; its children and connections end with the block.

    Use cases that only ask the store say `children=False`: nothing is started before it is needed.
    """
    settings = settings or Settings()
    executor = LocalExecutor(preload=PRELOAD, eager=children)
    try:
        store = open_store(
            settings.home, lease_seconds=settings.lease_seconds, heartbeat_seconds=settings.heartbeat_seconds
        )
        try:
            worker_id = new_id("worker")
            yield Context(
                store=store,
                executor=executor,
                open_sink=open_sink,
                entries=Entries(
                    identify=f"{TASKS}:identify",
                    versions=f"{TASKS}:versions",
                    plan=f"{TASKS}:plan",
                    assemble=f"{TASKS}:assemble",
                    scorer="tidemill.bootstrap.scorer:main",
                ),
                tasks=TaskEntries(
                    snapshot=f"{TASKS}:snapshot",
                    preview=f"{TASKS}:show",
                    head=f"{TASKS}:head",
                    verify=f"{TASKS}:verify",
                    compare=f"{TASKS}:compare",
                ),
                compute=Compute(
                    cores=settings.cores,
                    memory_bytes=usable_memory_bytes(settings.memory_share),
                    stall_seconds=settings.stall_seconds,
                    preload=PRELOAD,
                ),
                worker_id=worker_id,
                worker_lock=store.workers.register(worker_id),
                host=socket.gethostname(),
                user=_user(),
            )
        finally:
            store.close()
    finally:
        executor.close()


def _user() -> str:
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return str(os.getuid())
