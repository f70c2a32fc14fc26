"""What every use case works with. Wired by `bootstrap`, passed as the first argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidemill.engine.worker import Compute, Entries, Worker
from tidemill.ports.executor import Executor
from tidemill.ports.observer import Observer
from tidemill.ports.sink import Sink
from tidemill.ports.store import Store
from tidemill.wire.spec import JobSpec


@dataclass(frozen=True, kw_only=True)
class TaskEntries:
    """Entry points of children that only the use cases call."""

    snapshot: str
    preview: str
    head: str
    verify: str
    compare: str


@dataclass(frozen=True, kw_only=True)
class Context:
    """One process's view of Tidemill: a store, children, and how to reach outputs."""

    store: Store
    executor: Executor
    open_sink: Callable[[JobSpec], Sink]
    entries: Entries
    tasks: TaskEntries
    compute: Compute
    worker_id: str
    worker_lock: str
    """The file that this process keeps locked while it lives."""
    host: str
    user: str

    def worker(self, observers: Sequence[Observer] = (), *, allow_upgrade: bool = False) -> Worker:
        """A worker of this process."""
        return Worker(
            id=self.worker_id,
            store=self.store,
            executor=self.executor,
            open_sink=self.open_sink,
            entries=self.entries,
            compute=self.compute,
            observers=observers,
            allow_upgrade=allow_upgrade,
        )
