"""A service without workers, and jobs that are brought to a state by the store's own words."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.homes import furnish
from tidemill.api.app import create_app
from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.access import DEFAULT_TENANT, Principal, Role
from tidemill.domain.job import Job, JobState, Lease
from tidemill.domain.model import ModelVersion
from tidemill.domain.plan import InputFile
from tidemill.service import keys, submission
from tidemill.service.context import Context
from tidemill.testing.store import new_plan, new_receipt
from tidemill.wire.api import AddKey
from tidemill.wire.spec import JobSpec

LOCAL = ("127.0.0.1", 50_000)


class House:
    """One service on a store of its own."""

    def __init__(self, context: Context, folder: Path) -> None:
        self.context, self.folder = context, folder
        self.here = Principal(name="local")
        self.input = folder / "data" / "in.parquet"
        self.input.parent.mkdir(exist_ok=True)
        self.input.write_bytes(b"PAR1")

    # -- people

    def key(self, role: Role = Role.OPERATOR, tenant: str = DEFAULT_TENANT, **words: Any) -> tuple[Principal, str]:
        """Somebody with a key, and the key."""
        wanted = AddKey(name=f"{tenant}-{role.value}", role=role.value, tenant=tenant, **words)
        made, text = keys.add(self.context, self.here, wanted)
        return keys.principal(made), text

    # -- things

    def model(self, name: str = "churn", tenant: str = DEFAULT_TENANT, *, alias: str | None = None) -> ModelVersion:
        """A registered model that carries no code."""
        count = len(list(self.context.store.models.paths_in_use()))
        version = self.context.store.models.add_version(
            ModelVersion(
                tenant=tenant,
                name=name,
                version=0,
                digest=f"{count + 1:064x}",
                flavor="lightgbm",
                carries_code=False,
                preload=("lightgbm",),
                path=str(self.folder / "models" / name / "model.txt"),
                size_bytes=1234,
                origin="sent",
                signature=None,
                created_at=datetime.now(UTC),
                created_by="tests",
            )
        )
        if alias is not None:
            self.context.store.models.move_alias(tenant, name, alias, version.version)
        return version

    def spec(self, model: str = "churn@1", **words: Any) -> JobSpec:
        return JobSpec.model_validate({"model": model, "input": {"path": [str(self.input)]}, **words})

    def submit(self, who: Principal | None = None, **words: Any) -> Job:
        """A queued job of the registered model churn."""
        return submission.submit(self.context, who or self.here, self.spec(**words))[0]

    # -- a job's way

    def claim(self, job: Job) -> Lease:
        """A worker takes it."""
        claimed = self.context.store.jobs.claim(job.id, self.context.worker_id)
        assert claimed is not None
        return claimed[1]

    def run(self, job: Job, *, chunks: int = 2, committed: int = 2, rejected: int = 0) -> Lease:
        """Claimed, planned, and so many of its chunks of 10 rows committed; the last one with rejected rows."""
        lease = self.claim(job)
        ledger = self.context.store.ledger
        assert ledger.record_plan_if_current(lease, new_plan(chunks))
        receipts = [new_receipt(n, rejected=rejected if n == committed - 1 else 0) for n in range(committed)]
        if receipts:
            assert ledger.commit_chunks_if_current(lease, receipts)
        return lease

    def finish(self, job: Job, *, rejected: int = 0, series: str | None = None) -> Job:
        """All the way to its end, without any file; of a series that file is recorded which is the input."""
        lease = self.run(job, rejected=rejected)
        if series is not None:
            assert self.context.store.series.hold_if_current(lease, series) == 1
            scored = InputFile(path=str(self.input), size_bytes=4, mtime_ns=1)
            assert self.context.store.series.add_if_current(lease, series, [scored])
        assert self.context.store.ledger.begin_commit_if_current(lease, {"files": []}, {})
        end = JobState.SUCCEEDED_WITH_REJECTIONS if rejected else JobState.SUCCEEDED
        assert self.context.store.jobs.end_if_current(lease, end)
        return self.again(job)

    def fail(self, job: Job, code: str = "model_unusable") -> Job:
        lease = self.claim(job)
        error = {"code": code, "message": "It broke.", "remedy": "Mend it."}
        assert self.context.store.jobs.end_if_current(lease, JobState.FAILED, error)
        return self.again(job)

    def again(self, job: Job) -> Job:
        """As it is now."""
        return self.context.store.jobs.get(job.id)


@contextmanager
def opened_house(folder: Path, *, children: bool = False, **settings: Any) -> Iterator[House]:
    """A service on SQLite under `folder`. Without `children` nothing may start one."""
    with opened(Settings(home=furnish(folder / "home"), cores=2, **settings), children=children) as context:
        yield House(context, folder)


def client_of(
    house: House, *, key: str | None = None, client: tuple[str, int] = LOCAL, host: str = "127.0.0.1", **words: Any
) -> TestClient:
    """A client of the house's app; use it in a with block."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return TestClient(
        create_app(house.context, **words),
        base_url=f"http://{host}",
        client=client,
        headers=headers,
        raise_server_exceptions=False,
    )


@contextmanager
def served(app: FastAPI, port: int = 0) -> Iterator[str]:
    """The app on a port of this machine, by default a free one; its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=2))
    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        stop = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive() and time.monotonic() < stop, "the server did not start"
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            app.state.pulse.close()
            server.should_exit = True
            thread.join(30)
