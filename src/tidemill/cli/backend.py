"""What commands call: the use cases here, or those of a service over HTTP. Both answer with wire types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from tidemill.config import Settings
from tidemill.domain.cost import UsageBy
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

HERE = "local"
"""As the value of --server: this machine, whatever the settings say."""

LOCAL = "tidemill.bootstrap.local:opened_backend"
REMOTE = "tidemill.cli.remote:opened_backend"

Tell = Callable[[JobStatus], None]
Moved = Callable[[int, int | None], None]
"""Called with bytes done and, if known, bytes in all."""
AskTrust = Callable[[Mapping[str, Any]], bool]
"""Called with a model that carries code and is not trusted; True trusts it from now on."""
NextIs = Callable[[str], None]
"""Called with what is done next."""


class Backend(Protocol):
    """One method for each command that works both here and on a service.

    A job is named by its id or, here, by the end of one. Raises the errors of `tidemill.domain.errors`.
    """

    @property
    def where(self) -> str | None:
        """The service's URL; None for this machine."""

    def jobs_submit(
        self, spec: JobSpec, *, idempotency_key: str | None = None, moved: Moved | None = None
    ) -> JobStatus:
        """Queue a job. A service gets local input by upload; `moved` tells how far that is."""

    def jobs_list(self, wanted: JobFilter, *, limit: int) -> list[JobSummary]:
        """Newest first."""

    def jobs_show(self, job: str) -> JobStatus: ...

    def jobs_cancel(self, job: str) -> JobStatus: ...

    def jobs_pause(self, job: str) -> JobStatus: ...

    def jobs_resume(self, job: str) -> JobStatus: ...

    def jobs_clone(self, job: str, changes: Mapping[str, Any]) -> JobStatus:
        """A new job by the same words but for these; None removes a word."""

    def jobs_retry(self, job: str) -> JobStatus:
        """A new job over the rows that this one rejected."""

    def jobs_wait(self, job: str, *, timeout_seconds: float | None = None, tell: Tell | None = None) -> JobStatus:
        """Until it ended or was paused; `tell` hears of every change. Raises StillRunning after the timeout."""

    def jobs_logs(self, job: str, *, lines: int) -> LogLines:
        """The newest lines, oldest first."""

    def results_info(self, job: str) -> ResultInfo: ...

    def results_head(self, job: str, rows: int, *, rejected: bool = False) -> Rows: ...

    def results_get(self, job: str, keys: Mapping[str, str]) -> Rows:
        """The rows whose columns have these values."""

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
        """Write the result, whole and checked, to one file. Raises OutputExists."""

    def models_add(self, name: str, version: AddModelVersion, *, moved: Moved | None = None) -> ModelVersionOut:
        """A new version. A service gets a local file or folder by upload."""

    def models_list(self, *, limit: int) -> list[ModelVersionOut]:
        """The newest version of each name."""

    def models_versions(self, name: str, *, limit: int) -> list[ModelVersionOut]:
        """Newest first."""

    def models_show(self, reference: str) -> ModelVersionOut:
        """Of "churn@champion", "churn@3" or "churn" (the newest)."""

    def models_alias(self, name: str, alias: str, version: int | None) -> None:
        """Point it at a version; None removes it."""

    def models_trust(self, reference: str) -> ModelVersionOut:
        """Allow its digest to run code."""

    def models_check(self, reference: str) -> ModelCheck:
        """Compare its bytes with its digest, and load it."""

    def models_try(self, spec: JobSpec, *, rows: int, ask_trust: AskTrust, next_is: NextIs) -> Findings:
        """Predict at most so many rows of the input in several ways, and compare. Not on a service."""

    def models_limit(self, name: str, max_running: int | None) -> None:
        """How many jobs of this model may run at once."""

    def uploads_add(
        self,
        path: Path,
        *,
        resume: str | None = None,
        begun: Callable[[str], None] | None = None,
        moved: Moved | None = None,
    ) -> UploadOut:
        """Send one file, or go on with it; `begun` is told its id as soon as there is one."""

    def uploads_list(self, *, limit: int) -> list[UploadOut]:
        """Newest first."""

    def uploads_unfinished(self) -> list[UnfinishedOut]:
        """Those whose bytes are not all there, newest first."""

    def uploads_show(self, upload: str) -> UploadOut: ...

    def uploads_preview(self, upload: str, rows: int) -> UploadPreview: ...

    def uploads_remove(self, upload: str) -> None:
        """Whole or not."""

    def schedules_add(self, request: AddSchedule, *, idempotency_key: str | None = None) -> ScheduleOut: ...

    def schedules_list(self, *, limit: int) -> list[ScheduleOut]:
        """By name."""

    def schedules_show(self, schedule: str) -> ScheduleOut: ...

    def schedules_firings(self, schedule: str, *, limit: int) -> list[FiringOut]:
        """The latest due first."""

    def schedules_next(self, schedule: str, *, count: int) -> DueTimes:
        """Due times to come, with the paths of their jobs."""

    def schedules_pause(self, schedule: str) -> ScheduleOut: ...

    def schedules_resume(self, schedule: str) -> ScheduleOut: ...

    def schedules_run(self, schedule: str) -> FiringOut:
        """Fire now."""

    def schedules_backfill(self, schedule: str, request: BackfillRequest) -> BackfillOut: ...

    def schedules_remove(self, schedule: str) -> None: ...

    def series_list(self, *, limit: int) -> list[SeriesOut]:
        """By name."""

    def series_show(self, name: str) -> SeriesOut: ...

    def series_files(self, name: str, path: str, *, limit: int) -> list[ScoredFile]:
        """That file, or those in that folder, by path."""

    def series_forget(self, name: str, path: str) -> int:
        """How many entries it was."""

    def keys_add(self, request: AddKey) -> NewKey: ...

    def keys_list(self) -> list[KeyOut]: ...

    def keys_revoke(self, key_id: str) -> KeyOut: ...

    def webhooks_add(self, request: AddWebhook) -> NewWebhook: ...

    def webhooks_list(self) -> list[WebhookOut]: ...

    def webhooks_show(self, webhook: str) -> WebhookOut: ...

    def webhooks_change(self, webhook: str, request: ChangeWebhook) -> WebhookOut: ...

    def webhooks_test(self, webhook: str) -> DeliveryOut:
        """Send a ping; what became of it. Raises StillRunning."""

    def webhooks_rotate(self, webhook: str, overlap_seconds: float) -> NewWebhook: ...

    def webhooks_remove(self, webhook: str) -> None: ...

    def webhooks_deliveries(self, webhook: str, *, job: str | None = None, limit: int) -> list[DeliveryOut]:
        """Newest first."""

    def sessions_list(self) -> list[SessionOut]: ...

    def sessions_end(self, session_id: str) -> SessionOut: ...

    def audit_list(self, *, limit: int) -> list[AuditOut]:
        """Newest first."""

    def service_info(self) -> ServiceInfo: ...

    def usage(self, by: UsageBy, *, since: datetime | None, limit: int) -> UsageList:
        """What jobs used, by model or key; most CPU time first."""


def address(server: str | None) -> str | None:
    """The URL of the service to talk to; None to work on this machine."""
    url = server or Settings().server
    return None if not url or url == HERE else url


@contextmanager
def chosen(server: str | None) -> Iterator[Backend]:
    """The backend that the flag and the settings name: `with chosen(server) as backend`."""
    url = address(server)
    with _opener(LOCAL if url is None else REMOTE)(url) as backend:
        yield backend


def _opener(target: str) -> Callable[[str | None], AbstractContextManager[Backend]]:
    # Only one of the two is needed, and each is slow to import.
    module, _, name = target.partition(":")
    return cast("Callable[[str | None], AbstractContextManager[Backend]]", getattr(import_module(module), name))
