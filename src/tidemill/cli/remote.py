"""Commands against a service: the Python client under the names that commands use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from tidemill.cli.backend import AskTrust, Moved, NextIs, Tell
from tidemill.client.client import Client
from tidemill.domain.cost import UsageBy
from tidemill.domain.errors import InvalidSpec
from tidemill.domain.job import JobFilter
from tidemill.domain.trials import Findings
from tidemill.wire.api import (
    AddKey,
    AddModelVersion,
    AuditOut,
    JobStatus,
    JobSummary,
    KeyOut,
    LogLines,
    ModelCheck,
    ModelVersionOut,
    NewKey,
    ResultInfo,
    Rows,
    ServiceInfo,
    SessionOut,
    UnfinishedOut,
    UploadOut,
    UploadPreview,
    UsageList,
)
from tidemill.wire.schedules import (
    AddSchedule,
    BackfillOut,
    BackfillRequest,
    DueTimes,
    FiringOut,
    ScheduleOut,
)
from tidemill.wire.series import ScoredFile, SeriesOut
from tidemill.wire.spec import JobSpec
from tidemill.wire.webhooks import AddWebhook, ChangeWebhook, DeliveryOut, NewWebhook, WebhookOut


class RemoteBackend:
    """A service over HTTP; see `cli.backend.Backend`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def where(self) -> str:
        return self._client.url

    def jobs_submit(
        self, spec: JobSpec, *, idempotency_key: str | None = None, moved: Moved | None = None
    ) -> JobStatus:
        return self._client.submit(spec, idempotency_key=idempotency_key, progress=False, moved=moved).last

    def jobs_list(self, wanted: JobFilter, *, limit: int) -> list[JobSummary]:
        found = self._client.jobs(
            state=[state.value for state in wanted.states],
            name=wanted.name,
            owner=wanted.owner,
            model=wanted.model,
            parent=wanted.parent_id,
            labels=dict(wanted.labels),
            page_size=min(limit, 500),
        )
        return list(islice(found, limit))

    def jobs_show(self, job: str) -> JobStatus:
        return self._client.job(job).last

    def jobs_cancel(self, job: str) -> JobStatus:
        return self._client.job(job).cancel()

    def jobs_pause(self, job: str) -> JobStatus:
        return self._client.job(job).pause()

    def jobs_resume(self, job: str) -> JobStatus:
        return self._client.job(job).resume()

    def jobs_retry(self, job: str) -> JobStatus:
        return self._client.job(job).retry().last

    def jobs_clone(self, job: str, changes: Mapping[str, Any]) -> JobStatus:
        return self._client.job(job).clone(**changes).last

    def jobs_wait(self, job: str, *, timeout_seconds: float | None = None, tell: Tell | None = None) -> JobStatus:
        return self._client.job(job).wait_until_still(timeout_seconds, tell=tell)

    def jobs_logs(self, job: str, *, lines: int) -> LogLines:
        return self._client.job(job).logs(lines)

    def results_info(self, job: str) -> ResultInfo:
        return self._client.job(job).result

    def results_head(self, job: str, rows: int, *, rejected: bool = False) -> Rows:
        return self._client.job(job).head(rows, rejected=rejected)

    def results_get(self, job: str, keys: Mapping[str, str]) -> Rows:
        return self._client.job(job).look_up(**keys)

    def results_download(
        self,
        job: str,
        path: Path,
        *,
        form: str,
        rejected: bool = False,
        overwrite: bool = False,
        moved: Moved | None = None,
    ) -> Path:
        handle = self._client.job(job)
        return handle.fetch(path, form, rejected=rejected, overwrite=overwrite, moved=moved).path

    def models_add(self, name: str, version: AddModelVersion, *, moved: Moved | None = None) -> ModelVersionOut:
        return self._client.models.add(
            name,
            version.source,
            authorization=version.authorization,
            aliases=version.aliases,
            flavor=version.flavor,
            environment=version.environment,
            description=version.description,
            moved=moved,
        )

    def models_list(self, *, limit: int) -> list[ModelVersionOut]:
        return list(islice(self._client.models.list(), limit))

    def models_versions(self, name: str, *, limit: int) -> list[ModelVersionOut]:
        return list(islice(self._client.models.versions(name), limit))

    def models_show(self, reference: str) -> ModelVersionOut:
        return self._client.models.get(reference)

    def models_alias(self, name: str, alias: str, version: int | None) -> None:
        self._client.models.alias(name, alias, version)

    def models_trust(self, reference: str) -> ModelVersionOut:
        return self._client.models.trust(reference)

    def models_check(self, reference: str) -> ModelCheck:
        return self._client.models.check(reference)

    def models_try(self, spec: JobSpec, *, rows: int, ask_trust: AskTrust, next_is: NextIs) -> Findings:
        raise InvalidSpec(
            f"A check with an input runs on this machine, not on the service {self.where}.",
            remedy="Say --server local; or leave the input out, and the service looks at its stored bytes.",
        )

    def models_limit(self, name: str, max_running: int | None) -> None:
        self._client.models.limit(name, max_running)

    def uploads_add(
        self,
        path: Path,
        *,
        resume: str | None = None,
        begun: Callable[[str], None] | None = None,
        moved: Moved | None = None,
    ) -> UploadOut:
        return self._client.uploads.add(path, resume=resume, begun=begun, moved=moved)

    def uploads_list(self, *, limit: int) -> list[UploadOut]:
        return list(islice(self._client.uploads.list(), limit))

    def uploads_unfinished(self) -> list[UnfinishedOut]:
        return list(self._client.uploads.unfinished())

    def uploads_show(self, upload: str) -> UploadOut:
        return self._client.uploads.get(upload)

    def uploads_preview(self, upload: str, rows: int) -> UploadPreview:
        return self._client.uploads.preview(upload, rows)

    def uploads_remove(self, upload: str) -> None:
        self._client.uploads.remove(upload)

    def schedules_add(self, request: AddSchedule, *, idempotency_key: str | None = None) -> ScheduleOut:
        return self._client.schedules.make(request, idempotency_key=idempotency_key)

    def schedules_list(self, *, limit: int) -> list[ScheduleOut]:
        return list(islice(self._client.schedules.list(), limit))

    def schedules_show(self, schedule: str) -> ScheduleOut:
        return self._client.schedules.get(schedule)

    def schedules_firings(self, schedule: str, *, limit: int) -> list[FiringOut]:
        return list(islice(self._client.schedules.firings(schedule), limit))

    def schedules_next(self, schedule: str, *, count: int) -> DueTimes:
        return self._client.schedules.next(schedule, count)

    def schedules_pause(self, schedule: str) -> ScheduleOut:
        return self._client.schedules.pause(schedule)

    def schedules_resume(self, schedule: str) -> ScheduleOut:
        return self._client.schedules.resume(schedule)

    def schedules_run(self, schedule: str) -> FiringOut:
        return self._client.schedules.run(schedule)

    def schedules_backfill(self, schedule: str, request: BackfillRequest) -> BackfillOut:
        return self._client.schedules.fill(schedule, request)

    def schedules_remove(self, schedule: str) -> None:
        self._client.schedules.remove(schedule)

    def series_list(self, *, limit: int) -> list[SeriesOut]:
        return list(islice(self._client.series.list(), limit))

    def series_show(self, name: str) -> SeriesOut:
        return self._client.series.get(name)

    def series_files(self, name: str, path: str, *, limit: int) -> list[ScoredFile]:
        return list(islice(self._client.series.files(name, path), limit))

    def series_forget(self, name: str, path: str) -> int:
        return self._client.series.forget(name, path).entries

    def keys_add(self, request: AddKey) -> NewKey:
        return self._client.keys.make(request)

    def keys_list(self) -> list[KeyOut]:
        return self._client.keys.list()

    def keys_revoke(self, key_id: str) -> KeyOut:
        return self._client.keys.revoke(key_id)

    def webhooks_add(self, request: AddWebhook) -> NewWebhook:
        return self._client.webhooks.make(request)

    def webhooks_list(self) -> list[WebhookOut]:
        return self._client.webhooks.list()

    def webhooks_show(self, webhook: str) -> WebhookOut:
        return self._client.webhooks.get(webhook)

    def webhooks_change(self, webhook: str, request: ChangeWebhook) -> WebhookOut:
        return self._client.webhooks.change(webhook, request)

    def webhooks_test(self, webhook: str) -> DeliveryOut:
        return self._client.webhooks.test(webhook)

    def webhooks_rotate(self, webhook: str, overlap_seconds: float) -> NewWebhook:
        return self._client.webhooks.rotate(webhook, overlap_seconds=overlap_seconds)

    def webhooks_remove(self, webhook: str) -> None:
        self._client.webhooks.remove(webhook)

    def webhooks_deliveries(self, webhook: str, *, job: str | None = None, limit: int) -> list[DeliveryOut]:
        return list(islice(self._client.webhooks.deliveries(webhook, job=job, page_size=min(limit, 500)), limit))

    def sessions_list(self) -> list[SessionOut]:
        return self._client.sessions.list()

    def sessions_end(self, session_id: str) -> SessionOut:
        return self._client.sessions.end(session_id)

    def audit_list(self, *, limit: int) -> list[AuditOut]:
        return list(islice(self._client.audit(), limit))

    def service_info(self) -> ServiceInfo:
        return self._client.service_info()

    def usage(self, by: UsageBy, *, since: datetime | None, limit: int) -> UsageList:
        return self._client.usage(by, since=since, limit=limit)


@contextmanager
def opened_backend(url: str | None) -> Iterator[RemoteBackend]:
    """The service at that address, or the one that the settings name."""
    with Client(url) as client:
        yield RemoteBackend(client)
