"""Publishing: what a place for output must be able to do.

The worker calls it; so a member parses no data and imports no native library. Everything is safe to
repeat after a crash at any instant.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from tidemill.domain.receipt import Part


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Who holds an output; it lies beside it. `worker_lock` is the file that the holder keeps locked
    while it lives."""

    job_id: str
    store: str
    host: str
    pid: int
    worker_lock: str
    output: str
    started_at: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class OutputState:
    """What is at an output now."""

    occupied: bool
    """Whether data is there under the output's plain name."""
    manifest: dict[str, Any] | None
    """Of this very output."""
    claim: Claim | None
    """The output itself may be another one that shares the claim: see `Claim.output`."""
    claim_live: bool
    """Whether the claim's holder is alive, as far as this host can tell (elsewhere: assumed alive)."""
    other_output: str | None = None
    """A published output whose manifest lies where that of this one would: both cannot be there."""


@dataclass(frozen=True, kw_only=True)
class StagedFile:
    """A file as it will be published: `name` is relative to the output's parent folder."""

    kind: str
    name: str
    rows: int
    size_bytes: int
    sha256: str


class Sink(ABC):
    """One output: data, rejected rows and manifest, published together or not at all."""

    name: ClassVar[str]

    @abstractmethod
    def staging(self, job_id: str) -> str:
        """Where a job's parts lie until they are published: same file system, invisible to readers."""

    @abstractmethod
    def look(self) -> OutputState:
        """What is there now. Reads only."""

    @abstractmethod
    def holds(self, job_id: str) -> bool:
        """Whether a job's claim or something of its staging is there. Reads little: it is asked of many jobs."""

    @abstractmethod
    def prepare(self, claim: Claim, *, replace: Claim | None) -> None:
        """Take the output for a job and make its staging folder, durably.

        Exactly one of two that call it at once wins; the other gets OutputBusy naming the holder.
        `replace` is the claim that the caller saw and may take over (its own job's, or a dead one's).
        Raises OutputUnwritable (no permission, no space, parent is a file) naming the remedy.
        """

    @abstractmethod
    def sweep(self, job_id: str, keep: Callable[[str], bool]) -> None:
        """Remove files of dead attempts: those under `parts/` for which `keep` is false. It is asked with
        names like `Part.name` ("parts/0000012.a1.predictions.parquet")."""

    @abstractmethod
    def assemble(self, job_id: str, parts: Iterable[tuple[int, Part]]) -> list[StagedFile]:
        """Give committed parts (chunk number, part), in chunk order, their final names in staging.

        Folder outputs rename and, for append, hard-link what is published already; a single file was
        made by the encoder before and is only put in place. Moves are durable when it returns.
        """

    @abstractmethod
    def journal(self, job_id: str) -> dict[str, Any]:
        """What `publish` needs to recognise its own work after a crash; stored before it starts."""

    @abstractmethod
    def publish(
        self, job_id: str, manifest: dict[str, Any], journal: dict[str, Any], is_current: Callable[[], bool]
    ) -> None:
        """Make data, rejected rows and manifest visible, the manifest last.

        Under the output's lock `is_current` is asked again: False raises LeaseLost and changes nothing.
        Completes what a dead attempt began; never repeats an exchange. Raises OutputExists if somebody
        else's data appeared, OutputUnwritable on errors of the file system.
        """

    @abstractmethod
    def published(self, job_id: str) -> dict[str, Any] | None:
        """The manifest at the output if it is this job's and all its files are there, else None."""

    @abstractmethod
    def finish(self, job_id: str) -> None:
        """After the store says succeeded: remove staging, what was exchanged out, and the claim."""

    @abstractmethod
    def discard(self, job_id: str) -> None:
        """Remove everything of a job that was not published, and its claim. Safe to repeat."""
