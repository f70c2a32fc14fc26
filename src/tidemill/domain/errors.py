"""Every error that Tidemill raises on purpose.

TidemillError
├── Refused                    nothing was started; the request must change
│   ├── InvalidSpec            a word of the spec, a flag or a value is wrong
│   ├── NotFound               model, input, job or output is not there
│   │   └── Expired            it was there, and its time is over
│   ├── UnknownFormat          no reader or flavor recognises the content
│   ├── MissingExtra           an optional library is not installed
│   ├── NotTrusted             the model's format can carry code
│   ├── SchemaMismatch         model and input disagree
│   ├── UnsupportedType        a kept column cannot be written in that format
│   ├── OutputExists           something else is at the output
│   ├── OutputBusy             another live job holds the output
│   ├── OutputMismatch         an unfinished, different job holds the output
│   ├── UpgradeRefused         libraries changed since the plan was made
│   ├── TooLarge               a bound of the chosen output, or of a request, would be passed
│   ├── WrongState             the job's state does not allow it
│   ├── OffsetMismatch         bytes of an upload do not go on where it stands
│   ├── ChecksumMismatch       bytes that came are not those that were sent
│   ├── UploadBusy             another request works on the upload
│   ├── KeyReused              an idempotency key came with another request
│   ├── SeriesBusy             another unfinished job of the series holds it
│   ├── NothingNew             every file was scored before by a job of the series
│   ├── AlreadyScored          rows of a file would be in the output twice
│   ├── NotAuthenticated       no valid API key or login
│   ├── NotAllowed             the role of a key or person does not reach so far
│   ├── TooManyRequests        the rate limit of a key or person was passed
│   ├── EnvironmentUnusable    a model's own environment cannot be made
│   └── StoreUnusable          the metadata store cannot be used
│       └── StoreUnavailable   it does not answer now; later it may
├── JobFailed                  the job started and cannot succeed
│   ├── InputChanged           an input file is not the one that was planned
│   ├── InputUnreadable        an input file cannot be read at all
│   ├── ModelUnusable          the model cannot be loaded or breaks its contract
│   ├── TooManyRejected        the limit of rejected rows was passed
│   ├── TooManyCrashes         too many rows or attempts killed the scorer
│   ├── RuntimeExceeded        the limit of run time was passed
│   ├── OutputUnwritable       disk full, I/O error, no permission
│   ├── CountsDiffer           planned, predicted and rejected rows do not reconcile
│   └── ChildDied              a child process died and nothing explains it better
├── ServiceUnreachable         no Tidemill service answers at that address
├── StillRunning               the wait is over and the job is not
├── LeaseLost                  somebody else holds the job; this process changes nothing
├── Stopped                    somebody asked to stop; what was committed is kept
└── Damaged                    a finished output is not what its manifest says
"""

from __future__ import annotations

from typing import Any, ClassVar

from tidemill.domain.showing import redacted


class Unrecoverable(BaseException):
    """Raised by a model whose process has become useless, as after an error of a GPU: the process ends, and fresh ones
    find the rows that did it. Nothing else may catch it, hence no Exception."""


class TidemillError(Exception):
    """Something went wrong.

    What looks like a credential in the message is masked: it goes to answers, logs and the store.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str | None = None, *, remedy: str | None = None) -> None:
        self.message = redacted(message or (type(self).__doc__ or "").splitlines()[0])
        self.remedy = None if remedy is None else redacted(remedy)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}" if self.remedy else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.remedy)

    def to_json(self) -> dict[str, str | None]:
        """The error as plain data, to cross a process border or to be stored."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy}


def _rebuild(kind: type[TidemillError], message: str, remedy: str | None) -> TidemillError:
    return kind(message, remedy=remedy)


class Refused(TidemillError):
    """The request was refused."""

    code = "refused"


class InvalidSpec(Refused):
    """The job spec is not valid."""

    code = "invalid_spec"


class NotFound(Refused):
    """It is not there."""

    code = "not_found"


class Expired(NotFound):
    """It was there, and its time is over."""

    code = "expired"


class UnknownFormat(Refused):
    """The content is of no known format."""

    code = "unknown_format"


class MissingExtra(Refused):
    """An optional library is not installed."""

    code = "missing_extra"


class NotTrusted(Refused):
    """This model's format can carry code and its digest is not trusted."""

    code = "not_trusted"


class SchemaMismatch(Refused):
    """The input does not have the columns that the model needs."""

    code = "schema_mismatch"


class UnsupportedType(Refused):
    """A column's type cannot be written in the output format."""

    code = "unsupported_type"


class OutputExists(Refused):
    """Something is already at the output."""

    code = "output_exists"


class OutputBusy(Refused):
    """Another live job is writing this output."""

    code = "output_busy"


class OutputMismatch(Refused):
    """An unfinished job with another spec, model or input holds this output."""

    code = "output_mismatch"


class UpgradeRefused(Refused):
    """Libraries changed since this job was planned."""

    code = "upgrade_refused"


class TooLarge(Refused):
    """The output would pass a bound."""

    code = "too_large"


class StoreUnusable(Refused):
    """The metadata store cannot be used."""

    code = "store_unusable"


class StoreUnavailable(StoreUnusable):
    """The metadata store does not answer."""

    code = "store_unavailable"


class WrongState(Refused):
    """The job's state does not allow it."""

    code = "wrong_state"


class OffsetMismatch(Refused):
    """The bytes do not go on where the upload stands."""

    code = "offset_mismatch"


class ChecksumMismatch(Refused):
    """The bytes that came are not those that were sent."""

    code = "checksum_mismatch"


class UploadBusy(Refused):
    """Another request works on the upload."""

    code = "upload_busy"


class KeyReused(Refused):
    """This idempotency key belongs to another request."""

    code = "idempotency_key_reused"


class SeriesBusy(Refused):
    """Another job of this series is not finished."""

    code = "series_busy"


class NothingNew(Refused):
    """There is no file that was not scored before."""

    code = "nothing_new"


class AlreadyScored(Refused):
    """Another job of this series has scored it."""

    code = "already_scored"


class NotAuthenticated(Refused):
    """A valid API key or login is needed."""

    code = "not_authenticated"


class NotAllowed(Refused):
    """Your role does not allow that."""

    code = "not_allowed"


class TooManyRequests(Refused):
    """Too many requests."""

    code = "too_many_requests"


class EnvironmentUnusable(Refused):
    """The model's environment cannot be made."""

    code = "environment_unusable"


class JobFailed(TidemillError):
    """The job failed."""

    code = "job_failed"


class InputChanged(JobFailed):
    """An input file changed after the job was planned."""

    code = "input_changed"


class InputUnreadable(JobFailed):
    """An input file cannot be read."""

    code = "input_unreadable"


class ModelUnusable(JobFailed):
    """The model cannot be loaded."""

    code = "model_unusable"


class TooManyRejected(JobFailed):
    """More rows were rejected than the limit allows."""

    code = "too_many_rejected"


class TooManyCrashes(JobFailed):
    """The scorer crashed too often."""

    code = "too_many_crashes"


class RuntimeExceeded(JobFailed):
    """The job ran longer than its limit."""

    code = "runtime_exceeded"


class OutputUnwritable(JobFailed):
    """The output cannot be written."""

    code = "output_unwritable"


class CountsDiffer(JobFailed):
    """Planned rows are not the sum of predicted and rejected rows."""

    code = "counts_differ"


class ChildDied(JobFailed):
    """A child process died."""

    code = "child_died"


class ServiceUnreachable(TidemillError):
    """The service cannot be reached."""

    code = "service_unreachable"


class StillRunning(TidemillError):
    """The job has not ended yet."""

    code = "still_running"


class LeaseLost(TidemillError):
    """The job's lease was lost to another process."""

    code = "lease_lost"


class Stopped(TidemillError):
    """The work was stopped because somebody asked for it."""

    code = "stopped"


class Damaged(TidemillError):
    """The output is not what its manifest says."""

    code = "damaged"


def _tree(root: type[TidemillError]) -> list[type[TidemillError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _tree(child))]


BY_CODE: dict[str, type[TidemillError]] = {kind.code: kind for kind in _tree(TidemillError)}


def from_json(data: dict[str, Any]) -> TidemillError:
    """The error that `TidemillError.to_json` made; an unknown code becomes the base class."""
    kind = BY_CODE.get(data.get("code", ""), TidemillError)
    return kind(data.get("message"), remedy=data.get("remedy"))
