"""`tidemill.Client`: a service from Python."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx2

from tidemill.client import inputs, uploads
from tidemill.client.connection import Call, Connection, once
from tidemill.client.jobs import Job
from tidemill.client.keys import Keys
from tidemill.client.models import Models
from tidemill.client.progress import Progress
from tidemill.client.schedules import Schedules
from tidemill.client.series import ManySeries
from tidemill.client.sessions import Sessions
from tidemill.client.uploads import RESUMABLE_BYTES, Moved, Uploads
from tidemill.client.webhooks import Webhooks
from tidemill.client.words import Words, parsed
from tidemill.config import Settings
from tidemill.domain.cost import UsageBy
from tidemill.domain.errors import InvalidSpec
from tidemill.domain.model import split_reference
from tidemill.wire.api import (
    AuditOut,
    AuditPage,
    Health,
    JobPage,
    JobStatus,
    JobSummary,
    ServiceInfo,
    State,
    UploadOut,
    UsageList,
)
from tidemill.wire.spec import JobSpec


class Client:
    """A Tidemill service.

        client = tidemill.Client("http://mill:8642")
        job = client.submit("churn@champion", "customers.parquet", keep=["customer_id"])
        frame = job.wait().to_pandas()

    Address and key come from TIDEMILL_SERVER and TIDEMILL_API_KEY (or the settings file) if they are not
    given. For one thread at a time; a context manager. Raises the errors of `tidemill.domain.errors`:
    what the service refuses as the class of its code, ServiceUnreachable if there is none.
    """

    models: Models
    keys: Keys
    sessions: Sessions
    uploads: Uploads
    webhooks: Webhooks
    schedules: Schedules
    series: ManySeries

    def __init__(
        self, url: str | None = None, api_key: str | None = None, *, transport: httpx2.BaseTransport | None = None
    ) -> None:
        settings = Settings()
        url = url or settings.server
        if not url:
            raise InvalidSpec("No service was named.", remedy='Say Client("http://host:8642"), or set TIDEMILL_SERVER.')
        if api_key is None and settings.api_key is not None:
            api_key = settings.api_key.get_secret_value()
        self._connection = Connection(url, api_key, transport=transport)
        self.models = Models(self._connection)
        self.keys = Keys(self._connection)
        self.sessions = Sessions(self._connection)
        self.uploads = Uploads(self._connection)
        self.webhooks = Webhooks(self._connection)
        self.schedules = Schedules(self._connection)
        self.series = ManySeries(self._connection)

    @property
    def url(self) -> str:
        """The service's address."""
        return self._connection.url

    def close(self) -> None:
        """Give connections back."""
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def submit(
        self,
        model: Words | JobSpec | Mapping[str, Any],
        input: Words | Sequence[Words] | None = None,
        output: Words | None = None,
        *,
        idempotency_key: str | None = None,
        input_on_server: bool = False,
        progress: bool | None = None,
        moved: Moved | None = None,
        **spec: Any,
    ) -> Job:
        """Queue a job: a model, an input and the words of a job spec, as `tidemill.run` takes; or a whole spec.

        Files and folders of this machine are sent first. A path of the service's own disk is written
        "server:/path" (or all of them with `input_on_server`). Without an output the service keeps the
        result for a while: see `Job.download`. The same `idempotency_key` gives the same job.
        """
        spoken = parsed(model, input, output, spec)
        with Progress(progress if moved is None else False) as shown:
            sent = self._sent(spoken, input_on_server=input_on_server, moved=moved or shown.sent)
        call = Call(
            method="POST",
            path="/jobs",
            body=sent.model_dump(mode="json", exclude_unset=True),
            headers=once(idempotency_key),
        )
        return Job(self._connection, self._connection.ask(JobStatus, call))

    def _sent(self, spec: JobSpec, *, input_on_server: bool, moved: Moved) -> JobSpec:
        """The spec in the service's words; everything is checked before the first byte is sent."""
        update: dict[str, Any] = {"model": inputs.model_there(spec.model)}
        if spec.output is not None:
            update["output"] = spec.output.model_copy(update={"path": inputs.output_there(spec.output.path)})
        routed = inputs.route(spec, input_on_server=input_on_server)
        if any(each.files for each in routed) and split_reference(spec.model) is not None:
            self.models.get(spec.model)
        known: dict[Path, str] = {}
        paths: list[str] = []
        for each in routed:
            if each.there is not None:
                paths.append(each.there)
            for file in each.files:
                if file not in known:
                    known[file] = self.upload(file, moved=moved).input
                    paths.append(known[file])
        update["input"] = spec.input.model_copy(update={"path": paths})
        return spec.model_copy(update=update)

    def upload(self, path: Words, *, moved: Moved | None = None) -> UploadOut:
        """Send one file, checked by its SHA-256. Its `input` ("upload:ID") is a path for `submit`.

        A big one goes on where it broke off: see `uploads.add`.
        """
        if os.path.isfile(path) and os.path.getsize(path) >= RESUMABLE_BYTES:
            return self.uploads.add(path, moved=moved)
        return uploads.upload(self._connection, Path(path), moved=moved)

    def job(self, job_id: str) -> Job:
        """A job by its id. Raises NotFound."""
        call = Call(method="GET", path=f"/jobs/{quote(job_id, safe='')}")
        return Job(self._connection, self._connection.ask(JobStatus, call))

    def jobs(
        self,
        *,
        state: State | Sequence[State] | None = None,
        name: str | None = None,
        owner: str | None = None,
        model: str | None = None,
        parent: str | None = None,
        labels: Mapping[str, str] | None = None,
        page_size: int = 100,
    ) -> Iterator[JobSummary]:
        """Jobs, newest first; pages are fetched as they are needed. Every filter that is given must hold."""
        query: dict[str, Any] = {
            "state": [state] if isinstance(state, str) else list(state or ()) or None,
            "name": name,
            "owner": owner,
            "model": model,
            "parent": parent,
            "label": [f"{key}:{value}" for key, value in (labels or {}).items()] or None,
            "limit": page_size,
        }
        while True:
            page = self._connection.ask(JobPage, Call(method="GET", path="/jobs", query=query))
            yield from page.items
            if page.next is None:
                return
            query["before"] = page.next

    def audit(self) -> Iterator[AuditOut]:
        """What people did, newest first. Needs an admin's key."""
        before: str | None = None
        while True:
            page = self._connection.ask(AuditPage, Call(method="GET", path="/audit", query={"before": before}))
            yield from page.items
            before = page.next
            if before is None:
                return

    def service_info(self) -> ServiceInfo:
        """Jobs by state, live workers, and who the service takes you for."""
        return self._connection.ask(ServiceInfo, Call(method="GET", path="/service"))

    def usage(self, by: UsageBy = "model", *, since: datetime | None = None, limit: int = 100) -> UsageList:
        """What jobs used that were submitted since then (with a time zone), summed by model or key; and its cost."""
        query = {"by": by, "since": None if since is None else since.isoformat(), "limit": limit}
        return self._connection.ask(UsageList, Call(method="GET", path="/usage", query=query))

    def health(self) -> Health:
        """Whether it and its store answer; needs no key."""
        return self._connection.ask(Health, Call(method="GET", path="/health", accept=frozenset({503})))
