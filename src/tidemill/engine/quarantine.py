"""Who killed the scorer: a chunk alone with a careful scorer, then its rows eight ways.

While several chunks are in flight nobody is blamed. A chunk that was there when a scorer died comes
here; only a death here counts. One `Suspect` holds what is known of a chunk; `Quarantine` takes events
and says what to run next. It runs nothing itself.

A row that eats memory would fill a scorer's whole share of the machine with each probe. So a call that died
of memory, or hung, is probed within a small bound. Where that kills a single row, the row is probed again within
the bound that scorers have, as it may only need more; where it finds nobody, all is probed again without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from tidemill.domain.errors import TooManyCrashes
from tidemill.ports.executor import ChunkRun, ScorerLost, Step

WAYS = 8
MAX_KILLING_ROWS = 32
MAX_UNEXPLAINED = 3

ERROR_NAMES = {"died": "ScorerCrashed", "hung": "ScorerHung", "memory": "ScorerOutOfMemory"}


@dataclass(kw_only=True)
class Suspect:
    """A chunk in quarantine and what was found out about it so far."""

    chunk: int
    poison: list[tuple[int, str, str]] = field(default_factory=list)
    splits: dict[int, int] = field(default_factory=dict)
    unreadable: list[int] = field(default_factory=list)
    probes: deque[tuple[int, int]] = field(default_factory=deque)
    accused: tuple[int, int] | None = None
    """The rows of the model call that died and is being taken apart."""
    found: int = 0
    """Killing rows found since that call died."""
    hungry: bool = False
    """Whether that call may have died of what it ate, so that its pieces are tried within the small bound."""
    doubted: bool = False
    """Whether the probe is of a single row that died within the small bound: perhaps it only needs more."""
    unexplained: int = 0


class Quarantine:
    """Chunks that were in flight when a scorer died, dealt with one after the other."""

    def __init__(self, batch_rows: int, next_attempt: Callable[[], str]) -> None:
        self.batch_rows, self.next_attempt = batch_rows, next_attempt
        self.killing_rows = 0
        self._small_helps = True
        """Whether the small bound can tell anything about this job."""
        self._suspects: deque[Suspect] = deque()

    def __bool__(self) -> bool:
        return bool(self._suspects)

    def add(self, chunk: int) -> None:
        """A chunk was in flight when a scorer died."""
        self._suspects.append(Suspect(chunk=chunk))

    @property
    def small(self) -> bool:
        """Whether the next run is to have the small bound of memory."""
        suspect = self._suspects[0]
        return self._small_helps and suspect.hungry and not suspect.doubted and bool(suspect.probes)

    def small_is_too_small(self) -> None:
        """Innocent work does not fit into the small bound: this job does without."""
        self._small_helps = False

    def next_run(self) -> ChunkRun:
        """What to run next, alone: a probe while a death is being taken apart, else the chunk."""
        suspect = self._suspects[0]
        return ChunkRun(
            chunk=suspect.chunk,
            attempt=self.next_attempt(),
            poison=tuple(suspect.poison),
            splits=dict(suspect.splits),
            unreadable=tuple(suspect.unreadable),
            careful=True,
            probe=suspect.probes[0] if suspect.probes else None,
        )

    def came_through(self, run: ChunkRun) -> bool:
        """The run lived. True if it was the chunk itself, which leaves quarantine with that."""
        suspect = self._suspects[0]
        if run.probe is None:
            self._suspects.popleft()
            return True
        if suspect.doubted:
            self.small_is_too_small()
            suspect.doubted = False
        suspect.probes.popleft()
        self._close_case(suspect)
        return False

    def died(self, lost: ScorerLost, run: ChunkRun) -> None:
        """The run killed its scorer. Raises TooManyCrashes."""
        suspect = self._suspects[0]
        if run.probe is not None:
            self._probe_died(suspect, lost, run.probe)
        elif lost.step is not None and lost.step.stage == "model" and lost.step.row_stop > lost.step.row_start:
            self._accuse(suspect, lost, lost.step)
        elif lost.step is not None and lost.step.stage == "read" and lost.step.segment not in suspect.unreadable:
            suspect.unreadable.append(lost.step.segment)
        else:
            self._unexplained(suspect, lost)

    def _accuse(self, suspect: Suspect, lost: ScorerLost, step: Step) -> None:
        if suspect.accused == (step.row_start, step.row_stop) and not suspect.found:
            # Taking it apart found nobody, and in pieces it died again.
            self._unexplained(suspect, lost)
        suspect.accused, suspect.found = (step.row_start, step.row_stop), 0
        # One that eats slowly seems to hang.
        suspect.hungry = self._small_helps and lost.kind in ("memory", "hung")
        self._blame(suspect, lost, suspect.accused)

    def _probe_died(self, suspect: Suspect, lost: ScorerLost, rows: tuple[int, int]) -> None:
        if self.small and (lost.step is None or lost.step.stage != "model"):
            self.small_is_too_small()
        elif self.small and rows[1] - rows[0] == 1 and lost.kind != "hung":
            suspect.doubted = True
        else:
            suspect.doubted = False
            suspect.probes.popleft()
            self._blame(suspect, lost, rows)
            self._close_case(suspect)

    def _blame(self, suspect: Suspect, lost: ScorerLost, rows: tuple[int, int]) -> None:
        """A single row is poison; several are taken apart."""
        if rows[1] - rows[0] > 1:
            suspect.probes.extendleft(reversed(_pieces(*rows)))
        else:
            self._convict(suspect, lost, rows[0])

    def _convict(self, suspect: Suspect, lost: ScorerLost, row: int) -> None:
        suspect.found += 1
        self.killing_rows += 1
        suspect.poison.append((row, ERROR_NAMES.get(lost.kind, "ScorerCrashed"), f"this row alone: {lost.cause}"))
        if self.killing_rows > MAX_KILLING_ROWS:
            raise TooManyCrashes(
                f"More than {MAX_KILLING_ROWS} rows killed the scorer; the last one: {lost.cause}.",
                remedy="Model and input do not fit, or the model is broken: try it on a few rows by hand.",
            )

    def _close_case(self, suspect: Suspect) -> None:
        if suspect.probes or suspect.accused is None or suspect.found:
            return
        start, stop = suspect.accused
        if suspect.hungry:
            # Pieces that live within the small bound may do so by raising what they would not raise otherwise.
            suspect.hungry = False
            suspect.probes.extend(_pieces(start, stop))
            return
        batch = start // self.batch_rows
        pieces = suspect.splits.get(batch, stop - start)
        suspect.splits[batch] = max(1, pieces // WAYS)

    def _unexplained(self, suspect: Suspect, lost: ScorerLost) -> None:
        suspect.unexplained += 1
        if suspect.unexplained >= MAX_UNEXPLAINED:
            raise TooManyCrashes(
                f"Chunk {suspect.chunk} killed the scorer {suspect.unexplained} times and no row is to blame:"
                f" {lost.cause}.",
                remedy="Run the same command again to go on; if it dies again, give scorers more memory or fewer"
                " rows per batch.",
            )


def _pieces(start: int, stop: int) -> list[tuple[int, int]]:
    borders = [start + (stop - start) * k // WAYS for k in range(WAYS + 1)]
    return [(a, b) for a, b in pairwise(borders) if b > a]
