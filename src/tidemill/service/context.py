"""What every use case works with. Wired by `bootstrap`, passed as the first argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.domain.cost import RateCard
from tidemill.domain.login import Logins
from tidemill.engine.layout import Compute
from tidemill.engine.worker import Entries, Worker
from tidemill.ports.executor import Executor
from tidemill.ports.observer import Observer
from tidemill.ports.sink import Sink
from tidemill.ports.store import Store
from tidemill.service.provider import Provider
from tidemill.service.secrets import Secrets
from tidemill.service.signing import SigningKey
from tidemill.wire.spec import JobSpec


@dataclass(frozen=True, kw_only=True)
class TaskEntries:
    """Entry points of children that only the use cases call."""

    facts: str
    """Whether model or input changed: {"model", "input"} -> {"model", "snapshot"}, their digests."""
    snapshot: str
    still_planned: str
    """Whether files of a plan changed: {"staging"} -> {"changes"}."""
    preview: str
    head: str
    look: str
    """What an input file holds: {"path", "rows", "spool"} -> {"format", "columns", "types", "rows", ...}."""
    verify: str
    compare: str
    fetch_mlflow: str
    """Files of a model on an MLflow server: {"uri", "folder", "credentials" (variables)} -> {"path", "origin"}."""
    inspect: str
    """What a model takes and gives: {"model"} -> {"signature"}."""
    sample: str
    trial: str
    """Rows to check a model with, and one way to predict them."""
    read_result: str
    """Finished results: {"ask": "head", "look_up", "counts" or "export", "members", ...}."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Folders that the service keeps things in. They may not be there yet."""

    models: Path
    results: Path
    uploads: Path
    stdin: Path
    logs: Path
    environments: Path
    kernels: Path


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the operator decided. Days are how long things are kept."""

    data_roots: tuple[Path, ...] | None
    """Where jobs that come with a key may read and write, beside uploads and managed results."""
    kept_folders: tuple[Path, ...]
    """The service's own folders, which nobody with a key may name, even inside data roots."""
    result_days: float
    job_days: float
    staging_days: float
    upload_days: float
    unfinished_upload_days: float
    log_days: float
    environment_days: float
    audit_days: float
    delivery_days: float
    firing_days: float
    max_upload_bytes: int
    upload_quota_bytes: int | None
    """Of one tenant; None: no bound."""
    requests_per_minute: int
    model_schemes: tuple[str, ...]
    """What addresses of models may begin with that come with a key."""
    model_hosts: tuple[str, ...] = ()
    """Private hosts that models may be fetched from by those who come with a key."""
    webhook_hosts: tuple[str, ...] = ()
    """Private hosts that webhooks may lead to."""
    logins: Logins | None = None
    """None: people do not log in; whoever has no key is let in only at the machine."""
    public_url: str | None = None
    """Where people reach the pages, without a slash at its end."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """One process's view of Tidemill: a store, children, and how to reach outputs."""

    joined: Callable[[], tuple[Store, str]]
    """Opens the store at its first call, with this process among its workers: the store, and `worker_lock`. Raises
    StoreUnusable, StoreUnavailable, MissingExtra."""
    executor: Executor
    fresh_executor: Callable[[], Executor]
    """Makes one whose children share nothing with those of `executor`, to be closed after use."""
    open_sink: Callable[[JobSpec], Sink]
    entries: Entries
    tasks: TaskEntries
    compute: Compute
    worker_id: str
    host: str
    user: str
    places: Places
    policy: Policy
    secrets: Secrets
    rates: RateCard | None
    """None: nothing is priced."""
    signing: SigningKey
    provider: Provider | None = None
    """Where people log in, if they do that at one."""

    @property
    def store(self) -> Store:
        """Opened at first use: what children do meanwhile need not wait."""
        return self.joined()[0]

    @property
    def worker_lock(self) -> str:
        """The file that this process keeps locked while it lives."""
        return self.joined()[1]

    def worker(
        self,
        observers: Sequence[Observer] = (),
        *,
        allow_upgrade: bool = False,
        identified: Mapping[str, Any] | None = None,
    ) -> Worker:
        """A worker of this process."""
        return Worker(
            id=self.worker_id,
            store=self.store,
            executor=self.executor,
            open_sink=self.open_sink,
            entries=self.entries,
            compute=self.compute,
            environments=self.places.environments,
            kernels=self.places.kernels,
            observers=observers,
            allow_upgrade=allow_upgrade,
            identified=identified,
        )
