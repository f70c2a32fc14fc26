"""Running: children for single tasks and sets of scorers for chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from tidemill.domain.receipt import Receipt


@dataclass(frozen=True, kw_only=True)
class ScorerSpec:
    """What a scorer is made of. `entry` is "module:function", never imported by the executor."""

    entry: str
    job: Mapping[str, Any]
    """What the entry point is called with first, as JSON: staging, model, plan digest, threads. A scorer
    that was kept is handed it instead."""
    python: str | None = None
    """The interpreter that runs it, by its absolute path; None is this one."""
    preload: tuple[str, ...] = ()
    memory_bytes: int | None = None
    """Bound of the scorer's private memory; beyond it allocations fail."""
    warm_key: str | None = None
    """A digest of what the scorer has loaded and keeps when its job is done: the model and how it was
    loaded. One that is kept serves a later spec that differs in nothing but `job`. None: never kept."""


@dataclass(frozen=True, kw_only=True)
class ChunkRun:
    """One attempt at one chunk.

    `poison` are rows (numbers within the chunk) that killed a scorer: they are rejected unseen, with
    (row, error, message). `splits` says which batches go through the model in pieces of how many rows.
    `unreadable` are segment positions whose reading killed a scorer. A `careful` run takes one step at
    a time and announces each; `probe` (row_start, row_stop within the chunk) predicts those rows in
    one call and writes nothing.
    """

    chunk: int
    attempt: str
    poison: tuple[tuple[int, str, str], ...] = ()
    splits: Mapping[int, int] = field(default_factory=dict)
    unreadable: tuple[int, ...] = ()
    careful: bool = False
    probe: tuple[int, int] | None = None

    @property
    def alone(self) -> bool:
        """Whether a scorer must have nothing else in flight, so that a death blames this run."""
        return self.careful or self.probe is not None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> ChunkRun:
        return ChunkRun(
            **{
                **data,
                "poison": tuple((row, error, message) for row, error, message in data["poison"]),
                "splits": {int(batch): rows for batch, rows in data["splits"].items()},
                "unreadable": tuple(data["unreadable"]),
                "probe": None if data["probe"] is None else (data["probe"][0], data["probe"][1]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a careful scorer said it would do next. Rows are numbers within the chunk."""

    stage: str
    """"load", "read", "model" or "write"."""
    row_start: int = 0
    row_stop: int = 0
    segment: int = 0


@dataclass(frozen=True, kw_only=True)
class Done:
    """The chunk is durable in staging; a probe came through (receipt None)."""

    run: ChunkRun
    receipt: Receipt | None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Rows of a chunk that are through so far, and busy seconds by stage of its scorer."""

    run: ChunkRun
    rows: int
    rejected: int
    busy_seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The scorer reported an error and lives: `error` is `TidemillError.to_json`."""

    run: ChunkRun
    error: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ScorerLost:
    """A scorer died or was killed for hanging, with these runs in flight.

    `cause` is for people ("segmentation fault", "no progress for 30 s"); `kind` for the engine;
    `log` is the end of what the scorer printed.
    """

    runs: tuple[ChunkRun, ...]
    kind: str
    """"died", "hung" or "memory"."""
    cause: str
    step: Step | None = None
    log: str = ""


Event = Done | Progress | Failed | ScorerLost


class ScorerSet(ABC):
    """Some scorers of one spec. Used by one thread."""

    stall_seconds: float
    """A scorer with runs in flight that says nothing for so long is killed as hung; may be changed."""

    @abstractmethod
    def submit(self, run: ChunkRun) -> None:
        """Queue a run; call only while `free` is positive."""

    @abstractmethod
    def grow(self, spec: ScorerSpec, scorers: int) -> None:
        """Have so many more, of a spec that gives the same predictions: other threads, another bound of memory.
        They are taken over, started and kept as those that were leased; if they cannot start the set goes on
        without them. Raises ChildDied if they cannot be forked."""

    @property
    @abstractmethod
    def free(self) -> int:
        """How many more runs can be submitted without waiting (each scorer takes one ahead)."""

    @abstractmethod
    def poll(self, timeout_seconds: float) -> Sequence[Event]:
        """Events since the last call; waits at most so long for the first. Lost scorers are replaced.

        Every submitted run ends in exactly one Done, Failed or ScorerLost, unless it was cancelled.
        Raises ModelUnusable, or the error that the entry point raised, if scorers cannot start;
        ChildDied if they cannot be forked. Call `kill` after that.
        """

    @abstractmethod
    def cancel(self, attempt: str) -> None:
        """Stop a run; if it has not ended yet it is never reported. Its scorer may be killed for it,
        other runs of that scorer come as lost. When it returns the run writes nothing any more."""

    @abstractmethod
    def kill(self) -> None:
        """Kill every scorer now and wait until they are gone."""

    @abstractmethod
    def release(self) -> None:
        """Give the scorers back: the job did well and nothing is in flight.

        They may be kept for a later lease of an equal `warm_key`, but none of a set in which a run failed,
        a scorer was lost or cancelled, or a run had to be alone."""


class Executor(ABC):
    """Where children run. One per worker, with a session for each job; every child dies with the worker.

    Thread-safe; a set of scorers belongs to the thread that leased it.
    """

    name: ClassVar[str]

    @abstractmethod
    def call(
        self,
        entry: str,
        request: Mapping[str, Any],
        *,
        python: str | None = None,
        preload: tuple[str, ...] = (),
        on_progress: Callable[[Mapping[str, Any]], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        timeout_seconds: float | None = None,
        memory_bytes: int | None = None,
    ) -> dict[str, Any]:
        """Run one task in a child of its own and wait for its answer.

        `entry` ("module:function") gets (request, progress) and returns JSON; `python` is the interpreter
        that runs it, None is this one. Raises EnvironmentUnusable if there is no such interpreter, the TidemillError
        that the task raised, JobFailed for another exception, Stopped if `should_stop` (asked several
        times a second) said so, or ChildDied naming the cause (signal, timeout, memory). The child is
        gone when this returns. Thread-safe.
        """

    @abstractmethod
    def preload(self, modules: tuple[str, ...]) -> None:
        """Have modules imported that children are about to need; returns at once. One that cannot be is no failure:
        whoever needs it will see. Raises ChildDied, as `call` does."""

    @abstractmethod
    def lease(self, spec: ScorerSpec, scorers: int, *, stall_seconds: float) -> ScorerSet:
        """Start `scorers` scorers, or take over some that were kept. One without progress for
        `stall_seconds` is killed as hung."""

    @abstractmethod
    def session(self, name: str) -> Executor:
        """A view of this executor that ends only its own children, and ends with this one. `name` is for
        logs and error messages. Scorers that were kept belong to no session."""

    @abstractmethod
    def kill(self) -> None:
        """Kill every child of this executor or session now, from any thread, and return when they are
        gone: the lease is lost. What runs comes as lost, what waits in `call` raises ChildDied; what is
        started afterwards lives."""

    @abstractmethod
    def close(self) -> None:
        """End every child of this executor or session, from any thread; nothing can be started any more."""
