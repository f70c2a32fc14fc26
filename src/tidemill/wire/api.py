"""Request and response types of the REST API, shared by server and client.

Times are aware UTC, sizes bytes, durations seconds. Requests refuse unknown words; responses may grow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tidemill.wire.spec import WHOLE, JobSpec, OutputSpec

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
Name = Annotated[str, Field(pattern=NAME)]
ALIAS = r"^[A-Za-z][A-Za-z0-9._-]{0,99}$"
"""Of a model's version; "latest" is none, and what begins with a digit could be a number."""
SECRET = r"^secret:[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
AliasName = Annotated[str, Field(pattern=ALIAS)]
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
"""Not every store takes a zero byte."""
State = Literal[
    "queued",
    "planning",
    "running",
    "committing",
    "succeeded",
    "succeeded_with_rejections",
    "paused",
    "failed",
    "cancelled",
]
ResultFormat = Literal["parquet", "csv", "jsonl", "arrow"]
RESULT_SUFFIXES: Mapping[str, str] = {
    "parquet": ".parquet",
    "csv": ".csv",
    "jsonl": ".jsonl",
    "arrow": ".arrow",
}
"""How the name of a downloaded result ends."""
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


def _moment(value: Any) -> Any:
    if isinstance(value, str):
        if not _RFC_3339.fullmatch(value):
            raise ValueError("it is not a time with an offset, such as 2026-11-23T12:00:00Z")
        return datetime.fromisoformat(value.upper())
    return value


Moment = Annotated[datetime, BeforeValidator(_moment)]
"""A time of a request; as JSON by RFC 3339."""

RoleName = Literal["viewer", "operator", "admin"]


class Request(BaseModel):
    """What a request says."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Response(BaseModel):
    """What an answer says."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Problem(Response):
    """An error, as RFC 9457 says; `code` is stable and names a class of `tidemill.domain.errors`."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    remedy: str | None = None
    errors: list[dict[str, Any]] = []
    """Of an invalid request: {"where", "message"} of each fault."""


class RowCounts(Response):
    total: int
    predicted: int
    rejected: int
    remaining: int


class QueuePlace(Response):
    """Why a queued job is not running yet."""

    place: int
    """1 is next."""
    reason: str
    detail: str


class Rejection(Response):
    """A rejected row: its file, its number in it from 0, and why."""

    file: str
    row: int
    stage: str
    error: str
    message: str


class Cost(Response):
    amount: float
    currency: str


class CpuByStage(Response):
    """CPU seconds of planning, of the threads that read, call the model and write, and of making one file."""

    plan: float = 0.0
    read: float = 0.0
    model: float = 0.0
    write: float = 0.0
    assemble: float = 0.0


class UsageReport(Response):
    """What a job has used, over all its scorers and other children."""

    cpu_seconds: float
    """CPU time in all, also of what belongs to no stage, as loading the model."""
    cpu_by_stage: CpuByStage = CpuByStage()
    read_seconds: float
    model_seconds: float
    write_seconds: float
    """How long stages were busy by the clock, summed over threads."""
    peak_memory_bytes: int
    input_bytes: int
    output_bytes: int
    kernel_rows: int = 0
    """Rows that a kernel predicted in place of the model's library."""
    cost: Cost | None = None
    """By the service's rate card, if it has one."""


class UsageSum(Response):
    """What the jobs of one model, or of one key, have used together."""

    of: str
    """A registered model's name (all versions of it), or the digest of another model; or a key's id."""
    jobs: int
    predicted: int
    rejected: int
    usage: UsageReport
    """Memory is the highest peak of one job."""


class UsageList(Response):
    """Most CPU time first."""

    items: list[UsageSum]
    truncated: bool
    """Whether there are more than were asked for."""


class JobError(Response):
    code: str
    message: str
    remedy: str | None = None


class ModelPin(Response):
    """The model a job scores with."""

    reference: str
    """"churn@3", or a path."""
    digest: str
    flavor: str


class JobStatus(Response):
    """All about one job."""

    id: str
    name: str
    state: State
    want: Literal["run", "pause", "cancel"]
    tenant: str
    owner: str
    priority: int
    parent_id: str | None
    model: ModelPin | None
    spec: dict[str, Any]
    output: str | None
    """Where the result is for those who can reach it; None if the service keeps it (see links)."""
    counts: RowCounts
    chunks_total: int
    chunks_done: int
    percent: float
    rows_per_second: float | None
    eta_seconds: float | None
    queue: QueuePlace | None
    timestamps: dict[str, datetime]
    """When it last entered each state; "created"."""
    error: JobError | None
    rejections: list[Rejection]
    """The first 20."""
    usage: UsageReport
    labels: dict[str, str]
    worker: str | None
    expires_at: datetime | None
    """When a managed result is deleted."""
    links: dict[str, str]
    """"self", "events", "logs"; of a finished one also "result", "download", "rejected"."""


class JobSummary(Response):
    """A job in a list."""

    id: str
    name: str
    state: State
    owner: str
    model: str
    counts: RowCounts
    percent: float
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    queue: QueuePlace | None = None
    labels: dict[str, str] = {}


class JobPage(Response):
    items: list[JobSummary]
    next: str | None
    """`before` of the next page; None on the last."""


class JobEventOut(Response):
    """The data of a `state` event in a job's event stream."""

    number: int
    job_id: str
    at: datetime
    state: State


class JobProgressOut(Response):
    """The data of a `progress` event in a job's event stream."""

    state: State
    counts: RowCounts
    percent: float
    rows_per_second: float | None
    eta_seconds: float | None


class RetryRequest(Request):
    """Where the rows that are scored again go; by default the service keeps them."""

    output: OutputSpec | None = None


class CloneRequest(Request):
    """Changes to the words of the parent's spec, merged into them; null removes a word."""

    changes: dict[str, Any] = {}


class LogLines(Response):
    """What a job's children printed and its worker logged, newest last."""

    lines: list[str]
    truncated: bool


class ResultInfo(Response):
    """A finished result: its manifest, and where to fetch it."""

    manifest: dict[str, Any]
    downloads: dict[str, str]
    """URL by format: "parquet", "csv", "jsonl", "arrow"."""
    rejected_downloads: dict[str, str]
    expires_at: datetime | None


class Rows(Response):
    """A few rows of a result, as JSON values; big integers, decimals and times are text."""

    columns: list[str]
    types: list[str]
    rows: list[list[Any]]


class EnvironmentSpec(Request):
    """Where a model version's scorers run: one of the two."""

    requirements: Text | None = None
    python: Text | None = None


class AddModelVersion(Request):
    """A version from a path or URL that the service can reach."""

    source: Annotated[Text, Field(min_length=1)]
    authorization: Annotated[str, Field(pattern=SECRET)] | None = None
    """For a URL: the secret that is sent there, as `secret:NAME`."""
    flavor: Text | None = None
    aliases: Annotated[list[AliasName], Field(max_length=20)] = []
    environment: EnvironmentSpec | None = None
    description: Annotated[Text, Field(max_length=2000)] = ""


class ModelVersionOut(Response):
    name: str
    version: int
    reference: str
    digest: str
    flavor: str
    size_bytes: int
    carries_code: bool
    trusted: bool
    aliases: list[str]
    origin: str
    signature: dict[str, Any] | None
    environment: dict[str, Any] | None
    description: str
    created_at: datetime
    created_by: str


class ModelPage(Response):
    items: list[ModelVersionOut]
    next: str | None


class ModelCheck(Response):
    """What a look at the stored bytes of a version, and loading it, came to."""

    reference: str
    digest: str
    intact: bool
    """Whether the bytes are those that were registered."""
    loads: bool | None
    """None: it was not tried."""
    problem: str | None


class MoveAlias(Request):
    version: Annotated[int, Field(ge=1, le=2**31 - 1), WHOLE]


class ModelLimits(Request):
    max_running: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] | None
    """None: as many as fit."""


class AddKey(Request):
    name: Name
    role: RoleName = "operator"
    tenant: Name | None = None
    """By default the tenant of the key that makes it; another one only for the person at the machine."""
    owner: Annotated[str, Field(max_length=200)] = ""
    max_running: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] | None = None
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] | None = None
    expires_at: Moment | None = None


class KeyOut(Response):
    id: str
    name: str
    tenant: str
    role: RoleName
    owner: str
    max_running: int | None
    requests_per_minute: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewKey(KeyOut):
    """The only answer that holds the key itself."""

    key: str


class KeyList(Response):
    items: list[KeyOut]


class SessionOut(Response):
    """A browser in which somebody logged in at the provider."""

    id: str
    name: str
    tenant: str | None
    role: RoleName | None
    """By the login rules of now; None: none lets them in any more."""
    vouched_by: str
    created_at: datetime
    expires_at: datetime


class SessionList(Response):
    items: list[SessionOut]


class AuditOut(Response):
    number: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, str]


class AuditPage(Response):
    items: list[AuditOut]
    next: str | None


class UploadOut(Response):
    """A file that was sent; name it in a job's input as `upload:ID`."""

    id: str
    name: str
    size_bytes: int
    sha256: str
    expires_at: datetime | None
    input: str


class UploadPage(Response):
    items: list[UploadOut]
    next: str | None
    """`before` of the next page; None on the last."""


class UnfinishedOut(Response):
    """An upload whose bytes are not all there yet; HEAD and PATCH /tus/{id} go on with it."""

    id: str
    name: str
    offset: int
    """Bytes that are there."""
    length: int
    """Bytes that it will have."""
    expires_at: datetime | None


class UnfinishedList(Response):
    items: list[UnfinishedOut]


class UploadPreview(Response):
    """What an upload holds; big integers, decimals and times in rows are text."""

    format: str
    columns: list[str]
    types: list[str]
    """Text formats carry none: their columns are "string"."""
    rows: list[list[Any]]
    total_rows: int | None
    """None if the file would have to be read to its end to know."""


class Health(Response):
    status: Literal["ok", "unavailable"]
    version: str
    detail: str | None = None


class WorkerOut(Response):
    id: str
    host: str
    version: str
    cpus: int
    free_cpus: int
    draining: bool
    started_at: datetime
    seen_at: datetime


class ServiceInfo(Response):
    """The service at a glance."""

    version: str
    jobs: dict[str, int]
    """By state, of the caller's tenant."""
    workers: list[WorkerOut]
    authenticated_as: str
    role: RoleName


SubmitJob = JobSpec
"""The body of a submission is the spec itself."""
