"""Commands on this machine: the use cases, asked by the person at it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tidemill.bootstrap import localuploads
from tidemill.bootstrap.wiring import opened
from tidemill.domain.access import Principal
from tidemill.domain.cost import UsageBy
from tidemill.domain.errors import InvalidSpec, OutputExists, StillRunning
from tidemill.domain.input_list import LIST_MARK
from tidemill.domain.job import Job, JobFilter, JobState
from tidemill.domain.model import Environment, is_mlflow, split_reference
from tidemill.domain.trials import Findings
from tidemill.domain.webhook import DeliveryState
from tidemill.durable.files import replacing, translated
from tidemill.service import (
    audit,
    control,
    joblog,
    jobs,
    keys,
    logins,
    models,
    overview,
    registration,
    results,
    resumable,
    schedules,
    sender,
    series,
    status,
    submission,
    trials,
    uploads,
    webhooks,
)
from tidemill.service.context import Context
from tidemill.service.stdin import STDIN
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
    ResultFormat,
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

UPLOAD = "upload:"
LOOK_SECONDS = 1.0
"""How often to look at a job that nobody wrote about."""

PING_SECONDS = 30.0
PING_LOOK_SECONDS = 0.1
"""How long to wait for what becomes of a ping that a server sends, and how often to look."""

MOVING = frozenset({JobState.QUEUED, JobState.PLANNING, JobState.RUNNING, JobState.COMMITTING})
"""States that change by themselves."""

Tell = Callable[[JobStatus], None]
Moved = Callable[[int, int | None], None]
AskTrust = jobs.AskTrust
NextIs = Callable[[str], None]


class LocalBackend:
    """The use cases in this process; see `cli.backend.Backend`."""

    where: None = None

    def __init__(self, context: Context) -> None:
        self._context = context

    @property
    def _who(self) -> Principal:
        return keys.person_here(self._context)

    def jobs_submit(
        self, spec: JobSpec, *, idempotency_key: str | None = None, moved: Moved | None = None
    ) -> JobStatus:
        job, _ = submission.submit(self._context, self._who, absolute(spec), idempotency_key=idempotency_key)
        return self._status(job)

    def _status(self, job: Job) -> JobStatus:
        return status.status(self._context, job)

    def jobs_list(self, wanted: JobFilter, *, limit: int) -> list[JobSummary]:
        return status.summary(self._context, control.list(self._context, self._who, wanted, limit=limit))

    def jobs_show(self, job: str) -> JobStatus:
        return self._status(control.get(self._context, self._who, job))

    def jobs_cancel(self, job: str) -> JobStatus:
        found = control.get(self._context, self._who, job)
        if found.foreground:
            # A `tidemill run` that was killed has no worker that would see the wish.
            return self._status(jobs.cancel(self._context, found.id))
        return self._status(control.cancel(self._context, self._who, found.id))

    def jobs_pause(self, job: str) -> JobStatus:
        return self._status(control.pause(self._context, self._who, job))

    def jobs_resume(self, job: str) -> JobStatus:
        return self._status(control.resume(self._context, self._who, job))

    def jobs_retry(self, job: str) -> JobStatus:
        return self._status(submission.retry(self._context, self._who, job)[0])

    def jobs_clone(self, job: str, changes: Mapping[str, Any]) -> JobStatus:
        return self._status(submission.clone(self._context, self._who, job, changes)[0])

    def jobs_wait(self, job: str, *, timeout_seconds: float | None = None, tell: Tell | None = None) -> JobStatus:
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        watch = self._context.store.watch()
        try:
            while True:
                found = self.jobs_show(job)
                if tell:
                    tell(found)
                if JobState(found.state) not in MOVING:
                    return found
                left = LOOK_SECONDS if end is None else min(LOOK_SECONDS, end - time.monotonic())
                if left <= 0:
                    raise StillRunning(
                        f"{found.id} is {found.state} after {timeout_seconds:g} seconds of waiting.",
                        remedy=f"Look at it with: tidemill jobs show {found.id}",
                    )
                watch.wait(left)
        finally:
            watch.close()

    def jobs_logs(self, job: str, *, lines: int) -> LogLines:
        return joblog.tail(self._context, self._who, job, lines)

    def results_info(self, job: str) -> ResultInfo:
        return results.info(self._context, self._who, job)

    def results_head(self, job: str, rows: int, *, rejected: bool = False) -> Rows:
        return results.head(self._context, self._who, job, rows, rejected=rejected)

    def results_get(self, job: str, keys: Mapping[str, str]) -> Rows:
        return results.look_up(self._context, self._who, job, keys)

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
        if not overwrite and os.path.lexists(path):
            raise OutputExists(f"{path} is there already.", remedy="Choose another name, or say --overwrite.")
        made = results.export(self._context, self._who, job, _form(form), "rejected" if rejected else "predictions")
        with translated(path), made.path.open("rb") as source, replacing(path) as target:
            shutil.copyfileobj(source, target)
        return path

    def models_add(self, name: str, version: AddModelVersion, *, moved: Moved | None = None) -> ModelVersionOut:
        environment = version.environment
        added = registration.add(
            self._context,
            self._who,
            name,
            version.source,
            authorization=version.authorization,
            flavor=version.flavor,
            aliases=version.aliases,
            environment=None if environment is None else Environment(**environment.model_dump()),
            description=version.description,
        )
        return models.describe(added)

    def models_list(self, *, limit: int) -> list[ModelVersionOut]:
        return models.list_names(self._context, self._who, limit=limit).items

    def models_versions(self, name: str, *, limit: int) -> list[ModelVersionOut]:
        return models.list_versions(self._context, self._who, name, limit=limit).items

    def models_show(self, reference: str) -> ModelVersionOut:
        return models.describe(models.get(self._context, self._who, reference))

    def models_alias(self, name: str, alias: str, version: int | None) -> None:
        if version is None:
            models.remove_alias(self._context, self._who, name, alias)
        else:
            models.move_alias(self._context, self._who, name, alias, version)

    def models_trust(self, reference: str) -> ModelVersionOut:
        return models.describe(models.trust(self._context, self._who, reference))

    def models_check(self, reference: str) -> ModelCheck:
        return models.check(self._context, self._who, reference)

    def models_try(self, spec: JobSpec, *, rows: int, ask_trust: AskTrust, next_is: NextIs) -> Findings:
        return trials.check(self._context, spec, rows=rows, ask_trust=ask_trust, tell=next_is)

    def models_limit(self, name: str, max_running: int | None) -> None:
        models.limit_running(self._context, self._who, name, max_running)

    def uploads_add(
        self,
        path: Path,
        *,
        resume: str | None = None,
        begun: Callable[[str], None] | None = None,
        moved: Moved | None = None,
    ) -> UploadOut:
        return localuploads.add(self._context, self._who, path, resume=resume, begun=begun, moved=moved)

    def uploads_list(self, *, limit: int) -> list[UploadOut]:
        return uploads.list_uploads(self._context, self._who, limit=limit).items

    def uploads_unfinished(self) -> list[UnfinishedOut]:
        return resumable.list_unfinished(self._context, self._who, limit=500)

    def uploads_show(self, upload: str) -> UploadOut:
        return uploads.get(self._context, self._who, upload)

    def uploads_preview(self, upload: str, rows: int) -> UploadPreview:
        return uploads.preview(self._context, self._who, upload, rows)

    def uploads_remove(self, upload: str) -> None:
        uploads.remove(self._context, self._who, upload)

    def schedules_add(self, request: AddSchedule, *, idempotency_key: str | None = None) -> ScheduleOut:
        here = request.model_copy(update={"spec": absolute(request.spec)})
        added, _ = schedules.add(self._context, self._who, here, idempotency_key=idempotency_key)
        return schedules.describe(self._context, added)

    def schedules_list(self, *, limit: int) -> list[ScheduleOut]:
        return schedules.list_schedules(self._context, self._who, limit=limit).items

    def schedules_show(self, schedule: str) -> ScheduleOut:
        return schedules.describe(self._context, schedules.get(self._context, self._who, schedule))

    def schedules_firings(self, schedule: str, *, limit: int) -> list[FiringOut]:
        return schedules.firings(self._context, self._who, schedule, limit=limit).items

    def schedules_next(self, schedule: str, *, count: int) -> DueTimes:
        return schedules.next_due_times(self._context, self._who, schedule, count)

    def schedules_pause(self, schedule: str) -> ScheduleOut:
        return schedules.describe(self._context, schedules.pause(self._context, self._who, schedule))

    def schedules_resume(self, schedule: str) -> ScheduleOut:
        return schedules.describe(self._context, schedules.resume(self._context, self._who, schedule))

    def schedules_run(self, schedule: str) -> FiringOut:
        fired = schedules.run(self._context, self._who, schedule)
        return schedules.describe_firing(schedules.get(self._context, self._who, schedule), fired)

    def schedules_backfill(self, schedule: str, request: BackfillRequest) -> BackfillOut:
        return schedules.backfill(self._context, self._who, schedule, request)

    def schedules_remove(self, schedule: str) -> None:
        schedules.remove(self._context, self._who, schedule)

    def series_list(self, *, limit: int) -> list[SeriesOut]:
        return series.list_series(self._context, self._who, limit=limit).items

    def series_show(self, name: str) -> SeriesOut:
        return series.describe(series.get(self._context, self._who, name))

    def series_files(self, name: str, path: str, *, limit: int) -> list[ScoredFile]:
        return series.list_files(self._context, self._who, name, below=path, limit=limit).items[:limit]

    def series_forget(self, name: str, path: str) -> int:
        return series.forget(self._context, self._who, name, below=path)

    def keys_add(self, request: AddKey) -> NewKey:
        key, text = keys.add(self._context, self._who, request)
        return NewKey(**keys.describe(key).model_dump(), key=text)

    def keys_list(self) -> list[KeyOut]:
        return [keys.describe(key) for key in keys.list(self._context, self._who)]

    def keys_revoke(self, key_id: str) -> KeyOut:
        return keys.describe(keys.revoke(self._context, self._who, key_id))

    def webhooks_add(self, request: AddWebhook) -> NewWebhook:
        return webhooks.add(self._context, self._who, request)

    def webhooks_list(self) -> list[WebhookOut]:
        return [webhooks.describe(hook) for hook in webhooks.list(self._context, self._who)]

    def webhooks_show(self, webhook: str) -> WebhookOut:
        return webhooks.describe(webhooks.get(self._context, self._who, webhook))

    def webhooks_change(self, webhook: str, request: ChangeWebhook) -> WebhookOut:
        return webhooks.describe(webhooks.change(self._context, self._who, webhook, request))

    def webhooks_test(self, webhook: str) -> DeliveryOut:
        """No server need run here; one that does may be the one that sends it."""
        sent = webhooks.ping(self._context, self._who, webhook)
        sender.send_now(self._context, sent)
        end = time.monotonic() + PING_SECONDS
        while (seen := webhooks.delivery(self._context, self._who, webhook, sent.id)).state is DeliveryState.WAITING:
            if time.monotonic() >= end:
                raise StillRunning(
                    f"The ping {sent.id} still waits after {PING_SECONDS:g} seconds.",
                    remedy=f"Look at it with: tidemill webhooks deliveries {webhook}",
                )
            time.sleep(PING_LOOK_SECONDS)
        return webhooks.describe_delivery(seen)

    def webhooks_rotate(self, webhook: str, overlap_seconds: float) -> NewWebhook:
        return webhooks.rotate(self._context, self._who, webhook, timedelta(seconds=overlap_seconds))

    def webhooks_remove(self, webhook: str) -> None:
        webhooks.remove(self._context, self._who, webhook)

    def webhooks_deliveries(self, webhook: str, *, job: str | None = None, limit: int) -> list[DeliveryOut]:
        found = webhooks.deliveries(self._context, self._who, webhook, job_id=job, limit=limit)
        return [webhooks.describe_delivery(each) for each in found]

    def sessions_list(self) -> list[SessionOut]:
        return logins.list(self._context, self._who)

    def sessions_end(self, session_id: str) -> SessionOut:
        return logins.end(self._context, self._who, session_id)

    def audit_list(self, *, limit: int) -> list[AuditOut]:
        return [audit.describe(entry) for entry in audit.list(self._context, self._who, limit=limit)]

    def service_info(self) -> ServiceInfo:
        return overview.info(self._context, self._who)

    def usage(self, by: UsageBy, *, since: datetime | None, limit: int) -> UsageList:
        return overview.usage(self._context, self._who, by, since=since, limit=limit)


def absolute(spec: JobSpec) -> JobSpec:
    """The spec with every path of the current folder made absolute: whoever runs it stands elsewhere."""
    paths = [
        path if path == STDIN or path.startswith((UPLOAD, LIST_MARK)) else _absolute(path) for path in spec.input.path
    ]
    update: dict[str, Any] = {"input": spec.input.model_copy(update={"path": paths}), "model": _model(spec.model)}
    if spec.output is not None:
        folder = "/" if spec.output.path.endswith("/") else ""
        update["output"] = spec.output.model_copy(update={"path": _absolute(spec.output.path) + folder})
    return spec.model_copy(update=update)


def _form(text: str) -> ResultFormat:
    for form in results.FORMS:
        if form == text:
            return form
    raise InvalidSpec(f"There is no result as {text!r}.", remedy=f"Ask for one of: {', '.join(results.FORMS)}.")


def _model(model: str) -> str:
    file, colon, name = model.rpartition(":")
    if colon and name.isidentifier() and not os.path.exists(model):
        return f"{_absolute(file)}:{name}" if file.endswith(".py") else model
    if is_mlflow(model) or (split_reference(model) is not None and not os.path.exists(model)):
        return model
    return _absolute(model)


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path.removeprefix("file://")))


@contextmanager
def opened_backend(url: str | None = None) -> Iterator[LocalBackend]:
    """The store of this machine. Children are started when the first one is needed."""
    with opened(children=False) as context:
        yield LocalBackend(context)
